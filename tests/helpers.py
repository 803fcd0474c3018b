"""What several files of tests share."""

import contextlib
import functools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

import vae_keras
from vae_keras._checks import explain_images

# The folder that holds the package which is tested.
PACKAGE_ROOT = pathlib.Path(vae_keras.__file__).parents[1]
# The repository.
ROOT = pathlib.Path(__file__).parents[1]


def run_python(code, *arguments, cwd=None, **environment):
    """What code prints in a fresh process, which must end well."""
    child = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


@contextlib.contextmanager
def dtype_policy(name):
    """Builds layers under a policy, and then goes back to the one before."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# === Data ===


class Batches(keras.utils.PyDataset):
    """The batches of some arrays: tuples unless there is one array alone."""

    def __init__(self, batch_size, *arrays):
        super().__init__()
        self.batch_size, self.arrays = batch_size, arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, i):
        rows = slice(self.batch_size * i, self.batch_size * (i + 1))
        batch = tuple(array[rows] for array in self.arrays)
        return batch if len(batch) > 1 else batch[0]


def batches(batch_size, *arrays):
    """An endless generator of tuples, the last of an epoch smaller."""
    every = Batches(batch_size, *arrays)
    while True:
        for i in range(len(every)):
            yield every[i] if len(arrays) > 1 else (every[i],)


def dataset(batch_size, *arrays):
    """As `Batches`, as a `tf.data.Dataset`."""
    arrays = arrays if len(arrays) > 1 else arrays[0]
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)


def of_images(image_shape):
    """What `checked_inputs` is told of data that are images."""
    check = functools.partial(explain_images, image_shape=image_shape)
    return {"check": check, "shape": image_shape}


# === Models ===


class SubclassedEncoder(keras.Model):
    """No functional model; its `call` has no `training` argument."""

    def __init__(self, latent_dim):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.z_mean = keras.layers.Dense(latent_dim, name="z_mean")
        self.z_log_var = keras.layers.Dense(latent_dim, name="z_log_var")

    def call(self, x):
        h = self.flatten(x)
        return self.z_mean(h), self.z_log_var(h)


def scaled(model, factor=2.0):
    """The model, with weights and biases large enough to matter."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        shift = rng.normal(0, 0.2, size=weight.shape)
        weight.assign(factor * weight.numpy() + shift)
    return model


def noise(seed, *batch_sizes):
    """What a sampling layer with this seed draws for batches of 2 latents."""
    generator = keras.random.SeedGenerator(seed)
    draws = [keras.random.normal((n, 2), seed=generator) for n in batch_sizes]
    return np.float64(np.concatenate(draws))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(network, x, labels=None, num_classes=10):
    """What a network of one hidden layer computes, in float64, as a list.

    Its output is flat, and it has one or two of them.
    """
    weights = [np.float64(weight) for weight in network.get_weights()]
    h = np.float64(x).reshape(len(x), -1)
    if labels is not None:
        h = np.concatenate([h, np.eye(num_classes)[labels]], axis=1)
    h = np.maximum(h @ weights[0] + weights[1], 0)
    heads = zip(weights[2::2], weights[3::2], strict=True)
    return [h @ kernel + bias for kernel, bias in heads]


def regularized(network, strength=0.7):
    """A copy of the network, whose dense kernels have an L2 penalty."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            config["kernel_regularizer"] = keras.regularizers.L2(strength)
        return type(layer).from_config(config)

    return keras.models.clone_model(network, clone_function=clone)


# === Comparisons ===


def assert_close(one, other, **tolerances):
    """As `np.testing.assert_allclose`, of lists of arrays."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def assert_same_state(one, other):
    """All variables: weights, optimizer slots and random states."""
    variables = one.variables + one.optimizer.variables
    others = other.variables + other.optimizer.variables
    metrics = {v.path for metric in one.metrics for v in metric.variables}
    for a, b in zip(variables, others, strict=True):
        if a.path not in metrics:
            np.testing.assert_array_equal(a.numpy(), b.numpy(), a.path)


# === Pictures ===


def tiles_of(mosaic, rows, columns, shape, gap=1):
    """The images in a mosaic, `(rows, columns, height, width, …)`."""
    height, width = shape[0] + gap, shape[1] + gap
    assert mosaic.shape[:2] == (rows * height - gap, columns * width - gap)
    tiles = [
        [
            mosaic[row * height :, column * width :][: shape[0], : shape[1]]
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    return np.array(tiles)
