"""Models that leave the package: the same numbers, and nothing random."""

import re

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import dtype_policy, run_python, scaled


def dense_vae():
    """With dropout in both networks, which is for training alone."""

    def with_dropout(inputs, units):
        h = keras.layers.Flatten()(inputs)
        h = keras.layers.Dense(units, "relu", bias_initializer="normal")(h)
        return keras.layers.Dropout(0.5)(h)

    x, z = keras.Input((6, 5, 1)), keras.Input((2,))
    h = with_dropout(x, 16)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    logits = keras.layers.Dense(30)(with_dropout(z, 16))
    logits = keras.layers.Reshape((6, 5, 1))(logits)
    return vae_keras.VAE(keras.Model(x, outputs), keras.Model(z, logits))


def conv_vae():
    """For colour pictures of odd sizes."""
    kwargs = {"image_shape": (9, 13, 3), "latent_dim": 4, "filters": 4}
    kwargs |= {"depth": 2, "hidden_units": (16,)}
    return vae_keras.VAE(
        vae_keras.conv_encoder(**kwargs), vae_keras.conv_decoder(**kwargs)
    )


def spatial_vae(model_class=vae_keras.SpatialVAE):
    sizes = {"image_shape": (8, 8, 1), "num_maps": 2, "filters": 4}
    return model_class(
        vae_keras.spatial.spatial_encoder(hidden_units=(16,), **sizes),
        vae_keras.spatial.spatial_decoder(**sizes),
    )


def discrete_vae():
    sizes = {"image_shape": (8, 8, 1), "dim": 3, "filters": 4, "depth": 1}
    prior = vae_keras.code_prior.CodePrior((4, 4), 6, filters=4, num_layers=1)
    return vae_keras.DiscreteVAE(
        vae_keras.discrete.discrete_encoder(**sizes),
        vae_keras.discrete.discrete_decoder(**sizes),
        quantizer=6,
        prior=prior,
    )


def conditional_vae():
    kwargs = {"hidden_units": (16,), "num_classes": 3}
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder((8, 8, 1), 2, **kwargs),
        vae_keras.mlp_decoder(2, (8, 8, 1), **kwargs),
    )


def autoencoder():
    return spatial_vae(vae_keras.baselines.Autoencoder)


def gan():
    return vae_keras.baselines.GAN(
        vae_keras.mlp_decoder(2, (8, 8, 1), (16,)),
        vae_keras.mlp_encoder((8, 8, 1), 1, (16,)),
    )


MODELS = [dense_vae, conv_vae, spatial_vae, discrete_vae, conditional_vae]
MODELS += [autoencoder, gan]
LABELS = np.array([2, 0, 1, 1, 2], "int32")


def random_inputs(shape, size=5):
    rng = np.random.default_rng(1)
    return rng.uniform(size=(size, *shape)).astype("float32")


# === Reading what was written ===


def run_saved_model(path, inputs):
    loaded = tf.saved_model.load(str(path))  # It owns the variables.
    return loaded.serve(inputs).numpy()


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
    loaded = tf.saved_model.load(str(path))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
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


def part_of(model, part):
    """What can leave: a Keras model, its inputs, the outputs to expect."""
    labels = [] if model.num_classes is None else [LABELS]
    if part == "generator":
        z = 3 * random_inputs(model.latent_shape) - 1.5
        if isinstance(model, vae_keras.DiscreteVAE):  # codes 0 to 5
            z = np.int32(2 * z + 3)
        inputs = [z, *labels]
        expected = model.decode(*inputs).numpy()
    else:
        inputs = [random_inputs(model.image_shape), *labels]
        expected = model.predict(tuple(inputs), verbose=0)
    inputs = inputs if labels else inputs[0]
    return getattr(model, part)(), inputs, expected


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("build", "part"),
    [
        # The others do the same with more layers.
        pytest.param(f, part, marks=[pytest.mark.slow] * (f is not dense_vae))
        for f in MODELS
        for part in ("generator", "reconstructor")
        if (f, part) != (gan, "reconstructor")
    ],
)
def test_outputs_are_the_same_and_nothing_is_random(
    tmp_path, build, part, format
):
    plain, inputs, expected = part_of(scaled(build()), part)
    assert expected.std(axis=0).mean() > 0.02
    path = tmp_path / "exported.onnx"
    plain.export(path, format=format, verbose=False)
    run, operations = FORMATS[format]
    for size in (5, 1):  # The batch's size is not part of what is written.
        some = keras.tree.map_structure(lambda x, n=size: x[:n], inputs)
        np.testing.assert_allclose(run(path, some), expected[:size], atol=1e-5)
    assert random_ones(operations(path)) == set()


