"""Errors that explain, in time: images, labels, sizes, networks that fit."""

import threading
from collections.abc import Sequence
from typing import Any, TypeGuard

import keras
import numpy as np
import tensorflow as tf

# Set while a batch is looked at: `image_dataset` then counts no epoch.
peeking = threading.Event()

_DIVIDE = (
    "These look like bytes: divide by 255, as in "
    "`images.astype('float32') / 255`, or for a dataset in "
    "`dataset.map(lambda x: x / 255)`."
)


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
    one = (
        ("height", "width", "channels") if image_shape is None else image_shape
    )
    trouble = _trouble_of_shape(images, image_shape, 1 + len(one))
    trouble = trouble or _trouble_of_values(np.asarray(images))
    if trouble:
        received, remedy = trouble
        raise ValueError(
            f"Expected images of shape (batch, {', '.join(map(str, one))}), "
            f"floats in [0, 1]. Received: {received}. {remedy}"
        )


def _trouble_of_shape(images, image_shape, rank) -> tuple[str, str] | None:
    """What was received, and the remedy, unless the shape is right."""
    shape = tuple(getattr(images, "shape", ()))
    if not hasattr(images, "dtype"):
        remedy = "Pass one NumPy array or tensor, as from `np.stack`."
        return type(images).__name__, remedy
    if len(shape) != rank:
        remedy = "Reshape the images."
        if len(shape) == rank - 1 and shape == tuple(image_shape or ()):
            remedy = "This is one image: batch the data first."
        elif len(shape) == rank - 1:
            remedy = "Add the axis of channels: `images[..., np.newaxis]`."
        return f"shape {shape}", remedy
    if image_shape is not None and shape[1:] != tuple(image_shape):
        return f"shape {shape}", (
            "Resize the images, or build the encoder and decoder for this "
            "shape."
        )
    if 0 in shape:
        return f"an empty array, shape {shape}", (
            "Check the split or the filter that selects the images."
        )
    return None


def _trouble_of_values(images: np.ndarray) -> tuple[str, str] | None:
    """What was received, and the remedy, unless all are in [0, 1]."""
    dtype = images.dtype
    if dtype.kind not in "biuf":
        remedy = "Convert the images: `images.astype('float32')`."
        return f"dtype {dtype}", remedy
    # The extremes of an array tell all: NaN and infinity come through.
    low, high = images.min(), images.max()
    if dtype.kind != "f":
        remedy = "Convert them: `images.astype('float32')`."
        remedy = _DIVIDE if high > 1 else remedy
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
        remedy = _DIVIDE
    elif low >= -1 and high <= 1:
        remedy = (
            "These look like [-1, 1]: rescale from [-1, 1], as in "
            "`(images + 1) / 2`."
        )
    return f"values from {low:.6g} to {high:.6g}", remedy


def check_labels(labels, num_classes: int, num_images: int | None) -> None:
    """Raises an error unless labels are classes, one for each image."""
    values = np.asarray(labels)
    if labels is None:
        received, remedy = (
            "no labels",
            (
                "Pass them beside the images: `fit(images, labels)`, "
                "`image_dataset(images, batch_size, labels)`."
            ),
        )
    elif values.ndim != 1 or num_images not in (None, len(values)):
        count = "" if num_images is None else f" for {num_images} image(s)"
        received, remedy = (
            f"shape {values.shape}{count}",
            (
                "Give each image one integer, as from `labels.ravel()` or "
                "`one_hot.argmax(axis=-1)`."
            ),
        )
    elif values.dtype.kind not in "iu":
        received = f"dtype {values.dtype}"
        remedy = "Number the classes 0, 1, 2, …, as integers."
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


def checked_data(data, image_shape, num_classes: int | None = None) -> Any:
    """Looks at the images in what a user passes to `fit`, and at labels.

    Arrays are checked whole, datasets and generators on their first batch;
    labels only where `num_classes` is given. Returns the same data. For a
    generator, which can be read only once, that is a new one that still
    begins with the batch that was looked at.
    """
    if isinstance(data, tf.distribute.DistributedDataset):
        return data  # Its batches lie on other devices already.
    if hasattr(data, "__next__"):
        first = next(data, None)
        _check_batch(first, image_shape, num_classes)
        return _rejoined(first, data)
    is_array = hasattr(data, "__array__") or isinstance(data, (tuple, list))
    if isinstance(data, keras.utils.PyDataset):
        batch = data[0]
    elif hasattr(data, "__iter__") and not is_array:
        batch = _first_batch(data)
    else:
        batch = data
    _check_batch(batch, image_shape, num_classes)
    all_labels = getattr(data, "all_labels", None)  # of an `image_dataset`
    if num_classes is not None and all_labels is not None:
        check_labels(all_labels, num_classes, None)
    return data


def _first_batch(data):
    peeking.set()
    try:
        return next(iter(data), None)
    finally:
        peeking.clear()


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


# === Networks ===


