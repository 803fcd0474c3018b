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

from vae_keras._checks import is_integer, positive_integer
from vae_keras._drawing import (
    DOTS,
    as_columns,
    as_images,
    as_input,
    circle,
    draw,
    draw_classes,
    normal_quantiles,
    numbered_classes,
    placed,
    subplots,
    tiled,
)
from vae_keras._inputs import as_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vae_keras.models import VAE


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
    images = as_images(images)
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
    mosaic = tiled(images, columns, gap)
    height = 0.8 * columns * mosaic.shape[0] / mosaic.shape[1]
    figure, axes = subplots(figsize=(0.8 * columns, height))
    draw(axes, mosaic)
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
    images = as_input(vae, images, labels)
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
    images, labels = as_input(vae, images, labels), as_array(labels)
    index, class_names = numbered_classes(labels, names)
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
        figure, axes = subplots(figsize=(6, 5.2))
        axes.scatter(*z_mean.T, **DOTS)
    else:
        figure, (axes, beside) = subplots(
            1, 2, figsize=(6, 5.2), width_ratios=(20, 1)
        )
        draw_classes(axes, z_mean, index, beside, class_names)
    prior = getattr(vae, "prior", None)
    is_standard_normal = vae._latent_dtype == "float32" and (
        prior is None or prior.is_standard_normal
    )
    for probability in (0.5, 0.95) if is_standard_normal else ():
        # The radius within which a 2-D standard normal has that mass.
        radius = np.sqrt(-2 * np.log(1 - probability))
        axes.add_patch(circle(radius))
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
    quantiles = normal_quantiles((np.arange(columns) + 0.5) / columns)
    # z₂ falls from row to row, as the vertical axis of a plot does.
    z = [(z_1, z_2) for z_2 in quantiles[::-1] for z_1 in quantiles]
    labels = np.full(len(z), label) if classes else None
    images = np.asarray(vae.decode(np.array(z, "float32"), labels))
    height, width = images.shape[1:3]
    figure, axes = subplots(figsize=(6, 6 * height / width))
    draw(axes, tiled(images, columns, gap=0))
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
    start, end = as_input(vae, start, labels), as_input(vae, end)
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
    logs = as_columns(getattr(history, "history", history))
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
        curves[name] = placed(name, logs[name], epochs, [])
        if not np.isnan(logs.get(f"val_{name}", np.nan)).all():
            validation = f"val_{name}"
            curves[validation] = placed(
                validation, logs[validation], epochs, freqs
            )
    figure, panels = subplots(
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
