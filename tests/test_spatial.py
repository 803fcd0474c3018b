"""Row and column Gaussians against matrix-normal formulas, and SpatialVAE.

What it has in common with other models is in `test_contract.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_normal

import vae_keras
from tests.helpers import dtype_policy
from vae_keras.spatial import (
    RowColumnGaussian,
    spatial_decoder,
    spatial_encoder,
)

HEIGHT, WIDTH = 4, 3
SHAPE = (12, 8, 1)


def factors(num_maps=1, batch=1, seed=0):
    """Random means and log-variances of rows and of columns."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(batch, side, num_maps)).astype("float32")
        for side in (HEIGHT, HEIGHT, WIDTH, WIDTH)
    ]


def new_vae(image_shape=SHAPE, num_maps=2, depth=2, **kwargs):
    """A `SpatialVAE`; keyword arguments go to its encoder."""
    sizes = {"filters": 4, "depth": depth}
    return vae_keras.SpatialVAE(
        spatial_encoder(image_shape, num_maps, **sizes, **kwargs),
        spatial_decoder(num_maps, image_shape, **sizes),
    )


@pytest.fixture
def pictures(images):
    """The middles of digits."""
    return images[:50, 8:20, 10:18]


# === The posterior ===


def test_each_place_crosses_its_row_and_its_column():
    inputs = factors(num_maps=2, batch=5)
    layer = RowColumnGaussian()
    z_mean, z_log_var = layer(inputs)
    row_mean, row_log_var, column_mean, column_log_var = inputs
    assert z_mean.shape == z_log_var.shape == (5, HEIGHT, WIDTH, 2)
    for i, j in np.ndindex(HEIGHT, WIDTH):
        np.testing.assert_allclose(
            z_mean[:, i, j], row_mean[:, i] * column_mean[:, j], rtol=1e-6
        )
        np.testing.assert_allclose(
            z_log_var[:, i, j],
            row_log_var[:, i] + column_log_var[:, j],
            rtol=1e-6,
        )
    shapes = layer.compute_output_shape([x.shape for x in inputs])
    assert shapes == [z_mean.shape] * 2


def moments(inputs):
    """Mean and covariance of vec(z), z read column by column, in float64."""
    mean_1, log_var_1, mean_2, log_var_2 = (
        np.float64(x[0, :, 0]) for x in inputs
    )
    mean = np.outer(mean_1, mean_2).ravel(order="F")
    rows, columns = np.diag(np.exp(log_var_1)), np.diag(np.exp(log_var_2))
    return mean, np.kron(columns, rows)


def closed_form_kl(inputs):
    """The KL of one map as the class's docstring writes it."""
    mean_1, log_var_1, mean_2, log_var_2 = (
        np.float64(x[0, :, 0]) for x in inputs
    )
    return 0.5 * (
        np.sum(mean_1**2) * np.sum(mean_2**2)
        + np.sum(np.exp(log_var_1)) * np.sum(np.exp(log_var_2))
        - HEIGHT * WIDTH
        - WIDTH * np.sum(log_var_1)
        - HEIGHT * np.sum(log_var_2)
    )


def test_kl_is_that_of_the_matrix_normal():
    inputs = factors()
    ours = float(vae_keras.gaussian_kl(*RowColumnGaussian()(inputs))[0])
    assert ours == pytest.approx(closed_form_kl(inputs), rel=1e-5)
    # The general formula, with the whole Kronecker product.
    mean, covariance = moments(inputs)
    _, log_det = np.linalg.slogdet(covariance)
    general = 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det)
    assert ours == pytest.approx(general, rel=1e-5)
    # Monte Carlo, by densities that SciPy knows.
    posterior = multivariate_normal(mean, covariance)
    prior = multivariate_normal(np.zeros(len(mean)))
    z = posterior.rvs(100_000, random_state=0)
    ratio = posterior.logpdf(z) - prior.logpdf(z)
    error = ratio.std() / np.sqrt(len(z))
    assert abs(ours - ratio.mean()) < 4 * error


def test_samples_have_the_kronecker_covariance():
    inputs = factors()
    z_mean, z_log_var = RowColumnGaussian()(inputs)
    n = 200_000
    repeated = [tf.repeat(x, n, axis=0) for x in (z_mean, z_log_var)]
    z = np.asarray(vae_keras.Sampling(seed=0)(repeated))[..., 0]
    columnwise = z.transpose(0, 2, 1).reshape(n, -1)
    mean, covariance = moments(inputs)
    deviations = np.sqrt(np.diag(covariance))
    errors = (columnwise.mean(axis=0) - mean) / deviations
    assert np.abs(errors).max() < 4.5 / np.sqrt(n)
    errors = (np.cov(columnwise.T) - covariance) / np.outer(
        deviations, deviations
    )
    assert np.abs(errors).max() < 4.5 * np.sqrt(2 / n)


def test_means_have_rank_one_if_factored(pictures):
    for factored in (True, False):
        z_mean, z_log_var = new_vae(factored=factored).encode(pictures[:5])
        maps = np.asarray(tf.transpose(z_mean, (0, 3, 1, 2)), "float64")
        singular = np.linalg.svd(maps, compute_uv=False)
        is_rank_one = singular[..., 1].max() < 1e-5 * singular[..., 0].min()
        assert is_rank_one == factored
        # A variance of rows and columns has no interaction.
        v = np.asarray(z_log_var, "float64")
        interaction = v - v.mean(1, keepdims=True) - v.mean(2, keepdims=True)
        interaction += v.mean((1, 2), keepdims=True)
        assert (np.abs(interaction).max() < 1e-5) == factored


