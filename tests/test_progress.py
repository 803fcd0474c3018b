"""A training run whose loss cannot be one ends, and says why."""

import keras
import numpy as np
import pytest

import vae_keras
from tests.helpers import dataset

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).random((64, *SHAPE), "float32")


def vae_with(bias=0.0, learning_rate=0.0):
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    )
    vae.encoder.get_layer("z_log_var").bias.assign([0.0, bias])
    vae.compile(keras.optimizers.SGD(learning_rate))
    return vae


@pytest.mark.parametrize("data", [X, dataset(32, X)], ids=["array", "dataset"])
def test_a_z_log_var_that_runs_away_ends_the_training(data):
    """As where it is computed from tens of thousands of inputs."""
    ends = []
    vae = vae_with(bias=30.0)
    callback = keras.callbacks.LambdaCallback(on_train_end=ends.append)
    with pytest.warns(UserWarning, match=r"`kl_loss` is .*e\+12.*'zeros'"):
        history = vae.fit(data, epochs=5, callbacks=[callback], verbose=0)
    assert len(history.epoch) == len(ends) == 1
    assert int(vae.optimizer.iterations) == 1


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_loss_that_is_none_ends_the_training(steps_per_execution):
    vae = vae_with(learning_rate=np.inf)
    vae.compile(vae.optimizer, steps_per_execution=steps_per_execution)
    with pytest.warns(UserWarning, match="The loss is nan.*learning rate"):
        history = vae.fit(X, epochs=5, batch_size=16, verbose=0)
    assert len(history.epoch) == 1


def test_a_large_loss_is_one():
    vae = vae_with(bias=6.0)
    assert len(vae.fit(X, epochs=2, verbose=0).epoch) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "content"),
    [("mlp", "noise"), ("mlp", "photographs"), ("conv", "photographs")],
)
def test_large_pictures_train_with_the_networks_as_they_come(kind, content):
    """The README's lines, on other images than digits."""
    from sklearn.datasets import load_sample_images

    shape = (128, 128, 3)
    rng = np.random.default_rng(0)
    if content == "noise":
        x = rng.random((96, *shape), "float32")
    else:
        photo = np.float32(load_sample_images().images[0]) / 255
        corners = rng.integers(0, [300, 500], size=(96, 2))
        x = np.stack([photo[i : i + 128, j : j + 128] for i, j in corners])
    encoder = getattr(vae_keras, f"{kind}_encoder")(shape, 10)
    decoder = getattr(vae_keras, f"{kind}_decoder")(10, shape)
    vae = vae_keras.VAE(encoder, decoder)
    vae.compile("adam")
    logs = vae.fit(x, batch_size=32, epochs=2, verbose=0).history
    # Grey pictures cost log 2 a pixel, and no training should cost more. Of
    # noise there is nothing to learn.
    grey = np.log(2) * x[0].size
    assert max(logs["loss"]) < 1.02 * grey
    assert content == "noise" or logs["loss"][1] < logs["loss"][0]
    assert max(logs["kl_loss"]) < 0.01 * grey
