"""Row and column Gaussians against matrix-normal formulas, and SpatialVAE."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_normal

import vae_keras

HEIGHT, WIDTH = 4, 3
ROOT = pathlib.Path(vae_keras.__file__).parents[1]

# Loads a model in a process that knows nothing else, and lets it predict.
FRESH = """
import sys, keras, numpy as np, vae_keras
vae = keras.saving.load_model(sys.argv[1])
x = np.frombuffer(sys.stdin.buffer.read(), "float32")
x = x.reshape(-1, *vae.image_shape)
sys.stdout.buffer.write(vae.predict(x, verbose=0).tobytes())
"""


def factors(num_maps=1, batch=1, seed=0):
    """Random means and log-variances of rows and of columns."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(batch, side, num_maps)).astype("float32")
        for side in (HEIGHT, HEIGHT, WIDTH, WIDTH)
    ]


def small_spatial(image_shape=(12, 8, 1), **kwargs):
    return vae_keras.SpatialVAE(image_shape, filters=4, **kwargs)


@pytest.fixture
def pictures(images):
    """The middles of digits."""
    return images[:50, 8:20, 10:18]


# === The posterior ===


def test_each_place_crosses_its_row_and_its_column():
    inputs = factors(num_maps=2, batch=5)
    layer = vae_keras.RowColumnGaussian()
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
    ours = float(
        vae_keras.gaussian_kl(*vae_keras.RowColumnGaussian()(inputs))[0]
    )
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
    z_mean, z_log_var = vae_keras.RowColumnGaussian()(inputs)
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
        z_mean, z_log_var = small_spatial(factored=factored).encode(
            pictures[:5]
        )
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
        vae_keras.RowColumnGaussian()([inputs[i] for i in order])


def test_rows_and_columns_of_different_maps():
    inputs = factors(num_maps=2)[:2] + factors(num_maps=1)[2:]
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(3, 1\)"):
        vae_keras.RowColumnGaussian()(inputs)


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
    vae = small_spatial(image_shape, num_maps=3, depth=depth, factored=factored)
    assert vae.latent_shape == (*map_shape, 3)
    assert vae.generate(2).shape == (2, *image_shape)


def test_numbers_of_the_posterior():
    """A factored map takes 2 (d₁ + d₂) numbers of the encoder."""
    encoder = vae_keras.spatial_encoder((28, 28, 1), num_maps=1, filters=4)
    statistics = encoder.get_layer("posterior").input
    assert sum(np.prod(x.shape[1:]) for x in statistics) == 2 * (7 + 7)


def test_a_latent_acts_around_its_place():
    decoder = vae_keras.spatial_decoder(1, (64, 64, 1), filters=4)
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


@pytest.mark.parametrize("name", ["encoder", "decoder", "vae"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_maps": 0}, r"`num_maps`.*num_maps=0.*Use 1, 2"),
        ({"filters": 2.5}, r"`filters`.*filters=2.5.*Use 1, 2"),
        (
            {"depth": 5},
            r"32 × 32.*\(28, 28, 1\).*largest depth that fits is 4",
        ),
        ({"image_shape": (28, 28)}, r"height, width, channels.*\(28, 28\)"),
    ],
)
def test_refusals(name, sizes, message):
    build = {
        "encoder": vae_keras.spatial_encoder,
        "decoder": vae_keras.spatial_decoder,
        "vae": vae_keras.SpatialVAE,
    }[name]
    sizes = {"image_shape": (28, 28, 1), "num_maps": 1} | sizes
    with pytest.raises(ValueError, match=message):
        build(**sizes)


# === All that a VAE can do ===


@pytest.mark.parametrize(
    "mode",
    [
        {"jit_compile": True, "steps_per_execution": 3},
        {"jit_compile": False},
        {"run_eagerly": True},
    ],
)
def test_training(pictures, mode):
    vae = small_spatial(seed=0)
    vae.compile(keras.optimizers.Adam(1e-2), **mode)
    logs = vae.fit(
        pictures,
        batch_size=10,
        epochs=10,
        validation_data=(pictures[:7],),
        verbose=0,
    ).history
    assert logs["loss"][-1] < logs["loss"][0] - 1
    assert np.isfinite(logs["val_loss"]).all()
    assert vae.predict(pictures, verbose=0).shape == pictures.shape
    np.testing.assert_array_equal(
        vae.generate(3, seed=1), vae.generate(3, seed=1)
    )


