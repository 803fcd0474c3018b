import itertools

import keras
import numpy as np
import pytest

import vae_keras

SHAPE = (28, 28, 1)


def dense(*widths):
    """The parameters of dense layers between these widths."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def test_parameters_of_the_articles_network():
    encoder = vae_keras.mlp_encoder(SHAPE, 2)
    # 784 · 512 + 512, 512 · 512 + 512, and twice 512 · 2 + 2.
    assert encoder.count_params() == 401_920 + 262_656 + 2 * 1026
    decoder = vae_keras.mlp_decoder(2, SHAPE)
    assert decoder.count_params() == 1536 + 262_656 + 402_192


@pytest.mark.parametrize("image_shape", [SHAPE, (5, 9, 3)])
@pytest.mark.parametrize("latent_dim", [1, 7])
@pytest.mark.parametrize("hidden_units", [(), [16], (8, 4, 2)])
def test_shapes_and_parameters(image_shape, latent_dim, hidden_units):
    encoder = vae_keras.mlp_encoder(image_shape, latent_dim, hidden_units)
    decoder = vae_keras.mlp_decoder(latent_dim, image_shape, hidden_units)
    pixels = np.prod(image_shape)
    widths = (pixels, *hidden_units)
    heads = 2 * dense(widths[-1], latent_dim)
    assert encoder.count_params() == dense(*widths) + heads
    assert decoder.count_params() == dense(latent_dim, *hidden_units, pixels)
    assert encoder.input_shape == decoder.output_shape == (None, *image_shape)
    assert encoder.output_shape == [(None, latent_dim)] * 2
    assert decoder.input_shape == (None, latent_dim)
    z_mean, z_log_var = encoder(np.zeros((3, *image_shape)))
    assert z_mean.shape == z_log_var.shape == (3, latent_dim)
    assert decoder(z_mean).shape == (3, *image_shape)
    assert [n.name for n in (encoder, decoder)] == ["encoder", "decoder"]


def test_hidden_units_may_come_from_a_generator():
    encoder = vae_keras.mlp_encoder(SHAPE, 2, (units for units in (8, 4)))
    assert encoder.count_params() == dense(784, 8, 4) + 2 * dense(4, 2)


def test_the_outputs_are_linear_and_the_hidden_layers_are_not(images):
    encoder = vae_keras.mlp_encoder(SHAPE, 2, (32,))
    decoder = vae_keras.mlp_decoder(2, SHAPE, (32,))
    z_mean, z_log_var = (np.asarray(output) for output in encoder(images))
    logits = np.asarray(decoder(z_mean))
    # Neither a ReLU nor a sigmoid at the end, and two heads of their own.
    for output in (z_mean, z_log_var, logits):
        assert output.min() < 0 < output.max()
    assert not np.allclose(z_mean, z_log_var)
    assert not np.allclose(decoder(-z_mean), -logits)


def test_a_pixel_comes_back_to_its_place():
    # The decoder's last layer, set to count: pixels are in the array's order.
    decoder = vae_keras.mlp_decoder(2, (3, 4, 2), ())
    kernel, bias = decoder.weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.arange(24))
    logits = decoder(np.zeros((1, 2)))
    assert np.array_equal(logits[0], np.arange(24).reshape(3, 4, 2))


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float64"]
)
def test_outputs_are_float32_under_any_policy(policy, images):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        encoder = vae_keras.mlp_encoder(SHAPE, 2, (32,))
        decoder = vae_keras.mlp_decoder(2, SHAPE, (32,))
    finally:
        keras.config.set_dtype_policy(before)
    z_mean, z_log_var = encoder(images)
    outputs = [z_mean, z_log_var, decoder(z_mean)]
    assert [output.dtype for output in outputs] == ["float32"] * 3
    (hidden,) = (
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.Dense)
        and layer.name not in ("z_mean", "z_log_var")
    )
    assert hidden.compute_dtype == keras.DTypePolicy(policy).compute_dtype


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "2"])
@pytest.mark.parametrize("argument", ["image_shape", "latent_dim", "hidden"])
@pytest.mark.parametrize("build", ["mlp_encoder", "mlp_decoder"])
def test_a_size_that_is_none_is_named(build, argument, bad):
    arguments = {"image_shape": SHAPE, "latent_dim": 2}
    if argument == "hidden":
        argument = "hidden_units"
        arguments[argument] = (32, bad)
    else:
        arguments[argument] = bad if argument == "latent_dim" else (28, bad, 1)
    message = f"Expected `{argument}` to be positive .* Received: .*{bad!r}"
    with pytest.raises(ValueError, match=message):
        getattr(vae_keras, build)(**arguments)


def test_numpy_integers_and_lists_are_sizes():
    encoder = vae_keras.mlp_encoder(
        np.array([8, 8, 1]), np.int64(2), np.array([4])
    )
    assert encoder.output_shape == [(None, 2), (None, 2)]


@pytest.mark.parametrize(
    "network",
    [
        lambda: vae_keras.mlp_encoder(SHAPE, 2, (32,)),
        lambda: vae_keras.mlp_decoder(2, SHAPE, (32,)),
    ],
    ids=["encoder", "decoder"],
)
def test_config_round_trip(network, tmp_path):
    network = network()
    copy = keras.Model.from_config(network.get_config())
    assert copy.get_config() == network.get_config()
    copy.set_weights(network.get_weights())
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).random((4, *network.input_shape[1:]))
    expected = keras.tree.flatten(network(x))
    for other in (copy, loaded):
        received = keras.tree.flatten(other(x))
        assert all(map(np.array_equal, received, expected))