def test_the_search_finds_what_is_random(tmp_path):
    vae = dense_vae()
    x = keras.Input(vae.image_shape)
    noisy = keras.Model(x, vae_keras.Sampling()(vae.encoder(x)))
    noisy.export(tmp_path / "noisy", verbose=False)
    assert random_ones(operations_of_saved_model(tmp_path / "noisy"))


def test_export_writes_the_reconstructor(tmp_path):
    vae = scaled(dense_vae())
    x = random_inputs(vae.image_shape)
    # A model that was never called or trained can leave, too.
    vae.export(tmp_path / "exported", verbose=False)
    vae.export(tmp_path / "exported.onnx", "onnx", False)
    expected = vae.predict(x, verbose=0)
    for path, run in (
        ("exported", run_saved_model),
        ("exported.onnx", run_onnx),
    ):
        for _ in range(2):
            received = run(tmp_path / path, x)
            np.testing.assert_allclose(received, expected, atol=1e-5)


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


def test_a_plain_model_shares_the_weights():
    vae = dense_vae()
    vae.compile("adam")
    generator, config = vae.generator(), vae.get_config()
    before = [variable.numpy() for variable in vae.variables]
    z = random_inputs((2,))
    assert np.array_equal(generator(z), vae.decode(z))
    vae.reconstructor()
    assert vae.get_config() == config
    for variable, value in zip(vae.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    untrained = vae.decode(z)
    vae.fit(random_inputs(vae.image_shape, 64), verbose=0)
    assert not np.array_equal(vae.decode(z), untrained)
    assert np.array_equal(generator(z), vae.decode(z))


def test_half_precision_gives_float32(tmp_path):
    with dtype_policy("mixed_bfloat16"):
        kwargs = {"image_shape": (4, 4, 1), "latent_dim": 2}
        vae = vae_keras.VAE(
            vae_keras.mlp_encoder(hidden_units=(8,), **kwargs),
            vae_keras.mlp_decoder(hidden_units=(8,), **kwargs),
        )
    plain, x, means = part_of(scaled(vae), "reconstructor")
    expected = plain(x)
    # Products of numbers that were rounded to 8 bits, or were not.
    np.testing.assert_allclose(means, expected, atol=2**-5)
    assert not np.array_equal(means, expected)
    plain.export(tmp_path / "half", verbose=False)
    plain.export(tmp_path / "half.onnx", "onnx", verbose=False)
    for received in (
        run_saved_model(tmp_path / "half", x),
        run_onnx(tmp_path / "half.onnx", x),
    ):
        assert received.dtype == "float32"
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_networks_that_stay_in_half_precision_are_refused():
    class Decoder(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.dense = keras.layers.Dense(16, dtype="mixed_bfloat16")

        def call(self, z):
            return keras.ops.reshape(self.dense(z), (-1, 4, 4, 1))

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            decoder = cls()
            decoder(np.zeros((1, 2)))
            return decoder

    encoder = vae_keras.mlp_encoder((4, 4, 1), 2, (8,))
    vae = vae_keras.VAE(encoder, Decoder.from_config({}))
    with (
        keras.saving.custom_object_scope({"Decoder": Decoder}),
        pytest.raises(ValueError, match=r"float32, to export.*bfloat16"),
    ):
        vae.generator()


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


@pytest.mark.slow
def test_another_process_needs_no_vae_keras(tmp_path):
    generator, z, expected = part_of(scaled(conv_vae()), "generator")
    np.save(tmp_path / "z.npy", z)
    generator.save(tmp_path / "plain.keras")
    generator.export(tmp_path / "saved", verbose=False)
    generator.export(tmp_path / "generator.onnx", "onnx", verbose=False)
    run_python(CHILD, cwd=tmp_path)
    with np.load(tmp_path / "received.npz") as received:
        assert len(received.files) == 3
        for name in received.files:
            np.testing.assert_allclose(received[name], expected, atol=1e-5)
