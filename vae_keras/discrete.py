"""The discrete VAE: latents are maps of codes, with a prior that reads them.

An image becomes a small map, and each place of it the number of one of K
learned vectors. A gated PixelCNN says how probable a map is: each place has
a distribution given the rows above it and the places to its left.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from vae_keras import likelihoods
from vae_keras._base import ImageModel
from vae_keras._checks import (
    check_codes,
    integer_seed,
    positive_integer,
)
from vae_keras._matching import matching_shapes
from vae_keras._training import is_symbolic, weighted
from vae_keras.code_prior import CodePrior
from vae_keras.losses import sum_per_example
from vae_keras.networks import Layout, image_to_map, map_to_logits

_CHANNELS_LAST: dict[str, Any] = {"data_format": "channels_last"}

# === Codes ===


@keras.saving.register_keras_serializable(package="vae_keras")
class Quantizer(keras.layers.Layer):
    """Replaces each vector of features by the nearest of K learned ones.

        k = argmin_j ‖f − e_j‖²,   z_q = e_k

    k is the code. A choice has no gradient: that of z_q is passed straight
    through to f, as if f had not been changed. The vectors e, the codebook,
    follow the features by a loss of their own, and the features keep near
    them by its second term, where sg stops the gradient:

        codebook_loss = ‖sg(f) − e_k‖² + commitment · ‖f − sg(e_k)‖²

    In training, codes whose share of the places has fallen below a twentieth
    of an even share are moved to features of the batch, drawn at random, as
    in Dhariwal et al.: after some sixty batches in which no feature chose
    them, and in the first batch at once.

    Args:
        num_codes: K, the size of the codebook.
        commitment: the weight of the second term.
        seed: int or `None`, the seed of the first vectors and of these
            draws.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        features: `(batch, …, dim)`.
        training: whether unused codes are moved.

    Returns:
        `(z_q, codes, codebook_loss)`: float32 `(batch, …, dim)`, int32
        `(batch, …)`, and float32 `(batch,)`, a sum over places.

    Attributes:
        codebook: the vectors e, a variable `(num_codes, dim)`.
        usage: the share of each code in the last twenty batches or so.
        commitment: as given.

    Example:
    >>> import numpy as np
    >>> from vae_keras.discrete import Quantizer
    >>> quantizer = Quantizer(num_codes=8, seed=0)
    >>> z_q, codes, _ = quantizer(np.zeros((2, 4, 4, 3), "float32"))
    >>> tuple(z_q.shape), tuple(codes.shape)
    ((2, 4, 4, 3), (2, 4, 4))

    References:
        van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete
        Representation Learning", NeurIPS 2017, arXiv:1711.00937. Dhariwal
        et al., "Jukebox", 2020, arXiv:2005.00341, for codes out of use.
    """

    def __init__(
        self,
        num_codes: int = 128,
        commitment: float = 0.25,
        seed: int | None = None,
        **kwargs,
    ):
        # Distances are float32, whatever the policy.
        kwargs.pop("dtype", None)
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.num_codes = positive_integer("num_codes", num_codes)
        is_number = isinstance(commitment, numbers.Real)
        if not (is_number and 0 <= commitment < math.inf):
            raise ValueError(
                "Expected `commitment` to be a finite number, zero or "
                f"greater. Received: commitment={commitment!r}. The paper "
                "has 0.25."
            )
        self._commitment = float(commitment)
        self.seed = integer_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(
            self.seed, name="seed_generator"
        )

    @property
    def commitment(self) -> float:
        """The weight of the second term; a compiled step has read it."""
        return self._commitment

    def build(self, input_shape):
        self.codebook = self.add_weight(
            shape=(self.num_codes, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(
                stddev=1.0, seed=self.seed
            ),
            aggregation="only_first_replica",
            name="codebook",
        )
        self.usage = self.add_weight(
            shape=(self.num_codes,),
            initializer="zeros",
            trainable=False,
            aggregation="mean",
            name="usage",
        )

    def call(self, features, training=False):
        features = ops.cast(features, "float32")
        squares = ops.sum(ops.square(self.codebook), axis=1)
        # ‖f − e‖² but for ‖f‖², which is the same for all codes.
        distances = squares - 2 * ops.matmul(
            features, ops.transpose(self.codebook)
        )
        # Keras's own `argmin` has an operation that ONNX lacks.
        codes: Any = tf.argmin(distances, axis=-1, output_type=tf.int32)
        vectors = self.vectors(codes)
        error = ops.square(ops.stop_gradient(features) - vectors)
        drift = ops.square(features - ops.stop_gradient(vectors))
        loss = sum_per_example(error + self.commitment * drift)
        if training:
            self._move_unused(features, codes)
        z_q = features + ops.stop_gradient(vectors - features)
        return z_q, codes, loss

    def vectors(self, codes):
        """Returns the vectors of codes, float32 `(…, dim)`."""
        return ops.take(self.codebook, codes, axis=0)

    def _move_unused(self, features, codes) -> None:
        share = ops.mean(
            ops.reshape(
                ops.one_hot(codes, self.num_codes), (-1, self.num_codes)
            ),
            axis=0,
        )
        # Without examples, as an empty shard of a batch, there is no mean.
        share = ops.where(ops.isfinite(share), share, self.usage)
        self.usage.assign(0.95 * self.usage + 0.05 * share)
        unused = self.usage < 0.05 / self.num_codes
        where = keras.random.uniform(
            (self.num_codes,), seed=self.seed_generator
        )

        def moved():
            flat = ops.reshape(features, (-1, features.shape[-1]))
            size = ops.cast(ops.shape(flat)[0], "float32")
            chosen = ops.cast(ops.floor(where * size), "int32")
            vectors = ops.take(flat, chosen, axis=0)
            return ops.where(unused[:, None], vectors, self.codebook)

        # A replica's share of a batch may be empty.
        has_any = ops.logical_and(ops.any(unused), ops.shape(features)[0] > 0)
        self.codebook.assign(
            ops.cond(
                has_any,
                moved,
                lambda: ops.convert_to_tensor(self.codebook),
            )
        )
        self.usage.assign(ops.where(unused, 1 / self.num_codes, self.usage))

    def compute_output_shape(self, input_shape):
        return input_shape, input_shape[:-1], input_shape[:1]

    def compute_output_spec(self, features, training=False):
        shapes = self.compute_output_shape(features.shape)
        dtypes = "float32", "int32", "float32"
        return tuple(map(keras.KerasTensor, shapes, dtypes))

    def get_config(self) -> dict:
        own = {
            "num_codes": self.num_codes,
            "commitment": self.commitment,
            "seed": self.seed,
        }
        config = {**super().get_config(), **own}
        return {key: config[key] for key in config if key != "dtype"}


@keras.saving.register_keras_serializable(package="vae_keras")
class Perplexity(keras.metrics.Metric):
    """How many codes are in use, counted by how often: exp of their entropy.

    From 1, if all places have one code, to `num_codes`, if all codes are
    equally frequent.

    Args:
        num_codes: the size of the codebook.
        name: the name of the metric.

    Example:
    >>> from vae_keras.discrete import Perplexity
    >>> perplexity = Perplexity(num_codes=8)
    >>> perplexity.update_state([[0, 1], [2, 3]])
    >>> round(float(perplexity.result()), 4)
    4.0
    """

    def __init__(self, num_codes: int, name: str = "perplexity"):
        super().__init__(name=name, dtype="float32")
        self.num_codes = positive_integer("num_codes", num_codes)
        self.counts = self.add_variable(
            (self.num_codes,), "zeros", name="counts"
        )

    def update_state(self, codes):
        codes = ops.reshape(ops.convert_to_tensor(codes), (-1,))
        counts = ops.sum(ops.one_hot(codes, self.num_codes), axis=0)
        self.counts.assign_add(counts)

    def result(self):
        share = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        # Of what is never seen, 0 log 0 = 0.
        return ops.exp(-ops.sum(share * ops.log(ops.maximum(share, 1e-30))))

    def get_config(self) -> dict:
        return {"num_codes": self.num_codes, "name": self.name}


# === The model ===


@keras.saving.register_keras_serializable(package="vae_keras")
class DiscreteVAE(ImageModel):
    """A VAE whose latents are maps of codes, a VQ-VAE.

    The posterior q(z|x) is one map, z(x): the encoder's features, each
    replaced by the number of the nearest vector of the codebook. Training
    minimises

        loss = reconstruction_loss + codebook_loss

    with −log p(x|z(x)) as the first term, and that of `Quantizer` as the
    second. Since the posterior is a point, KL(q(z|x) ‖ p(z)) is
    −log p(z(x)), and the two terms of −ELBO bound −log p(x):

        −log p(x) ≤ −log p(x|z(x)) − log p(z(x))
                  = reconstruction_loss + kl_loss

    Args:
        encoder: a Keras model, images `(batch, *image_shape)` to features
            `(batch, map_height, map_width, dim)`, as `discrete_encoder`.
        decoder: a Keras model, such features to the likelihood's
            parameters, as `discrete_decoder`.
        quantizer: a `Quantizer`, or the number of codes.
        seed: int or `None`, the seed of a quantizer that is made of a number.
        likelihood: p(x|z), as in `VAE`.
        prior: p(z), a `CodePrior`, or `None`: all maps are equally
            probable, which costs log K nats a place.
        **kwargs: keyword arguments of `keras.Model`.

    The prior is learned afterwards, by itself, from the codes of training
    images, and a second model of the same parts generates from it:

        prior = CodePrior(vae.latent_shape, vae.quantizer.num_codes)
        prior.compile("adam")
        prior.fit(vae.encode(images))
        vae = vae.with_prior(prior)

    To train the codes further is to change them: then fit the prior again.
    With a prior that has classes all this bounds −log p(x|y).

    `fit`, `evaluate` and `predict` take the same data as a `VAE`, and with a
    prior that has classes the same as a `ConditionalVAE`. The metrics are
    `loss`, `reconstruction_loss`, `codebook_loss` and `kl_loss`, means over
    examples in nats per image but for `codebook_loss`, and `perplexity`:
    how many codes are in use.

    Example:
    >>> import vae_keras
    >>> from vae_keras.discrete import discrete_decoder, discrete_encoder
    >>> vae = vae_keras.DiscreteVAE(
    ...     discrete_encoder((28, 28, 1)),
    ...     discrete_decoder((28, 28, 1)),
    ...     quantizer=128,
    ... )
    >>> vae.compile("adam")
    >>> images, _ = vae_keras.load_mnist("test[:64]")
    >>> codes = vae.encode(images)
    >>> tuple(codes.shape), codes.dtype
    ((64, 4, 4), tf.int32)

    References:
        van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete
        Representation Learning", NeurIPS 2017, arXiv:1711.00937.
    """

    _latent_dtype = "int32"
    # Only the prior looks at labels.
    _call_takes_labels = False

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        quantizer: Quantizer | int = 128,
        seed: int | None = None,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: CodePrior | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        if not isinstance(quantizer, Quantizer):
            quantizer = Quantizer(quantizer, seed=seed)
        self.quantizer = quantizer
        self.likelihood = likelihoods.get(likelihood)
        self.image_shape, feature_shape = matching_shapes(
            encoder, decoder, is_posterior=False, to_means=self.likelihood
        )
        if len(feature_shape) != 3:
            raise ValueError(
                "Expected `encoder` to return maps of features (height, "
                f"width, dim). Received: shape {feature_shape}. Build the "
                "networks with `vae_keras.discrete.discrete_encoder` and "
                "`discrete_decoder`."
            )
        width = feature_shape[-1]
        if quantizer.built and quantizer.codebook.shape[1] != width:
            raise ValueError(
                f"Expected `quantizer` to have vectors of the {width} numbers "
                "that `encoder` gives each place. Received: vectors of "
                f"{quantizer.codebook.shape[1]}. Use the same `dim`, or pass "
                "the number of codes."
            )
        self.quantizer(keras.KerasTensor((None, *feature_shape)))
        self.latent_shape = feature_shape[:2]
        self.prior = prior
        if prior is not None:
            self._check_prior(prior)
            self.num_classes = prior.num_classes
        self._add_metrics(
            "loss", "reconstruction_loss", "codebook_loss", "kl_loss"
        )
        self._perplexity = Perplexity(self.quantizer.num_codes)
        self.built = True

    def _check_prior(self, prior) -> None:
        kind = (*self.latent_shape, self.quantizer.num_codes)
        found = type(prior).__name__
        if isinstance(prior, CodePrior):
            if (*prior.map_shape, prior.num_codes) == kind:
                return
            found = f"one for maps {prior.map_shape} of {prior.num_codes} codes"
        raise ValueError(
            f"Expected `prior` to be a `CodePrior` for maps {kind[:2]} of "
            f"{kind[2]} codes. Received: {found}. Build it with `CodePrior("
            "vae.latent_shape, vae.quantizer.num_codes)`."
        )

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self._perplexity]

    @property
    def trainable_weights(self):
        """Without those of the prior, which learns from codes, by itself."""
        weights = super().trainable_weights
        if self.prior is None:
            return weights
        others = {id(weight) for weight in self.prior.weights}
        return [weight for weight in weights if id(weight) not in others]

    @property
    def trainable_variables(self):
        return self.trainable_weights

    @property
    def non_trainable_weights(self):
        others = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in others]

    def with_prior(self, prior: CodePrior) -> "DiscreteVAE":
        """Returns a model of the same parts, with this prior.

        It shares encoder, decoder and quantizer with this one, and is
        compiled if this one is.
        """
        model = type(self)(
            self.encoder,
            self.decoder,
            self.quantizer,
            likelihood=self.likelihood,
            prior=prior,
        )
        if self.compiled:
            model.compile_from_config(self.get_compile_config())
        return model

    # === Using the model ===

    def encode(self, x, labels=None) -> tf.Tensor:
        """Returns the codes of images: int32 `(batch, *latent_shape)`.

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.
            labels: ignored; only the prior looks at them.
        """
        x = self._eager_images(x)
        if is_symbolic(x):
            return self._quantized(x, training=False)[1]
        # In parts, since all images of a data set may come at once.
        parts = [x[i : i + 1000] for i in range(0, len(x), 1000)]
        codes = [self._quantized(part, training=False)[1] for part in parts]
        return tf.concat(codes, axis=0)

    def call(self, inputs, training=None) -> tf.Tensor:
        """Returns reconstructions."""
        x, *_ = keras.utils.unpack_x_y_sample_weight(inputs)
        z_q, *_ = self._quantized(x, training)
        return self.likelihood.mean(self.decoder(z_q, training=training))

    def _quantized(self, x, training) -> tuple:
        features = self.encoder(x, training=training)
        return self.quantizer(features, training=training)

    def _pixel_means(self, inputs, training) -> tf.Tensor:
        vectors = self.quantizer.vectors(inputs)
        return self.likelihood.mean(self.decoder(vectors, training=training))

    def _given(self, inputs, labels):
        return inputs  # The networks do not look at labels.

    def _check_z(self, z) -> None:
        if is_symbolic(z):
            super()._check_z(z)
        else:
            num_codes = self.quantizer.num_codes
            check_codes(z, self.latent_shape, num_codes, may_be_empty=True)

    def _draw_latents(self, num_images, seed, labels) -> tf.Tensor:
        if self.prior is not None:
            return self.prior.sample(num_images, labels=labels, seed=seed)
        shape = (num_images, *self.latent_shape)
        return keras.random.randint(
            shape, 0, self.quantizer.num_codes, seed=integer_seed(seed)
        )

    # === Training ===

    def code_nll(self, codes, labels=None) -> tf.Tensor:
        """Returns −log p(z) of maps of codes, place by place.

        Args:
            codes: integers `(batch, *latent_shape)`.
            labels: of a prior that has classes, integers `(batch,)`.

        Returns:
            float32 `(batch, *latent_shape)`, in nats: the sum over places
            is −log p(z).
        """
        if self.prior is not None:
            return self.prior.nll(codes, labels)
        log_k = math.log(self.quantizer.num_codes)
        return tf.fill(tf.shape(codes), tf.constant(log_k, tf.float32))

    def bound_terms(self, data, training: bool) -> tuple:
        """Returns the losses of each example of a batch, and its codes.

        Args:
            data, training: as in `VAE.elbo_terms`.

        Returns:
            `(reconstruction_loss, codebook_loss, kl_loss, codes)`: the
            first three float32 `(batch,)`, times the sample weight where
            there is one, codes int32 `(batch, *latent_shape)`.
        """
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        z_q, codes, codebook_loss = self._quantized(x, training)
        logits = self.decoder(z_q, training=training)
        reconstruction_loss = self.likelihood.nll(x, logits)
        kl_loss = sum_per_example(self.code_nll(codes, labels))
        return (
            weighted(reconstruction_loss, sample_weight),
            weighted(codebook_loss, sample_weight),
            weighted(kl_loss, sample_weight),
            codes,
        )

    def train_step(self, data) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            *terms, codes = self.bound_terms(data, training=True)
            reconstruction_loss, codebook_loss, _ = terms
            losses = reconstruction_loss + codebook_loss  # (batch,)
            losses += self._penalty()
            loss = tf.reduce_sum(losses) / self._batch_size(losses)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self._perplexity.update_state(codes)
        return self._update_metrics(losses, *terms)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        *terms, codes = self.bound_terms(data, training=False)
        losses = terms[0] + terms[1] + self._penalty()
        self._perplexity.update_state(codes)
        return self._update_metrics(losses, *terms)

    def get_config(self) -> dict:
        own = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "quantizer": self.quantizer,
            "likelihood": self.likelihood,
            "prior": self.prior,
        }
        own = keras.saving.serialize_keras_object(own)
        return {**super().get_config(), **own}


def discrete_encoder(
    image_shape: Sequence[int],
    dim: int = 16,
    filters: int = 32,
    depth: int = 3,
    num_blocks: int = 1,
) -> keras.Model:
    """Builds an encoder from images to maps of features.

    Args:
        image_shape, filters, depth, num_blocks: as in `conv_encoder`. The
            map is the image's size, halved `depth` times.
        dim: the size of each feature, and of the vectors of the codebook.

    Returns:
        A `keras.Model` from `(batch, *image_shape)` to float32 features
        `(batch, map_height, map_width, dim)`.

    Example:
    >>> from vae_keras.discrete import discrete_encoder
    >>> discrete_encoder((28, 28, 1)).output_shape
    (None, 4, 4, 16)
    """
    layout = Layout(image_shape, filters, depth, num_blocks)
    images = keras.Input(layout.image_shape, name="images")
    h = image_to_map(images, layout)
    features = keras.layers.Dense(
        positive_integer("dim", dim), dtype="float32", name="features"
    )
    normal = keras.layers.LayerNormalization(
        center=False, scale=False, dtype="float32"
    )
    return keras.Model(images, normal(features(h)), name="encoder")


def discrete_decoder(
    image_shape: Sequence[int],
    dim: int = 16,
    filters: int = 32,
    depth: int = 3,
    num_blocks: int = 1,
) -> keras.Model:
    """Builds a decoder from maps of features to logits.

    Convolutions only, as in `spatial_decoder`: a code acts on the image
    around its place.

    Args:
        image_shape, dim, filters, depth, num_blocks: as in
            `discrete_encoder`.

    Returns:
        A `keras.Model` from `(batch, map_height, map_width, dim)` to
        float32 logits `(batch, *image_shape)`.

    Example:
    >>> from vae_keras.discrete import discrete_decoder
    >>> discrete_decoder((28, 28, 1)).input_shape
    (None, 4, 4, 16)
    """
    dim = positive_integer("dim", dim)
    layout = Layout(image_shape, filters, depth, num_blocks)
    height, width, channels = layout.map_shape
    z_q = keras.Input((height, width, dim), name="z_q")
    h = keras.layers.Conv2D(channels, 3, padding="same", **_CHANNELS_LAST)(z_q)
    return keras.Model(z_q, map_to_logits(h, layout), name="decoder")