def mixed_bfloat16(**kwargs):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return small_spatial(**kwargs)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("factored", "names"),
    [
        (True, ["row_mean", "row_log_var", "column_mean", "column_log_var"]),
        (False, ["z_mean", "z_log_var"]),
    ],
)
def test_mixed_precision_keeps_the_posterior_exact(pictures, factored, names):
    vae = mixed_bfloat16(factored=factored)
    for name in names:
        assert vae.encoder.get_layer(name).compute_dtype == "float32"
    outputs = vae.encoder(pictures[:3])
    assert [x.dtype for x in outputs] == [tf.float32, tf.float32]
    assert vae.decoder(outputs[0]).dtype == tf.float32
    assert {x.compute_dtype for x in vae.decoder.layers} > {"bfloat16"}


def test_a_loaded_model_has_the_networks_that_were_saved(pictures, tmp_path):
    # Neither the dtype policy in force nor the sizes decide, but the file.
    vae = mixed_bfloat16()
    vae.encoder.get_layer("row_mean").trainable = False
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(
        vae.predict(pictures, verbose=0), loaded.predict(pictures, verbose=0)
    )
    assert len(loaded.trainable_weights) == len(vae.trainable_weights)
    assert (loaded.filters, loaded.depth, loaded.num_blocks) == (4, 2, 1)


def test_the_pieces_alone_are_saved_and_loaded(pictures, tmp_path):
    shape, sizes = pictures.shape[1:], {"filters": 4}
    vae = vae_keras.VAE(
        vae_keras.spatial_encoder(shape, 2, **sizes),
        vae_keras.spatial_decoder(2, shape, **sizes),
    )
    vae.save(tmp_path / "vae.keras")
    child = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "vae.keras"],
        capture_output=True,
        check=True,
        input=pictures.tobytes(),
        cwd=ROOT,
    )
    expected = vae.predict(pictures, verbose=0)
    seen = np.frombuffer(child.stdout[-expected.nbytes :], "float32")
    np.testing.assert_allclose(seen, expected.ravel(), atol=1e-6)


def test_layer_config_round_trip():
    layer = vae_keras.RowColumnGaussian(dtype="float16", name="posterior")
    other = vae_keras.RowColumnGaussian.from_config(layer.get_config())
    assert other.get_config() == layer.get_config()


@pytest.mark.parametrize("factored", [True, False])
def test_saving_and_resuming(pictures, tmp_path, factored):
    def losses(model, epochs):
        dataset = vae_keras.image_dataset(pictures, 10, seed=0)
        return model.fit(dataset, epochs=epochs, verbose=0).history["loss"]

    whole = small_spatial(num_maps=1, beta=0.5, seed=3, factored=factored)
    whole.compile("adam")
    initial = whole.get_weights()
    expected = losses(whole, 4)

    half = small_spatial(num_maps=1, beta=0.5, seed=3, factored=factored)
    half.compile("adam")
    half.set_weights(initial)
    seen = losses(half, 2)
    half.save(tmp_path / "half.keras")
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    configs = [
        {k: v for k, v in x.get_config().items() if not k.endswith("coder")}
        for x in (resumed, half)
    ]
    assert configs[0] == configs[1]
    assert type(resumed) is vae_keras.SpatialVAE
    dataset = vae_keras.image_dataset(pictures, 10, seed=0, initial_epoch=2)
    seen += resumed.fit(dataset, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_evaluation(pictures):
    vae = small_spatial(num_maps=2)
    vae.compile()
    logs = vae.evaluate(pictures, verbose=0, return_dict=True)
    kl = vae_keras.kl_per_dimension(vae, pictures)
    assert kl.shape == vae.latent_shape == (3, 2, 2)
    assert kl.sum() == pytest.approx(logs["kl_loss"], rel=1e-4)
    z_mean = np.float64(vae.encode(pictures)[0])
    active = np.sum(z_mean.var(axis=0) > 0.01)
    assert vae_keras.active_units(vae, pictures) == active
    few = [
        vae_keras.importance_weighted_nll(vae, pictures, k, verbose=False).mean
        for k in (1, 100)
    ]
    assert few[0] == pytest.approx(logs["loss"], abs=1)
    assert few[1] < few[0]


@pytest.mark.parametrize(
    "plot",
    [
        vae_keras.plot_reconstructions,
        vae_keras.plot_latent_space,
        lambda vae, x: vae_keras.plot_interpolation(vae, x[:1], x[1:2]),
    ],
)
def test_figures(pictures, plot):
    (axes,) = plot(small_spatial(), pictures[:20]).axes[:1]
    assert axes.images or axes.collections


def test_images_are_checked(pictures):
    vae = small_spatial()
    vae.compile("adam")
    with pytest.raises(ValueError, match="divide by 255"):
        vae.fit(255 * pictures, verbose=0)
