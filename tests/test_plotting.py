"""Every figure: what is drawn, where, from one batch, and never shown."""

import inspect
import itertools
import re
import statistics

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Circle
from matplotlib.text import Text

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
    plt.close("all")  # what other files have left open
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


def new_model(latent_dim=2, model_class=vae_keras.VAE, **kwargs):
    return model_class(
        vae_keras.mlp_encoder(SHAPE, latent_dim, (32,)),
        vae_keras.mlp_decoder(latent_dim, SHAPE, (32,)),
        **kwargs,
    )


def new_conditional():
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder(SHAPE, 2, (32,), num_classes=10),
        vae_keras.mlp_decoder(2, SHAPE, (32,), num_classes=10),
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
        vae, x[:1], x[1:2], steps=3
    ),
    "history": lambda vae, x, y: vae_keras.plot_history(HISTORY),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_returned_and_can_be_drawn(name, images, labels, tmp_path):
    figure = FIGURES[name](new_model(), images, labels)
    assert type(figure) is Figure
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").stat().st_size > 500


def luminance(color):
    """Relative luminance, from 0 to 1, of a colour in sRGB."""
    return linear(to_rgb(color)) @ [0.2126, 0.7152, 0.0722]


def linear(rgb):
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_legible_in_a_dark_style(name, images, labels):
    own = {"axes.grid": True, "image.origin": "lower"}
    with plt.style.context(["dark_background", own]):
        figure = FIGURES[name](new_model(), images, labels)
        figure.draw_without_rendering()
    assert luminance(figure.get_facecolor()) == 0
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    shapes = figure.findobj(Circle)
    curves = [line for axes in figure.axes for line in axes.lines]
    colors = [thing.get_color() for thing in texts + curves]
    colors += [shape.get_edgecolor()[:3] for shape in shapes]
    assert texts or name in ("images", "interpolation")
    assert all(luminance(color) > 0.1 for color in colors)
    for axes in figure.axes:
        if axes.images:
            assert axes.images[0].origin == "upper"
            grid = axes.get_xgridlines() + axes.get_ygridlines()
            assert not any(line.get_visible() for line in grid)


# === What is refused ===

# What draws images of a model's shape.
DRAWN = {
    "images": lambda vae, x: vae_keras.plot_images(x),
    "reconstructions": vae_keras.plot_reconstructions,
    "space": vae_keras.plot_latent_space,
    "start": lambda vae, x: vae_keras.plot_interpolation(
        vae, x, np.zeros((len(x), *SHAPE), "float32")
    ),
    "end": lambda vae, x: vae_keras.plot_interpolation(
        vae, np.zeros((len(x), *SHAPE), "float32"), x
    ),
}
NOT_DRAWN = {
    "bytes": lambda x: np.rint(255 * x).astype("uint8"),
    "bytes as floats": lambda x: 255 * x,
    "[-1, 1]": lambda x: 2 * x - 1,
    "standardised": lambda x: (x - 0.13) / 0.31,
    "another shape": lambda x: x[:, :, :9],
    "one image": lambda x: x[0],
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (name, wrong)
        for name, wrong in itertools.product(DRAWN, NOT_DRAWN)
        # Images of any shape can be drawn.
        if name != "images" or wrong not in ("another shape", "one image")
    ],
)
def test_wrong_images_are_told_what_fit_tells_them(images, name, wrong):
    x = NOT_DRAWN[wrong](images[:5])
    shape = None if name == "images" else SHAPE
    with pytest.raises(ValueError, match="Expected images") as expected:
        vae_keras.check_images(x, shape)
    with pytest.raises(ValueError, match="Expected images") as received:
        DRAWN[name](new_model(), x)
    assert str(received.value) == str(expected.value)
    assert plt.get_fignums() == []


def test_a_model_without_an_encoder_is_told_what_to_draw(images):
    gan = vae_keras.baselines.GAN(
        vae_keras.mlp_decoder(2, SHAPE, (8,)),
        vae_keras.mlp_encoder(SHAPE, 1, (8,)),
    )
    for name in DRAWN.keys() - {"images"}:
        remedy = r"Received: a GAN.*`plot_images\(model.generate\(64\)\)`"
        with pytest.raises(ValueError, match=remedy):
            DRAWN[name](gan, images[:5])
    vae_keras.plot_images(gan.generate(64))


