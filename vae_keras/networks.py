"""Encoders and decoders: ordinary functional Keras models.

`mlp_…` are made of dense layers, `conv_…` of convolutions and dense layers.

An encoder maps images to `[z_mean, z_log_var]`, the parameters of q(z|x);
a decoder maps z to logits, the parameters of p(x|z). The layers that give
these parameters compute in float32 whatever the dtype policy, because the
losses need them exactly.
"""

import math
from collections.abc import Sequence

import keras

from vae_keras.checks import positive_integer, positive_integers
from vae_keras.feature_maps import Layout, image_to_map, map_to_logits


def mlp_encoder(
    image_shape: Sequence[int],
    latent_dim: int,
    hidden_units: Sequence[int] = (512, 512),
    num_classes: int | None = None,
) -> keras.Model:
    """Builds an encoder of dense layers: images to `[z_mean, z_log_var]`.

    Args:
        image_shape: `(height, width, channels)` of the images.
        latent_dim: the number of latent dimensions.
        hidden_units: the width of each hidden layer, first to last. The
            default is the article's 784-512-512 network.
        num_classes: for a `ConditionalVAE`: the network then has a second
            input, one-hot labels `(batch, num_classes)`.

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
    latent_dim = positive_integer("latent_dim", latent_dim)
    images = keras.Input(image_shape, name="images")
    inputs, h = _with_labels(
        images, keras.layers.Flatten()(images), num_classes
    )
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="relu")(h)
    return keras.Model(inputs, posterior(h, latent_dim, "z_"), name="encoder")


def mlp_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    hidden_units: Sequence[int] = (512, 512),
    num_classes: int | None = None,
) -> keras.Model:
    """Builds a decoder of dense layers: latents z to logits.

    Args:
        latent_dim: the number of latent dimensions.
        image_shape: `(height, width, channels)` of the images.
        hidden_units: the width of each hidden layer, first to last.
        num_classes: for a `ConditionalVAE`: the network then has a second
            input, one-hot labels `(batch, num_classes)`.

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
    latent_dim = positive_integer("latent_dim", latent_dim)
    image_shape = positive_integers("image_shape", image_shape)
    z = keras.Input((latent_dim,), name="z")
    inputs, h = _with_labels(z, z, num_classes)
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="relu")(h)
    h = keras.layers.Dense(math.prod(image_shape), dtype="float32")(h)
    logits = keras.layers.Reshape(image_shape, dtype="float32", name="logits")(
        h
    )
    return keras.Model(inputs, logits, name="decoder")


def conv_encoder(
    image_shape: Sequence[int],
    latent_dim: int,
    filters: int = 32,
    depth: int = 2,
    num_blocks: int = 1,
    hidden_units: Sequence[int] = (512,),
    num_classes: int | None = None,
) -> keras.Model:
    """Builds a convolutional encoder: images to `[z_mean, z_log_var]`.

    A convolution with a stride as large as its kernel turns each patch of
    4 × 4 pixels into one vector. On the map of these vectors, residual
    blocks of two 3 × 3 convolutions let neighbours exchange what they
    know, and dense layers read the map as a whole.

    Args:
        image_shape: `(height, width, channels)` of the images: any sizes
            from `2**depth` pixels up. They are padded with zeros to
            multiples of that.
        latent_dim: the number of latent dimensions.
        filters: the channels of the first map; each later map has twice
            as many as the one before.
        depth: how often height and width are halved, the first two times
            in one step: 2 for digits, 3 or 4 for larger images.
        num_blocks: the residual blocks on each map.
        hidden_units: the width of each dense layer, first to last.
        num_classes: for a `ConditionalVAE`: the network then has a second
            input, one-hot labels `(batch, num_classes)`.

    Returns:
        A `keras.Model` from `(batch, *image_shape)` to two float32 tensors
        of shape `(batch, latent_dim)`.

    Raises:
        ValueError: if a size is not a positive integer, or if the images
            are too small to be halved so often.

    Example:
    >>> from vae_keras import conv_encoder
    >>> encoder = conv_encoder((33, 47, 3), latent_dim=8, depth=3)
    >>> [tuple(shape) for shape in encoder.output_shape]
    [(None, 8), (None, 8)]

    Reference:
        He et al., "Identity Mappings in Deep Residual Networks", 2016,
        arXiv:1603.05027, for the residual blocks.
    """
    latent_dim = positive_integer("latent_dim", latent_dim)
    layout = Layout(image_shape, filters, depth, num_blocks)
    images = keras.Input(layout.image_shape, name="images")
    h = keras.layers.Flatten()(image_to_map(images, layout))
    inputs, h = _with_labels(images, h, num_classes)
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="silu")(h)
    return keras.Model(inputs, posterior(h, latent_dim, "z_"), name="encoder")


def conv_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    filters: int = 32,
    depth: int = 2,
    num_blocks: int = 1,
    hidden_units: Sequence[int] = (512,),
    num_classes: int | None = None,
) -> keras.Model:
    """Builds a convolutional decoder: latents z to logits.

    The mirror image of `conv_encoder`: dense layers write a small map,
    residual blocks let neighbours agree, and transposed convolutions with
    a stride as large as their kernel write each patch of pixels. As these
    patches do not overlap, no pixel is written more often than another,
    which is what gives other transposed convolutions a chequered pattern.

    Args:
        latent_dim: the number of latent dimensions.
        image_shape: `(height, width, channels)` of the images: any sizes
            from `2**depth` pixels up. Patches that reach beyond the image
            are cut.
        filters: the channels of the last map; each earlier map has twice
            as many as the one after it.
        depth: how often height and width are doubled, the last two times
            in one step.
        num_blocks: the residual blocks on each map.
        hidden_units: the width of each dense layer, first to last.
        num_classes: for a `ConditionalVAE`: the network then has a second
            input, one-hot labels `(batch, num_classes)`.

    Returns:
        A `keras.Model` from `(batch, latent_dim)` to float32 logits of
        shape `(batch, *image_shape)`.

    Raises:
        ValueError: if a size is not a positive integer, or if the images
            are too small to be halved so often.

    Example:
    >>> from vae_keras import conv_decoder
    >>> decoder = conv_decoder(8, image_shape=(33, 47, 3), depth=3)
    >>> decoder.output_shape
    (None, 33, 47, 3)

    Reference:
        Odena, Dumoulin and Olah, "Deconvolution and Checkerboard
        Artifacts", Distill, 2016, doi:10.23915/distill.00003.
    """
    latent_dim = positive_integer("latent_dim", latent_dim)
    layout = Layout(image_shape, filters, depth, num_blocks)
    z = keras.Input((latent_dim,), name="z")
    inputs, h = _with_labels(z, z, num_classes)
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="silu")(h)
    h = keras.layers.Dense(math.prod(layout.map_shape))(h)
    h = keras.layers.Reshape(layout.map_shape)(h)
    return keras.Model(inputs, map_to_logits(h, layout), name="decoder")


def _with_labels(inputs, h, num_classes: int | None) -> tuple:
    """The inputs of a network, and its features h: with labels, if any."""
    if num_classes is None:
        return inputs, h
    num_classes = positive_integer("num_classes", num_classes)
    labels = keras.Input((num_classes,), name="labels")
    return [inputs, labels], keras.layers.Concatenate()([h, labels])


def posterior(h, size: int, prefix: str) -> list:
    """The layers of a mean and of a log-variance, from features h."""
    return [
        keras.layers.Dense(size, dtype="float32", name=prefix + name)(h)
        for name in ("mean", "log_var")
    ]
