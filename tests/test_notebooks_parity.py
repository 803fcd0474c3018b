"""The model that notebook 2 writes out is the one that the package has."""

import pathlib

import keras
import nbformat
import numpy as np
import pytest

import vae_keras

NOTEBOOK = (
    pathlib.Path(__file__).parents[1]
    / "notebooks"
    / "02_the_variational_autoencoder.ipynb"
)
IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS = (28, 28, 1), 2, (32, 32)
SEED = 3


def definitions(source_of_change=("", "")):
    """Executes the notebook's imports, functions and classes."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names = {}
    for cell in notebook.cells:
        starts = ("import ", "def ", "class ")
        if cell.cell_type == "code" and cell.source.startswith(starts):
            # A definition ends where the next line without indent begins.
            source = cell.source.split("\n\n\nvae = ")[0]
            exec(source.replace(*source_of_change), names)
    return names


def networks(module):
    """An encoder and a decoder of `module`, always with the same weights."""
    keras.utils.set_random_seed(SEED)
    return (
        module["mlp_encoder"](IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS),
        module["mlp_decoder"](LATENT_DIM, IMAGE_SHAPE, HIDDEN_UNITS),
    )


def trained(module, images):
    """Weights and logs after two epochs of plain gradient descent."""
    vae = module["VAE"](*networks(module), beta=2.0, seed=SEED)
    vae.compile(keras.optimizers.SGD(1e-4), jit_compile=False)
    dataset = vae_keras.image_dataset(images, 50, seed=SEED)
    history = vae.fit(dataset, epochs=2, shuffle=False, verbose=0).history
    return vae, history


def compare(notebook, images):
    package = vars(vae_keras)
    vae, logs = trained(notebook, images)
    expected_vae, expected_logs = trained(package, images)
    for name, values in expected_logs.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5)
    for ours, theirs in zip(
        vae.trainable_weights, expected_vae.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    logits = np.asarray(expected_vae.decoder(np.ones((5, LATENT_DIM))))
    np.testing.assert_allclose(
        notebook["bernoulli_nll"](images[:5], logits),
        vae_keras.bernoulli_nll(images[:5], logits),
        rtol=1e-6,
    )
    z_mean, z_log_var = expected_vae.encode(images[:5])
    np.testing.assert_allclose(
        notebook["gaussian_kl"](z_mean, z_log_var),
        vae_keras.gaussian_kl(z_mean, z_log_var),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        notebook["Sampling"](seed=1)((z_mean, z_log_var)),
        vae_keras.Sampling(seed=1)((z_mean, z_log_var)),
        rtol=1e-6,
    )


@pytest.fixture
def images(mnist_test):
    return mnist_test[0][:200]


def test_notebook_and_package_train_the_same_model(images):
    compare(definitions(), images)


@pytest.mark.parametrize(
    "change",
    [
        ("0.5 * ops.sum(", "ops.sum("),
        ("ops.exp(0.5 * z_log_var)", "ops.exp(z_log_var)"),
        ("nll + self.beta * kl", "nll + kl"),
        ('activation="relu"', 'activation="tanh"'),
    ],
)
def test_parity_notices_a_broken_definition(images, change):
    with pytest.raises(AssertionError):
        compare(definitions(change), images)
