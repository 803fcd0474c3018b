"""Every figure: what is drawn, where, from one batch, and never shown."""

import statistics

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import vae_keras
from tests.helpers import tiles_of

# Not square, so that rows and columns cannot be mistaken for each other.
SHAPE = (14, 10, 1)
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
def images(images):
    """Middles of digits."""
    return images[:, 7:21, 9:19]


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


def new_model(latent_dim=2, model_class=vae_keras.VAE):
    return model_class(
        vae_keras.mlp_encoder(SHAPE, latent_dim, (32,)),
        vae_keras.mlp_decoder(latent_dim, SHAPE, (32,)),
    )


def mosaic_of(figure):
    """The one picture of a figure, without a mask."""
    (picture,) = figure.axes[0].images
    assert picture.get_clim() == (0, 1)
    return np.ma.filled(picture.get_array(), np.nan)


FIGURES = {
    "images": lambda vae, x, y: vae_keras.plot_images(x[:5]),
    "titles": lambda vae, x, y: vae_keras.plot_images(x[:3], titles="abc"),
    "reconstructions": lambda vae, x, y: vae_keras.plot_reconstructions(
        vae, x[:3]
    ),
    "space": lambda vae, x, y: vae_keras.plot_latent_space(vae, x),
    "labels": vae_keras.plot_latent_space,
    "grid": lambda vae, x, y: vae_keras.plot_latent_grid(vae, 3),
    "interpolation": lambda vae, x, y: vae_keras.plot_interpolation(
        vae, x[:1], x[1:2], 3
    ),
    "history": lambda vae, x, y: vae_keras.plot_history(HISTORY),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_returned_and_can_be_drawn(name, images, labels, tmp_path):
    figure = FIGURES[name](new_model(), images, labels)
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
    tensor = keras.ops.convert_to_tensor(images[:count])
    figure = vae_keras.plot_images(tensor, columns)
    mosaic = mosaic_of(figure)
    tiles = tiles_of(mosaic, *expected, SHAPE).reshape(-1, *SHAPE)
    assert np.array_equal(tiles[:count], images[:count])
    assert np.isnan(tiles[count:]).all()
    assert not figure.axes[0].axison
    # White lines between the images, and nothing else.
    outside = np.isnan(mosaic).sum() - np.isnan(tiles).sum()
    assert outside == mosaic.size - tiles.size
    assert figure.axes[0].images[0].get_cmap().name == "gray"


def test_images_in_colour(images):
    colour = np.concatenate([images[:5], images[5:10], images[10:15]], axis=-1)
    # The means of Gaussian pixels may leave [0, 1].
    colour[0, 0, 0] = [-1, 2, 0.5]
    figure = vae_keras.plot_images(colour, columns=3)
    tiles = tiles_of(mosaic_of(figure), 2, 3, SHAPE).reshape(6, 14, 10, 3)
    np.testing.assert_allclose(tiles[:5], colour.clip(0, 1))
    assert np.all(tiles[5] == 1), "what stays empty is white"


def test_titles_are_above_their_images(images):
    figure = vae_keras.plot_images(images[:5], 3, titles=[3, 1, 4, 1, 5])
    gap = 14 // 3
    tiles = tiles_of(mosaic_of(figure), 2, 3, SHAPE, gap).reshape(-1, *SHAPE)
    assert np.array_equal(tiles[:5], images[:5])
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["3", "1", "4", "1", "5"]
    for i, text in enumerate(texts):
        row, column = divmod(i, 3)
        x, y = text.get_position()
        assert x == column * (10 + gap) + 5
        assert y == row * (14 + gap) - 0.5
        assert text.get_ha() == "center"
        assert text.get_va() == "bottom"


# === plot_reconstructions ===


def test_reconstructions_are_below_their_images(images, calls):
    vae = new_model()
    sizes = calls(vae)
    figure = vae_keras.plot_reconstructions(vae, images[:6])
    assert sizes == [6], "one batch, and no loop"
    expected = vae(images[:6])[..., 0]
    above, below = tiles_of(mosaic_of(figure), 2, 6, SHAPE)
    assert np.array_equal(above, images[:6, ..., 0])
    np.testing.assert_allclose(below, expected, rtol=1e-5)
    axes = figure.axes[0]
    assert axes.axison
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["image", "reconstruction"]
    # The middle of each row; 14 pixels, a line of 1 and 14 more.
    assert axes.get_yticks().tolist() == [7, 22]
    assert axes.get_xticks().size == 0


# === plot_latent_space ===


def points_of(figure):
    (points,) = figure.axes[0].collections
    return points


def test_two_latent_dimensions_are_drawn_as_they_are(images, labels):
    vae = new_model()
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
    # Without labels there is no bar.
    figure = vae_keras.plot_latent_space(vae, images)
    assert len(figure.axes) == 1
    assert points_of(figure).get_array() is None
    assert len(points_of(figure).get_offsets()) == len(images)


def test_circles_hold_their_share_of_the_prior(images):
    figure = vae_keras.plot_latent_space(new_model(), images)
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


def test_more_dimensions_are_projected_on_principal_components(images):
    vae = new_model(latent_dim=6)
    figure = vae_keras.plot_latent_space(vae, images)
    z_mean = np.asarray(vae.encode(images)[0], "float64")
    variances, vectors = np.linalg.eigh(np.cov(z_mean.T))
    expected = (z_mean - z_mean.mean(axis=0)) @ vectors[:, [-1, -2]]
    drawn = np.asarray(points_of(figure).get_offsets())
    expected *= np.sign(np.sum(drawn * expected, axis=0))
    np.testing.assert_allclose(drawn, expected, atol=1e-3)
    np.testing.assert_allclose(
        drawn.var(axis=0, ddof=1), variances[[-1, -2]], rtol=1e-3
    )
    assert figure.axes[0].get_xlabel() == "first principal component"
    assert figure.axes[0].get_ylabel() == "second principal component"


def test_an_autoencoder_is_drawn_by_its_codes(images, labels):
    autoencoder = new_model(model_class=vae_keras.baselines.Autoencoder)
    codes = np.asarray(autoencoder.encode(images))
    figure = vae_keras.plot_latent_space(autoencoder, images, labels)
    points = points_of(figure).get_offsets()
    np.testing.assert_allclose(points, codes, atol=1e-5)
    figure = vae_keras.plot_interpolation(
        autoencoder, images[:2], images[2:4], steps=3
    )
    tiles = tiles_of(mosaic_of(figure), 2, 3, SHAPE)
    middle = autoencoder.decode((codes[:2] + codes[2:4]) / 2)[..., 0]
    np.testing.assert_allclose(tiles[:, 1], middle, atol=1e-5)


# === plot_latent_grid ===


@pytest.mark.parametrize("columns", [1, 4, 9])
def test_the_grid_is_even_in_probability(columns, calls):
    vae = new_model()
    quantiles = [
        statistics.NormalDist().inv_cdf((i + 0.5) / columns)
        for i in range(columns)
    ]
    sizes = calls(vae.decoder)
    figure = vae_keras.plot_latent_grid(vae, columns)
    assert sizes == [columns**2], "one batch, and no loop"
    # z₁ to the right, z₂ upwards.
    z = [(z_1, z_2) for z_2 in quantiles[::-1] for z_1 in quantiles]
    tiles = tiles_of(mosaic_of(figure), columns, columns, SHAPE, gap=0)
    expected = vae.decode(np.array(z, "float32"))
    received = tiles.reshape(-1, *SHAPE)
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_the_grid_has_latent_axes():
    axes = vae_keras.plot_latent_grid(new_model(), 9).axes[0]
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
    shown = (0, 2, 4, 6, 8)
    assert axes.get_xticks().tolist() == [10 * i + 4.5 for i in shown]
    # The rows count from the top, z₂ from the bottom.
    assert axes.get_yticks().tolist() == [14 * i + 6.5 for i in shown[::-1]]


# === plot_interpolation ===


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_interpolation_is_straight_in_latent_space(images, latent_dim, calls):
    vae = new_model(latent_dim)
    start, end = images[:3], images[3:6]
    z_start, z_end = (np.asarray(vae.encode(x)[0]) for x in (start, end))
    sizes = calls(vae.decoder)
    figure = vae_keras.plot_interpolation(vae, start, end, steps=5)
    assert sizes == [15]
    tiles = tiles_of(mosaic_of(figure), 3, 5, SHAPE)
    for step in range(5):
        z = z_start + step / 4 * (z_end - z_start)
        expected = vae.decode(z)[..., 0]
        np.testing.assert_allclose(tiles[:, step], expected, atol=1e-5)


# === plot_history ===


def test_history_has_a_panel_for_each_loss():
    history = keras.callbacks.History()  # what `fit` returns
    history.history = HISTORY
    for logs in (HISTORY, history):
        figure = vae_keras.plot_history(logs)
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["loss", "kl_loss"]
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