def test_a_diverged_model_can_be_drawn(images):
    vae = new_model()
    vae.decoder.set_weights(
        [np.full_like(w, np.nan) for w in vae.decoder.get_weights()]
    )
    for figure in (
        vae_keras.plot_images(vae.generate(4)),
        vae_keras.plot_reconstructions(vae, images[:4]),
        vae_keras.plot_latent_grid(vae, 3),
        vae_keras.plot_interpolation(vae, images[:2], images[2:4]),
    ):
        assert np.isnan(mosaic_of(figure)[-5:]).all()


def test_means_a_little_outside_can_be_drawn(images):
    for low, high in [(-0.5, 1), (-0.5, 2), (-1, 2)]:
        means = np.linspace(low, high, images[0].size).reshape(1, *SHAPE)
        vae_keras.plot_images(means)
    vae_keras.plot_images(images[:4] > 0.5)
    vae_keras.plot_images(keras.ops.cast(images[:4], "bfloat16"))
    # What a model itself makes may lie anywhere.
    vae = new_model(likelihood="gaussian")
    weights = vae.decoder.get_weights()
    vae.decoder.set_weights([50 * weight for weight in weights])
    assert np.abs(vae.decode(vae.encode(images[:4])[0])).max() > 10
    for figure in (
        vae_keras.plot_reconstructions(vae, images[:4]),
        vae_keras.plot_interpolation(vae, images[:2], images[2:4]),
    ):
        assert np.nanmin(mosaic_of(figure)) == 0
        assert np.nanmax(mosaic_of(figure)) == 1


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
    with plt.style.context("dark_background"):
        figure = vae_keras.plot_images(colour, columns=3)
    tiles = tiles_of(mosaic_of(figure), 2, 3, SHAPE)
    assert np.all(tiles[1, 2] == 0), "and black where the page is"


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
    # The middle of each row, 0 to 13 and, below a line of 1, 15 to 28.
    assert axes.get_yticks().tolist() == [6.5, 21.5]
    assert axes.get_xticks().size == 0


# === plot_latent_space ===


def points_of(figure):
    (points,) = figure.axes[0].collections
    return points


def legend_of(figure):
    """Each class's colour and marker, by its name."""
    legend = figure.axes[1].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    looks = [
        (to_rgb(dot.get_color()), dot.get_marker())
        for dot in legend.get_lines()
    ]
    assert len(set(texts)) == len(texts)
    return dict(zip(texts, looks, strict=True))


