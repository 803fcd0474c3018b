"""Encoders and decoders: sizes, parameters, dtypes and what they compute."""

import itertools
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import dtype_policy

SHAPE = (28, 28, 1)
COLOUR = (33, 47, 3)
SMALL = {"filters": 4, "hidden_units": (16,)}


def dense(*widths):
    """The parameters of dense layers between these widths."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def conv_networks(image_shape, latent_dim=2, **kwargs):
    kwargs = {**SMALL, **kwargs}
    return (
        vae_keras.conv_encoder(image_shape, latent_dim, **kwargs),
        vae_keras.conv_decoder(latent_dim, image_shape, **kwargs),
    )


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


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float64"]
)
def test_outputs_are_float32_under_any_policy(policy, kind, images):
    build = [getattr(vae_keras, f"{kind}_{end}coder") for end in ("en", "de")]
    with dtype_policy(policy):
        encoder = build[0](SHAPE, 2, hidden_units=(32,))
        decoder = build[1](2, SHAPE, hidden_units=(32,))
    z_mean, z_log_var = encoder(images)
    outputs = [z_mean, z_log_var, decoder(z_mean)]
    assert [output.dtype for output in outputs] == ["float32"] * 3
    hidden = [
        layer
        for layer in encoder.layers
        if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D))
        and layer.name not in ("z_mean", "z_log_var")
    ]
    assert len(hidden) == {"mlp": 1, "conv": 4}[kind]
    expected = keras.DTypePolicy(policy).compute_dtype
    assert {layer.compute_dtype for layer in hidden} == {expected}


def test_numpy_integers_arrays_and_generators_are_sizes():
    encoder = vae_keras.mlp_encoder(SHAPE, 2, (units for units in (8, 4)))
    assert encoder.count_params() == dense(784, 8, 4) + 2 * dense(4, 2)
    encoder = vae_keras.mlp_encoder(
        np.array([8, 8, 1]), np.int64(2), np.array([4])
    )
    assert encoder.output_shape == [(None, 2), (None, 2)]
    one, two = np.int64(1), np.int64(2)
    for network in conv_networks(
        np.array([8, 8, 1]),
        two,
        filters=two,
        depth=two,
        num_blocks=one,
        hidden_units=np.array([4]),
    ):
        assert network.count_params() > 0


@pytest.mark.parametrize(
    "network",
    [
        lambda: vae_keras.mlp_encoder(SHAPE, 2, (32,)),
        lambda: vae_keras.mlp_decoder(2, SHAPE, (32,)),
        lambda: vae_keras.conv_encoder(COLOUR, 2, depth=3, **SMALL),
        lambda: vae_keras.conv_decoder(2, COLOUR, depth=3, **SMALL),
    ],
    ids=["mlp_encoder", "mlp_decoder", "conv_encoder", "conv_decoder"],
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


# === Convolutions ===


def test_parameters_of_the_default_convolutions():
    encoder = vae_keras.conv_encoder(SHAPE, 2)
    # 4 · 4 · 32 + 32, twice 3 · 3 · 32 · 32 + 32, 7 · 7 · 32 · 512 + 512, and
    # twice 512 · 2 + 2.
    assert encoder.count_params() == 544 + 2 * 9248 + 803_328 + 2 * 1026
    decoder = vae_keras.conv_decoder(2, SHAPE)
    # 2 · 512 + 512, 512 · 1568 + 1568, the same blocks, 4 · 4 · 32 + 1.
    assert decoder.count_params() == 1536 + 804_384 + 2 * 9248 + 513


@pytest.mark.parametrize(
    ("image_shape", "filters", "depth", "num_blocks", "hidden_units"),
    [
        (SHAPE, 4, 2, 1, (16,)),
        (SHAPE, 3, 1, 2, ()),
        (COLOUR, 4, 3, 1, (16, 8)),
        ((96, 64, 3), 2, 4, 3, [5, 6, 7]),
        ((2, 2, 1), 1, 1, 1, (3,)),
    ],
)
def test_shapes_and_parameters_of_convolutions(
    image_shape, filters, depth, num_blocks, hidden_units
):
    encoder, decoder = conv_networks(
        image_shape,
        latent_dim=5,
        filters=filters,
        depth=depth,
        num_blocks=num_blocks,
        hidden_units=hidden_units,
    )
    assert [n.name for n in (encoder, decoder)] == ["encoder", "decoder"]
    assert encoder.input_shape == decoder.output_shape == (None, *image_shape)
    assert encoder.output_shape == [(None, 5)] * 2
    assert decoder.input_shape == (None, 5)
    x = np.random.default_rng(0).random((3, *image_shape))
    z_mean, z_log_var = encoder(x)
    logits = np.asarray(decoder(z_mean))
    assert logits.shape == x.shape
    assert logits.min() < 0 < logits.max()  # no activation at the end
    assert not np.allclose(z_mean, z_log_var)

    height, width, channels = image_shape
    blocks = encoder_patches = decoder_patches = 0
    before = channels
    for i in range(max(1, depth - 1)):
        after = filters * 2**i
        pixels = 16 if i == 0 and depth > 1 else 4
        encoder_patches += (pixels * before + 1) * after
        decoder_patches += pixels * after * before + before
        blocks += num_blocks * 2 * (9 * after + 1) * after
        before = after
    values = math.ceil(height / 2**depth) * math.ceil(width / 2**depth) * before
    widths = [values, *hidden_units]
    heads = 2 * dense(widths[-1], 5)
    expected = encoder_patches + blocks + dense(*widths) + heads
    assert encoder.count_params() == expected
    expected = decoder_patches + blocks + dense(5, *hidden_units, values)
    assert decoder.count_params() == expected


@pytest.mark.parametrize("build", ["conv_encoder", "conv_decoder"])
@pytest.mark.parametrize(
    ("image_shape", "largest"),
    [
        (SHAPE, 4),
        ((31, 64, 1), 4),
        ((32, 64, 1), 5),
        ((64, 8, 3), 3),
        ((3, 3, 1), 1),
    ],
)
def test_the_largest_depth_that_fits_is_named(build, image_shape, largest):
    def network(depth):
        return getattr(vae_keras, build)(
            image_shape=image_shape, latent_dim=2, depth=depth, **SMALL
        )

    assert network(largest).count_params() > 0
    message = (
        rf"{2 ** (largest + 1)} × .* or more, .* Received: image_shape="
        rf"{re.escape(str(image_shape))}. The largest .* fits is {largest}\."
    )
    with pytest.raises(ValueError, match=message):
        network(largest + 1)


@pytest.mark.parametrize("build", ["conv_encoder", "conv_decoder"])
@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((1, 28, 1), "pixels or more, .* Received: .* No depth fits: use"),
        ((28, 1, 3), "pixels or more, .* Received: .* No depth fits: use"),
        ((28, 28), "height, width, channels.* Received: .* one channel"),
        ((28, 28, 1, 1), "height, width, channels.* Received: .*28, 1, 1"),
    ],
)
def test_shapes_that_do_not_do_are_explained(build, image_shape, message):
    for depth in (1, 2):
        with pytest.raises(ValueError, match=message):
            getattr(vae_keras, build)(
                image_shape=image_shape, latent_dim=2, depth=depth
            )


@pytest.mark.parametrize("index", [0, 1], ids=["encoder", "decoder"])
def test_every_residual_block_starts_as_the_identity(index):
    network = conv_networks(COLOUR, depth=4, num_blocks=2)[index]
    sums = [
        layer for layer in network.layers if isinstance(layer, keras.layers.Add)
    ]
    assert len(sums) == 3 * 2
    # The layers that give the blocks' second terms, in the same order.
    sources = {id(layer.output): layer for layer in network.layers}
    updates = [sources[id(layer.input[1])] for layer in sums]
    assert not any(np.any(layer.kernel) for layer in updates)
    ends = keras.Model(
        network.input, [(layer.input[0], layer.output) for layer in sums]
    )
    x = np.random.default_rng(0).random((2, *network.input_shape[1:]))
    for before, after in ends(x):
        assert np.any(before)
        assert np.array_equal(before, after)
    # And a kernel that is no longer zero is heard.
    for layer in updates:
        layer.kernel.assign(keras.ops.ones_like(layer.kernel))
    assert not any(np.array_equal(*pair) for pair in ends(x))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_decoder_draws_no_chequered_pattern(depth):
    _, decoder = conv_networks(COLOUR, depth=depth)
    *_, last = (
        layer
        for layer in decoder.layers
        if isinstance(layer, keras.layers.Conv2DTranspose)
    )
    side = 2 if depth == 1 else 4
    _, rows, columns, channels = last.input.shape
    # A change of one vector changes one patch of pixels, and no other.
    field = np.random.default_rng(0).random((1, rows, columns, channels))
    other = field.copy()
    other[:, 1, 2] += 1
    changed = np.any(np.asarray(last(field)) != last(other), axis=(0, -1))
    expected = np.zeros((rows * side, columns * side), bool)
    expected[side : 2 * side, 2 * side : 3 * side] = True
    assert np.array_equal(changed, expected)
    # Each pixel is written equally often.
    last.kernel.assign(keras.ops.ones_like(last.kernel))
    pixels = np.asarray(last(np.ones_like(field)))
    assert np.array_equal(pixels, np.full_like(pixels, channels))


def test_no_pixel_of_an_odd_sized_image_is_cut_off():
    encoder, decoder = conv_networks(COLOUR, depth=3, filters=16)
    x = tf.random.normal((8, *COLOUR))
    with tf.GradientTape() as tape:
        tape.watch(x)
        z_mean, z_log_var = encoder(x)
        loss = tf.reduce_sum(z_mean) + 2 * tf.reduce_sum(z_log_var)
    read = np.any(tape.gradient(loss, x), axis=0)
    with tf.autodiff.ForwardAccumulator(
        z_mean, tf.ones_like(z_mean)
    ) as derivative:
        logits = decoder(z_mean)
    written = np.any(derivative.jvp(logits), axis=0)
    assert read.shape == written.shape == COLOUR
    for corner in itertools.product((0, -1), (0, -1)):
        assert read[corner].all(), corner
        assert written[corner].all(), corner
    assert read.all()
    assert written.all()
