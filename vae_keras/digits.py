"""A classifier of digits, its features, and the quality of drawn digits.

`benchmarks/digits.py` makes its weights, which are part of the package.
Images that are not floats in [0, 1] of shape `(n, 28, 28, 1)` are a
`ValueError`. `histogram` and `sample_quality` need the extra `evaluation`.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from vae_keras._checks import check_images, positive_integers
from vae_keras.sample_quality import (
    density_coverage,
    frechet_distance,
    precision_recall,
)

_WEIGHTS = pathlib.Path(__file__).with_name("digits.weights.h5")
_IMAGE_SHAPE = (28, 28, 1)


def build_classifier(filters: Sequence[int] = (16, 32, 64)) -> keras.Model:
    """Builds the classifier, untrained: convolution, pooling, dense layers.

    Args:
        filters: the channels of each convolution, first to last; each is
            followed by a pooling layer that halves height and width.

    Returns:
        A `keras.Model` from images `(batch, 28, 28, 1)` in [0, 1] to
        float32 logits `(batch, 10)`. Its layer `"features"` has width 64.

    Example:
    >>> from vae_keras.digits import build_classifier
    >>> build_classifier().count_params()
    60874
    """
    images = h = keras.Input(_IMAGE_SHAPE, name="images")
    for channels in positive_integers("filters", filters):
        convolution = keras.layers.Conv2D(
            channels,
            3,
            padding="same",
            activation="relu",
            data_format="channels_last",
        )
        h = keras.layers.MaxPooling2D(data_format="channels_last")(
            convolution(h)
        )
    h = keras.layers.Flatten(data_format="channels_last")(h)
    h = keras.layers.Dropout(0.4)(h)
    h = keras.layers.Dense(
        64, activation="relu", dtype="float32", name="features"
    )(h)
    logits = keras.layers.Dense(10, dtype="float32", name="logits")(h)
    return keras.Model(images, logits, name="classifier")


def load_classifier() -> keras.Model:
    """Loads the trained classifier; the weights are part of the package.

    Returns:
        As `build_classifier`, with weights that recognise 99.5 % of the
        10,000 test digits. `classifier.predict(images).argmax(1)` are
        digits.

    Example:
    >>> import vae_keras
    >>> images, labels = vae_keras.load_mnist("test[:100]")
    >>> classifier = vae_keras.digits.load_classifier()
    >>> predictions = classifier.predict(images, verbose=0)
    >>> bool((predictions.argmax(1) == labels).mean() > 0.9)
    True
    """
    classifier = build_classifier()
    classifier.load_weights(_WEIGHTS)
    return classifier


def features(images) -> np.ndarray:
    """Returns the classifier's features, by which images are compared.

    Args:
        images: images in [0, 1], `(n, 28, 28, 1)`.

    Returns:
        float32 `(n, 64)`.

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:8]")
    >>> vae_keras.digits.features(images).shape
    (8, 64)
    """
    return _features_and_probabilities(images)[0]


class DigitHistogram(NamedTuple):
    """What `histogram` returns.

    Attributes:
        shares: float64 `(10,)`, the share of each digit.
        evenness: entropy of the shares over log 10, from 0 (one digit
            only) to 1 (all ten equally frequent).
        confidence: mean probability of the most probable digit.
    """

    shares: np.ndarray
    evenness: float
    confidence: float


def histogram(images) -> DigitHistogram:
    """Tells how even and how sure the classifier finds a set of digits.

    Args:
        images: images in [0, 1], `(n, 28, 28, 1)`.

    Returns:
        A `DigitHistogram`.

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:1000]")
    >>> bool(vae_keras.digits.histogram(images).evenness > 0.99)
    True
    """
    return _histogram(_features_and_probabilities(images)[1])


class SampleQuality(NamedTuple):
    """What `sample_quality` returns: a row of a table.

    Attributes:
        frechet: Fréchet distance between the features, 0 is best.
        precision: share of the samples that lie among real images.
        recall: share of the real images that lie among samples.
        density: like precision, but counts how many real images each
            sample lies near; 1 is expected of real images.
        coverage: share of the real images with a sample nearby.
        evenness, confidence: as in `DigitHistogram`.
    """

    frechet: float
    precision: float
    recall: float
    density: float
    coverage: float
    evenness: float
    confidence: float


def sample_quality(real_images, images) -> SampleQuality:
    """Compares images of digits with real ones, by the classifier.

    Args:
        real_images: real digits in [0, 1], `(n, 28, 28, 1)`.
        images: the images to compare, `(m, 28, 28, 1)`. Take m = n, and the
            same n wherever numbers are compared: all but `confidence`
            and `evenness` depend on it.

    Returns:
        A `SampleQuality`. It takes more images than features (64).

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:2000]")
    >>> row = vae_keras.digits.sample_quality(images[:1000], images[1000:])
    >>> bool(row.precision > 0.5)
    True
    """
    real, _ = _features_and_probabilities(real_images)
    drawn, probabilities = _features_and_probabilities(images)
    return SampleQuality(
        frechet_distance(real, drawn),
        *precision_recall(real, drawn),
        *density_coverage(real, drawn),
        *_histogram(probabilities)[1:],
    )


def _histogram(probabilities: np.ndarray) -> DigitHistogram:
    from scipy.stats import entropy

    counts = np.bincount(probabilities.argmax(axis=1), minlength=10)
    return DigitHistogram(
        shares=counts / counts.sum(),
        evenness=float(entropy(counts, base=10)),
        confidence=float(probabilities.max(axis=1).mean()),
    )


def _features_and_probabilities(images) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier makes of each image."""
    check_images(images, _IMAGE_SHAPE)
    features, logits = _classifier_with_features().predict(
        images, batch_size=500, verbose=0
    )
    return features, np.asarray(keras.ops.softmax(logits))


@functools.cache
def _classifier_with_features() -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # whoever calls first
    try:
        classifier = load_classifier()
    finally:
        keras.config.set_dtype_policy(policy)
    outputs = [classifier.get_layer("features").output, classifier.output]
    return keras.Model(classifier.input, outputs)
