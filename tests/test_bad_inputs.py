"""Every bad input is told what was expected, what came and what to do.

Nothing is trained, and nothing is written, before that is said.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

SHAPE = (28, 28, 1)
PIXELS = np.full((8, *SHAPE), 0.5, "float32")


def make_vae(**kwargs):
    return vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (8,)),
        vae_keras.mlp_decoder(2, SHAPE, (8,)),
        **kwargs,
    )


def fit(vae, x, **kwargs):
    vae.compile("adam")
    vae.fit(x, verbose=0, **kwargs)


def with_pixel(value, dtype="float32"):
    images = PIXELS.astype(dtype)
    images[3, 2, 1, 0] = value
    return images


def dataset(images):
    return tf.data.Dataset.from_tensor_slices(images).batch(4)


def unbuilt():
    class Unbuilt(keras.Model):
        def call(self, inputs):
            return inputs

    return Unbuilt()


ENCODER = vae_keras.mlp_encoder(SHAPE, 2, (8,))
DECODER = vae_keras.mlp_decoder(2, SHAPE, (8,))
RAGGED = [np.zeros(SHAPE), np.zeros((28, 28))]
FEATURES = np.random.default_rng(0).normal(size=(100, 8))
WITH_NAN = np.where(np.arange(8) == 3, np.nan, FEATURES)
BYTES = "divide by 255"

# What is done with a VAE; what was received; the remedy.
BAD_INPUTS = {
    # === Images ===
    "bytes": (
        lambda vae: fit(vae, (PIXELS * 255).astype("uint8")),
        "dtype uint8, values from 127 to 127",
        BYTES,
    ),
    "floats up to 255": (
        lambda vae: fit(vae, PIXELS * 255),
        "values from 127.5 to 127.5",
        BYTES,
    ),
    "[-1, 1]": (
        lambda vae: fit(vae, with_pixel(-1.0)),
        "values from -1 to 0.5",
        "rescale from \\[-1, 1\\]",
    ),
    "a little above 1": (
        lambda vae: fit(vae, with_pixel(1.01)),
        "values from 0.5 to 1.01",
        "Rescale or clip",
    ),
    "far below 0": (
        lambda vae: fit(vae, with_pixel(-3.0)),
        "values from -3 to 0.5",
        "Rescale or clip",
    ),
    "NaN": (
        lambda vae: fit(vae, with_pixel(np.nan)),
        "NaN or infinity in 1 of 6272",
        "Remove or mend",
    ),
    "infinity": (
        lambda vae: fit(vae, with_pixel(np.inf)),
        "NaN or infinity in 1 of 6272",
        "Remove or mend",
    ),
    "minus infinity": (
        lambda vae: fit(vae, with_pixel(-np.inf)),
        "NaN or infinity in 1 of 6272",
        "Remove or mend",
    ),
    "integers of 0 and 1": (
        lambda vae: fit(vae, np.ones_like(PIXELS, "int64")),
        "dtype int64, values from 1 to 1",
        "Convert them",
    ),
    "booleans": (
        lambda vae: fit(vae, PIXELS > 0),
        "dtype bool",
        "Convert them",
    ),
    "complex numbers": (
        lambda vae: fit(vae, PIXELS.astype("complex64")),
        "dtype complex64",
        "Convert the images",
    ),
    "text": (
        lambda vae: fit(vae, PIXELS.astype(str)),
        "dtype <U",
        "Convert the images",
    ),
    "objects": (
        lambda vae: fit(vae, PIXELS.astype(object)),
        "dtype object",
        "Convert the images",
    ),
    "no images": (
        lambda vae: fit(vae, PIXELS[:0]),
        "an empty array, shape \\(0, 28",
        "Check the split",
    ),
    "no channel axis": (
        lambda vae: fit(vae, PIXELS[..., 0]),
        "shape \\(8, 28, 28\\)",
        "Add the axis of channels",
    ),
    "one image": (
        lambda vae: fit(vae, PIXELS[0]),
        "shape \\(28, 28, 1\\)",
        "batch the data first",
    ),
    "flattened": (
        lambda vae: fit(vae, PIXELS.reshape(8, 784)),
        "shape \\(8, 784\\)",
        "Reshape the images",
    ),
    "another size": (
        lambda vae: fit(vae, PIXELS[:, :20]),
        "shape \\(8, 20, 28, 1\\)",
        "Resize the images",
    ),
    "colour": (
        lambda vae: fit(vae, np.repeat(PIXELS, 3, axis=3)),
        "shape \\(8, 28, 28, 3\\)",
        "Resize the images, or build",
    ),
    "channels first": (
        lambda vae: fit(vae, PIXELS.reshape(8, 1, 28, 28)),
        "shape \\(8, 1, 28, 28\\)",
        "Resize the images, or build",
    ),
    "a path": (
        lambda vae: vae_keras.check_images("digits.png"),
        "str",
        "Pass one NumPy array",
    ),
    "a list of images": (
        lambda vae: vae_keras.check_images(RAGGED),
        "list",
        "np.stack",
    ),
    "None": (
        lambda vae: vae_keras.check_images(None),
        "NoneType",
        "Pass one NumPy array",
    ),
    # === The same through every door ===
    "a dataset of bytes": (
        lambda vae: fit(vae, dataset((PIXELS * 255).astype("uint8"))),
        "dtype uint8",
        BYTES,
    ),
    "a dataset without batches": (
        lambda vae: fit(vae, tf.data.Dataset.from_tensor_slices(PIXELS)),
        "shape \\(28, 28, 1\\)",
        "batch the data first",
    ),
    "an empty dataset": (
        lambda vae: fit(vae, dataset(PIXELS).take(0)),
        "an empty one",
        "Check the files or the filter",
    ),
    "a generator of bytes": (
        lambda vae: fit(vae, iter([(PIXELS * 255,)]), steps_per_epoch=1),
        "values from 127.5",
        BYTES,
    ),
    "an empty generator": (
        lambda vae: fit(vae, iter([]), steps_per_epoch=1),
        "an empty one",
        "Check the files or the filter",
    ),
    "a pair with bytes": (
        lambda vae: fit(vae, (PIXELS * 255, np.zeros(8))),
        "values from 127.5",
        BYTES,
    ),
    "validation bytes": (
        lambda vae: fit(vae, PIXELS, validation_data=(PIXELS * 255,)),
        "values from 127.5",
        BYTES,
    ),
    "evaluate on bytes": (
        lambda vae: (vae.compile(), vae.evaluate(PIXELS * 255)),
        "values from 127.5",
        BYTES,
    ),
    "a pipeline of bytes": (
        lambda vae: vae_keras.image_dataset(PIXELS * 255, 4),
        "values from 127.5",
        BYTES,
    ),
    "the likelihood of bytes": (
        lambda vae: vae_keras.importance_weighted_nll(vae, PIXELS * 255, 5),
        "values from 127.5",
        BYTES,
    ),
    "active units of bytes": (
        lambda vae: vae_keras.active_units(vae, PIXELS * 255),
        "values from 127.5",
        BYTES,
    ),
    "the judge on bytes": (
        lambda vae: vae_keras.judge_features(PIXELS * 255),
        "values from 127.5",
        BYTES,
    ),
    "the judge on colour": (
        lambda vae: vae_keras.judge_features(np.repeat(PIXELS, 3, axis=3)),
        "shape \\(8, 28, 28, 3\\)",
        "Resize",
    ),
    # === The pipeline ===
    "batches of none": (
        lambda vae: vae_keras.image_dataset(PIXELS, 0),
        "batch_size=0",
        "Use 1, 2, 3",
    ),
    "half a batch": (
        lambda vae: vae_keras.image_dataset(PIXELS, 0.5),
        "batch_size=0.5",
        "Use 1, 2, 3",
    ),
    "too few labels": (
        lambda vae: vae_keras.image_dataset(PIXELS, 4, np.zeros(7)),
        "8 images and labels of shape \\(7,\\)",
        "the same split",
    ),
    "an unknown binarisation": (
        lambda vae: vae_keras.image_dataset(PIXELS, 4, binarize="static"),
        "binarize='static'",
        "Leave it out",
    ),
    "a seed in words": (
        lambda vae: vae_keras.image_dataset(PIXELS, 4, seed="zero"),
        "seed='zero'",
        "Use 0, 1, 2",
    ),
    "an epoch before the first": (
        lambda vae: vae_keras.image_dataset(PIXELS, 4, initial_epoch=-1),
        "initial_epoch=-1",
        "how many epochs",
    ),
    "an unknown split": (
        lambda vae: vae_keras.load_mnist("validation"),
        "split='validation'",
        "Write 'train', 'test'",
    ),
    "a split that is a number": (
        lambda vae: vae_keras.load_mnist(55_000),
        "split=55000",
        "in quotes",
    ),
    # === Networks ===
    "no latents": (
        lambda vae: vae_keras.mlp_encoder(SHAPE, 0),
        "latent_dim=0",
        "Use 1, 2, 3",
    ),
    "latents of a shape": (
        lambda vae: vae_keras.mlp_decoder((2, 2), SHAPE),
        "latent_dim=\\(2, 2\\)",
        "Use 1, 2, 3",
    ),
    "negative units": (
        lambda vae: vae_keras.mlp_encoder(SHAPE, 2, (512, -1)),
        "hidden_units=\\(512, -1\\)",
        "Use 1, 2, 3",
    ),
    "an image shape without channels": (
        lambda vae: vae_keras.conv_encoder((28, 28), 2),
        "image_shape=\\(28, 28\\)",
        "one channel",
    ),
    "images too small to be halved": (
        lambda vae: vae_keras.conv_decoder(2, (3, 28, 1)),
        "image_shape=\\(3, 28, 1\\)",
        "",
    ),
    "true as a number": (
        lambda vae: vae_keras.conv_encoder(SHAPE, True),
        "latent_dim=True",
        "Use 1, 2, 3",
    ),
    # === Models ===
    "different latents": (
        lambda vae: vae_keras.VAE(ENCODER, vae_keras.mlp_decoder(3, SHAPE)),
        "a decoder that takes shape \\(3,\\)",
        "the same `latent_dim`",
    ),
    "different images": (
        lambda vae: vae_keras.VAE(
            ENCODER, vae_keras.mlp_decoder(2, (28, 27, 1))
        ),
        "\\(28, 27, 1\\)",
        "the same `image_shape`",
    ),
    "one output": (
        lambda vae: vae_keras.VAE(DECODER, ENCODER),
        "tensors of shapes",
        "one output layer for each",
    ),
    "a network that is not built": (
        lambda vae: vae_keras.VAE(unbuilt(), DECODER),
        "which is not built",
        "Call it once",
    ),
    "a negative beta": (
        lambda vae: make_vae(beta=-1.0),
        "beta=-1.0",
        "Leave it out",
    ),
    "a beta of NaN": (
        lambda vae: make_vae(beta=float("nan")),
        "beta=nan",
        "Leave it out",
    ),
    "a beta in words": (
        lambda vae: make_vae(beta="1"),
        "beta='1'",
        "Leave it out",
    ),
    "a loss": (
        lambda vae: vae.compile("adam", loss="mse"),
        "loss='mse'",
        "Remove the argument",
    ),
    "metrics": (
        lambda vae: vae.compile("adam", metrics=["mse"]),
        "metrics=\\['mse'\\]",
        "Remove the argument",
    ),
    "a judge with two outputs": (
        lambda vae: vae_keras.GAN(
            DECODER, vae_keras.mlp_encoder(SHAPE, latent_dim=2)
        ),
        "\\(2,\\)",
        "latent_dim=1",
    ),
    "fewer than no images": (
        lambda vae: vae.generate(-1),
        "num_images=-1",
        "Use 1, 2, 3",
    ),
    "half an image": (
        lambda vae: vae.generate(2.5),
        "num_images=2.5",
        "Use 1, 2, 3",
    ),
    "a folder that is not there": (
        lambda vae: vae.save("nowhere/vae.keras"),
        "nowhere",
        "Create it first",
    ),
    "a folder for weights that is not there": (
        lambda vae: vae.save_weights("nowhere/vae.weights.h5"),
        "nowhere",
        "Create it first",
    ),
    # === Callbacks ===
    "a warm-up of no epochs": (
        lambda vae: vae_keras.KLWarmUp(0),
        "num_epochs=0",
        "Use 1, 2, 3",
    ),
    "monitoring bytes": (
        lambda vae: fit(
            vae, PIXELS, callbacks=[vae_keras.CollapseMonitor(PIXELS * 255)]
        ),
        "values from 127.5",
        BYTES,
    ),
    "monitoring one image": (
        lambda vae: fit(
            vae, PIXELS, callbacks=[vae_keras.CollapseMonitor(PIXELS[:1])]
        ),
        "1",
        "Pass some hundreds",
    ),
    "a picture every 0 epochs": (
        lambda vae: vae_keras.SampleGrid(PIXELS, "grid", every=0),
        "every=0",
        "Use 1, 2, 3",
    ),
    "pictures of bytes": (
        lambda vae: fit(
            vae, PIXELS, callbacks=[vae_keras.SampleGrid(255 * PIXELS, "grid")]
        ),
        "values from 127.5",
        BYTES,
    ),
    # === Evaluation ===
    "no samples": (
        lambda vae: vae_keras.importance_weighted_nll(vae, PIXELS, 0),
        "num_samples=0",
        "Use 1, 2, 3",
    ),
    "a seed of noise in words": (
        lambda vae: vae_keras.importance_weighted_nll(vae, PIXELS, 5, seed="a"),
        "seed='a'",
        "Use 0, 1, 2",
    ),
    "active units of one image": (
        lambda vae: vae_keras.active_units(vae, PIXELS[:1]),
        "1",
        "Pass some hundreds",
    ),
    "features of different widths": (
        lambda vae: vae_keras.frechet_distance(FEATURES, FEATURES[:, :5]),
        "shapes \\(100, 8\\) and \\(100, 5\\)",
        "Compute both with one network",
    ),
    "fewer images than features": (
        lambda vae: vae_keras.frechet_distance(FEATURES, FEATURES[:8]),
        "100 and 8",
        "Pass thousands",
    ),
    "features with NaN": (
        lambda vae: vae_keras.precision_recall(FEATURES, WITH_NAN),
        "NaN or infinity in 100 of 100 rows",
        "Look at these images",
    ),
    "fewer images than neighbours": (
        lambda vae: vae_keras.density_coverage(FEATURES[:5], FEATURES),
        "5",
        "Pass thousands",
    ),
    # === Figures ===
    "a single image to draw": (
        lambda vae: vae_keras.plot_images(PIXELS[0]),
        "shape \\(28, 28, 1\\)",
        "image\\[np.newaxis\\]",
    ),
    "too few titles": (
        lambda vae: vae_keras.plot_images(PIXELS, titles=["one"]),
        "8 images and 1 titles",
        "Use ''",
    ),
    "too few labels to draw": (
        lambda vae: vae_keras.plot_latent_space(vae, PIXELS, np.zeros(3)),
        "8 images and 3 labels",
        "the same split",
    ),
    "no history": (
        lambda vae: vae_keras.plot_history({}),
        "an empty one",
        "Pass what `fit` returned",
    ),
    "starts and ends that differ": (
        lambda vae: vae_keras.plot_interpolation(vae, PIXELS, PIXELS[:3]),
        "\\(8, 28, 28, 1\\) and \\(3, 28, 28, 1\\)",
        "Pass pairs",
    ),
}


@pytest.fixture(scope="module")
def vae():
    return make_vae(seed=0)


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_explained(name, vae, tmp_path, monkeypatch):
    act, received, remedy = BAD_INPUTS[name]
    monkeypatch.chdir(tmp_path)
    before = [v.numpy().copy() for v in vae.variables]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        act(vae)
    message = str(caught.value)
    parts = re.fullmatch(r"(Expected .+?) (Received: .+)", message, re.S)
    assert parts, message
    assert re.search(rf"Received: .*{received}.*{remedy}", parts[2], re.S)
    assert message.endswith((".", "…", "`."))
    for variable, value in zip(vae.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert not list(tmp_path.iterdir())


def test_there_are_many():
    assert len(BAD_INPUTS) >= 60
