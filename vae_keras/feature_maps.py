"""How convolutional networks turn images into maps, and maps into images.

The pieces that `networks` and `spatial` build encoders and decoders from.
"""

from collections.abc import Sequence

import keras

from vae_keras.checks import positive_integer, positive_integers


class Layout:
    """The sizes of the maps between an image and its latents.

    Args:
        image_shape: `(height, width, channels)` of the images.
        filters: the channels of the first map; each later map has twice
            as many as the one before.
        depth: how often height and width are halved, the first two times
            in one step.
        num_blocks: the residual blocks on each map.

    Attributes:
        stages: the side of the patches and the channels of each map,
            first to last.
        map_shape: height, width and channels of the last map.
        padding: the zeros around the images, `((top, bottom), (left,
            right))`.

    Raises:
        ValueError: if a size is not a positive integer, or if the images
            are too small to be halved so often.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        filters: int,
        depth: int,
        num_blocks: int,
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
        sides = self.image_shape[:2]
        largest = min(sides).bit_length() - 1
        if depth > largest:
            remedy = f"The largest depth that fits is {largest}."
            if largest == 0:
                remedy = "No depth fits: use a network of dense layers."
            raise ValueError(
                f"Expected images of {2**depth} × {2**depth} pixels or more, "
                f"to be halved {depth} times (`depth`). Received: "
                f"image_shape={self.image_shape}. {remedy}"
            )
        patches = [2] if depth == 1 else [4] + [2] * (depth - 2)
        self.stages = [
            (patch, filters * 2**i) for i, patch in enumerate(patches)
        ]
        grid = [-(-side // 2**depth) for side in sides]
        self.map_shape = (*grid, self.stages[-1][1])
        missing = [
            n * 2**depth - side for n, side in zip(grid, sides, strict=True)
        ]
        self.padding = tuple((n // 2, n - n // 2) for n in missing)


def image_to_map(images, layout: Layout):
    """Applies the layers from images to the last map, `layout.map_shape`."""
    h = keras.layers.ZeroPadding2D(layout.padding)(images)
    for patch, channels in layout.stages:
        h = keras.layers.Conv2D(channels, patch, strides=patch)(h)
        for _ in range(layout.num_blocks):
            h = _residual_block(h)
    return keras.layers.Activation("silu")(h)


def map_to_logits(h, layout: Layout):
    """Applies the layers from a map of that shape to float32 logits."""
    for i, (patch, _) in reversed(list(enumerate(layout.stages))):
        for _ in range(layout.num_blocks):
            h = _residual_block(h)
        h = keras.layers.Activation("silu")(h)
        h = keras.layers.Conv2DTranspose(
            layout.stages[i - 1][1] if i else layout.image_shape[2],
            patch,
            strides=patch,
            dtype=None if i else "float32",
        )(h)
    return keras.layers.Cropping2D(
        layout.padding, dtype="float32", name="logits"
    )(h)


def _residual_block(h):
    """Adds to a map what two convolutions make of it: at first, nothing."""
    channels = h.shape[-1]
    update = keras.layers.Activation("silu")(h)
    update = keras.layers.Conv2D(
        channels,
        3,
        padding="same",
        activation="silu",
        kernel_initializer="he_normal",
    )(update)
    # With zeros the block starts as the identity.
    update = keras.layers.Conv2D(
        channels, 3, padding="same", kernel_initializer="zeros"
    )(update)
    return keras.layers.Add()([h, update])
