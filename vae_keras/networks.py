"""Encoders and decoders: ordinary functional Keras models.

`mlp_…` are made of dense layers, `conv_…` of convolutions and dense layers.

An encoder maps images to `[z_mean, z_log_var]`, the parameters of q(z|x);
a decoder maps z to logits, the parameters of p(x|z). The layers that give
these parameters compute in float32 whatever the dtype policy, because the
losses need them exactly. Sizes that are no positive integers, or images
too small to be halved so often, are a `ValueError`.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from vae_keras._checks import positive_integer, positive_integers

# As images have it here, whatever Keras is set to.
_CHANNELS_LAST: dict[str, Any] = {"data_format": "channels_last"}


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

    Example:
    >>> from vae_keras import mlp_encoder
    >>> encoder = mlp_encoder((28, 28, 1), latent_dim=2)
    >>> encoder.count_params()
    666628
    """
    image_shape = positive_integers("image_shape", image_shape)
    images = keras.Input(image_shape, name="images")
    h = flattened(images, 28 * 28)
    inputs, h = _with_labels(images, h, num_classes)
    h = _dense_layers(h, hidden_units, "relu")
    return keras.Model(inputs, posterior(h, latent_dim), name="encoder")


def mlp_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    hidden_units: Sequence[int] = (512, 512),
    num_classes: int | None = None,
) -> keras.Model:
    """Builds a decoder of dense layers: latents z to logits.

    Args:
        latent_dim, image_shape, hidden_units, num_classes: as in
            `mlp_encoder`.

    Returns:
        A `keras.Model` from `(batch, latent_dim)` to float32 logits
        `(batch, *image_shape)`: without a sigmoid, since the loss is
        computed from logits.

    Example:
    >>> from vae_keras import mlp_decoder
    >>> decoder = mlp_decoder(2, image_shape=(28, 28, 1))
    >>> decoder.output_shape
    (None, 28, 28, 1)
    """
    image_shape = positive_integers("image_shape", image_shape)
    z = keras.Input((positive_integer("latent_dim", latent_dim),), name="z")
    inputs, h = _with_labels(z, z, num_classes)
    h = _dense_layers(h, hidden_units, "relu")
    h = keras.layers.Dense(math.prod(image_shape), dtype="float32")(h)
    to_image = keras.layers.Reshape(image_shape, dtype="float32", name="logits")
    return keras.Model(inputs, to_image(h), name="decoder")


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

    A convolution turns each patch of 4 × 4 pixels into one vector. On the
    map of these vectors, residual blocks of two 3 × 3 convolutions combine
    neighbours, and dense layers read the map as a whole.

    Args:
        image_shape: `(height, width, channels)` of the images: any sizes
            from `2**depth` pixels up. They are padded with zeros to
            multiples of that.
        latent_dim: the number of latent dimensions.
        filters: the channels of the largest map; each smaller map has
            twice as many as the one before.
        depth: how often height and width are halved, the first two times
            in one step: 2 for digits, 3 or 4 for larger images.
        num_blocks: the residual blocks on each map.
        hidden_units: the width of each dense layer, first to last.
        num_classes: as in `mlp_encoder`.

    Returns:
        As `mlp_encoder`.

    Example:
    >>> from vae_keras import conv_encoder
    >>> encoder = conv_encoder((33, 47, 3), latent_dim=8, depth=3)
    >>> [tuple(shape) for shape in encoder.output_shape]
    [(None, 8), (None, 8)]

    Reference:
        He et al., "Identity Mappings in Deep Residual Networks", 2016,
        arXiv:1603.05027, for the residual blocks.
    """
    layout = Layout(image_shape, filters, depth, num_blocks)
    images = keras.Input(layout.image_shape, name="images")
    h = flattened(image_to_map(images, layout), 7 * 7 * 64)
    inputs, h = _with_labels(images, h, num_classes)
    h = _dense_layers(h, hidden_units, "silu")
    return keras.Model(inputs, posterior(h, latent_dim), name="encoder")


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

    The mirror image of `conv_encoder`, with transposed convolutions whose
    stride is as large as their kernel: as their patches do not overlap, no
    pixel is written more often than another, which is what gives other
    transposed convolutions a chequered pattern.

    Args:
        latent_dim, image_shape, filters, depth: as in `conv_encoder`.
            Patches that reach beyond the image are cut.
        num_blocks, hidden_units, num_classes: as in `conv_encoder`.

    Returns:
        As `mlp_decoder`.

    Example:
    >>> from vae_keras import conv_decoder
    >>> decoder = conv_decoder(8, image_shape=(33, 47, 3), depth=3)
    >>> decoder.output_shape
    (None, 33, 47, 3)

    Reference:
        Odena, Dumoulin and Olah, "Deconvolution and Checkerboard
        Artifacts", Distill, 2016, doi:10.23915/distill.00003.
    """
    layout = Layout(image_shape, filters, depth, num_blocks)
    z = keras.Input((positive_integer("latent_dim", latent_dim),), name="z")
    inputs, h = _with_labels(z, z, num_classes)
    h = _dense_layers(h, hidden_units, "silu")
    h = keras.layers.Dense(math.prod(layout.map_shape))(h)
    h = keras.layers.Reshape(layout.map_shape)(h)
    return keras.Model(inputs, map_to_logits(h, layout), name="decoder")


# === The pieces, for networks of your own ===


