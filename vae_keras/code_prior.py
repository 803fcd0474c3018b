"""The prior of maps of codes: a gated PixelCNN, read as one reads a page."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from vae_keras._checks import (
    check_codes,
    check_labels,
    integer_seed,
    positive_integer,
    positive_integers,
    positive_number,
)
from vae_keras._training import OwnLossModel, is_symbolic, weighted
from vae_keras.losses import sum_per_example

_CHANNELS_LAST: dict[str, Any] = {"data_format": "channels_last"}
# The least that a uniform number may be, so that its logarithm is finite.
_TINY = float(np.finfo("float32").tiny)


@keras.saving.register_keras_serializable(package="vae_keras")
class CodePrior(OwnLossModel):
    """The prior of maps of codes: a gated PixelCNN.

    It reads a map row by row, as one reads a page, and gives each place a
    distribution over the codes given all that come before it:

        log p(z) = Σᵢⱼ log p(zᵢⱼ | rows above i, row i to the left of j)

    Two stacks of convolutions see these: the vertical stack all rows above,
    the horizontal stack the row to the left and what the vertical has seen.
    Between them no place before is missed, and none after is seen. Training
    minimises −log p(z). Before it all codes are equally probable.

    Args:
        map_shape: `(height, width)` of the maps.
        num_codes: K; codes are integers from 0 to K − 1.
        num_classes: of a prior p(z|y), the number of classes; labels are
            then needed wherever codes are.
        filters: the channels of each stack.
        num_layers: the layers of each stack. With n of them a place sees
            n + 1 rows up, there n columns to each side, and n + 1 places
            to its left.
        context: what a place may see: `"both"`, `"vertical"`,
            `"horizontal"`, or `"none"`, but for where it is.
        **kwargs: keyword arguments of `keras.Model`.

    `fit` and `evaluate` take codes, or codes and labels, in any form in
    which a `VAE` takes images; `predict` gives logits. The metric is `loss`,
    in nats per map. All that is in an array is checked, of anything else
    the first batch: other codes than those are a `ValueError`. It computes
    in float32, whatever the dtype policy.

    Example:
    >>> import numpy as np
    >>> from vae_keras.code_prior import CodePrior
    >>> codes = np.tile(np.arange(4), (32, 4, 1))
    >>> prior = CodePrior((4, 4), num_codes=4, filters=8)
    >>> prior.compile("adam")
    >>> history = prior.fit(codes, verbose=0)
    >>> tuple(prior.sample(3, seed=0).shape)
    (3, 4, 4)

    Reference:
        van den Oord et al., "Conditional Image Generation with PixelCNN
        Decoders", NeurIPS 2016, arXiv:1606.05328.
    """

    _fixed = (*OwnLossModel._fixed, "map_shape", "num_codes", "context")
    _fixed += ("filters", "num_layers", "network")

    def __init__(
        self,
        map_shape: Sequence[int],
        num_codes: int,
        num_classes: int | None = None,
        filters: int = 32,
        num_layers: int = 4,
        context: str = "both",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.map_shape = positive_integers("map_shape", map_shape)
        if len(self.map_shape) != 2:
            raise ValueError(
                "Expected `map_shape` to be (height, width). Received: "
                f"map_shape={self.map_shape}. It is a model's `latent_shape`."
            )
        if context not in ("both", "vertical", "horizontal", "none"):
            raise ValueError(
                'Expected `context` to be "both", "vertical", "horizontal" '
                f'or "none". Received: context={context!r}. "both" is the '
                "whole prior."
            )
        self.num_codes = positive_integer("num_codes", num_codes)
        self.filters = positive_integer("filters", filters)
        self.num_layers = positive_integer("num_layers", num_layers)
        self.context = context
        if num_classes is not None:
            self.num_classes = positive_integer("num_classes", num_classes)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")  # Densities are exact.
        try:
            self.network = self._new_network()
        finally:
            keras.config.set_dtype_policy(policy)
        self._sampler: Any = None
        self._add_metrics("loss")
        self.built = True

    def _new_network(self) -> keras.Model:
        codes = keras.Input(self.map_shape, dtype="int32", name="codes")
        inputs: Any = codes
        of_class = None
        if self.num_classes is not None:
            labels = keras.Input((), dtype="int32", name="labels")
            inputs = [codes, labels]
            of_class = keras.layers.Embedding(
                self.num_classes, 2 * self.filters
            )(labels)
            of_class = keras.layers.Reshape((1, 1, 2 * self.filters))(of_class)
        h = keras.layers.Embedding(self.num_codes, self.filters)(codes)
        above = _shifted(h, rows=1)
        left = _shifted(h, columns=1)
        if self.context in ("horizontal", "none"):
            above = keras.layers.Rescaling(0.0)(above)
        if self.context in ("vertical", "none"):
            left = keras.layers.Rescaling(0.0)(left)
        vertical, horizontal = _PlaceBias()(above), _PlaceBias()(left)
        for _ in range(self.num_layers):
            # Rows i − 1 and i of what is shifted down: those above row i.
            seen = _convolved(vertical, 2 * self.filters, (2, 3))
            both = keras.layers.Add()(
                [
                    _convolved(horizontal, 2 * self.filters, (1, 2)),
                    keras.layers.Dense(2 * self.filters)(seen),
                ]
            )
            vertical = keras.layers.Add()([vertical, _gated(seen, of_class)])
            update = keras.layers.Dense(self.filters)(_gated(both, of_class))
            horizontal = keras.layers.Add()([horizontal, update])
        h = keras.layers.Activation("silu")(horizontal)
        h = keras.layers.Dense(2 * self.filters, activation="silu")(h)
        logits = keras.layers.Dense(
            self.num_codes, kernel_initializer="zeros", dtype="float32"
        )(h)
        return keras.Model(inputs, logits, name="network")

    @property
    def _x_shape(self) -> tuple:
        return self.map_shape

    def _check_x(self, x, in_pairs: bool = False) -> None:
        check_codes(x, self.map_shape, self.num_codes)

    def call(self, inputs, training=None) -> tf.Tensor:
        """Returns logits `(batch, height, width, num_codes)` of codes."""
        codes, labels, _ = keras.utils.unpack_x_y_sample_weight(inputs)
        return self._logits(codes, labels, training)

    def _logits(self, codes, labels, training: Any = False) -> tf.Tensor:
        if not is_symbolic(codes):
            num_codes = self.num_codes
            check_codes(codes, self.map_shape, num_codes, may_be_empty=True)
            if self.num_classes is not None:
                check_labels(labels, self.num_classes, len(codes))
        inputs = tf.cast(codes, tf.int32)
        if self.num_classes is not None:
            inputs = [inputs, tf.cast(labels, tf.int32)]
        return self.network(inputs, training=training)

    def compute_output_shape(self, input_shape):
        batch = keras.tree.flatten(input_shape)[0]
        return (batch, *self.map_shape, self.num_codes)

    def nll(self, codes, labels=None, training: bool = False) -> tf.Tensor:
        """Returns −log p of each code, given those before it.

        Args:
            codes: integers `(batch, *map_shape)`.
            labels: of a prior that has classes, integers `(batch,)`.
            training: passed to the network's layers.

        Returns:
            float32 `(batch, *map_shape)`, in nats.
        """
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.cast(codes, tf.int32), self._logits(codes, labels, training)
        )

    def sample(
        self,
        num_samples: int,
        *,
        labels=None,
        temperature: float = 1.0,
        seed=None,
    ) -> tf.Tensor:
        """Draws maps of codes, place by place.

        Args:
            num_samples: how many.
            labels: of a prior that has classes, integers `(num_samples,)`.
            temperature: what logits are divided by. At 1 the draws are the
                prior's own; below 1 improbable codes become rarer still,
                and maps less varied.
            seed: int, to get the same maps again; `None` draws new ones.

        Returns:
            int32 `(num_samples, *map_shape)`.

        Raises:
            ValueError: if the temperature is not positive, or labels are
                missing or do not fit.
        """
        temperature = positive_number(
            "temperature", temperature, "1.0 for draws from the prior itself"
        )
        if self.num_classes is not None:
            check_labels(labels, self.num_classes, num_samples)
        else:
            labels = np.zeros(num_samples, "int32")
        if num_samples != 0:
            num_samples = positive_integer("num_samples", num_samples)
        seed = integer_seed(seed)
        if seed is None:
            seed = int(keras.random.randint((), 0, 2**31 - 1))
        if self._sampler is None:
            self._sampler = tf.function(
                self._sampled,
                autograph=False,
                jit_compile=False,
                input_signature=[
                    tf.TensorSpec((None,), tf.int32),
                    tf.TensorSpec((2,), tf.int32),
                    tf.TensorSpec((), tf.float32),
                ],
            ).get_concrete_function()
        root: Any = tf.random.fold_in(tf.constant([0, 0]), seed)
        classes: Any = labels
        return self._sampler(
            tf.cast(classes, tf.int32),
            tf.cast(root, tf.int32),
            # Hotter than this is no more uniform, and too much for float32.
            tf.constant(min(temperature, 1e30), tf.float32),
        )

    def _sampled(self, labels, seed, temperature) -> tf.Tensor:
        height, width = self.map_shape
        places = tf.reshape(tf.range(height * width), self.map_shape)

        def draw_one(place, codes):
            logits = self._logits(codes, labels)
            logits = logits[:, place // width, place % width]
            # The largest of log p + Gumbel noise is a draw from p. To scale
            # the noise is to divide the logits, and cannot overflow.
            key: Any = tf.random.fold_in(seed, place)
            uniform = tf.random.stateless_uniform(
                tf.shape(logits), key, minval=_TINY
            )
            noise = -tf.math.log(-tf.math.log(uniform))
            drawn = tf.argmax(
                logits + temperature * noise, axis=1, output_type=tf.int32
            )
            is_here = places == place
            return place + 1, tf.where(is_here, drawn[:, None, None], codes)

        _, codes = tf.while_loop(
            lambda place, codes: place < height * width,
            draw_one,
            (0, tf.zeros((tf.shape(labels)[0], height, width), tf.int32)),
            shape_invariants=(
                tf.TensorShape(()),
                tf.TensorShape((None, height, width)),
            ),
        )
        return codes

    # === Training ===

    def _map_nll(self, data, training: bool) -> tf.Tensor:
        codes, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(
            data
        )
        nll = sum_per_example(self.nll(codes, labels, training))
        return weighted(nll, sample_weight)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = self._map_nll(data, training=True)  # (batch,)
            losses += self._penalty()
            loss = tf.reduce_sum(losses) / self._batch_size(losses)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self._update_metrics(losses)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        losses = self._map_nll(data, training=False) + self._penalty()
        return self._update_metrics(losses)

    def get_config(self) -> dict:
        own = {
            "map_shape": self.map_shape,
            "num_codes": self.num_codes,
            "num_classes": self.num_classes,
            "filters": self.filters,
            "num_layers": self.num_layers,
            "context": self.context,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="vae_keras")
class _PlaceBias(keras.layers.Layer):
    """Adds to each place of a map a learned vector of its own."""

    def build(self, input_shape):
        self.bias = self.add_weight(
            # Not zero: where nothing is seen, nothing else would be there.
            shape=input_shape[1:],
            initializer="random_normal",
            name="bias",
        )

    def call(self, h):
        return h + self.bias


def _shifted(h, rows: int = 0, columns: int = 0):
    """A map moved down or to the right: what leaves it is lost."""
    padding = ((rows, 0), (columns, 0))
    h = keras.layers.ZeroPadding2D(padding, **_CHANNELS_LAST)(h)
    return keras.layers.Cropping2D(((0, rows), (0, columns)), **_CHANNELS_LAST)(
        h
    )


def _convolved(h, filters: int, kernel_size: tuple[int, int]):
    """A convolution that sees no row below; with one row, none to the right."""
    rows, columns = kernel_size
    side = columns // 2
    padding = ((rows - 1, 0), (side, side if rows > 1 else 0))
    h = keras.layers.ZeroPadding2D(padding, **_CHANNELS_LAST)(h)
    return keras.layers.Conv2D(filters, kernel_size, **_CHANNELS_LAST)(h)


def _gated(h, of_class):
    """Half of the channels, each let through by one of the other half."""
    if of_class is not None:
        h = keras.layers.Add()([h, of_class])
    return _Gate()(h)


@keras.saving.register_keras_serializable(package="vae_keras")
class _Gate(keras.layers.Layer):
    """Returns tanh(a) · sigmoid(b) of the halves a and b of the channels."""

    def call(self, h):
        a, b = ops.split(h, 2, axis=-1)
        return ops.tanh(a) * ops.sigmoid(b)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)
