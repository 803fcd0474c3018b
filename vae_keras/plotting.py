"""Every figure of the notebooks.

Each function takes arrays or a model, and returns a matplotlib `Figure`;
none calls `plt.show()`. In a notebook a figure that is a cell's value is
shown once; in a script use `figure.savefig("name.png")` or `plt.show()`.
What cannot be drawn is a `ValueError`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from vae_keras._checks import positive_integer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vae_keras.models import VAE


def plot_images(
    images, columns: int | None = None, titles: Sequence | None = None
) -> "Figure":
    """Draws images as one grid, filled row by row.

    Args:
        images: floats in [0, 1], `(n, height, width, channels)`, with 1
            channel (grey) or 3 (colour).
        columns: images in a row; by default about √n.
        titles: optional, one for each image, written above it.

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
    return figure


def plot_reconstructions(vae: "VAE", images, labels=None) -> "Figure":
    """Draws images above their reconstructions through the posterior mean.

    Args:
        vae: a model whose `predict` gives pixel means in [0, 1].
        images: floats in [0, 1], `(n, height, width, channels)`.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Returns:
        A matplotlib `Figure` of two rows.
    """
    images = _as_images(images)
    reconstructions = vae.predict(
        (images, labels), batch_size=len(images), verbose=0
    )
    figure = plot_images(
        np.concatenate([images, reconstructions]), columns=len(images)
    )
    height = images.shape[1]
    axes = figure.axes[0]
    axes.axis("on")
    axes.set_frame_on(False)
    axes.set_xticks([])
    axes.set_yticks([height / 2, height * 1.5 + 1], ["image", "reconstruction"])
    axes.tick_params(length=0)
    return figure


def plot_latent_space(vae: "VAE", images, labels=None) -> "Figure":
    """Draws the posterior means of images, and a contour of the prior.

    With more than two latent dimensions, the means are projected on their
    first two principal components.

    Args:
        vae: a `VAE`, or an `Autoencoder`, whose codes are drawn.
        images: floats in [0, 1], `(n, height, width, channels)`.
        labels: optional integers `(n,)`, drawn as colours; a
            `ConditionalVAE` needs them to encode.

    Returns:
        A matplotlib `Figure`. The dashed circles hold 50 % and 95 % of the
        prior N(0, I).
    """
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            "Expected as many labels as images. Received: "
            f"{len(images)} images and {len(labels)} labels. Take both from "
            "the same split."
        )
    images = _as_images(images)
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
    names = ["$z_1$", "$z_2$"]
    if z_mean.shape[1] > 2:
        z_mean = z_mean - z_mean.mean(axis=0)
        _, _, components = np.linalg.svd(z_mean, full_matrices=False)
        z_mean = z_mean @ components[:2].T
        names = ["first principal component", "second principal component"]
    figure, axes = _subplots(figsize=(6, 5.2))
    points = axes.scatter(
        *z_mean.T,
        c=labels,
        cmap=None if labels is None else "tab10",
        s=3,
        alpha=0.6,
        linewidths=0,
    )
    for probability in (0.5, 0.95):
        # The radius within which a 2-D standard normal has that mass.
        radius = np.sqrt(-2 * np.log(1 - probability))
        axes.add_patch(_circle(radius))
    if labels is not None:
        classes = np.unique(labels)
        points.set_clim(classes.min() - 0.5, classes.max() + 0.5)
        bar = figure.colorbar(points, ax=axes, ticks=classes, label="label")
        bar.solids.set_alpha(1)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def plot_latent_grid(vae: "VAE", columns: int = 16) -> "Figure":
    """Draws what the decoder makes of a grid over a 2-D latent space.

    The grid is even in probability: its lines lie at the prior's quantiles
    ½/n, 1½/n, …, which are all finite.

    Args:
        vae: a `VAE` with latents of shape `(2,)`.
        columns: the number of grid points n along each axis.

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
    quantiles = _normal_quantiles((np.arange(columns) + 0.5) / columns)
    # z₂ falls from row to row, as the vertical axis of a plot does.
    z = [(z_1, z_2) for z_2 in quantiles[::-1] for z_1 in quantiles]
    images = np.asarray(vae.decode(np.array(z, "float32")))
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


def plot_interpolation(vae: "VAE", start, end, steps: int = 10) -> "Figure":
    """Draws the way from images to others, straight in latent space.

    Args:
        vae: a `VAE` or an `Autoencoder`.
        start: images, `(n, height, width, channels)`.
        end: images of the same shape.
        steps: pictures on each way, both ends included.

    Returns:
        A matplotlib `Figure` with a row for each pair of images.
    """
    steps = positive_integer("steps", steps)
    start, end = _as_images(start), _as_images(end)
    if start.shape != end.shape:
        raise ValueError(
            "Expected `start` and `end` of one shape. Received: "
            f"{start.shape} and {end.shape}. Pass pairs, as many of one as "
            "of the other."
        )
    encoded = keras.tree.flatten(vae.encode(np.concatenate([start, end])))
    z_start, z_end = np.split(np.asarray(encoded[0]), 2)
    z = np.linspace(z_start, z_end, steps, axis=1)  # (n, steps, *latent)
    images = vae.decode(z.reshape(-1, *z_start.shape[1:]).astype("float32"))
    return plot_images(images, columns=steps)


def plot_history(history) -> "Figure":
    """Draws each loss over the epochs, training and validation together.

    Args:
        history: what `fit` returns, or its `history` dictionary: values in
            nats per image.

    Returns:
        A matplotlib `Figure` with a panel for each loss and metric.
    """
    logs: Mapping = getattr(history, "history", history)
    order = ["loss", "reconstruction_loss", "kl_loss"]
    names = [name for name in order if name in logs]
    names += [n for n in logs if n not in order and n[:4] != "val_"]
    if not names:
        raise ValueError(
            "Expected the history of a training. Received: an empty one. "
            "Pass what `fit` returned, after at least one epoch."
        )
    figure, panels = _subplots(
        1, len(names), figsize=(3.4 * len(names), 2.8), squeeze=False
    )
    for name, axes in zip(names, panels[0], strict=True):
        epochs = np.arange(1, len(logs[name]) + 1)
        axes.plot(epochs, logs[name], marker=".", label="training")
        if f"val_{name}" in logs:
            values = logs[f"val_{name}"]
            axes.plot(epochs, values, marker=".", label="validation")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel("nats per image")
    panels[0, 0].legend()
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
    images = keras.ops.convert_to_numpy(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "Expected images of shape (n, height, width, 1 or 3). Received: "
            f"shape {images.shape}. A single image is `image[np.newaxis]`."
        )
    return images


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
        # The means of Gaussian pixels may leave [0, 1].
        mosaic = np.nan_to_num(mosaic, nan=1.0).clip(0, 1)
    axes.imshow(
        mosaic.squeeze(axis=2) if mosaic.shape[2] == 1 else mosaic,
        cmap="gray",
        vmin=0,
        vmax=1,
    )
    axes.axis("off")


def _circle(radius: float):
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, fill=False, linestyle="--", color="black")


def _normal_quantiles(probabilities: np.ndarray) -> np.ndarray:
    """The quantiles of N(0, 1): its inverse cumulative distribution."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(p) for p in probabilities])
