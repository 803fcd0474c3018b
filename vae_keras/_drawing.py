"""What the figures are made of: images side by side, classes, circles."""

from collections.abc import Mapping

import keras
import numpy as np

from vae_keras._checks import check_images
from vae_keras._inputs import as_array

# The looks of classes: a marker for each ten, in matplotlib's ten colours of
# Petroff, "Accessible Color Sequences for Data Visualization", 2021,
# arXiv:2107.02270.
MARKERS = "os^DvPX*<>"
DOTS = {"s": 3, "alpha": 0.6, "linewidths": 0}


def subplots(*args, **kwargs):
    # Importing pyplot takes a while: only who draws pays.
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(*args, layout="constrained", **kwargs)
    if "inline" in plt.get_backend():
        # Jupyter shows open figures at the end of the cell, and the cell's
        # value too: close this one, so that it is not shown twice.
        plt.close(figure)
    return figure, axes


def as_images(images) -> np.ndarray:
    """Returns images as an array; refuses what cannot be drawn."""
    images = keras.ops.convert_to_numpy(as_array(images))
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "Expected images of shape (n, height, width, 1 or 3). Received: "
            f"shape {images.shape}. A single image is `image[np.newaxis]`, "
            "grey ones without channels are `images[..., np.newaxis]`, and "
            "of other channels draw one, `images[..., :1]`."
        )
    if images.dtype.kind in "OSU":
        check_images(images)  # This explains what is wrong.
    known = np.where(np.isfinite(images), images, 0)
    low, high = known.min(), known.max()
    # Gaussian means lie around [0, 1]; this is bytes, or [-1, 1].
    if low < -1 or high > 2 or (low < -0.5 and high < 1.01):
        check_images(known)
    return images


def as_input(vae, images, labels=None) -> np.ndarray:
    """Returns images as an array; refuses what the model does not encode."""
    if not vae.has_encoder:
        raise ValueError(
            "Expected a model that encodes images. Received: a "
            f"{type(vae).__name__}, which does not. Draw what it generates, "
            "as in `plot_images(model.generate(64))`."
        )
    images = as_array(images)
    check_images(images, vae.image_shape)
    images = keras.ops.convert_to_numpy(images)
    if labels is not None and np.shape(labels)[:1] != (len(images),):
        raise ValueError(
            "Expected as many labels as images. Received: "
            f"{len(images)} images and {np.size(labels)} labels, of shape "
            f"{np.shape(labels)}. Take both from the same split."
        )
    return images


def numbered_classes(labels, names) -> tuple[np.ndarray, list[str]]:
    """Each image's class, counted from 0, and what the classes are called."""
    if labels is None:
        if names is not None:
            raise ValueError(
                "Expected labels, which `names` refers to. Received: names "
                "alone. Pass `labels` too."
            )
        return np.array([]), []
    labels = np.asarray(labels)
    if labels.dtype == object:  # as pandas keeps strings
        labels = np.array(labels.tolist())
    if labels.ndim != 1 or labels.dtype.kind not in "biufU":
        raise ValueError(
            "Expected labels of shape (n,), numbers or strings. Received: "
            f"shape {labels.shape}, {labels.dtype}. Give each image one, as "
            "from `labels.ravel()` or `one_hot.argmax(axis=-1)`."
        )
    classes, index = np.unique(labels, return_inverse=True)
    most = 10 * len(MARKERS)
    if len(classes) > most:
        raise ValueError(
            f"Expected at most {most} classes. Received: {len(classes)} "
            "different labels. Draw some of them, or put them into groups."
        )
    texts = classes.tolist()
    if names is not None:
        known = names if isinstance(names, Mapping) else dict(enumerate(names))
        nameless = [label for label in texts if label not in known]
        if nameless:
            raise ValueError(
                "Expected `names` to have a name for each label. Received: "
                f"{len(known)} names, and none for {nameless[0]!r}. Pass a "
                "list of the names of labels 0, 1, 2, …, or a dictionary "
                "from labels to names."
            )
        texts = [known[label] for label in texts]
    return index, [str(text) for text in texts]


