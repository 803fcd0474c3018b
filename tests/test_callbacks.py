"""The weight of the KL term, epoch by epoch, and what collapse looks like."""

import keras
import numpy as np
import pytest

import vae_keras
from vae_keras.callbacks import CollapseMonitor, KLWarmUp


def fit(vae, images, *callbacks, initial_epoch=0, **kwargs):
    """Trains on batches in an order that depends on the epoch alone."""
    data = vae_keras.image_dataset(
        images[:80], 20, seed=0, initial_epoch=initial_epoch
    )
    kwargs |= {"initial_epoch": initial_epoch, "callbacks": list(callbacks)}
    return vae.fit(data, verbose=0, **kwargs).history


def wide(vae, factor=3.0):
    """Weights large enough for a KL term of some nats."""
    vae.encoder.set_weights([factor * w for w in vae.encoder.get_weights()])
    return vae


# === KLWarmUp ===


@pytest.mark.parametrize(
    "mode",
    [
        {},
        pytest.param(
            {"jit_compile": True, "steps_per_execution": 3},
            marks=[pytest.mark.slow, pytest.mark.xla],
        ),
    ],
    ids=["graph", "xla, 3 steps"],
)
def test_weight_rises_in_a_straight_line(small_vae, images, mode):
    vae = wide(small_vae(beta=2.0))
    vae.compile(keras.optimizers.SGD(1e-4), **mode)
    validation = {"validation_data": images[:40]}
    logs = fit(vae, images, KLWarmUp(4), epochs=6, **validation)
    assert logs["beta"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    logs = {name: np.array(values) for name, values in logs.items()}
    assert logs["kl_loss"].min() > 0.1
    # The steps themselves take this weight, those of validation the whole.
    np.testing.assert_allclose(
        logs["loss"],
        logs["reconstruction_loss"] + logs["beta"] * logs["kl_loss"],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        logs["val_loss"],
        logs["val_reconstruction_loss"] + 2 * logs["val_kl_loss"],
        rtol=1e-5,
    )


def test_warm_up_does_not_trace_again(small_vae, images):
    traces = []

    class Counted(vae_keras.VAE):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    small = small_vae()
    vae = Counted(small.encoder, small.decoder)
    vae.compile("sgd")
    fit(vae, images, KLWarmUp(3), epochs=4)
    assert len(traces) == 1


def test_a_later_fit_has_the_weight_of_its_epoch(small_vae, images):
    vae = small_vae(beta=4.0)
    vae.compile("sgd")
    warm_up = KLWarmUp(4)
    assert fit(vae, images, warm_up, epochs=2)["beta"] == [0.0, 1.0]
    logs = fit(vae, images, warm_up, initial_epoch=3, epochs=5)
    assert logs["beta"] == [3.0, 4.0]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_weight_is_whole_outside_of_training_epochs(
    small_vae, images, tmp_path, stopped
):
    """Also where the training ends within the warm-up."""
    vae = wide(small_vae(beta=2.0))
    vae.compile(keras.optimizers.SGD(1e-4))
    callbacks = [keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")]
    if stopped:
        stop = {"patience": 1, "mode": "min", "restore_best_weights": True}
        callbacks.append(keras.callbacks.EarlyStopping("beta", **stop))
    epochs = 7 if stopped else 2
    logs = fit(vae, images, KLWarmUp(8), *callbacks, epochs=epochs)
    assert logs["beta"] == [0.0, 0.25]
    models = [keras.saving.load_model(path) for path in tmp_path.iterdir()]
    assert len(models) == 2
    for model in (vae, *models):
        assert float(model.beta) == model.target_beta == 2.0
    # So a training without the callback has it, too.
    logs = {name: value for name, (value,) in fit(vae, images).items()}
    assert logs["loss"] == pytest.approx(
        logs["reconstruction_loss"] + 2 * logs["kl_loss"], rel=1e-5
    )
    assert logs["kl_loss"] > 0.1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_weight_is_whole_after_an_interruption(small_vae, images, error):
    def stop(batch, logs):
        assert float(vae.beta) == 0
        raise error

    vae = small_vae(beta=2.0)
    vae.compile("sgd")
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(error):
        fit(vae, images, KLWarmUp(8), callback)
    assert float(vae.beta) == 2


# === CollapseMonitor ===


def test_monitor_measures_after_each_epoch(small_vae, images):
    expected = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured = (
                vae_keras.active_units(vae, images),
                vae_keras.kl_per_dimension(vae, images),
            )
            expected.append(measured)

    vae = small_vae()
    vae.compile("sgd", steps_per_execution=2)
    monitor = CollapseMonitor(images)
    for _ in range(2):  # Each `fit` begins a new record.
        expected.clear()
        logs = fit(vae, images, monitor, Measure(), epochs=2)
        units, kl = zip(*expected, strict=True)
        assert logs["active_units"] == list(units) == [2, 2]
        np.testing.assert_array_equal(monitor.kl_per_dimension, kl)


def test_monitoring_does_not_change_the_training(small_vae, images):
    results = []
    for callbacks in ([], [CollapseMonitor(images[100:])]):
        keras.utils.set_random_seed(0)
        vae = small_vae(seed=1)
        vae.compile("sgd")
        fit(vae, images, *callbacks, epochs=2, validation_data=images[:20])
        results.append(vae.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_collapse_is_said_once_in_each_fit(small_vae, images, capsys):
    """The article's weight of the KL term, 784 pixels × 64 examples."""
    vae, monitor = small_vae(beta=784 * 64), CollapseMonitor(images)
    vae.compile(keras.optimizers.Adam(1e-2))
    for epochs in (5, 2):
        units = fit(vae, images, monitor, epochs=epochs)["active_units"]
        first = units.index(0) + 1
        (line,) = capsys.readouterr().out.strip().splitlines()
        assert line.startswith(
            f"Epoch {first}: the posterior has collapsed, none of 2 latent "
            "dimensions is active (KL "
        )
        for remedy in ("KLWarmUp", "a smaller `beta`", "learning rate"):
            assert remedy in line
    assert monitor.kl_per_dimension[-1].sum() < 0.1
    # One of two dimensions is no collapse.
    vae = small_vae()
    layer = vae.encoder.get_layer("z_mean")
    layer.set_weights([w * np.array([1, 0]) for w in layer.get_weights()])
    vae.compile(keras.optimizers.SGD(0.0))
    assert fit(vae, images, monitor)["active_units"] == [1]
    assert capsys.readouterr().out == ""


def test_a_training_that_diverges_ends_as_it_would_have(small_vae, images):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                layer = vae.encoder.get_layer("z_mean")
                layer.bias.assign([np.nan, 0])

    vae = small_vae()
    vae.compile("sgd")
    callbacks = keras.callbacks.TerminateOnNaN(), Spoil()
    logs = fit(vae, images, CollapseMonitor(images), *callbacks, epochs=3)
    assert logs["active_units"] == [2]
    assert len(logs["loss"]) == 2


@pytest.mark.parametrize("callback", [KLWarmUp(3), CollapseMonitor([])])
@pytest.mark.parametrize("name", ["Autoencoder", "Sequential"])
def test_other_models_are_refused(small_vae, images, callback, name):
    vae = small_vae()
    if name == "Autoencoder":
        model = vae_keras.baselines.Autoencoder(vae.encoder, vae.decoder)
        model.compile("adam")
    else:
        layers = keras.Input(vae.image_shape), keras.layers.Dense(1)
        model = keras.Sequential(layers)
        model.compile("adam", "mse")
    message = rf"Expected .*`{type(callback).__name__}`.*Received: {name}.*out"
    with pytest.raises(ValueError, match=message):
        model.fit(images, images, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations) == 0
