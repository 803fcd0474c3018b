"""Encoders and decoders: ordinary functional Keras models.

An encoder maps images to `[z_mean, z_log_var]`, the parameters of q(z|x);
a decoder maps z to logits, the parameters of p(x|z). The layers that give
these parameters compute in float32 whatever the dtype policy, because the
losses need them exactly.
"""

import math
from collections.abc import Sequence

import keras


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
    image_shape = _sizes("image_shape", image_shape)
    (latent_dim,) = _sizes("latent_dim", [latent_dim])
    images = keras.Input(image_shape, name="images")
    h = keras.layers.Flatten()(images)
    for units in _sizes("hidden_units", hidden_units):
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
    (latent_dim,) = _sizes("latent_dim", [latent_dim])
    image_shape = _sizes("image_shape", image_shape)
    z = keras.Input((latent_dim,), name="z")
    h = z
    for units in _sizes("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="relu")(h)
    h = keras.layers.Dense(math.prod(image_shape), dtype="float32")(h)
    logits = keras.layers.Reshape(image_shape, dtype="float32", name="logits")(
        h
    )
    return keras.Model(z, logits, name="decoder")


def _sizes(argument: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns `sizes` as a tuple of ints, or says which one is none."""
    for size in sizes:
        if isinstance(size, bool) or int(size) != size or size < 1:
            raise ValueError(
                f"Expected positive integers for `{argument}`. Received: "
                f"{argument}={sizes}, of which {size!r} is none."
            )
    return tuple(int(size) for size in sizes)
