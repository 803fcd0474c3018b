"""The spatial VAE: latents are maps, governed by their rows and columns."""

from collections.abc import Sequence

import keras

from vae_keras.checks import positive_integer, positive_integers
from vae_keras.feature_maps import Layout, image_to_map, map_to_logits
from vae_keras.models import VAE
from vae_keras.networks import posterior


@keras.saving.register_keras_serializable(package="vae_keras")
class RowColumnGaussian(keras.layers.Layer):
    """Combines Gaussians of rows and of columns into one for each place.

    Row i of a latent map has the mean μ₁ᵢ and the variance σ₁ᵢ², column j
    has μ₂ⱼ and σ₂ⱼ². The place where they cross gets

        z_ij ~ N(μ₁ᵢ μ₂ⱼ, σ₁ᵢ² σ₂ⱼ²)

    As a matrix, z is normal with the mean μ₁ μ₂ᵀ of rank one and the
    covariance diag(σ₁²) of rows and diag(σ₂²) of columns; the covariance
    of all its entries is their Kronecker product. A map of d₁ × d₂ places
    takes 2 (d₁ + d₂) numbers instead of 2 d₁ d₂.

    Args:
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(row_mean, row_log_var, column_mean, column_log_var)`, in
            this order: two tensors `(batch, height, maps)` of rows, then
            two `(batch, width, maps)` of columns.

    Returns:
        `[z_mean, z_log_var]`, each `(batch, height, width, maps)`, in the
        layer's compute dtype.

    Raises:
        ValueError: if the four shapes do not fit together.

    Example:
    >>> import numpy as np
    >>> from vae_keras import RowColumnGaussian
    >>> rows, columns = np.full((1, 7, 2), 3.0), np.full((1, 5, 2), 0.5)
    >>> z_mean, _ = RowColumnGaussian()((rows, rows, columns, columns))
    >>> tuple(z_mean.shape), float(z_mean[0, 0, 0, 0])
    ((1, 7, 5, 2), 1.5)

    Reference:
        Wang, Yuan and Ji, "Spatial Variational Auto-Encoding via
        Matrix-Variate Normal Distributions", 2017, arXiv:1705.06821.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def build(self, input_shape):
        shapes = [tuple(shape[1:]) for shape in input_shape]
        fit = len(shapes) == 4 and all(len(shape) == 2 for shape in shapes)
        fit = fit and shapes[0] == shapes[1] and shapes[2] == shapes[3]
        if not (fit and shapes[0][1] == shapes[2][1]):
            raise ValueError(
                "Expected (row_mean, row_log_var, column_mean, "
                "column_log_var): two tensors (batch, height, maps), then "
                "two (batch, width, maps). Received: shapes "
                f"{shapes}, without the batch. Check their order."
            )
        self.built = True

    def call(self, inputs):
        row_mean, row_log_var, column_mean, column_log_var = inputs
        z_mean = row_mean[:, :, None] * column_mean[:, None]
        z_log_var = row_log_var[:, :, None] + column_log_var[:, None]
        return [z_mean, z_log_var]

    def compute_output_shape(self, input_shape):
        (batch, height, maps), _, (_, width, _), _ = input_shape
        return [(batch, height, width, maps)] * 2


def spatial_encoder(
    image_shape: Sequence[int],
    num_maps: int,
    filters: int = 32,
    depth: int = 2,
    num_blocks: int = 1,
    hidden_units: Sequence[int] = (512,),
    factored: bool = True,
) -> keras.Model:
    """Builds an encoder from images to maps of latents.

    Convolutions turn an image into a map of features and dense layers read
    it as a whole, as in `conv_encoder`. They give the statistics of each
    row and of each column, which `RowColumnGaussian` combines.

    Args:
        image_shape: `(height, width, channels)` of the images: any sizes
            from `2**depth` pixels up.
        num_maps: how many latents each place of the map has.
        filters: the channels of the first map of features; each later one
            has twice as many as the one before.
        depth: how often height and width are halved: a latent map has the
            size of the last map of features.
        num_blocks: the residual blocks on each map.
        hidden_units: the width of each dense layer, first to last.
        factored: whether the posterior is made of rows and columns. If
            not, each place has a mean and a variance of its own, which it
            takes from the features there, without dense layers between.

    Returns:
        A `keras.Model` from `(batch, *image_shape)` to two float32 tensors
        of shape `(batch, map_height, map_width, num_maps)`.

    Raises:
        ValueError: if a size is not a positive integer, or if the images
            are too small to be halved so often.

    Example:
    >>> from vae_keras import spatial_encoder
    >>> spatial_encoder((28, 28, 1), num_maps=2).output_shape[0]
    (None, 7, 7, 2)

    Reference:
        Wang, Yuan and Ji, "Spatial Variational Auto-Encoding via
        Matrix-Variate Normal Distributions", 2017, arXiv:1705.06821.
    """
    num_maps = positive_integer("num_maps", num_maps)
    layout = Layout(image_shape, filters, depth, num_blocks)
    images = keras.Input(layout.image_shape, name="images")
    h = image_to_map(images, layout)
    if not factored:
        return keras.Model(images, posterior(h, num_maps, "z_"), name="encoder")
    height, width, _ = layout.map_shape
    h = keras.layers.Flatten()(h)
    for units in positive_integers("hidden_units", hidden_units):
        h = keras.layers.Dense(units, activation="silu")(h)
    statistics = []
    for name, side in (("row", height), ("column", width)):
        for values in posterior(h, side * num_maps, f"{name}_"):
            reshape = keras.layers.Reshape((side, num_maps), dtype="float32")
            statistics.append(reshape(values))
    combine = RowColumnGaussian(dtype="float32", name="posterior")
    return keras.Model(images, combine(statistics), name="encoder")


def spatial_decoder(
    num_maps: int,
    image_shape: Sequence[int],
    filters: int = 32,
    depth: int = 2,
    num_blocks: int = 1,
) -> keras.Model:
    """Builds a decoder from maps of latents to logits.

    Convolutions only: what is at a place of the latent map acts on the
    image around that place.

    Args:
        num_maps: how many latents each place of the map has.
        image_shape: `(height, width, channels)` of the images.
        filters: the channels of the last map of features; each earlier one
            has twice as many as the one after it.
        depth: how often height and width are doubled.
        num_blocks: the residual blocks on each map.

    Returns:
        A `keras.Model` from `(batch, map_height, map_width, num_maps)` to
        float32 logits of shape `(batch, *image_shape)`.

    Raises:
        ValueError: as `spatial_encoder`.

    Example:
    >>> from vae_keras import spatial_decoder
    >>> spatial_decoder(2, (28, 28, 1)).input_shape
    (None, 7, 7, 2)

    Reference:
        Wang, Yuan and Ji, "Spatial Variational Auto-Encoding via
        Matrix-Variate Normal Distributions", 2017, arXiv:1705.06821.
    """
    num_maps = positive_integer("num_maps", num_maps)
    layout = Layout(image_shape, filters, depth, num_blocks)
    height, width, channels = layout.map_shape
    z = keras.Input((height, width, num_maps), name="z")
    h = keras.layers.Conv2D(channels, 3, padding="same")(z)
    return keras.Model(z, map_to_logits(h, layout), name="decoder")


@keras.saving.register_keras_serializable(package="vae_keras")
class SpatialVAE(VAE):
    """A VAE whose latents are maps, governed by their rows and columns.

    A `VAE` of `spatial_encoder` and `spatial_decoder`, and all that a
    `VAE` can do. Latents have the shape `(map_height, map_width,
    num_maps)`; the KL of one map from N(0, I), in nats, is

        ½ (‖μ₁‖² ‖μ₂‖² + Σσ₁² Σσ₂² − d₁ d₂ − d₂ Σ log σ₁² − d₁ Σ log σ₂²)

    For encoders of your own, end them with `RowColumnGaussian` and give
    them to `VAE`.

    Args:
        image_shape: `(height, width, channels)` of the images: any sizes
            from `2**depth` pixels up.
        num_maps: how many latents each place of the map has.
        filters: the channels of the largest map of features.
        depth: how often height and width are halved.
        num_blocks: the residual blocks on each map.
        hidden_units: the width of each dense layer of the encoder.
        factored: whether the posterior is made of rows and columns. If
            not, each place has a mean and a variance of its own.
        beta: the weight of the KL term, as in `VAE`.
        seed: int or `None`, the seed of the noise, as in `VAE`.
        **kwargs: `likelihood`, as in `VAE`, and keyword arguments of
            `keras.Model`.

    Raises:
        ValueError: if a size is not a positive integer, or if the images
            are too small to be halved so often.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.SpatialVAE((28, 28, 1), num_maps=2)
    >>> vae.latent_shape
    (7, 7, 2)

    Reference:
        Wang, Yuan and Ji, "Spatial Variational Auto-Encoding via
        Matrix-Variate Normal Distributions", 2017, arXiv:1705.06821.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_maps: int = 2,
        filters: int = 32,
        depth: int = 2,
        num_blocks: int = 1,
        hidden_units: Sequence[int] = (512,),
        factored: bool = True,
        beta: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        sizes = (filters, depth, num_blocks)
        # A saved model brings its networks along, as they were built.
        encoder = kwargs.pop("encoder", None) or spatial_encoder(
            image_shape, num_maps, *sizes, hidden_units, factored
        )
        decoder = kwargs.pop("decoder", None) or spatial_decoder(
            num_maps, image_shape, *sizes
        )
        super().__init__(encoder, decoder, beta, seed, **kwargs)
        self.num_maps = num_maps
        self.filters, self.depth, self.num_blocks = sizes
        self.hidden_units = hidden_units
        self.factored = factored

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "num_maps": self.num_maps,
            "filters": self.filters,
            "depth": self.depth,
            "num_blocks": self.num_blocks,
            "hidden_units": list(self.hidden_units),
            "factored": self.factored,
        }
