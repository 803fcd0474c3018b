"""Errors that explain, in time: sizes, images, labels, weights."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

# === Numbers ===


def is_integer(value) -> TypeGuard[int]:
    """Whether a value is an integer of any type, and no boolean."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def positive_integers(argument: str, sizes) -> tuple[int, ...]:
    """Returns one size, or an iterable of them, as a tuple of ints."""
    is_many = hasattr(sizes, "__iter__") and not isinstance(sizes, str)
    sizes = tuple(sizes) if is_many else (sizes,)
    if not all(is_integer(size) and size >= 1 for size in sizes):
        received = sizes if is_many else sizes[0]
        raise ValueError(
            f"Expected `{argument}` to be positive integers only. Received: "
            f"{argument}={received!r}. Use 1, 2, 3, …"
        )
    return tuple(int(size) for size in sizes)


def positive_integer(argument: str, size) -> int:
    """Returns one size as an int."""
    if hasattr(size, "__iter__") and not isinstance(size, str):
        raise ValueError(
            f"Expected `{argument}` to be one positive integer. Received: "
            f"{argument}={size!r}. Use 1, 2, 3, …; for several values, call "
            "this once for each."
        )
    return positive_integers(argument, size)[0]


def positive_number(argument: str, value, hint: str) -> float:
    """Returns a number as a float; the hint says which one to use."""
    number = float(value) if isinstance(value, numbers.Real) else 0.0
    if not 0 < number < float("inf"):
        raise ValueError(
            f"Expected `{argument}` to be a positive finite number. "
            f"Received: {argument}={value!r}. Use {hint}."
        )
    return number


def integer_seed(seed, or_none: bool = True) -> Any:
    """Returns a seed of any integer type as an int; `None` may stay."""
    if seed is None and or_none:
        return None
    if not is_integer(seed):
        raise ValueError(
            f"Expected `seed` to be an integer{' or None' if or_none else ''}"
            f". Received: seed={seed!r}. Use 0, 1, 2, …"
        )
    return int(seed)


# === Images and labels ===


def check_images(images, image_shape: Sequence[int] | None = None) -> None:
    """Raises an error unless the images are what a VAE can be trained on.

    That is: floats in [0, 1], `(batch, height, width, channels)`. Outside
    that range the cross-entropy is no likelihood, and its minimum is at
    infinite logits: the loss turns negative, then NaN.

    Args:
        images: a NumPy array or a tensor.
        image_shape: the expected shape of one image; by default any
            `(height, width, channels)`.

    Raises:
        ValueError: says what was expected, what came and what to do.

    Example:
    >>> import numpy as np
    >>> from vae_keras import check_images
    >>> check_images(np.full((1, 8, 8, 1), 0.5))
    """
    explain_images(images, image_shape)


def explain_images(images, image_shape, in_pairs: bool = False) -> None:
    """As `check_images`, for images that may come with labels."""
    one = (
        ("height", "width", "channels") if image_shape is None else image_shape
    )
    trouble = _trouble_of_shape(images, image_shape, 1 + len(one))
    trouble = trouble or _trouble_of_values(np.asarray(images), in_pairs)
    if trouble:
        received, remedy = trouble
        raise ValueError(
            f"Expected images of shape (batch, {', '.join(map(str, one))}), "
            f"floats in [0, 1]. Received: {received}. {remedy}"
        )


def _trouble_of_shape(images, image_shape, rank) -> tuple[str, str] | None:
    """What was received, and the remedy, unless the shape is right."""
    shape = tuple(getattr(images, "shape", ()))
    if isinstance(images, Mapping):
        key = "image" if "image" in images else next(iter(images), "image")
        return f"a dictionary of {', '.join(map(repr, images))}", (
            f"Pass `data[{key!r}]`, or `dataset.map(lambda d: d[{key!r}])`; "
            "images and labels are a pair, `(images, labels)`."
        )
    if not hasattr(images, "dtype"):
        remedy = "Pass one NumPy array or tensor, as from `np.stack`."
        return type(images).__name__, remedy
    if np.asarray(images).dtype.kind == "O":
        return "dtype object", (
            "Convert the images: `np.stack(list(images)).astype('float32')`."
        )
    if len(shape) != rank:
        remedy = "Reshape the images."
        if len(shape) == rank - 1 and shape == tuple(image_shape or ()):
            remedy = "This is one image: batch the data first."
        elif len(shape) == rank - 1:
            remedy = "Add the axis of channels: `images[..., np.newaxis]`."
        return f"shape {shape}", remedy
    if image_shape is not None and shape[1:] != tuple(image_shape):
        if shape[1:] == (image_shape[-1], *image_shape[:-1]):
            remedy = "Move the channels last: `np.moveaxis(images, 1, -1)`."
            return f"shape {shape}", remedy
        return f"shape {shape}", (
            "Resize the images, or build the encoder and decoder for this "
            "shape."
        )
    if 0 in shape:
        return f"an empty array, shape {shape}", (
            "Check the split or the filter that selects the images."
        )
    return None