def test_two_latent_dimensions_are_drawn_as_they_are(images, labels):
    vae = new_model()
    figure = vae_keras.plot_latent_space(vae, images, labels)
    points = points_of(figure)
    z_mean, _ = vae.encode(images)
    np.testing.assert_allclose(points.get_offsets(), z_mean, atol=1e-5)
    axes, beside = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert axes.get_aspect() == 1
    looks = legend_of(figure)
    assert list(looks) == [str(label) for label in range(10)]
    expected = [looks[str(label)][0] for label in labels]
    np.testing.assert_allclose(points.get_facecolors()[:, :3], expected)
    assert beside.get_legend().get_title().get_text() == "label"
    assert not beside.axison
    # Without labels there is no legend.
    figure = vae_keras.plot_latent_space(vae, images)
    assert len(figure.axes) == 1
    assert len(points_of(figure).get_offsets()) == len(images)


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", 2009: all of it, in linear RGB.
EYES = {
    "of most": np.eye(3),
    "without red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def cielab(rgb):
    """Colours `(n, 3)`, in linear RGB, as CIELAB has them."""
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    xyz = np.clip(rgb, 0, 1) @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("eyes", EYES)
def test_ten_colours_differ_to_all_eyes(images, labels, eyes):
    figure = vae_keras.plot_latent_space(new_model(), images, labels)
    colors = points_of(figure).get_facecolors()[:, :3]
    colors = linear(np.unique(colors, axis=0))
    assert len(colors) == 10
    seen = cielab(colors @ np.transpose(EYES[eyes]))
    # A difference of 2 is just seen; matplotlib's "tab10" has pairs at 5.
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 15


@pytest.mark.parametrize("count", [1, 10, 11, 26, 100])
def test_each_class_looks_different(images, count):
    vae = new_model()
    images = np.concatenate([images, images])[: 2 * count + 50]
    labels = 7 + 3 * (np.arange(len(images)) % count)  # not consecutive
    figure = vae_keras.plot_latent_space(vae, images, labels)
    looks = legend_of(figure)
    assert list(looks) == [str(7 + 3 * i) for i in range(count)]
    assert len(set(looks.values())) == count
    drawn = figure.axes[0].collections
    assert len(drawn) == -(-count // 10), "up to ten classes lie in one heap"
    z_mean, _ = vae.encode(images)
    for group, points in enumerate(drawn):
        is_shown = np.arange(len(images)) % count // 10 == group
        offsets = points.get_offsets()
        np.testing.assert_allclose(offsets, z_mean[is_shown], atol=1e-5)
        shown = [looks[str(label)] for label in labels[is_shown]]
        colors = points.get_facecolors()[:, :3]
        np.testing.assert_allclose(colors, [color for color, _ in shown])
        (marker,) = {marker for _, marker in shown}
        marker = MarkerStyle(marker)
        path = marker.get_path().transformed(marker.get_transform())
        assert np.array_equal(points.get_paths()[0].vertices, path.vertices)
    figure.canvas.draw()  # It fits, or matplotlib warns.


def test_classes_have_names(images, labels):
    def names_of(*args, **kwargs):
        figure = vae_keras.plot_latent_space(new_model(), *args, **kwargs)
        figure.canvas.draw()
        return list(legend_of(figure))

    x = images[:6]
    digits = [chr(ord("A") + label) for label in range(10)]
    assert names_of(images, labels, names=digits) == digits
    some = np.array([9, 2, 2, 7, 9, 2])
    assert names_of(x, some, names=digits) == ["C", "H", "J"]
    assert names_of(x, list(some)) == ["2", "7", "9"]
    assert names_of(x, some, names={9: "IX", 7: "VII", 2: "II"}) == [
        *("II", "VII", "IX")
    ]
    texts = ["cat", "dog", "мышь", "_none_", "cat", "dog"]
    assert names_of(x, texts) == ["_none_", "cat", "dog", "мышь"]
    assert names_of(x, np.array(texts, dtype=object)) == names_of(x, texts)
    assert names_of(x, some > 2) == ["False", "True"]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (None, ["a"], "Received: names alone.*Pass `labels`"),
        ([0, 1, 2, 3], "abc", "Received: 3 names, and none for 3.*Pass a list"),
        ([-1, 0, 0, 1], "abc", "Received: 3 names, and none for -1"),
        (np.eye(4), None, r"Received: shape \(4, 4\).*`one_hot.argmax"),
        (np.ones((4, 1), int), None, r"shape \(4, 1\).*`labels.ravel\(\)`"),
        (5, None, r"4 images and 1 labels, of shape \(\)"),
        (["a", None, "b", "c"], None, "Received: shape .*object"),
    ],
)
def test_bad_classes_are_explained(images, labels, names, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}") as error:
        vae_keras.plot_latent_space(
            new_model(), images[:4], labels, names=names
        )
    assert len(str(error.value)) <= 400


def test_too_many_classes_are_explained(images):
    with pytest.raises(ValueError, match=r"101 different labels.*groups"):
        vae_keras.plot_latent_space(new_model(), images[:101], np.arange(101))


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


# === Models of classes ===


