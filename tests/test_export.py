"""Models that leave the package: the same numbers, and nothing random."""

import re
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import vae_keras


def dense_vae():
    """With dropout in both networks, which is for training alone."""

    def with_dropout(inputs, units):
        h = keras.layers.Flatten()(inputs)
        h = keras.layers.Dense(units, "relu", bias_initializer="normal")(h)
        return keras.layers.Dropout(0.5)(h)

    x, z = keras.Input((28, 28, 1)), keras.Input((2,))
    h = with_dropout(x, 16)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    logits = keras.layers.Dense(784)(with_dropout(z, 16))
    logits = keras.layers.Reshape((28, 28, 1))(logits)
    return vae_keras.VAE(keras.Model(x, outputs), keras.Model(z, logits))


def conv_vae():
    """For colour pictures of odd sizes."""
    kwargs = {"image_shape": (9, 13, 3), "latent_dim": 4, "filters": 4}
    kwargs |= {"depth": 2, "hidden_units": (16,)}
    return vae_keras.VAE(
        vae_keras.conv_encoder(**kwargs), vae_keras.conv_decoder(**kwargs)
    )


def spatial_vae():
    return vae_keras.SpatialVAE((8, 8, 1), filters=4, hidden_units=(16,))


def conditional_vae():
    kwargs = {"hidden_units": (16,), "num_classes": 3}
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder((8, 8, 1), 2, **kwargs),
        vae_keras.mlp_decoder(2, (8, 8, 1), **kwargs),
        num_classes=3,
    )


def autoencoder():
    vae = spatial_vae()
    return vae_keras.Autoencoder(vae.encoder, vae.decoder)


def gan():
    return vae_keras.GAN(
        vae_keras.mlp_decoder(2, (8, 8, 1), (16,)),
        vae_keras.mlp_encoder((8, 8, 1), 1, (16,)),
    )


MODELS = {
    f.__name__: f for f in (dense_vae, conv_vae, spatial_vae, conditional_vae)
}
LABELS = np.array([2, 0, 1, 1, 2], "int32")


def scaled(model):
    """Weights with which pixel means are far from ½, and from each other."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        noise = rng.normal(0, 0.3, size=weight.shape)
        weight.assign(weight.numpy() + noise)
    return model


def random_inputs(shape, size=5):
    rng = np.random.default_rng(1)
    return rng.uniform(size=(size, *shape)).astype("float32")


def run_saved_model(path, inputs):
    loaded = tf.saved_model.load(str(path))  # It owns the variables.
    return loaded.serve(inputs).numpy()


def first_of(inputs, size):
    if isinstance(inputs, list):
        return [x[:size] for x in inputs]
    return inputs[:size]


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    names = [argument.name for argument in session.get_inputs()]
    inputs = inputs if isinstance(inputs, list) else [inputs]
    (outputs,) = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def operations_of_saved_model(path):
    """The types of all operations, those inside functions included."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    (meta_graph,) = message.meta_graphs
    graph = meta_graph.graph_def
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    return {node.op for node in nodes}


def operations_of_onnx(path):
    return {node.op_type for node in onnx.load(path).graph.node}


FORMATS = {
    "tf_saved_model": (run_saved_model, operations_of_saved_model),
    "onnx": (run_onnx, operations_of_onnx),
}


def random_ones(operations):
    assert operations & {"MatMul", "Conv2D", "Conv", "Gemm"}
    return {op for op in operations if re.search("Random|Stateless", op)}


def parts_of(model):
    """What can leave: a Keras model, its inputs, the outputs to expect."""
    z = 3 * random_inputs(model.latent_shape) - 1.5
    x = random_inputs(model.image_shape)
    if model.num_classes is not None:
        return {
            "generator": (
                model.generator(),
                [z, LABELS],
                model.decode(z, LABELS).numpy(),
            ),
            "reconstructor": (
                model.reconstructor(),
                [x, LABELS],
                model.predict((x, LABELS), verbose=0),
            ),
        }
    return {
        "generator": (model.generator(), z, model.decode(z).numpy()),
        "reconstructor": (
            model.reconstructor(),
            x,
            model.predict(x, verbose=0),
        ),
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", ["generator", "reconstructor"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_same_and_nothing_is_random(
    tmp_path, name, part, format
):
    plain, inputs, expected = parts_of(scaled(MODELS[name]()))[part]
    assert expected.std(axis=0).mean() > 0.02
    path = tmp_path / "exported.onnx"
    plain.export(path, format=format, verbose=False)
    run, operations = FORMATS[format]
    for size in (5, 1):  # The batch's size is not part of what is written.
        received = run(path, first_of(inputs, size))
        np.testing.assert_allclose(received, expected[:size], atol=1e-5)
    assert random_ones(operations(path)) == set()


