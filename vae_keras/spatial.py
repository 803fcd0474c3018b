"""The spatial VAE: latents are maps, governed by their rows and columns."""

from collections.abc import Sequence

import keras

from vae_keras._checks import positive_integer, positive_integers
from vae_keras.models import VAE
from vae_keras.networks import (
    Layout,
    flattened,
    image_to_map,
    map_to_logits,
    posterior,
)


@keras.saving.register_keras_serializable(package="vae_keras")
class RowColumnGaussian(keras.layers.Layer):
    """Combines Gaussians of rows and of columns into one for each place.

    Row i of a latent map has the mean μ₁ᵢ and the variance σ₁ᵢ², column j
    has μ₂ⱼ and σ₂ⱼ². The place where they cross gets

        z_ij ~ N(μ₁ᵢ μ₂ⱼ, σ₁ᵢ² σ₂ⱼ²)

    As a matrix, z is normal with the mean μ₁ μ₂ᵀ of rank one; the
    covariance of its entries is the Kronecker product of diag(σ₁²) and
    diag(σ₂²): 2 (d₁ + d₂) numbers for d₁ × d₂ places, not 2 d₁ d₂.

    Call arguments:
        inputs: `(row_mean, row_log_var, column_mean, column_log_var)`, in
            this order: two tensors `(batch, height, maps)` of rows, then
            two `(batch, width, maps)` of columns.

    Returns:
        `[z_mean, z_log_var]`, each `(batch, height, width, maps)`, in the
        layer's compute dtype.

    Example:
    >>> import numpy as np
    >>> from vae_keras.spatial import RowColumnGaussian
    >>> rows, columns = np.full((1, 7, 2), 3.0), np.full((1, 5, 2), 0.5)
    >>> z_mean, _ = RowColumnGaussian()((rows, rows, columns, columns))
    >>> tuple(z_mean.shape), float(z_mean[0, 0, 0, 0])
    ((1, 7, 5, 2), 1.5)

    Reference:
        Wang, Yuan and Ji, "Spatial Variational Auto-Encoding via
        Matrix-Variate Normal Distributions", 2017, arXiv:1705.06821.
    """

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
    num_maps: int = 2,
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
        image_shape, filters, depth, num_blocks, hidden_units: as in
            `conv_encoder`. Latent maps have the size of the last map.
        num_maps: how many latents each place of the map has.
        factored: whether the posterior is made of rows and columns. If
            not, each place has a mean and a variance of its own, which it
            takes from the features there, without dense layers between.

    Returns:
        A `keras.Model` from `(batch, *image_shape)` to two float32 tensors
        of shape `(batch, map_height, map_width, num_maps)`.

    Example:
    >>> from vae_keras.spatial import spatial_encoder
    >>> spatial_encoder((28, 28, 1), num_maps=2).output_shape[0]
    (None, 7, 7, 2)
    """
    num_maps = positive_integer("num_maps", num_maps)
    layout = Layout(image_shape, filters, depth, num_blocks)
    images = keras.Input(layout.image_shape, name="images")
    h = image_to_map(images, layout)
    if not factored:
        return keras.Model(images, posterior(h, num_maps), name="encoder")
    height, width, _ = layout.map_shape
    h = flattened(h, 7 * 7 * 64)
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
        num_maps, image_shape, filters, depth, num_blocks: as in
            `spatial_encoder`.

    Returns:
        A `keras.Model` from `(batch, map_height, map_width, num_maps)` to
        float32 logits of shape `(batch, *image_shape)`.

    Example:
    >>> from vae_keras.spatial import spatial_decoder
    >>> spatial_decoder(2, (28, 28, 1)).input_shape
    (None, 7, 7, 2)
    """
    num_maps = positive_integer("num_maps", num_maps)
    layout = Layout(image_shape, filters, depth, num_blocks)
    height, width, channels = layout.map_shape
    z = keras.Input((height, width, num_maps), name="z")
    h = keras.layers.Conv2D(
        channels, 3, padding="same", data_format="channels_last"
    )(z)
    return keras.Model(z, map_to_logits(h, layout), name="decoder")


@keras.saving.register_keras_serializable(package="vae_keras")
class SpatialVAE(VAE):
    """A VAE whose latents are maps, governed by their rows and columns.

    A `VAE`, and all that it can do, whose latents have a place in the
    image: shape `(map_height, map_width, num_maps)`. With an encoder that
    ends in a `RowColumnGaussian`, the KL of one d₁ × d₂ map from N(0, I),
    in nats, is

        ½ (‖μ₁‖² ‖μ₂‖² + Σσ₁² Σσ₂² − d₁ d₂ − d₂ Σ log σ₁² − d₁ Σ log σ₂²)

    Args:
        encoder: a Keras model, images `(batch, *image_shape)` to
            `[z_mean, z_log_var]`, two tensors `(batch, map_height,
            map_width, num_maps)`, as from `spatial_encoder`.
        decoder: a Keras model, such maps to the likelihood's parameters,
            as from `spatial_decoder`.
        beta, seed, likelihood, prior: as in `VAE`.
        **kwargs: as in `VAE`.

    Latents that are no maps are a `ValueError`.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.SpatialVAE(
    ...     vae_keras.spatial.spatial_encoder((28, 28, 1), num_maps=2),
    ...     vae_keras.spatial.spatial_decoder(2, (28, 28, 1)),
    ... )
    >>> vae.latent_shape
    (7, 7, 2)
    """

    def _check_latents(self):
        if len(self.latent_shape) != 3:
            raise ValueError(
                "Expected latents that are maps (height, width, maps). "
                f"Received: latents of shape {self.latent_shape}. Build the "
                "networks with `vae_keras.spatial.spatial_encoder` and "
                "`spatial_decoder`, or use `VAE`."
            )
