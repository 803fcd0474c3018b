"""The judge: a small DCNN that recognises digits, and its trained weights.

`benchmarks/judge.py` makes the weights, which are part of the package.
"""

import pathlib
from collections.abc import Sequence

import keras

from vae_keras.checks import positive_integers

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