def test_the_search_finds_what_is_random(tmp_path):
    vae = conv_vae()
    x = keras.Input(vae.image_shape)
    noisy = keras.Model(x, vae_keras.Sampling()(vae.encoder(x)))
    noisy.export(tmp_path / "noisy", verbose=False)
    assert random_ones(operations_of_saved_model(tmp_path / "noisy"))


@pytest.mark.parametrize("format", FORMATS)
def test_export_writes_the_reconstructor(tmp_path, format):
    vae = scaled(dense_vae())
    x = random_inputs(vae.image_shape)
    path = tmp_path / "exported.onnx"
    # A model that was never called or trained can leave, too.
    vae.export(path, format=format, verbose=False)
    run, operations = FORMATS[format]
    expected = vae.predict(x, verbose=0)
    for _ in range(2):
        np.testing.assert_allclose(run(path, x), expected, atol=1e-5)
    assert random_ones(operations(path)) == set()


def test_the_baselines_leave_too(tmp_path):
    model = scaled(autoencoder())
    for part, (plain, inputs, expected) in parts_of(model).items():
        plain.export(tmp_path / part, verbose=False)
        received = run_saved_model(tmp_path / part, inputs)
        np.testing.assert_allclose(received, expected, atol=1e-5)
    model = scaled(gan())
    z = random_inputs(model.latent_shape)
    received = model.generator().predict(z, verbose=0)
    np.testing.assert_allclose(received, model.decode(z), atol=1e-6)


def test_a_gan_says_what_to_export(tmp_path):
    for function in (
        gan().reconstructor,
        lambda: gan().export(tmp_path / "gan"),
    ):
        with pytest.raises(
            ValueError, match=r"Received: a GAN.*`generator\(\)`"
        ):
            function()
    assert list(tmp_path.iterdir()) == []


def test_a_plain_model_shares_the_weights(images):
    vae = dense_vae()
    vae.compile("adam", jit_compile=False)
    generator, config = vae.generator(), vae.get_config()
    before = [variable.numpy() for variable in vae.variables]
    z = random_inputs((2,))
    assert np.array_equal(generator(z), vae.decode(z))
    vae.reconstructor()
    assert vae.get_config() == config
    for variable, value in zip(vae.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    vae.fit(images[:64], verbose=0)
    assert not np.array_equal(vae.decode(z), vae.decode(0 * z))
    assert np.array_equal(generator(z), vae.decode(z))


def test_half_precision_gives_float32(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vae = scaled(conv_vae())
    finally:
        keras.config.set_dtype_policy(policy)
    plain, x, expected = parts_of(vae)["reconstructor"]
    plain.export(tmp_path / "half", verbose=False)
    received = run_saved_model(tmp_path / "half", x)
    assert received.dtype == "float32"
    np.testing.assert_allclose(received, expected, atol=1e-5)


# === Without the package ===

CHILD = """
import sys
import numpy as np
import tensorflow as tf
z = np.load("z.npy")
loaded = tf.saved_model.load("saved")
saved = loaded.serve(z).numpy()
import keras
plain = keras.saving.load_model("plain.keras").predict(z, verbose=0)
import onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
(onnx,) = session.run(None, {session.get_inputs()[0].name: z})
assert "vae_keras" not in sys.modules
np.savez("received.npz", saved=saved, plain=plain, onnx=onnx)
"""


def test_another_process_needs_no_vae_keras(tmp_path):
    generator, z, expected = parts_of(scaled(conv_vae()))["generator"]
    np.save(tmp_path / "z.npy", z)
    generator.save(tmp_path / "plain.keras")
    generator.export(tmp_path / "saved", verbose=False)
    generator.export(tmp_path / "generator.onnx", "onnx", verbose=False)
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    with np.load(tmp_path / "received.npz") as received:
        assert len(received.files) == 3
        for name in received.files:
            np.testing.assert_allclose(received[name], expected, atol=1e-5)
