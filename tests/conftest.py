import keras
import matplotlib
import pytest

import vae_keras

# Figures are drawn without a screen.
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def mnist_test():
    """Images and labels of the test split: do not change them in place."""
    images, labels = vae_keras.load_mnist("test")
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


@pytest.fixture(scope="session")
def images(mnist_test):
    """The first 256 digits."""
    return mnist_test[0][:256]


@pytest.fixture(scope="session")
def labels(mnist_test):
    """The labels of `images`."""
    return mnist_test[1][:256]


@pytest.fixture
def small_vae():
    """Makes a `VAE` of one hidden layer; keyword arguments go to `VAE`."""

    def make(**kwargs):
        return vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), 2, (32,)),
            vae_keras.mlp_decoder(2, (28, 28, 1), (32,)),
            **kwargs,
        )

    return make
