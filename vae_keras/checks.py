"""Guards on images and sizes: errors that explain, in time."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

_REMEDY_FOR_BYTES = (
    "These look like bytes: divide by 255, as in "
    "`images.astype('float32') / 255`, or for a dataset in "
    "`dataset.map(lambda x: x / 255)`."
)


def positive_integers(argument: str, sizes) -> tuple[int, ...]:
    """Returns one size, or several, as a tuple of ints.

    Args:
        argument: the name of the argument, for the message.
        sizes: an integer or an iterable of integers.

    Returns:
        A tuple of ints.

    Raises:
        ValueError: if one of them is not a positive integer.
    """
    is_many = hasattr(sizes, "__iter__") and not isinstance(sizes, str)
    sizes = tuple(sizes) if is_many else (sizes,)
    for size in sizes:
        is_integer = hasattr(size, "__index__") and not isinstance(size, bool)
        if not is_integer or size < 1:
            received = sizes if is_many else size
            raise ValueError(
                f"Expected `{argument}` to be positive integers only. "
                f"Received: {argument}={received!r}. Use 1, 2, 3, …"
            )
    return tuple(int(size) for size in sizes)


def positive_integer(argument: str, size) -> int:
    """Returns one size as an int; errors are those of `positive_integers`."""
    if hasattr(size, "__iter__") and not isinstance(size, str):
        raise ValueError(
            f"Expected `{argument}` to be one positive integer. Received: "
            f"{argument}={size!r}. Use 1, 2, 3, …; for several values, call "
            "this once for each."
        )
    return positive_integers(argument, size)[0]


def check_images(images, image_shape: Sequence[int] | None = None) -> None:
    """Raises an error unless the images are what a VAE can be trained on.

    That is: floats in [0, 1], in an array of shape
    `(batch, height, width, channels)` that is not empty. Outside that
    range the cross-entropy is no likelihood, and its minimum is at
    infinite logits: the loss turns negative, then NaN.

    Args:
        images: a NumPy array or a tensor.
        image_shape: the expected shape of one image; by default any
            `(height, width, channels)`.

    Raises:
        ValueError: that says what was expected, what was received and
            what to do.

    Example:
    >>> import numpy as np
    >>> from vae_keras import check_images
    >>> check_images(np.full((1, 8, 8, 1), 0.5))
    """
    shape = tuple(getattr(images, "shape", ()))
    expected = "(batch, height, width, channels)"
    if image_shape is not None:
        expected = f"(batch, {', '.join(map(str, image_shape))})"
    rank = 4 if image_shape is None else 1 + len(image_shape)
    expectation = f"Expected images of shape {expected}, floats in [0, 1]."

    if not hasattr(images, "dtype"):
        raise ValueError(
            f"{expectation} Received: {type(images).__name__}. Pass one "
            "NumPy array or tensor, as from `np.stack`."
        )
    if len(shape) != rank:
        remedy = "Reshape the images."
        if len(shape) == rank - 1 and shape == tuple(image_shape or ()):
            remedy = "This is one image: batch the data first."
        elif len(shape) == rank - 1:
            remedy = "Add the axis of channels: `images[..., np.newaxis]`."
        raise ValueError(f"{expectation} Received: shape {shape}. {remedy}")
    if image_shape is not None and shape[1:] != tuple(image_shape):
        raise ValueError(
            f"{expectation} Received: shape {shape}. Resize the images, or "
            "build the encoder and decoder for this shape."
        )
    if 0 in shape:
        raise ValueError(
            f"{expectation} Received: an empty array, shape {shape}. Check "
            "the split or the filter that selects the images."
        )
    images = np.asarray(images)
    if images.dtype.kind not in "biuf":
        raise ValueError(
            f"{expectation} Received: dtype {images.dtype}. Convert the "
            "images: `images.astype('float32')`."
        )
    # The extremes of an array tell all: NaN and infinity come through.
    low, high = images.min(), images.max()
    if not np.issubdtype(images.dtype, np.floating):
        remedy = "Convert them: `images.astype('float32')`."
        if high > 1:
            remedy = _REMEDY_FOR_BYTES
        raise ValueError(
            f"{expectation} Received: dtype {images.dtype}, values from "
            f"{low} to {high}. {remedy}"
        )
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"{expectation} Received: NaN or infinity in "
            f"{np.sum(~np.isfinite(images))} of {images.size} values. "
            "Remove or mend the broken images."
        )
    # Resizing may overshoot by a rounding error, which harms nothing.
    if low < -1e-6 or high > 1 + 1e-6:
        remedy = "Rescale or clip the images to [0, 1]."
        if low >= 0 and 2 <= high <= 255:
            remedy = _REMEDY_FOR_BYTES
        elif low >= -1 and high <= 1:
            remedy = (
                "These look like [-1, 1]: rescale from [-1, 1], as in "
                "`(images + 1) / 2`."
            )
        raise ValueError(
            f"{expectation} Received: values from {low:.6g} to {high:.6g}. "
            f"{remedy}"
        )


def check_labels(labels, num_classes: int, num_images: int | None) -> None:
    """Raises an error unless labels are classes, one for each image.

    Args:
        labels: an array, a tensor or a list.
        num_classes: labels are integers from 0 to `num_classes - 1`.
        num_images: how many images they belong to, if that is known.

    Raises:
        ValueError: that says what was expected, what was received and
            what to do.
    """
    is_missing = labels is None
    labels = np.asarray(labels)
    if is_missing:
        received, remedy = (
            "no labels",
            (
                "Pass them beside the images: `fit(images, labels)`, "
                "`image_dataset(images, batch_size, labels)`."
            ),
        )
    elif labels.ndim != 1 or num_images not in (None, len(labels)):
        count = "" if num_images is None else f" for {num_images} image(s)"
        received, remedy = (
            f"shape {labels.shape}{count}",
            (
                "Give each image one integer, as from `labels.ravel()` or "
                "`one_hot.argmax(axis=-1)`."
            ),
        )
    elif labels.dtype.kind not in "iu":
        received = f"dtype {labels.dtype}"
        remedy = "Number the classes 0, 1, 2, …, as integers."
    elif np.any((labels < 0) | (labels >= num_classes)):
        received = f"values from {labels.min()} to {labels.max()}"
        remedy = "Renumber the classes, or build for more `num_classes`."
    else:
        return
    raise ValueError(
        "Expected labels of shape (batch,), integers from 0 to "
        f"{num_classes - 1}. Received: {received}. {remedy}"
    )


def checked_data(
    data, image_shape: Sequence[int], num_classes: int | None = None
):
    """Looks at the images in what a user passes to `fit`, and at labels.

    Arrays are checked whole, datasets and generators on their first batch.

    Args:
        data: images, `(images, …)`, or a dataset or generator of batches.
        image_shape: the shape of one image.
        num_classes: what the labels of a conditional model are to be of;
            `None` leaves them alone.

    Returns:
        The same data. For a generator, which can be read only once, a new
        one that still begins with the batch that was looked at.

    Raises:
        ValueError: as `check_images` and `check_labels`.
    """
    if isinstance(data, tf.distribute.DistributedDataset):
        return data  # Its batches lie on other devices already.
    if hasattr(data, "__next__"):
        first = next(data, None)
        _check_batch(first, image_shape, num_classes)
        return _rejoined(first, data)
    if isinstance(data, tf.data.Dataset):
        shape = getattr(data, "image_shape_checked", None)
        if shape != tuple(image_shape):
            _check_batch(next(iter(data), None), image_shape, num_classes)
        elif num_classes is not None:
            check_labels(data.labels_to_check, num_classes, None)
    elif isinstance(data, keras.utils.PyDataset):
        _check_batch(data[0], image_shape, num_classes)
    elif _is_loader(data):
        _check_batch(next(iter(data), None), image_shape, num_classes)
    else:
        _check_batch(data, image_shape, num_classes)
    return data


def _is_loader(data) -> bool:
    """Whether `data` is an iterable over batches, such as a DataLoader."""
    is_array = hasattr(data, "__array__") or isinstance(data, (tuple, list))
    return hasattr(data, "__iter__") and not is_array


def _check_batch(batch, image_shape, num_classes) -> None:
    if batch is None:
        raise ValueError(
            "Expected a dataset of image batches. Received: an empty one. "
            "Check the files or the filter that it is made from."
        )
    images, labels = batch, None
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    check_images(images, image_shape)
    if num_classes is not None:
        check_labels(labels, num_classes, len(images))


def _rejoined(first, rest):
    yield first
    yield from rest
