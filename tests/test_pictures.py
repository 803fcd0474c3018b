"""Pictures of other sizes and in colour: scikit-learn's digits and photos."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

import vae_keras


def digits():
    """1,797 handwritten digits, 8 × 8 pixels with 17 shades of grey."""
    return load_digits().images[..., np.newaxis] / 16


def tiles(height, width):
    """Two photographs, 427 × 640 × 3, cut into tiles without overlap."""
    return np.stack(
        [
            photo[top : top + height, left : left + width] / 255
            for photo in load_sample_images().images
            for top in range(0, photo.shape[0] - height + 1, height)
            for left in range(0, photo.shape[1] - width + 1, width)
        ]
    )


class Setting(NamedTuple):
    shape: tuple
    size: int
    depth: int
    filters: int = 4
    hidden_units: tuple = (64,)
    learning_rate: float = 3e-3
    batch_size: int = 8
    epochs: int = 4


SETTINGS = {
    # Small grey pictures hold few nats that latents can tell: with larger
    # steps the posterior collapses onto the prior.
    "digits": Setting((8, 8, 1), 1797, 1, 8, (128,), 1e-3, 25, 5),
    "33 × 47": Setting((33, 47, 3), 2 * 12 * 13, 3, batch_size=20),
    "64 × 64": Setting((64, 64, 3), 2 * 6 * 10, 3),
    "96 × 64": Setting((96, 64, 3), 2 * 4 * 10, 4),
}


class Trained(NamedTuple):
    vae: vae_keras.VAE
    history: dict
    validation: np.ndarray


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name != "digits"))
        for name in SETTINGS
    ],
)
def trained(request):
    """A small VAE after some epochs; every fifth picture is held out."""
    keras.utils.set_random_seed(0)
    setting = SETTINGS[request.param]
    height, width, channels = setting.shape
    pictures = digits() if channels == 1 else tiles(height, width)
    pictures = pictures.astype("float32")
    assert pictures.shape == (setting.size, *setting.shape)
    is_held_out = np.arange(setting.size) % 5 == 0
    kwargs = {
        "image_shape": setting.shape,
        "latent_dim": 8,
        "filters": setting.filters,
        "depth": setting.depth,
        "hidden_units": setting.hidden_units,
    }
    vae = vae_keras.VAE(
        vae_keras.conv_encoder(**kwargs),
        vae_keras.conv_decoder(**kwargs),
        seed=0,
    )
    # XLA would take longer to compile than it saves.
    vae.compile(keras.optimizers.Adam(setting.learning_rate), jit_compile=False)
    history = vae.fit(
        pictures[~is_held_out],
        batch_size=setting.batch_size,
        epochs=setting.epochs,
        validation_data=(pictures[is_held_out],),
        verbose=0,
    ).history
    return Trained(vae, history, pictures[is_held_out])


def test_it_learns_more_than_a_constant_image(trained):
    # No constant image is better for these pictures than their own mean:
    # −log p(x) is linear in x, so that the mean's entropy is what remains.
    mean = trained.validation.mean(axis=0, dtype="float64")
    mean = mean.clip(1e-7, 1 - 1e-7)
    entropy = -mean * np.log(mean) - (1 - mean) * np.log1p(-mean)
    losses = trained.history["val_loss"]
    assert losses[-1] < entropy.sum()
    assert losses[-1] < 0.97 * losses[0]


def test_what_comes_out_is_pictures(trained):
    shape = trained.validation.shape[1:]
    outputs = {
        "reconstructions": trained.vae.predict(trained.validation, verbose=0),
        "samples": np.asarray(trained.vae.generate(5, seed=0)),
    }
    assert len(outputs["reconstructions"]) == len(trained.validation)
    assert len(outputs["samples"]) == 5
    for name, pictures in outputs.items():
        assert pictures.shape[1:] == shape, name
        assert 0 <= pictures.min() < pictures.max() <= 1, name
    # Each picture of its own, and nearer to it than the mean of all is.
    rest = trained.validation - outputs["reconstructions"]
    assert np.square(rest).mean() < trained.validation.var(axis=0).mean()