def test_a_way_between_images_of_one_class(images, labels):
    vae = new_conditional()
    start, end, classes = images[:3], images[3:6], labels[:3]
    z_start, z_end = (vae.encode(x, classes)[0] for x in (start, end))
    figure = vae_keras.plot_interpolation(vae, start, end, classes, steps=4)
    tiles = tiles_of(mosaic_of(figure), 3, 4, SHAPE)
    for step in range(4):
        z = z_start + step / 3 * (z_end - z_start)
        expected = vae.decode(z, classes)[..., 0]
        np.testing.assert_allclose(tiles[:, step], expected, atol=1e-5)
    with pytest.raises(ValueError, match="Received: no labels"):
        vae_keras.plot_interpolation(vae, start, end)
    # Other models ignore labels, of whatever kind.
    names = ["cat", "dog", "cat"]
    vae_keras.plot_interpolation(new_model(), start, end, names)
    # `steps` stood where labels do.
    with pytest.raises(ValueError, match="3 images and 1 labels"):
        vae_keras.plot_interpolation(new_model(), start, end, 5)


@pytest.mark.parametrize("label", [0, np.int64(9)])
def test_a_grid_of_one_class(label):
    vae = new_conditional()
    figure = vae_keras.plot_latent_grid(vae, 3, label=label)
    quantiles = [statistics.NormalDist().inv_cdf(p / 6) for p in (1, 3, 5)]
    z = [(z_1, z_2) for z_2 in quantiles[::-1] for z_1 in quantiles]
    expected = vae.decode(np.array(z, "float32"), np.full(9, label))
    tiles = tiles_of(mosaic_of(figure), 3, 3, SHAPE, gap=0)
    np.testing.assert_allclose(tiles.reshape(-1, *SHAPE), expected, atol=1e-5)
    vae_keras.plot_latent_grid(new_model(), 3, label=label)


@pytest.mark.parametrize("label", [None, -1, 10, 1.0, True, "7", [7]])
def test_a_grid_of_no_class_is_explained(label):
    message = re.escape(f"Received: label={label!r}. Draw one class")
    with pytest.raises(ValueError, match=f"Expected.*0 to 9. {message}"):
        vae_keras.plot_latent_grid(new_conditional(), 3, label=label)


def test_rows_have_labels(images):
    figure = vae_keras.plot_images(
        images[:7], columns=3, row_labels=["a", 2, "c"]
    )
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["a", "2", "c"]
    assert axes.get_yticks().tolist() == [6.5, 21.5, 36.5]
    with pytest.raises(ValueError, match=r"label for each row.*3 rows.*2 lab"):
        vae_keras.plot_images(images[:7], columns=3, row_labels=["a", "b"])


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
    # One below the other, over the same epochs.
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "epoch"]
    for axes in figure.axes:
        assert np.array_equal(axes.get_xticks(), axes.get_xticks().round())


def curves_of(figure):
    """Each curve's epochs and values, by the names that Keras gives."""
    prefix = {"training": "", "validation": "val_"}
    return {
        prefix[line.get_label()] + axes.get_title(): (
            line.get_xdata().tolist(),
            line.get_ydata().tolist(),
        )
        for axes in figure.axes
        for line in axes.lines
    }


