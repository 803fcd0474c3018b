import functools
import os

import hypothesis
import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

# Figures are drawn without a screen.
matplotlib.use("Agg")

# For two replicas in one process. The first is where all else runs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(autouse=True)
def _seeded(request):
    """A test draws the same numbers whatever ran before it."""
    keras.utils.set_random_seed(0)
    module = getattr(request.node, "module", None)  # A doctest has none.
    if hasattr(module, "RNG"):
        module.RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_xla_by_default(monkeypatch):
    """`jit_compile="auto"` may mean XLA: tests that want it ask for it."""
    compile = vae_keras.VAE.compile

    @functools.wraps(compile)
    def compile_plainly(self, *args, **kwargs):
        return compile(self, *args, **{"jit_compile": False, **kwargs})

    for model in vae_keras.VAE.__mro__:
        if "compile" in vars(model):
            monkeypatch.setattr(model, "compile", compile_plainly)
            return


@pytest.fixture(scope="session")
def two():
    """A strategy of two replicas: one, as a second numbers its sums anew."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


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
def pictures(images):
    """The middles of 50 digits."""
    return images[:50, 10:18, 11:17]


@pytest.fixture
def classes(labels):
    """Their labels."""
    return labels[:50]


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


# === Hypothesis ===

# The quick profile finds the same examples each time. HYPOTHESIS_PROFILE=
# thorough looks for new ones.
hypothesis.settings.register_profile(
    "quick",
    max_examples=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "thorough",
    max_examples=200,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