def _trouble_of_values(images, in_pairs: bool) -> tuple[str, str] | None:
    """What was received, and the remedy, unless all are in [0, 1]."""
    dtype = images.dtype
    one = "lambda x, y: (x / 255, y)" if in_pairs else "lambda x: x / 255"
    divide = (
        "These look like bytes: divide by 255, as in "
        "`images.astype('float32') / 255`, or for a dataset in "
        f"`dataset.map({one})`."
    )
    if dtype.kind not in "biuf":
        remedy = "Convert the images: `images.astype('float32')`."
        return f"dtype {dtype}", remedy
    # The extremes of an array tell all: NaN and infinity come through.
    low, high = images.min(), images.max()
    if dtype.kind != "f":
        remedy = "Convert them: `images.astype('float32')`."
        remedy = divide if high > 1 else remedy
        return f"dtype {dtype}, values from {low} to {high}", remedy
    if not (np.isfinite(low) and np.isfinite(high)):
        broken = np.sum(~np.isfinite(images))
        return f"NaN or infinity in {broken} of {images.size} values", (
            "Remove or mend the broken images."
        )
    # Resizing may overshoot by a rounding error, which harms nothing.
    if low >= -1e-6 and high <= 1 + 1e-6:
        return None
    remedy = "Rescale or clip the images to [0, 1]."
    if low >= 0 and 2 <= high <= 255:
        remedy = divide
    elif low >= -1 and high <= 1:
        remedy = (
            "These look like [-1, 1]: rescale from [-1, 1], as in "
            "`(images + 1) / 2`."
        )
    return f"values from {low:.6g} to {high:.6g}", remedy


def check_latents(z, latent_shape: Sequence[int]) -> None:
    """Raises an error unless these are latents, `(batch, *latent_shape)`."""
    shape = tuple(getattr(z, "shape", ()))
    if len(shape) != 1 + len(latent_shape) or shape[1:] != tuple(latent_shape):
        raise ValueError(
            "Expected latents of shape (batch, "
            f"{', '.join(map(str, latent_shape))}). Received: shape {shape}. "
            "Draw them with `np.random.normal`, or take those of `encode`."
        )


def check_codes(
    codes, map_shape: Sequence[int], num_codes: int, may_be_empty: bool = False
) -> None:
    """Raises an error unless these are maps of codes."""
    shape, remedy = tuple(getattr(codes, "shape", ())), None
    received = f"shape {shape}"
    if len(shape) != 1 + len(map_shape) or shape[1:] != tuple(map_shape):
        remedy = "Take those of `encode`, or build for maps of this shape."
    elif 0 in shape and not may_be_empty:
        received = f"an empty array, shape {shape}"
        remedy = "Check the split or the filter that selects them."
    else:
        values = np.asarray(codes)
        if values.dtype.kind not in "iu":
            received = f"dtype {values.dtype}"
            remedy = "Codes are numbers of vectors: there is none between two."
            if values.dtype.kind == "f" and np.all(values == np.floor(values)):
                remedy = "Convert them: `codes.astype('int32')`."
        elif np.any((values < 0) | (values >= num_codes)):
            received = f"values from {values.min()} to {values.max()}"
            remedy = "Take those of `encode` of a model with as many codes."
    if remedy is not None:
        raise ValueError(
            f"Expected codes of shape (batch, {', '.join(map(str, map_shape))}"
            f"), integers from 0 to {num_codes - 1}. Received: {received}. "
            f"{remedy}"
        )


def check_labels(labels, num_classes: int, num_images: int | None) -> None:
    """Raises an error unless labels are classes, one for each image."""
    values = np.asarray(labels)
    if labels is None:
        received, remedy = (
            "no labels",
            (
                "Pass them beside the images, as in `fit(images, labels)`, "
                "or as the argument `labels`."
            ),
        )
    elif values.ndim != 1 or num_images not in (None, len(values)):
        count = "" if num_images is None else f" for {num_images} image(s)"
        received, remedy = (
            f"shape {values.shape}{count}",
            (
                "Give each image one integer, as from `np.ravel(labels)` or "
                "`np.argmax(one_hot, axis=-1)`."
            ),
        )
    elif values.dtype.kind not in "iu":
        received = f"dtype {values.dtype}"
        remedy = "Convert them: `np.asarray(labels).astype('int64')`."
        if values.dtype.kind not in "bf":
            remedy = (
                "Number the classes 0, 1, 2, …, as with `np.unique(labels, "
                "return_inverse=True)[1]`."
            )
    elif np.any((values < 0) | (values >= num_classes)):
        received = f"values from {values.min()} to {values.max()}"
        remedy = "Renumber the classes, or build for more `num_classes`."
    else:
        return
    raise ValueError(
        "Expected labels of shape (batch,), integers from 0 to "
        f"{num_classes - 1}. Received: {received}. {remedy}"
    )


def check_weights(sample_weight, num_images: int) -> None:
    """Raises an error unless there is one weight for each image."""
    shape = np.shape(sample_weight)
    if shape not in ((num_images,), (num_images, 1)):
        raise ValueError(
            "Expected one sample weight for each image, shape "
            f"({num_images},). Received: shape {shape}. Take both from the "
            "same split."
        )
