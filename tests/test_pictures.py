"""Pictures of other sizes and in colour: scikit-learn's digits and photos."""

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


DIGITS = {"filters": 8, "depth": 1, "hidden_units": (128,)}
PHOTOS = {"filters": 4, "depth": 3, "hidden_units": (64,)}
SETTINGS = {
    # Small grey pictures hold few nats that latents can tell: with larger
    # steps the posterior collapses onto the prior.
    "digits": (digits, DIGITS, 1e-3, 25, 5),
    "33 × 47": (lambda: tiles(33, 47), PHOTOS, 3e-3, 20, 4),
    "64 × 64": (lambda: tiles(64, 64), PHOTOS, 3e-3, 8, 4),
    "96 × 64": (lambda: tiles(96, 64), {**PHOTOS, "depth": 4}, 3e-3, 8, 4),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS],
)
def test_pictures_are_learned(name):
    """Some epochs of a small VAE; every fifth picture is held out."""
    load, sizes, learning_rate, batch_size, epochs = SETTINGS[name]
    pictures = load().astype("float32")
    shape = pictures.shape[1:]
    is_held_out = np.arange(len(pictures)) % 5 == 0
    validation = pictures[is_held_out]
    vae = vae_keras.VAE(
        vae_keras.conv_encoder(shape, 8, **sizes),
        vae_keras.conv_decoder(8, shape, **sizes),
        seed=0,
    )
    vae.compile(keras.optimizers.Adam(learning_rate))
    losses = vae.fit(
        pictures[~is_held_out],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(validation,),
        verbose=0,
    ).history["val_loss"]
    # No constant image is better for these pictures than their own mean:
    # −log p(x) is linear in x, so that the mean's entropy is what remains.
    mean = validation.mean(axis=0, dtype="float64").clip(1e-7, 1 - 1e-7)
    entropy = -mean * np.log(mean) - (1 - mean) * np.log1p(-mean)
    assert losses[-1] < entropy.sum()
    assert losses[-1] < 0.97 * losses[0]

    reconstructions = vae.predict(validation, verbose=0)
    samples = np.asarray(vae.generate(5, seed=0))
    assert reconstructions.shape == validation.shape
    assert samples.shape == (5, *shape)
    for images in (reconstructions, samples):
        assert 0 <= images.min() < images.max() <= 1
    # Each picture of its own, and nearer to it than the mean of all is.
    rest = validation - reconstructions
    assert np.square(rest).mean() < validation.var(axis=0).mean()
