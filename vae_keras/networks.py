"""Encoders and decoders: ordinary functional Keras models.

An encoder maps images to `[z_mean, z_log_var]`, the parameters of q(z|x);
a decoder maps z to logits, the parameters of p(x|z). The layers that give
these parameters compute in float32 whatever the dtype policy, because the
losses need them exactly.
"""

import math
from collections.abc import Sequence

import keras

from vae_keras.checks import positive_integers


def mlp_encoder(
    image_shape: Sequence[int],
    latent_dim: int,
    hidden_units: Sequence[int] = (512, 512),
) -> keras.Model:
    """Builds an encoder of dense layers: images to `[z_mean, z_log_var]`.

    Args:
        image_shape: `(height, width, channels)` of the images.
        latent_dim: the number of latent dimensions.
        hidden_units: the width of each hidden layer, first to last. The
            default is the article's 784-512-512 network.

    Returns:
        A `keras.Model` from `(batch, *image_shape)` to two float32 tensors
        of shape `(batch, latent_dim)`.

    Raises:
        ValueError: if a size is not a positive integer.

    Example:
    >>> from vae_keras import mlp_encoder
    >>> encoder = mlp_encoder((28, 28, 1), latent_dim=2)
    >>> encoder.count_params()
    666628

    Reference:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2013,
        arXiv:1312.6114, appendix C.2.
    """
    image_shape = positive_integers("image_shape", image_shape)
    (latent_dim,) = positive_integers("latent_dim", latent_dim)
    images = keras.Input(image_shape, name="images")
    h = keras.layers.Flatten()(images)
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="relu")(h)
    z_mean = keras.layers.Dense(latent_dim, dtype="float32", name="z_mean")(h)
    z_log_var = keras.layers.Dense(
        latent_dim, dtype="float32", name="z_log_var"
    )(h)
    return keras.Model(images, [z_mean, z_log_var], name="encoder")


def mlp_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    hidden_units: Sequence[int] = (512, 512),
) -> keras.Model:
    """Builds a decoder of dense layers: latents z to logits.

    Args:
        latent_dim: the number of latent dimensions.
        image_shape: `(height, width, channels)` of the images.
        hidden_units: the width of each hidden layer, first to last.

    Returns:
        A `keras.Model` from `(batch, latent_dim)` to float32 logits of
        shape `(batch, *image_shape)`; there is no sigmoid at its end,
        because the loss is computed from logits.

    Raises:
        ValueError: if a size is not a positive integer.

    Example:
    >>> from vae_keras import mlp_decoder
    >>> decoder = mlp_decoder(2, image_shape=(28, 28, 1))
    >>> decoder.output_shape
    (None, 28, 28, 1)

    Reference:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2013,
        arXiv:1312.6114, appendix C.1.
    """
    (latent_dim,) = positive_integers("latent_dim", latent_dim)
    image_shape = positive_integers("image_shape", image_shape)
    z = keras.Input((latent_dim,), name="z")
    h = z
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="relu")(h)
    h = keras.layers.Dense(math.prod(image_shape), dtype="float32")(h)
    logits = keras.layers.Reshape(image_shape, dtype="float32", name="logits")(
        h
    )
    return keras.Model(z, logits, name="decoder")


def matching_shapes(encoder, decoder) -> tuple[tuple, tuple]:
    """Returns the shapes of an image and of a latent, or says what differs."""
    image_shape = _input_shape(encoder)
    outputs = encoder(keras.KerasTensor((None, *image_shape)))
    shapes = [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]
    is_pair = isinstance(outputs, (list, tuple)) and len(shapes) == 2
    if not is_pair or shapes[0] != shapes[1]:
        raise ValueError(
            "Expected `encoder` to return [z_mean, z_log_var], two tensors "
            f"of one shape. Received: tensors of shapes {shapes}. Give it "
            "one output layer for each of the two."
        )
    latent_shape = shapes[0]
    if None in image_shape or None in latent_shape:
        raise ValueError(
            "Expected fixed image and latent shapes. Received: images "
            f"{image_shape} and latents {latent_shape}. Fix the sizes in "
            "the encoder's `keras.Input`."
        )
    try:
        logits = decoder(keras.KerasTensor((None, *latent_shape)))
        decoded_shape = tuple(logits.shape[1:])
    except ValueError as error:
        raise ValueError(
            "Expected `decoder` to take the latents that `encoder` gives, "
            f"shape {latent_shape}. Received: a decoder that takes shape "
            f"{_input_shape(decoder)}. Use the same `latent_dim` for both."
        ) from error
    if decoded_shape != image_shape:
        raise ValueError(
            "Expected `decoder` to return logits of the shape of the images "
            f"that `encoder` takes, {image_shape}. Received: {decoded_shape}. "
            "Use the same `image_shape` for both."
        )
    return image_shape, latent_shape


def _input_shape(network) -> tuple:
    """The input shape of a Keras model of any kind, without the batch."""
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            "Expected a network that knows its input shape. Received: "
            f"{network.name!r}, which is not built. Call it once on a batch "
            "first, or use `network.build((None, …))`."
        )
    return tuple(shape[1:])
