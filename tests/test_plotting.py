import statistics

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import vae_keras

HISTORY = {
    "loss": [3.0, 2.0, 1.5],
    "kl_loss": [0.1, 0.2, 0.3],
    "val_loss": [3.5, 2.5, 2.0],
}


@pytest.fixture(autouse=True)
def _no_show(monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("plt.show() was called")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


@pytest.fixture
def calls(monkeypatch):
    """Counts the batches that `watch(network)` is called with."""
    sizes = []

    def watch(network):
        call = network.call

        def counted(inputs, *args, **kwargs):
            sizes.append(inputs.shape[0])
            return call(inputs, *args, **kwargs)

        monkeypatch.setattr(network, "call", counted)
        return sizes

    return watch


def make_vae(latent_dim):
    return vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), latent_dim, (32,)),
        vae_keras.mlp_decoder(latent_dim, (28, 28, 1), (32,)),
    )


def mosaic_of(figure):
    """The one picture of a figure, without a mask."""
    (picture,) = figure.axes[0].images
    assert picture.get_clim() == (0, 1)
    return np.ma.filled(picture.get_array(), np.nan)


def tiles_of(figure, rows, columns, gap=1, shape=(28, 28)):
    """The images that a mosaic is made of, `(rows, columns, 28, 28, …)`."""
    mosaic = mosaic_of(figure)
    height, width = shape[0] + gap, shape[1] + gap
    assert mosaic.shape[:2] == (rows * height - gap, columns * width - gap)
    return np.array(
        [
            [
                mosaic[
                    row * height : row * height + shape[0],
                    column * width : column * width + shape[1],
                ]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def every_figure(vae, images, labels):
    return {
        "images": lambda: vae_keras.plot_images(images[:5]),
        "titles": lambda: vae_keras.plot_images(images[:3], titles="abc"),
        "reconstructions": lambda: vae_keras.plot_reconstructions(
            vae, images[:3]
        ),
        "space": lambda: vae_keras.plot_latent_space(vae, images),
        "labels": lambda: vae_keras.plot_latent_space(vae, images, labels),
        "grid": lambda: vae_keras.plot_latent_grid(vae, 3),
        "interpolation": lambda: vae_keras.plot_interpolation(
            vae, images[:1], images[1:2], 3
        ),
        "history": lambda: vae_keras.plot_history(HISTORY),
    }


@pytest.mark.parametrize(
    "name",
    [
        "images",
        "titles",
        "reconstructions",
        "space",
        "labels",
        "grid",
        "interpolation",
        "history",
    ],
)
def test_a_figure_is_returned_and_can_be_drawn(
    name, small_vae, images, labels, tmp_path
):
    figure = every_figure(small_vae(), images, labels)[name]()
    assert type(figure) is Figure
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").stat().st_size > 500


# === plot_images ===


@pytest.mark.parametrize(
    ("count", "columns", "expected"),
    [
        (10, None, (3, 4)),
        (9, None, (3, 3)),
        (1, None, (1, 1)),
        (10, 5, (2, 5)),
        (7, 3, (3, 3)),
        (3, 20, (1, 3)),
    ],
)
def test_images_are_in_rows(images, count, columns, expected):
    figure = vae_keras.plot_images(images[:count], columns)
    tiles = tiles_of(figure, *expected).reshape(-1, 28, 28)
    assert np.array_equal(tiles[:count], images[:count, ..., 0])
    assert np.isnan(tiles[count:]).all()
    assert not figure.axes[0].axison
    # White lines between the images, and nothing else.
    outside = np.isnan(mosaic_of(figure)).sum() - np.isnan(tiles).sum()
    assert outside == mosaic_of(figure).size - tiles.size
    assert figure.axes[0].images[0].get_cmap().name == "gray"


def test_images_in_colour(images):
    colour = np.concatenate([images[:5], images[5:10], images[10:15]], axis=-1)
    figure = vae_keras.plot_images(colour, columns=3)
    tiles = tiles_of(figure, 2, 3).reshape(6, 28, 28, 3)
    np.testing.assert_allclose(tiles[:5], colour)
    assert np.all(tiles[5] == 1), "what stays empty is white"


def test_titles_are_above_their_images(images):
    figure = vae_keras.plot_images(images[:5], 3, titles=[3, 1, 4, 1, 5])
    tiles = tiles_of(figure, 2, 3, gap=28 // 3).reshape(-1, 28, 28)
    assert np.array_equal(tiles[:5], images[:5, ..., 0])
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["3", "1", "4", "1", "5"]
    for i, text in enumerate(texts):
        row, column = divmod(i, 3)
        pitch = 28 + 28 // 3
        x, y = text.get_position()
        assert x == column * pitch + 14
        assert y == row * pitch - 0.5
        assert text.get_ha() == "center"
        assert text.get_va() == "bottom"


def test_images_may_be_a_tensor(images):
    import tensorflow as tf

    figure = vae_keras.plot_images(tf.constant(images[:1]))
    assert np.array_equal(mosaic_of(figure), images[0, ..., 0])


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x[0],
        lambda x: x[..., 0],
        lambda x: np.repeat(x, 2, axis=-1),
        lambda x: x[:0],
    ],
)
def test_a_shape_that_is_no_image(images, bad):
    with pytest.raises(ValueError, match=r"1 or 3.*Received: shape.*newaxis"):
        vae_keras.plot_images(bad(images))


def test_titles_must_be_as_many(images):
    with pytest.raises(ValueError, match="3 images and 2 titles"):
        vae_keras.plot_images(images[:3], titles=["a", "b"])


# === plot_reconstructions ===


def test_reconstructions_are_below_their_images(small_vae, images, calls):
    vae = small_vae()
    sizes = calls(vae)
    figure = vae_keras.plot_reconstructions(vae, images[:6])
    assert sizes == [6], "one batch, and no loop"
    expected = vae(images[:6])[..., 0]
    above, below = tiles_of(figure, 2, 6)
    assert np.array_equal(above, images[:6, ..., 0])
    np.testing.assert_allclose(below, expected, rtol=1e-5)
    axes = figure.axes[0]
    assert axes.axison
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["image", "reconstruction"]
    # The middle of each row; 28 pixels, a line of 1 and 28 more.
    assert axes.get_yticks().tolist() == [14, 43]
    assert axes.get_xticks().size == 0


# === plot_latent_space ===


def points_of(figure):
    (points,) = figure.axes[0].collections
    return points


def test_two_latent_dimensions_are_drawn_as_they_are(small_vae, images, labels):
    vae = small_vae()
    figure = vae_keras.plot_latent_space(vae, images, labels)
    points = points_of(figure)
    z_mean, _ = vae.encode(images)
    np.testing.assert_allclose(points.get_offsets(), z_mean, atol=1e-5)
    assert np.array_equal(points.get_array(), labels)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert bar.get_ylabel() == "label"
    assert bar.get_yticks().tolist() == list(range(10))
    # Each class has a colour of its own, with its number in the middle.
    assert points.get_clim() == (-0.5, 9.5)
    assert len(np.unique(points.to_rgba(range(10)), axis=0)) == 10
    assert axes.get_aspect() == 1


def test_without_labels_there_is_no_colour_bar(small_vae, images):
    figure = vae_keras.plot_latent_space(small_vae(), images)
    assert len(figure.axes) == 1
    assert points_of(figure).get_array() is None
    assert len(points_of(figure).get_offsets()) == len(images)


def test_circles_hold_their_share_of_the_prior(small_vae, images, labels):
    figure = vae_keras.plot_latent_space(small_vae(), images, labels)
    z = np.random.default_rng(0).normal(size=(100_000, 2))
    distance = np.linalg.norm(z, axis=1)
    shares = [
        np.mean(distance < circle.radius) for circle in figure.axes[0].patches
    ]
    # 5 standard errors of a share of 100,000.
    assert shares == pytest.approx([0.5, 0.95], abs=5 * 0.5 / 316)
    for circle in figure.axes[0].patches:
        assert circle.center == (0, 0)
        assert circle.get_linestyle() == "--"


def test_more_dimensions_are_projected_on_principal_components(images, labels):
    vae = make_vae(latent_dim=6)
    figure = vae_keras.plot_latent_space(vae, images, labels)
    z_mean = np.asarray(vae.encode(images)[0], "float64")
    variances, vectors = np.linalg.eigh(np.cov(z_mean.T))
    expected = (z_mean - z_mean.mean(axis=0)) @ vectors[:, [-1, -2]]
    drawn = np.asarray(points_of(figure).get_offsets())
    for i in range(2):
        sign = np.sign(drawn[:, i] @ expected[:, i])
        np.testing.assert_allclose(
            drawn[:, i], sign * expected[:, i], atol=1e-3
        )
        assert drawn[:, i].var(ddof=1) == pytest.approx(
            variances[-1 - i], rel=1e-3
        )
    assert figure.axes[0].get_xlabel() == "first principal component"
    assert figure.axes[0].get_ylabel() == "second principal component"


def test_latent_space_errors(small_vae, images, labels):
    with pytest.raises(ValueError, match="256 images and 3 labels"):
        vae_keras.plot_latent_space(small_vae(), images, labels[:3])
    with pytest.raises(ValueError, match=r"Received: 256 and 1\. .* histogram"):
        vae_keras.plot_latent_space(make_vae(1), images, labels)


def test_an_autoencoder_is_drawn_by_its_codes(images, labels):
    autoencoder = vae_keras.Autoencoder(
        vae_keras.mlp_encoder((28, 28, 1), 2, (32,)),
        vae_keras.mlp_decoder(2, (28, 28, 1), (32,)),
    )
    codes = np.asarray(autoencoder.encode(images))
    figure = vae_keras.plot_latent_space(autoencoder, images, labels)
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, codes, atol=1e-5)
    figure = vae_keras.plot_interpolation(
        autoencoder, images[:2], images[2:4], steps=3
    )
    tiles = tiles_of(figure, 2, 3)
    middle = autoencoder.decode((codes[:2] + codes[2:4]) / 2)[..., 0]
    np.testing.assert_allclose(tiles[:, 1], middle, atol=1e-5)


# === plot_latent_grid ===


@pytest.mark.parametrize("columns", [1, 4, 9])
def test_the_grid_is_even_in_probability(small_vae, columns, calls):
    vae = small_vae()
    quantiles = [
        statistics.NormalDist().inv_cdf((i + 0.5) / columns)
        for i in range(columns)
    ]
    assert np.isfinite(quantiles).all()
    sizes = calls(vae.decoder)
    figure = vae_keras.plot_latent_grid(vae, columns)
    assert sizes == [columns**2], "one batch, and no loop"
    tiles = tiles_of(figure, columns, columns, gap=0)
    for row, column in np.ndindex(columns, columns):
        # z₁ to the right, z₂ upwards.
        z = [[quantiles[column], quantiles[columns - 1 - row]]]
        expected = vae.decode(np.array(z, "float32"))[0, ..., 0]
        np.testing.assert_allclose(tiles[row, column], expected, atol=1e-5)


def test_the_grid_has_latent_axes(small_vae):
    figure = vae_keras.plot_latent_grid(small_vae(), 9)
    axes = figure.axes[0]
    assert axes.axison
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    # The 1st, 3rd, 5th, 7th and 9th of nine quantiles: Φ⁻¹(1/18) = −1.593,
    # Φ⁻¹(5/18) = −0.589, Φ⁻¹(1/2) = 0, …
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert texts in (
        ["-1.6", "-0.6", "0.0", "0.6", "1.6"],
        ["-1.6", "-0.6", "-0.0", "0.6", "1.6"],
    )
    assert texts == [text.get_text() for text in axes.get_yticklabels()]
    # In the middle of their pictures: pixel i lies at i in imshow.
    middles = [28 * i + 13.5 for i in (0, 2, 4, 6, 8)]
    assert axes.get_xticks().tolist() == middles
    # The rows count from the top, z₂ from the bottom.
    assert axes.get_yticks().tolist() == middles[::-1]


def test_the_grid_needs_two_latent_dimensions():
    with pytest.raises(ValueError, match=r"\(2,\). Received: \(3,\)"):
        vae_keras.plot_latent_grid(make_vae(3))


# === plot_interpolation ===


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_interpolation_is_straight_in_latent_space(images, latent_dim, calls):
    vae = make_vae(latent_dim)
    start, end = images[:3], images[3:6]
    z_start, z_end = (np.asarray(vae.encode(x)[0]) for x in (start, end))
    sizes = calls(vae.decoder)
    figure = vae_keras.plot_interpolation(vae, start, end, steps=5)
    assert sizes == [15]
    tiles = tiles_of(figure, 3, 5)
    for step in range(5):
        z = z_start + step / 4 * (z_end - z_start)
        expected = vae.decode(z)[..., 0]
        np.testing.assert_allclose(tiles[:, step], expected, atol=1e-5)


def test_interpolation_needs_pairs(small_vae, images):
    with pytest.raises(ValueError, match="Expected `start` and `end` of one"):
        vae_keras.plot_interpolation(small_vae(), images[:2], images[:3])


# === plot_history ===


def test_history_has_a_panel_for_each_loss():
    figure = vae_keras.plot_history(HISTORY)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "kl_loss"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    training, validation = figure.axes[0].lines
    assert training.get_xdata().tolist() == [1, 2, 3]
    assert training.get_ydata().tolist() == HISTORY["loss"]
    assert validation.get_ydata().tolist() == HISTORY["val_loss"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == HISTORY["kl_loss"]
    legend = figure.axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["training", "validation"]
    assert figure.axes[0].get_ylabel() == "nats per image"
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    for axes in figure.axes:
        assert np.array_equal(axes.get_xticks(), axes.get_xticks().round())


def test_history_of_a_training(small_vae, images):
    vae = small_vae()
    vae.compile("adam")
    history = vae.fit(images, validation_data=(images,), epochs=2, verbose=0)
    figure = vae_keras.plot_history(history)
    titles = {axes.get_title() for axes in figure.axes}
    assert titles == {"loss", "reconstruction_loss", "kl_loss"}
    assert all(len(axes.lines) == 2 for axes in figure.axes)


@pytest.mark.parametrize("history", [{}, {"val_loss": [1.0]}])
def test_an_empty_history_is_an_error(history):
    with pytest.raises(ValueError, match="Pass what `fit` returned"):
        vae_keras.plot_history(history)


# === Notebooks ===


def test_a_notebook_shows_a_figure_once(images, monkeypatch):
    # The inline backend shows what is open, and the cell's value too.
    vae_keras.plot_images(images[:1])
    assert len(plt.get_fignums()) == 1, "a script can show it"
    plt.close("all")
    inline = "module://matplotlib_inline.backend_inline"
    monkeypatch.setattr(plt, "get_backend", lambda: inline)
    vae_keras.plot_images(images[:1])
    assert plt.get_fignums() == []