@pytest.mark.parametrize(
    "order",
    [
        (0, 2, 1, 3),  # means first
        (0, 1, 2),
        (0, 0, 2, 3, 3),
    ],
)
def test_statistics_that_do_not_fit(order):
    inputs = factors(num_maps=2)
    with pytest.raises(
        ValueError, match=r"row_mean.*Received.*\(4, 2\).*order"
    ):
        RowColumnGaussian()([inputs[i] for i in order])


def test_rows_and_columns_of_different_maps():
    inputs = factors(num_maps=2)[:2] + factors(num_maps=1)[2:]
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(3, 1\)"):
        RowColumnGaussian()(inputs)


# === The networks ===


@pytest.mark.parametrize(
    ("image_shape", "depth", "map_shape"),
    [
        ((28, 28, 1), 2, (7, 7)),
        ((33, 47, 3), 3, (5, 6)),
        ((8, 8, 1), 1, (4, 4)),
        ((2, 2, 1), 1, (1, 1)),
    ],
)
@pytest.mark.parametrize("factored", [True, False])
def test_any_size_of_image(image_shape, depth, map_shape, factored):
    vae = new_vae(image_shape, num_maps=3, depth=depth, factored=factored)
    assert vae.latent_shape == (*map_shape, 3)
    assert vae.generate(2).shape == (2, *image_shape)


def test_numbers_of_the_posterior():
    """A factored map takes 2 (d₁ + d₂) numbers of the encoder."""
    encoder = spatial_encoder((28, 28, 1), num_maps=1, filters=4)
    statistics = encoder.get_layer("posterior").input
    assert sum(np.prod(x.shape[1:]) for x in statistics) == 2 * (7 + 7)


def test_a_latent_acts_around_its_place():
    decoder = spatial_decoder(1, (64, 64, 1), filters=4)
    rng = np.random.default_rng(0)
    decoder.set_weights(
        [rng.normal(0, 0.3, size=w.shape) for w in decoder.get_weights()]
    )
    z = np.zeros((2, 16, 16, 1), "float32")
    z[1, 2, 3] = 5.0
    one, other = np.asarray(decoder(z))
    changed = np.argwhere(one[..., 0] != other[..., 0])
    # Three layers of 3 × 3 reach three places, each four pixels wide.
    assert changed.min(axis=0).tolist() == [0, 0]
    assert changed.max(axis=0).tolist() == [4 * 6 - 1, 4 * 7 - 1]


@pytest.mark.parametrize("build", [spatial_encoder, spatial_decoder])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 5}, r"32 × 32.*\(28, 28, 1\).*largest depth that fits is 4"),
        ({"image_shape": (28, 28)}, r"height, width, channels.*\(28, 28\)"),
    ],
)
def test_refusals(build, sizes, message):
    sizes = {"image_shape": (28, 28, 1), "num_maps": 1} | sizes
    with pytest.raises(ValueError, match=message):
        build(**sizes)


def test_latents_that_are_no_maps():
    networks = [
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    ]
    message = r"Expected latents that are maps.*Received.*\(2,\).*`VAE`"
    with pytest.raises(ValueError, match=message):
        vae_keras.SpatialVAE(*networks)
    message = r"\(3, 2, 2\).*Received.*\(3, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        vae_keras.SpatialVAE(
            spatial_encoder(SHAPE, 2), spatial_decoder(3, SHAPE)
        )


# === What a VAE does with them ===


@pytest.mark.parametrize(
    ("factored", "names"),
    [
        (True, ["row_mean", "row_log_var", "column_mean", "column_log_var"]),
        (False, ["z_mean", "z_log_var"]),
    ],
)
def test_mixed_precision_keeps_the_posterior_exact(
    pictures, factored, names, tmp_path
):
    with dtype_policy("mixed_bfloat16"):
        vae = new_vae(factored=factored)
    for name in names:
        assert vae.encoder.get_layer(name).compute_dtype == "float32"
    outputs = vae.encoder(pictures[:3])
    assert [x.dtype for x in outputs] == [tf.float32, tf.float32]
    assert vae.decoder(outputs[0]).dtype == tf.float32
    assert {x.compute_dtype for x in vae.decoder.layers} > {"bfloat16"}
    # The dtype policy in force does not decide what is loaded, but the file.
    vae.encoder.get_layer(names[0]).trainable = False
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(
        vae.predict(pictures, verbose=0), loaded.predict(pictures, verbose=0)
    )
    assert len(loaded.trainable_weights) == len(vae.trainable_weights)


def test_layer_config_round_trip():
    layer = RowColumnGaussian(dtype="float16", name="posterior")
    other = RowColumnGaussian.from_config(layer.get_config())
    assert other.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "plot",
    [
        vae_keras.plot_reconstructions,
        vae_keras.plot_latent_space,
        lambda vae, x: vae_keras.plot_interpolation(vae, x[:1], x[1:2]),
    ],
)
def test_figures(pictures, plot):
    (axes,) = plot(new_vae(), pictures[:20]).axes[:1]
    assert axes.images or axes.collections