def posterior(h, latent_dim: int, prefix: str = "z_") -> list:
    """Applies the layers of a mean and of a log-variance to features.

    Args:
        h: features, `(batch, …, width)`.
        latent_dim, prefix: the layers' width, and how their names begin.

    Returns:
        `[mean, log_var]`, float32 `(batch, …, latent_dim)`.
    """
    latent_dim = positive_integer("latent_dim", latent_dim)
    return [
        keras.layers.Dense(latent_dim, dtype="float32", name=prefix + name)(h)
        for name in ("mean", "log_var")
    ]


def flattened(h, width: int):
    """Applies the layers that make one vector of features.

    Adam moves each weight by its learning rate, so what the next layer
    gives moves with the number of its inputs: with the 49,152 of a picture
    of 128 × 128, z_log_var runs away in the first steps. Vectors wider than
    `width` are scaled down so that it moves as with `width` inputs.

    Args:
        h: images or features, `(batch, height, width, channels)`.
        width: up to how many features stay as they are.
    """
    h = keras.layers.Flatten(**_CHANNELS_LAST)(h)
    scale = width / h.shape[-1]
    return h if scale >= 1 else keras.layers.Rescaling(scale)(h)


class Layout:
    """The sizes of the maps between an image and its latents.

    Args:
        image_shape, filters, depth, num_blocks: as in `conv_encoder`.

    Attributes:
        stages: the side of the patches and the channels of each map,
            largest to smallest.
        map_shape: height, width and channels of the smallest map.
        padding: the zeros around the images, `((top, bottom), (left,
            right))`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        filters: int = 32,
        depth: int = 2,
        num_blocks: int = 1,
    ):
        self.image_shape = positive_integers("image_shape", image_shape)
        filters = positive_integer("filters", filters)
        depth = positive_integer("depth", depth)
        self.num_blocks = positive_integer("num_blocks", num_blocks)
        if len(self.image_shape) != 3:
            raise ValueError(
                "Expected `image_shape` to be (height, width, channels). "
                f"Received: image_shape={self.image_shape}. Grey images have "
                "one channel."
            )
        sides, scale = self.image_shape[:2], 2**depth
        if scale > min(sides):
            largest = min(sides).bit_length() - 1
            remedy = f"The largest depth that fits is {largest}."
            if largest == 0:
                remedy = "No depth fits: use a network of dense layers."
            raise ValueError(
                f"Expected images of {scale} × {scale} pixels or more, "
                f"to be halved {depth} times (`depth`). Received: "
                f"image_shape={self.image_shape}. {remedy}"
            )
        patches = [2] if depth == 1 else [4] + [2] * (depth - 2)
        self.stages = [
            (patch, filters * 2**i) for i, patch in enumerate(patches)
        ]
        grid = [-(-side // scale) for side in sides]
        self.map_shape = (*grid, self.stages[-1][1])
        missing = [-side % scale for side in sides]
        self.padding = tuple((n // 2, n - n // 2) for n in missing)


def image_to_map(images, layout: Layout):
    """Applies the layers from images to features `layout.map_shape`.

    Args:
        images, layout: a `keras.Input` of `layout.image_shape`, a `Layout`.
    """
    h = keras.layers.ZeroPadding2D(layout.padding, **_CHANNELS_LAST)(images)
    for patch, channels in layout.stages:
        h = keras.layers.Conv2D(
            channels, patch, strides=patch, **_CHANNELS_LAST
        )(h)
        for _ in range(layout.num_blocks):
            h = _residual_block(h)
    return keras.layers.Activation("silu")(h)


def map_to_logits(h, layout: Layout):
    """Applies the layers from features to float32 logits of images.

    Args:
        h, layout: features `(batch, *layout.map_shape)`, a `Layout`.
    """
    channels = [layout.image_shape[2], *(c for _, c in layout.stages)]
    for i, (patch, _) in reversed(list(enumerate(layout.stages))):
        for _ in range(layout.num_blocks):
            h = _residual_block(h)
        h = keras.layers.Activation("silu")(h)
        dtype = None if i else "float32"  # the logits
        h = keras.layers.Conv2DTranspose(
            channels[i], patch, strides=patch, dtype=dtype, **_CHANNELS_LAST
        )(h)
    crop = keras.layers.Cropping2D(
        layout.padding, dtype="float32", name="logits", **_CHANNELS_LAST
    )
    return crop(h)


def _residual_block(h):
    """Adds to a map what two convolutions make of it: at first, nothing."""
    update = keras.layers.Activation("silu")(h)
    arguments = {"filters": h.shape[-1], "kernel_size": 3, "padding": "same"}
    arguments |= _CHANNELS_LAST
    update = keras.layers.Conv2D(
        **arguments, activation="silu", kernel_initializer="he_normal"
    )(update)
    # With zeros the block starts as the identity.
    update = keras.layers.Conv2D(**arguments, kernel_initializer="zeros")(
        update
    )
    return keras.layers.Add()([h, update])


def _dense_layers(h, hidden_units: Sequence[int], activation: str):
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation=activation)(h)
    return h


def _with_labels(inputs, h, num_classes: int | None) -> tuple:
    """The inputs of a network, and its features h: with labels, if any."""
    if num_classes is None:
        return inputs, h
    num_classes = positive_integer("num_classes", num_classes)
    labels = keras.Input((num_classes,), name="labels")
    return [inputs, labels], keras.layers.Concatenate()([h, labels])
