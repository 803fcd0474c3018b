"""Every figure of the notebooks.

Each function takes arrays or a model, and returns a matplotlib `Figure`;
none calls `plt.show()`. In a notebook a figure that is a cell's value is
shown once; in a script use `figure.savefig("name.png")` or `plt.show()`.
What cannot be drawn is a `ValueError`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from vae_keras._checks import check_images, is_integer, positive_integer
from vae_keras._inputs import as_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vae_keras.models import VAE


# The looks of classes: a marker for each ten, in matplotlib's ten colours of
# Petroff, "Accessible Color Sequences for Data Visualization", 2021,
# arXiv:2107.02270.
_MARKERS = "os^DvPX*<>"
_DOTS = {"s": 3, "alpha": 0.6, "linewidths": 0}


def plot_images(
    images,
    columns: int | None = None,
    titles: Sequence | None = None,
    *,
    row_labels: Sequence | None = None,
) -> "Figure":
    """Draws images as one grid, filled row by row.

    Args:
        images: floats in [0, 1], `(n, height, width, channels)`, with 1
            channel (grey) or 3 (colour). Means of Gaussian pixels may be a
            little outside, and NaN is drawn as a gap.
        columns: images in a row; by default about √n.
        titles: optional, one for each image, written above it.
        row_labels: optional, one for each row, written on its left.

    Returns:
        A matplotlib `Figure`.

    Example:
    >>> import numpy as np
    >>> from vae_keras import plot_images
    >>> figure = plot_images(np.random.rand(10, 8, 8, 1), columns=5)
    >>> figure.axes[0].images[0].get_array().shape
    (17, 44)
    """
    images = _as_images(images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"Expected a title for each image. Received: {len(images)} "
            f"images and {len(titles)} titles. Use '' where there is none."
        )
    if columns is None:
        columns = int(np.ceil(np.sqrt(len(images))))
    columns = positive_integer("columns", columns)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(
            f"Expected a label for each row. Received: {rows} rows of "
            f"{columns} images and {len(row_labels)} labels. Pass as many "
            "labels as rows, or set `columns`."
        )
    # Titles need more room than the thin line between images.
    gap = 1 if titles is None else max(1, images.shape[1] // 3)
    mosaic = _mosaic(images, columns, gap)
    height = 0.8 * columns * mosaic.shape[0] / mosaic.shape[1]
    figure, axes = _subplots(figsize=(0.8 * columns, height))
    _draw(axes, mosaic)
    for i, title in enumerate(titles if titles is not None else ()):
        row, column = divmod(i, columns)
        axes.text(
            column * (images.shape[2] + gap) + images.shape[2] / 2,
            row * (images.shape[1] + gap) - 0.5,
            str(title),
            ha="center",
            va="bottom",
            fontsize=9,
        )
    if row_labels is not None:
        step = images.shape[1] + gap
        middles = np.arange(rows) * step + (images.shape[1] - 1) / 2
        axes.axis("on")
        axes.set_frame_on(False)
        axes.set_xticks([])
        axes.set_yticks(middles, [str(label) for label in row_labels])
        axes.tick_params(length=0)
    return figure


def plot_reconstructions(vae: "VAE", images, labels=None) -> "Figure":
    """Draws images above their reconstructions through the posterior mean.

    Args:
        vae: a `VAE` or an `Autoencoder`.
        images: floats in [0, 1], `(n, *image_shape)`.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Returns:
        A matplotlib `Figure` of two rows.
    """
    images = _as_input(vae, images, labels)
    reconstructions = vae.predict(
        (images, labels), batch_size=len(images), verbose=0
    )
    return plot_images(
        np.concatenate([images, reconstructions]).clip(0, 1),
        columns=len(images),
        row_labels=["image", "reconstruction"],
    )


def plot_latent_space(
    vae: "VAE",
    images,
    labels=None,
    *,
    names: Sequence | Mapping | None = None,
) -> "Figure":
    """Draws the posterior means of images, and a contour of the prior.

    With more than two latent dimensions, the means are projected on their
    first two principal components.

    Args:
        vae: a `VAE`, or an `Autoencoder`, whose codes are drawn.
        images: floats in [0, 1], `(n, *image_shape)`.
        labels: optional classes `(n,)`, at most 100, numbers or strings. A
            `ConditionalVAE` needs them to encode, as integers. Ten colours,
            which differ to colour-blind eyes too, serve ten classes; the
            next ten have another marker. Up to 20 classes also have their
            name written at the median of their points.
        names: what to call the classes: `names[label]`, from a list or a
            dictionary. By default they are called by their labels.

    Returns:
        A matplotlib `Figure`. The dashed circles hold 50 % and 95 % of the
        prior N(0, I); another prior has none.
    """
    images, labels = _as_input(vae, images, labels), as_array(labels)
    index, class_names = _classes(labels, names)
    outputs = vae.encoder.predict(
        vae._given(images, labels), batch_size=1000, verbose=0
    )
    z_mean = keras.tree.flatten(outputs)[0].reshape(len(images), -1)
    if min(z_mean.shape) < 2:
        raise ValueError(
            "Expected two images or more, and a model with two latent "
            f"numbers or more. Received: {z_mean.shape[0]} and "
            f"{z_mean.shape[1]}. For one latent number, draw a histogram of "
            "`vae.encode(images)[0]`."
        )
    axis_names = ["$z_1$", "$z_2$"]
    if z_mean.shape[1] > 2:
        z_mean = z_mean - z_mean.mean(axis=0)
        _, _, components = np.linalg.svd(z_mean, full_matrices=False)
        z_mean = z_mean @ components[:2].T
        axis_names = ["first principal component", "second principal component"]
    if labels is None:
        figure, axes = _subplots(figsize=(6, 5.2))
        axes.scatter(*z_mean.T, **_DOTS)
    else:
        figure, (axes, beside) = _subplots(
            1, 2, figsize=(6, 5.2), width_ratios=(20, 1)
        )
        _draw_classes(axes, z_mean, index, beside, class_names)
    prior = getattr(vae, "prior", None)
    is_standard_normal = vae._latent_dtype == "float32" and (
        prior is None or prior.is_standard_normal
    )
    for probability in (0.5, 0.95) if is_standard_normal else ():
        # The radius within which a 2-D standard normal has that mass.
        radius = np.sqrt(-2 * np.log(1 - probability))
        axes.add_patch(_circle(radius))
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def plot_latent_grid(
    vae: "VAE", columns: int = 16, *, label: int | None = None
) -> "Figure":
    """Draws what the decoder makes of a grid over a 2-D latent space.

    The grid is even in probability: its lines lie at the prior's quantiles
    ½/n, 1½/n, …, which are all finite.

    Args:
        vae: a `VAE` with latents of shape `(2,)`.
        columns: the number of grid points n along each axis.
        label: of a `ConditionalVAE`, the class to draw.

    Returns:
        A matplotlib `Figure`; the axes tell z₁ and z₂ of the pictures, z₂
        upwards.
    """
    if tuple(vae.latent_shape) != (2,):
        raise ValueError(
            "Expected a model with latents of shape (2,). Received: "
            f"{tuple(vae.latent_shape)}. For other models draw "
            "`plot_interpolation`."
        )
    columns = positive_integer("columns", columns)
    classes: Any = vae.num_classes
    if classes and not (is_integer(label) and 0 <= label < classes):
        raise ValueError(
            "Expected `label` to be the class to draw, an integer from 0 to "
            f"{classes - 1}. Received: label={label!r}. Draw one class, as in "
            "`plot_latent_grid(vae, label=0)`."
        )
    quantiles = _normal_quantiles((np.arange(columns) + 0.5) / columns)
    # z₂ falls from row to row, as the vertical axis of a plot does.
    z = [(z_1, z_2) for z_2 in quantiles[::-1] for z_1 in quantiles]
    labels = np.full(len(z), label) if classes else None
    images = np.asarray(vae.decode(np.array(z, "float32"), labels))
    height, width = images.shape[1:3]
    figure, axes = _subplots(figsize=(6, 6 * height / width))
    _draw(axes, _mosaic(images, columns, gap=0))
    axes.axis("on")
    shown = np.unique(np.linspace(0, columns - 1, 5).round().astype(int))
    texts = [f"{quantiles[i]:.1f}" for i in shown]
    axes.set_xticks((shown + 0.5) * width - 0.5, texts)
    axes.set_yticks((columns - shown - 0.5) * height - 0.5, texts)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    return figure


def plot_interpolation(
    vae: "VAE", start, end, labels=None, *, steps: int = 10
) -> "Figure":
    """Draws the way from images to others, straight in latent space.

    Args:
        vae: a `VAE` or an `Autoencoder`.
        start: floats in [0, 1], `(n, *image_shape)`.
        end: images of the same shape.
        labels: of a `ConditionalVAE`, integers `(n,)`: the class of each
            pair, and of all pictures between.
        steps: pictures on each way, both ends included.

    Returns:
        A matplotlib `Figure` with a row for each pair of images.
    """
    steps = positive_integer("steps", steps)
    if vae._latent_dtype != "float32":
        raise ValueError(
            "Expected a model whose latents are real numbers, so that there "
            f"is a way between two. Received: a {type(vae).__name__}, whose "
            "latents are codes. Change one code at a time, and `decode`."
        )
    start, end = _as_input(vae, start, labels), _as_input(vae, end)
    if start.shape != end.shape:
        raise ValueError(
            "Expected `start` and `end` of one shape. Received: "
            f"{start.shape} and {end.shape}. Pass pairs, as many of one as "
            "of the other."
        )
    of_ends = of_steps = None
    if labels is not None:
        of_ends, of_steps = np.tile(labels, 2), np.repeat(labels, steps)
    encoded = vae.encode(np.concatenate([start, end]), of_ends)
    z_start, z_end = np.split(np.asarray(keras.tree.flatten(encoded)[0]), 2)
    z = np.linspace(z_start, z_end, steps, axis=1)  # (n, steps, *latent)
    z = z.reshape(-1, *z_start.shape[1:]).astype("float32")
    images = np.asarray(vae.decode(z, of_steps))
    return plot_images(images.clip(0, 1), columns=steps)


def plot_history(history, *, validation_freq=None) -> "Figure":
    """Draws each loss over the epochs, training and validation together.

    The file of a `keras.callbacks.CSVLogger` is drawn by

        plot_history(np.genfromtxt("log.csv", delimiter=",", names=True))

    Args:
        history: what `fit` returned; or a dictionary or table, of values by
            name, NaN where an epoch has none. Its `"epoch"`, if any, counts
            from 0, as Keras does; else the values stand at 1, 2, 3, …
            Losses are in nats per image.
        validation_freq: as in `fit`, where only some epochs have a
            validation value; by default the one number that fits what
            `fit` returned.

    Returns:
        A matplotlib `Figure` with a panel for each loss and metric, one
        below the other.
    """
    logs = _as_columns(getattr(history, "history", history))
    epochs = getattr(history, "epoch", logs.pop("epoch", None))
    order = ["loss", "reconstruction_loss", "kl_loss"]
    names = [name for name in order if name in logs]
    names += [n for n in logs if n not in order and n[:4] != "val_"]
    if not any(logs[name].size for name in names):
        raise ValueError(
            "Expected the history of a training. Received: an empty one, or "
            f"none at all ({type(history).__name__}). Pass what `fit` "
            "returned, after at least one epoch."
        )
    if epochs is None:
        epochs = range(max(len(logs[name]) for name in names))
    epochs = np.array(epochs, "float64", ndmin=1) + 1
    if not np.all(np.diff(epochs) > 0):
        raise ValueError(
            "Expected epochs that rise. Received: "
            f"{np.array2string(epochs, threshold=10)}. To number the values "
            "1, 2, 3, …, pass a dictionary without 'epoch'."
        )
    freqs = [validation_freq]
    if validation_freq is None:
        # A dictionary may be of several trainings: what fits proves nothing.
        is_one = hasattr(history, "history")
        freqs = range(2, int(epochs[-1]) + 1) if is_one else []
    elif not hasattr(validation_freq, "__iter__"):
        positive_integer("validation_freq", validation_freq)
    curves = {}
    for name in names:
        curves[name] = _placed(name, logs[name], epochs, [])
        if not np.isnan(logs.get(f"val_{name}", np.nan)).all():
            validation = f"val_{name}"
            curves[validation] = _placed(
                validation, logs[validation], epochs, freqs
            )
    figure, panels = _subplots(
        len(names),
        figsize=(5, 0.6 + 1.9 * len(names)),
        sharex=True,
        squeeze=False,
    )
    for name, axes in zip(names, panels[:, 0], strict=True):
        axes.plot(*curves[name], marker=".", label="training")
        if f"val_{name}" in curves:
            axes.plot(
                *curves[f"val_{name}"], marker="s", ms=3, label="validation"
            )
        axes.set(title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel("nats per image")
    panels[0, 0].legend()
    panels[-1, 0].set_xlabel("epoch")
    return figure


def _subplots(*args, **kwargs):
    # Importing pyplot takes a while: only who draws pays.
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(*args, layout="constrained", **kwargs)
    if "inline" in plt.get_backend():
        # Jupyter shows open figures at the end of the cell, and the cell's
        # value too: close this one, so that it is not shown twice.
        plt.close(figure)
    return figure, axes


def _as_images(images) -> np.ndarray:
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


def _as_input(vae, images, labels=None) -> np.ndarray:
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


def _classes(labels, names) -> tuple[np.ndarray, list[str]]:
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
    most = 10 * len(_MARKERS)
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


def _draw_classes(axes, points, index, beside, class_names) -> None:
    """Draws points `(n, 2)` of classes, their names, and a legend beside.

    A name stands at the median of its class, if there are at most 20.
    """
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    colors = np.array(mpl.color_sequences["petroff10"])
    dots = _DOTS if len(class_names) <= 10 else {**_DOTS, "s": 12}
    for group in np.unique(index // 10):
        is_shown = index // 10 == group
        axes.scatter(
            *points[is_shown].T,
            c=colors[index[is_shown] % 10],
            marker=_MARKERS[group],
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
            Line2D(
                [], [], ls="", color=colors[i % 10], marker=_MARKERS[i // 10]
            )
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


def _as_columns(logs) -> dict[str, np.ndarray]:
    """A dictionary of arrays `(epochs,)`, of a dictionary or a table."""
    names = getattr(getattr(logs, "dtype", None), "names", None)
    if names is None:
        names = logs.keys() if hasattr(logs, "keys") else ()
    return {name: np.array(logs[name], "float64", ndmin=1) for name in names}


def _placed(name, values, epochs, freqs) -> tuple[np.ndarray, np.ndarray]:
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


def _mosaic(images: np.ndarray, columns: int, gap: int) -> np.ndarray:
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


def _draw(axes, mosaic: np.ndarray) -> None:
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


def _circle(radius: float):
    from matplotlib import rcParams
    from matplotlib.patches import Circle

    color = rcParams["text.color"]  # light in a dark style
    return Circle((0, 0), radius, fill=False, linestyle="--", color=color)


def _normal_quantiles(probabilities: np.ndarray) -> np.ndarray:
    """The quantiles of N(0, 1): its inverse cumulative distribution."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(p) for p in probabilities])
