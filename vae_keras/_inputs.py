"""What `fit`, `evaluate` and `predict` take: converted once, then checked."""

import math
import threading
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras._checks import check_labels, check_weights

# Set while a batch is looked at: `image_dataset` then counts no epoch.
peeking = threading.Event()


def checked_inputs(
    x,
    y=None,
    sample_weight=None,
    *,
    check,
    shape: tuple,
    num_classes: int | None = None,
    needs_labels: bool = False,
) -> tuple[Any, Any, Any]:
    """Returns what Keras gets: `(x, y, sample_weight)`.

    Arrays, and what NumPy makes arrays of, are checked whole, datasets and
    generators on their first batch, by `check(x, in_pairs)`. Labels that no
    model can use, such as texts where labels are ignored, are left out.
    """
    if y is None and _is_tuple(x, 1 + len(shape)):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(tuple(x))
        sample_weight = weight if sample_weight is None else sample_weight
    if _gives_batches(x):
        x = _checked_batches(x, check, num_classes, needs_labels)
        return x, y, sample_weight
    x = as_array(x)
    check(x)
    y = as_array(y)
    if num_classes is not None:
        check_labels(y, num_classes, len(x))
    elif not _are_numbers(y):
        y = None
    _check_needed(needs_labels, y)
    if sample_weight is not None:
        sample_weight = as_array(sample_weight)
        check_weights(sample_weight, len(x))
        if y is None:  # Keras drops the weights of what has no labels.
            y = np.zeros(len(x), "int32")
    return x, y, sample_weight


def num_batches(
    x, batch_size=None, steps=None, validation_split=0.0
) -> int | None:
    """How many batches Keras makes of it in an epoch, if that is known."""
    if steps is not None:
        return steps
    if isinstance(x, tuple):
        (x, *_) = x
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        return cardinality if cardinality >= 0 else None
    if hasattr(x, "shape"):
        num_images = math.floor(len(x) * (1 - validation_split))
        return -(-num_images // (batch_size or 32))
    return len(x) if hasattr(x, "__len__") else None


def as_array(values) -> Any:
    """Returns a NumPy array or a tensor of what can be one."""
    if np.ma.is_masked(values):
        raise ValueError(
            "Expected arrays without masked values. Received: "
            f"{np.ma.count_masked(values)} masked values. Fill them in, as "
            "with `array.filled(0)`."
        )
    is_array = hasattr(values, "__array__") or isinstance(values, (list, tuple))
    is_tensor = tf.is_tensor(values) or isinstance(values, keras.KerasTensor)
    if is_tensor or not is_array:
        return values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            "Expected a list of arrays of one shape. Received: a list of "
            f"{len(values)} of several shapes. Bring them to one shape first."
        ) from error


def _is_tuple(x, rank: int) -> bool:
    """Whether it is `(x,)`, `(x, y)` or `(x, y, sample_weight)`, or a list."""
    if isinstance(x, list):
        return 1 <= len(x) <= 3 and np.ndim(x[0]) == rank
    return isinstance(x, tuple)


def _gives_batches(x) -> bool:
    if isinstance(x, (keras.utils.PyDataset, tf.distribute.DistributedDataset)):
        return True
    is_array = hasattr(x, "__array__") or isinstance(
        x, (list, tuple, str, Mapping)
    )
    return hasattr(x, "__iter__") and not is_array


def _checked_batches(data, check, num_classes, needs_labels) -> Any:
    """Looks at the first batch, and returns what still begins with it."""
    if isinstance(data, tf.distribute.DistributedDataset):
        return data  # Its batches lie on other devices already.
    is_batches = isinstance(data, keras.utils.PyDataset)
    # Keras's older iterators are both: as a `PyDataset` their epochs end.
    is_generator = hasattr(data, "__next__") and not is_batches
    if is_generator:
        batch = next(data, None)
    elif is_batches:
        batch = data[0]
    else:
        batch = _first_batch(data)
    if batch is None:
        raise ValueError(
            "Expected a dataset of image batches. Received: an empty one. "
            "Check the files or the filter that it is made from."
        )
    images, labels = batch, None
    is_loader = not (
        is_generator or is_batches or isinstance(data, tf.data.Dataset)
    )
    if is_loader and not isinstance(batch, (tuple, list)):
        raise ValueError(
            "Expected a loader whose batches are tuples, `(images,)` or "
            f"`(images, labels)`. Received: a {type(data).__name__} that gives "
            f"a {type(batch).__name__}. Return `(image,)` from the data set's "
            "`__getitem__`, or use `TensorDataset(images)`."
        )
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(tuple(batch))
    check(images, in_pairs=labels is not None)
    if num_classes is not None:
        check_labels(labels, num_classes, len(images))
        all_labels = getattr(data, "all_labels", None)  # of `image_dataset`
        if all_labels is not None:
            check_labels(all_labels, num_classes, None)
    _check_needed(needs_labels, labels)
    keeps_labels = labels is None or _are_numbers(labels)
    if is_generator:
        return _rejoined(batch, data, keeps_labels)
    if keeps_labels:
        return data
    if isinstance(data, tf.data.Dataset):
        return data.map(_without_labels)
    raise ValueError(
        "Expected labels that are numbers. Received: "
        f"{np.asarray(labels).dtype}. Number them, or leave them out."
    )


def _first_batch(data):
    peeking.set()
    try:
        return next(iter(data), None)
    finally:
        peeking.clear()


def _rejoined(first, rest, keeps_labels: bool):
    """The batches of a generator, as the tuples that Keras asks for."""
    for batches in ([first], rest):
        for batch in batches:
            if not isinstance(batch, (tuple, list)):
                batch = (batch,)
            yield tuple(batch) if keeps_labels else _without_labels(*batch)


def _without_labels(x, y, *sample_weight):
    return (x, tf.zeros(tf.shape(x)[:1], tf.int32), *sample_weight)


def _are_numbers(labels) -> bool:
    labels = as_array(labels)
    if labels is None or not hasattr(labels, "__array__"):
        return labels is not None
    return np.asarray(labels).dtype.kind in "biuf"


def _check_needed(needs_labels: bool, labels) -> None:
    if needs_labels and labels is None:
        raise ValueError(
            "Expected labels, which `class_weight` refers to. Received: "
            "images alone. Pass `fit(images, labels, class_weight=…)`, or "
            "`sample_weight`."
        )