def trained(images, *callbacks, **kwargs):
    vae = new_model()
    vae.compile("sgd")
    return vae.fit(
        images,
        validation_data=(images[:5],),
        callbacks=list(callbacks),
        verbose=0,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("kwargs", "training", "validation"),
    [
        ({"epochs": 3}, [1, 2, 3], [1, 2, 3]),
        ({"epochs": 5, "validation_freq": 2}, [1, 2, 3, 4, 5], [2, 4]),
        ({"epochs": 7, "initial_epoch": 4}, [5, 6, 7], [5, 6, 7]),
        (
            {"epochs": 9, "initial_epoch": 4, "validation_freq": 3},
            [5, 6, 7, 8, 9],
            [6, 9],
        ),
        (
            {"epochs": 4, "validation_freq": [1, 4]},
            [1, 2, 3, 4],
            [1, 4],
        ),
    ],
)
def test_values_stand_at_their_epochs(
    images, tmp_path, kwargs, training, validation
):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = trained(images[:20], logger, **kwargs)
    freq = kwargs.get("validation_freq")
    # After epoch 4, freq 2 and 3 would give as many values.
    is_clear = freq == 2 or freq is None
    figure = vae_keras.plot_history(
        history, validation_freq=None if is_clear else freq
    )
    curves = curves_of(figure)
    for name, (epochs, values) in curves.items():
        is_validation = name.startswith("val_")
        assert epochs == (validation if is_validation else training)
        np.testing.assert_allclose(values, history.history[name])
    assert curves.keys() == history.history.keys()
    # The file of a CSVLogger gives the same, with the docstring's line.
    line = inspect.getdoc(vae_keras.plot_history).split("\n\n")[2]
    assert "CSVLogger" in inspect.getdoc(vae_keras.plot_history)
    line = line.strip().replace("log.csv", str(tmp_path / "log.csv"))
    names = {"np": np, "plot_history": vae_keras.plot_history}
    read = curves_of(eval(line, names))
    assert read.keys() == curves.keys()
    for name, curve in curves.items():
        np.testing.assert_allclose(read[name], curve, rtol=1e-6)
    # So does the bare dictionary, with what it does not say.
    logs = {**history.history, "epoch": history.epoch}
    figure = vae_keras.plot_history(logs, validation_freq=freq)
    assert curves_of(figure) == curves


def test_histories_are_merged_in_a_dictionary():
    merged = {name: values + values for name, values in HISTORY.items()}
    figure = vae_keras.plot_history(merged)
    epochs = {tuple(x) for x, _ in curves_of(figure).values()}
    assert epochs == {(1, 2, 3, 4, 5, 6)}
    # The first of two trainings had no validation.
    nan = float("nan")
    merged["val_loss"] = [nan, None, nan, 3.0, 2.0, 1.0]
    curves = curves_of(vae_keras.plot_history(merged))
    assert curves["val_loss"] == ([4, 5, 6], [3.0, 2.0, 1.0])
    merged["val_loss"] = [nan] * 6
    assert "val_loss" not in curves_of(vae_keras.plot_history(merged))


def history_of(epoch, **logs):
    history = keras.callbacks.History()
    history.epoch, history.history = epoch, logs
    return history


@pytest.mark.parametrize(
    ("history", "kwargs", "message"),
    [
        # One of three epochs: freq 2 and 3 both fit.
        (
            history_of([0, 1, 2], loss=[3, 2, 1], val_loss=[2]),
            {},
            "'val_loss' for each epoch. Received: 1 values for 3 epochs.*"
            "pass `validation_freq`",
        ),
        (
            history_of([0, 1, 2], loss=[3, 2, 1], val_loss=[2, 1]),
            {"validation_freq": 2},
            "2 values for 3 epochs",
        ),
        # A dictionary may be of two trainings, the second with validation.
        (
            {"loss": [4, 3, 2, 1], "val_loss": [3, 2]},
            {},
            "2 values for 4 epochs. Put NaN",
        ),
        (
            {"loss": [4, 3, 2, 1], "kl_loss": [3, 2]},
            {"validation_freq": 2},
            "'kl_loss' for each epoch. Received: 2 values for 4 epochs",
        ),
        # Lists that were made longer in place.
        (
            history_of([0, 1], loss=[4, 3, 2, 1]),
            {},
            "4 values for 2 epochs.*merged histories as a dictionary",
        ),
        (
            {"epoch": [0, 1, 0, 1], "loss": [4, 3, 2, 1]},
            {},
            r"epochs that rise. Received: \[1. 2. 1. 2.\].*without 'epoch'",
        ),
        ({"loss": [2, 1]}, {"validation_freq": 0}, "Received: validation_freq"),
        ("log.csv", {}, r"none at all \(str\)\. Pass what `fit` returned"),
        ({"loss": []}, {}, "Received: an empty one"),
        (np.ones(3), {}, r"none at all \(ndarray\)"),
    ],
)
def test_epochs_are_not_guessed(history, kwargs, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}") as error:
        vae_keras.plot_history(history, **kwargs)
    assert len(str(error.value)) <= 400
    assert plt.get_fignums() == []


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
