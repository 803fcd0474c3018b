"""Settings of Keras, TensorFlow and the system that a user may have made."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import assert_close, run_python

SHAPE = (12, 8, 3)
X = np.random.default_rng(0).random((20, *SHAPE), "float32")


def networks():
    """One of each kind that the package builds."""
    spatial, sizes = vae_keras.spatial, {"filters": 4, "hidden_units": (8,)}
    return [
        vae_keras.mlp_encoder(SHAPE, 2, (8,)),
        vae_keras.mlp_decoder(2, SHAPE, (8,)),
        vae_keras.conv_encoder(SHAPE, 2, **sizes),
        vae_keras.conv_decoder(2, SHAPE, **sizes),
        spatial.spatial_encoder(SHAPE, 2, **sizes),
        spatial.spatial_decoder(2, SHAPE, filters=4),
        vae_keras.discrete.discrete_encoder(SHAPE, 3, filters=4),
        vae_keras.discrete.discrete_decoder(SHAPE, 3, filters=4),
        vae_keras.digits.build_classifier((4, 4)),
    ]


def inputs_of(network):
    shape = network.input_shape[1:]
    return np.random.default_rng(1).random((5, *shape), "float32")


def test_channels_stay_last():
    expected = networks()
    keras.config.set_image_data_format("channels_first")
    try:
        found = networks()
    finally:
        keras.config.set_image_data_format("channels_last")
    for network, other in zip(found, expected, strict=True):
        network.set_weights(other.get_weights())
        x = inputs_of(network)
        assert_close(
            keras.tree.flatten(network(x)), keras.tree.flatten(other(x)), rtol=0
        )


def test_a_map_of_codes_is_read_alike():
    def new_prior():
        return vae_keras.code_prior.CodePrior((3, 5), 4, filters=4)

    expected, codes = new_prior(), np.arange(30).reshape(2, 3, 5) % 4
    keras.config.set_image_data_format("channels_first")
    try:
        found = new_prior()
    finally:
        keras.config.set_image_data_format("channels_last")
    weights = [w + 0.1 for w in expected.get_weights()]
    for prior in (expected, found):
        prior.set_weights(weights)
    np.testing.assert_array_equal(found.nll(codes), expected.nll(codes))


@pytest.mark.parametrize("floatx", ["float64", "float16", "bfloat16"])
def test_losses_and_outputs_stay_float32(floatx):
    keras.config.set_floatx(floatx)
    try:
        parts = networks()[:6]
        for encoder, decoder in zip(parts[::2], parts[1::2], strict=True):
            vae = vae_keras.VAE(encoder, decoder)
            assert vae.beta.dtype == vae.generate(2).dtype == "float32"
            vae.compile("sgd", run_eagerly=True)
            logs = vae.fit(X, verbose=0).history
            assert np.isfinite(logs["loss"][0])
            assert {value.dtype for value in vae.encode(X)} == {tf.float32}
            assert vae.predict(X, verbose=0).dtype == "float32"
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_functions_may_run_eagerly():
    vae = vae_keras.VAE(*networks()[:2])
    before = vae_keras.importance_weighted_nll(vae, X, num_samples=30)
    tf.config.run_functions_eagerly(True)
    try:
        after = vae_keras.importance_weighted_nll(vae, X, num_samples=30)
        vae.compile("sgd")
        vae.fit(X, verbose=0)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(after.per_image, before.per_image, rtol=1e-5)


WORK = """
import keras
import numpy as np
import tensorflow as tf

{prelude}

import vae_keras

x, y = vae_keras.load_mnist("test[:64]")
keras.utils.set_random_seed(0)
vae = vae_keras.VAE(
    vae_keras.conv_encoder(x.shape[1:], 2, filters=4),
    vae_keras.conv_decoder(2, x.shape[1:], filters=4),
)
vae.compile("adam", steps_per_execution=2)
data = vae_keras.image_dataset(x, 16, binarize="dynamic", seed=0)
grid = vae_keras.callbacks.SampleGrid(x[:4], "图 grid")
vae.fit(data, verbose=0, callbacks=[grid])
vae.save("模型 vae.keras")
vae = keras.saving.load_model("模型 vae.keras")
vae.plot = vae_keras.plot_latent_space(vae, x, y)
vae.plot.savefig("图.png")
vae_keras.digits.histogram(x)
print(vae_keras.importance_weighted_nll(vae, x[:2], num_samples=5).mean)
"""
NUMERICS = "tf.debugging.enable_check_numerics()"
# These two leave each other alone.
OTHERS = """
tf.config.experimental.enable_op_determinism()
keras.config.disable_traceback_filtering()
"""
# Python 3.13 and before read and write files in the system's encoding.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prelude", "environment"),
    [(NUMERICS, {}), (OTHERS, {"MPLBACKEND": "svg"}), ("", PLAIN)],
    ids=["check numerics", "determinism and more", "a plain system"],
)
def test_settings_of_a_process(tmp_path, prelude, environment):
    code = WORK.format(prelude=prelude)
    if environment == PLAIN:  # Such a system knows no other names.
        code = code.replace("图 ", "").replace("模型 ", "").replace("图", "p")
    output = run_python(code, cwd=tmp_path, **environment)
    assert 0 < float(output.splitlines()[-1]) < 1000
    assert len(list(tmp_path.iterdir())) == 3