def draw_classes(axes, points, index, beside, class_names) -> None:
    """Draws points `(n, 2)` of classes, their names, and a legend beside.

    A name stands at the median of its class, if there are at most 20.
    """
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    colors = np.array(mpl.color_sequences["petroff10"])
    dots = DOTS if len(class_names) <= 10 else {**DOTS, "s": 12}
    for group in np.unique(index // 10):
        is_shown = index // 10 == group
        axes.scatter(
            *points[is_shown].T,
            c=colors[index[is_shown] % 10],
            marker=MARKERS[group],
            **dots,
        )
    for i in range(len(class_names) if len(class_names) <= 20 else 0):
        axes.text(
            *np.median(points[index == i], axis=0),
            class_names[i],
            ha="center",
            va="center",
            weight="bold",
            bbox={
                "boxstyle": "round,pad=0.15",
                "facecolor": axes.get_facecolor(),
                "edgecolor": colors[i % 10],
                "alpha": 0.8,
            },
        )
    beside.axis("off")
    legend = beside.legend(
        [
            Line2D([], [], ls="", color=colors[i % 10], marker=MARKERS[i // 10])
            for i in range(len(class_names))
        ],
        class_names,
        title="label",
        loc="center left",
        frameon=False,
        ncols=-(-len(class_names) // 20),
    )
    width = legend.get_window_extent().width / legend.figure.dpi
    legend.figure.set_figwidth(max(6, 5 + width))


def as_columns(logs) -> dict[str, np.ndarray]:
    """A dictionary of arrays `(epochs,)`, of a dictionary or a table."""
    names = getattr(getattr(logs, "dtype", None), "names", None)
    if names is None:
        names = logs.keys() if hasattr(logs, "keys") else ()
    return {name: np.array(logs[name], "float64", ndmin=1) for name in names}


def placed(name, values, epochs, freqs) -> tuple[np.ndarray, np.ndarray]:
    """The epochs of values, and the values; NaN is left out.

    If there are fewer values than epochs, one of `freqs` has to fit.
    """
    places = [epochs]
    if len(values) != len(epochs):
        places = [
            epochs[
                np.isin(epochs, list(freq))
                if hasattr(freq, "__iter__")
                else epochs % freq == 0
            ]
            for freq in freqs
        ]
    places = {tuple(place) for place in places if len(place) == len(values)}
    if len(places) != 1:
        raise ValueError(
            f"Expected a value of {name!r} for each epoch. Received: "
            f"{len(values)} values for {len(epochs)} epochs. Put NaN where "
            "an epoch has none, or pass `validation_freq`, a number or a "
            "list of epochs; pass merged histories as a dictionary."
        )
    is_known = ~np.isnan(values)
    return np.array(places.pop())[is_known], values[is_known]


def tiled(images: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Lays images out in one array; what stays empty is NaN (no colour)."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    tiles = np.full(
        (rows * columns, height + gap, width + gap, channels), np.nan
    )
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:])
    mosaic = tiles.swapaxes(1, 2).reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    return mosaic[: mosaic.shape[0] - gap, : mosaic.shape[1] - gap]


def draw(axes, mosaic: np.ndarray) -> None:
    if mosaic.shape[2] == 3:
        from matplotlib.colors import to_rgb

        # Colours have no gaps of their own, as grey pixels have.
        background = to_rgb(axes.figure.get_facecolor())
        mosaic = np.where(np.isnan(mosaic), background, mosaic).clip(0, 1)
    axes.imshow(
        mosaic.squeeze(axis=2) if mosaic.shape[2] == 1 else mosaic,
        cmap="gray",
        vmin=0,
        vmax=1,
        origin="upper",  # whatever a style sheet says
    )
    axes.grid(False)
    axes.axis("off")


def circle(radius: float):
    from matplotlib import rcParams
    from matplotlib.patches import Circle

    color = rcParams["text.color"]  # light in a dark style
    return Circle((0, 0), radius, fill=False, linestyle="--", color=color)


def normal_quantiles(probabilities: np.ndarray) -> np.ndarray:
    """The quantiles of N(0, 1): its inverse cumulative distribution."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(p) for p in probabilities])