def matching_shapes(
    encoder, decoder, is_posterior=True, to_means=None, num_classes=None
) -> tuple[tuple, tuple]:
    """Returns the shapes of an image and of a latent, or says what differs.

    Args:
        encoder, decoder: Keras models, images to latents to logits.
        is_posterior: whether the encoder has to return two tensors, z_mean
            and z_log_var. If not, its first output is the latent.
        to_means: a layer from the decoder's outputs to pixel means; `None`
            where they have the same shape.
        num_classes: the width of the one-hot labels that both networks take
            as their second input, if they do.
    """
    image_shape = _input_shape(encoder, num_classes)
    outputs = encoder(_symbolic(image_shape, num_classes))
    shapes = _shapes(outputs)
    is_pair = isinstance(outputs, (list, tuple)) and len(shapes) == 2
    if is_posterior and not (is_pair and shapes[0] == shapes[1]):
        raise ValueError(
            "Expected `encoder` to return [z_mean, z_log_var], two tensors "
            f"of one shape. Received: tensors of shapes {shapes}. Give it "
            "one output layer for each of the two."
        )
    latent_shape = shapes[0]
    _check_decoder(
        decoder, latent_shape, image_shape, "encoder", to_means, num_classes
    )
    return image_shape, latent_shape


def matching_shapes_of_gan(decoder, discriminator) -> tuple[tuple, tuple]:
    """As `matching_shapes`, for a decoder and what tells its images apart."""
    image_shape = _input_shape(discriminator)
    latent_shape = _input_shape(decoder)
    _check_decoder(decoder, latent_shape, image_shape, "discriminator")
    shapes = _shapes(discriminator(_symbolic(image_shape)))
    if shapes[0] != (1,):
        raise ValueError(
            "Expected `discriminator` to return one logit for each image, "
            f"shape (1,). Received: {shapes[0]}. End it with "
            "`keras.layers.Dense(1)`, or use an encoder with `latent_dim=1`."
        )
    return image_shape, latent_shape


def number_of_classes(encoder) -> int:
    """Returns the width of the one-hot labels, an encoder's second input."""
    shapes = _input_shapes(encoder)
    if len(shapes) != 2 or len(shapes[1]) != 1:
        raise ValueError(
            f"Expected {encoder.name!r} to take images and one-hot labels "
            f"(num_classes,). Received: a network of inputs of shapes {shapes}"
            ". Build it with `num_classes`, or use `VAE` without labels."
        )
    return shapes[1][0]


def _check_decoder(
    decoder, latent_shape, image_shape, reader, to_means=None, num_classes=None
) -> None:
    """Raises an error unless latents become what `reader` takes as images."""
    if None in image_shape or None in latent_shape:
        raise ValueError(
            "Expected fixed image and latent shapes. Received: images "
            f"{image_shape} and latents {latent_shape}. Fix the sizes in "
            "the networks' `keras.Input`."
        )
    try:
        outputs = decoder(_symbolic(latent_shape, num_classes))
    except ValueError as error:
        raise ValueError(
            "Expected `decoder` to take the latents that `encoder` gives, "
            f"shape {latent_shape}. Received: a decoder that takes shape "
            f"{_input_shape(decoder, num_classes)}. Use the same "
            "`latent_dim` for both."
        ) from error
    means = outputs if to_means is None else to_means(outputs)
    decoded_shape = tuple(means.shape[1:])
    if decoded_shape != image_shape:
        raise ValueError(
            "Expected `decoder` to return logits of the shape of the images "
            f"that `{reader}` takes, {image_shape}. Received: "
            f"{decoded_shape}. Use the same `image_shape` for both."
        )


def _shapes(outputs) -> list[tuple]:
    """The shapes of one tensor or of several, without the batch."""
    return [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]


def _symbolic(shape, num_classes=None):
    """A symbolic batch of this shape, and one-hot labels if there are any."""
    batch = keras.KerasTensor((None, *shape))
    if num_classes is None:
        return batch
    return [batch, keras.KerasTensor((None, num_classes))]


def _input_shapes(network) -> list[tuple]:
    """The shapes of a network's inputs, without the batch."""
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            "Expected a network that knows its input shape. Received: "
            f"{network.name!r}, which is not built. Call it once on a batch "
            "first, or use `network.build((None, …))`."
        )
    is_single = shape[0] is None or isinstance(shape[0], int)
    return [tuple(s[1:]) for s in ([shape] if is_single else shape)]


def _input_shape(network, num_classes=None) -> tuple:
    """The shape of a network's images or latents, without the batch."""
    shapes = _input_shapes(network)
    labels = [] if num_classes is None else [(num_classes,)]
    if shapes[1:] != labels:
        expected = "one input, images or latents"
        remedy = "For networks that take labels, use `ConditionalVAE`."
        if labels:
            expected += f", and a second, one-hot labels {labels[0]}"
            remedy = f"Build it with `num_classes={num_classes}`."
        raise ValueError(
            f"Expected {network.name!r} to take {expected}. Received: a "
            f"network of inputs of shapes {shapes}. {remedy}"
        )
    return shapes[0]
