"""The judge: a small DCNN that recognises digits, and its trained weights.

`benchmarks/judge.py` makes the weights, which are part of the package.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from vae_keras.checks import check_images, positive_integers

WEIGHTS = pathlib.Path(__file__).with_name("judge.weights.h5")
IMAGE_SHAPE = (28, 28, 1)


def build_judge(filters: Sequence[int] = (16, 32, 64)) -> keras.Model:
    """Builds the classifier, untrained: convolution, pooling, dense layers.

    Args:
        filters: the channels of each convolution, first to last; each is
            followed by a pooling layer that halves height and width.

    Returns:
        A `keras.Model` from images `(batch, 28, 28, 1)` in [0, 1] to
        float32 logits `(batch, 10)`. Its layer `"features"` has width 64.

    Raises:
        ValueError: if `filters` are not positive integers.

    Example:
    >>> from vae_keras.judge import build_judge
    >>> build_judge().count_params()
    60874

    Reference:
        LeCun et al., "Gradient-Based Learning Applied to Document
        Recognition", Proceedings of the IEEE, 1998.
    """
    filters = positive_integers("filters", filters)
    images = keras.Input(IMAGE_SHAPE, name="images")
    h = images
    for channels in filters:
        h = keras.layers.Conv2D(channels, 3, padding="same", activation="relu")(
            h
        )
        h = keras.layers.MaxPooling2D()(h)
    h = keras.layers.Flatten()(h)
    h = keras.layers.Dropout(0.4)(h)
    h = keras.layers.Dense(
        64, activation="relu", dtype="float32", name="features"
    )(h)
    logits = keras.layers.Dense(10, dtype="float32", name="logits")(h)
    return keras.Model(images, logits, name="judge")


def load_judge() -> keras.Model:
    """Loads the trained judge; the weights are part of the package.

    Returns:
        As `build_judge`, with the weights that recognise 99.5 % of the
        10,000 test digits. `judge.predict(images).argmax(1)` are digits;
        `keras.Model(judge.input, judge.get_layer("features").output)`
        gives the 64 features by which samples are compared.

    Example:
    >>> import vae_keras
    >>> images, labels = vae_keras.load_mnist("test[:100]")
    >>> predictions = vae_keras.load_judge().predict(images, verbose=0)
    >>> bool((predictions.argmax(1) == labels).mean() > 0.9)
    True

    Reference:
        LeCun et al., "Gradient-Based Learning Applied to Document
        Recognition", Proceedings of the IEEE, 1998.
    """
    judge = build_judge()
    judge.load_weights(WEIGHTS)
    return judge


class DigitHistogram(NamedTuple):
    """What `digit_histogram` returns.

    Attributes:
        shares: float64 `(10,)`, the share of each digit.
        evenness: entropy of the shares over log 10, from 0 (one digit
            only) to 1 (all ten equally frequent).
        confidence: mean probability of the most probable digit.
    """

    shares: np.ndarray
    evenness: float
    confidence: float


def judge_features(images) -> np.ndarray:
    """Returns the judge's features of images, by which they are compared.

    Args:
        images: images in [0, 1], `(n, 28, 28, 1)`.

    Returns:
        float32 `(n, 64)`.

    Raises:
        ValueError: if the images are not of that shape and range.

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:8]")
    >>> vae_keras.judge_features(images).shape
    (8, 64)
    """
    return judged(images)[0]


def digit_histogram(images) -> DigitHistogram:
    """Tells how even and how sure the judge finds a set of digits.

    Needs the extra `evaluation`: SciPy.

    Args:
        images: images in [0, 1], `(n, 28, 28, 1)`.

    Returns:
        A `DigitHistogram`: `shares`, `evenness` and `confidence`.

    Raises:
        ValueError: if the images are not of that shape and range.

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:1000]")
    >>> bool(vae_keras.digit_histogram(images).evenness > 0.99)
    True
    """
    return histogram(judged(images)[1])


def histogram(probabilities: np.ndarray) -> DigitHistogram:
    """As `digit_histogram`, from the judge's probabilities `(n, 10)`."""
    from scipy.stats import entropy

    counts = np.bincount(probabilities.argmax(axis=1), minlength=10)
    return DigitHistogram(
        shares=counts / counts.sum(),
        evenness=float(entropy(counts, base=10)),
        confidence=float(probabilities.max(axis=1).mean()),
    )


def judged(images) -> tuple[np.ndarray, np.ndarray]:
    """Returns the judge's features and probabilities of each image."""
    check_images(images, IMAGE_SHAPE)
    features, logits = _judge_with_features().predict(
        images, batch_size=500, verbose=0
    )
    return features, np.asarray(keras.ops.softmax(logits))


@functools.cache
def _judge_with_features() -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # whoever calls first
    try:
        judge = load_judge()
    finally:
        keras.config.set_dtype_policy(policy)
    outputs = [judge.get_layer("features").output, judge.output]
    return keras.Model(judge.input, outputs)
