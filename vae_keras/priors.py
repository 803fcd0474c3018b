"""The priors p(z): how latents are distributed before an image is seen.

A prior that is learned comes to meet the aggregate posterior, the mixture of
q(z|x) over images, and so leaves fewer holes that decode to nothing.
"""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from vae_keras._checks import integer_seed, positive_integer
from vae_keras.losses import gaussian_kl, sum_per_example

_LOG_2_PI = math.log(2 * math.pi)


class Prior(keras.layers.Layer):
    """What all priors are: a base class for your own.

    A subclass writes `log_prob(z)`, which returns log p(z) as float32
    `(batch,)`, in nats, and `sample(num_samples, seed=None)`, which returns
    float32 `(num_samples, *latent_shape)`. Parameters that are learned are
    weights, made in `build(input_shape)`, which a `VAE` calls with the
    shape of a latent. To save models with it, use
    `keras.saving.register_keras_serializable`.

    Attributes:
        latent_shape: the shape of one latent, once the prior is built.

    Example:
    >>> import vae_keras
    >>> from keras import ops
    >>> class Laplace(vae_keras.priors.Prior):
    ...     def log_prob(self, z):
    ...         return -ops.sum(ops.abs(z) + ops.log(2.0), axis=1)
    ...
    ...     def sample(self, num_samples, seed=None):
    ...         shape = (num_samples, *self.latent_shape)
    ...         u = keras.random.uniform(shape, -1.0, 1.0, seed=seed)
    ...         return -ops.sign(u) * ops.log1p(-ops.abs(u))
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ...     prior=Laplace(),
    ... )
    """

    # Whether p(z) is N(0, I), so that its KL is a sum over dimensions.
    is_standard_normal = False

    def __init__(self, **kwargs):
        # Densities are float32, whatever the policy.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.latent_shape: Any = None

    def log_prob(self, z):
        raise NotImplementedError

    def sample(self, num_samples, seed=None):
        raise NotImplementedError

    def kl(self, z, z_mean, z_log_var):
        """Estimates KL(q(z|x) ‖ p(z)) by log q(z|x) − log p(z), one draw z.

        Args:
            z: draws from q(z|x), `(batch, *latent_shape)`.
            z_mean: their means.
            z_log_var: the logarithms of their variances.

        Returns:
            float32 `(batch,)`, in nats; of one draw, it may be negative.
        """
        z = ops.cast(z, "float32")
        return gaussian_log_prob(z, z_mean, z_log_var) - self.log_prob(z)

    def call(self, z):
        return self.log_prob(z)

    def get_config(self) -> dict:
        config = super().get_config()
        return {key: config[key] for key in config if key != "dtype"}

    def build_from_config(self, config: dict) -> None:
        """Does nothing: the model that has the prior builds it."""

    def _connect(self, vae) -> None:
        """Builds the prior for the latents of a model."""
        if self.latent_shape is not None:
            raise ValueError(
                "Expected a prior of its own for each model. Received: a "
                f"{type(self).__name__} that another model has. Make a new "
                "one."
            )
        self.latent_shape = vae.latent_shape
        self.build(vae.latent_shape)


def gaussian_log_prob(z, z_mean, z_log_var):
    """Log-density of a Gaussian with diagonal covariance.

    Args:
        z: latents, `(batch, …)`.
        z_mean: means, of the same shape, or one that broadcasts to it.
        z_log_var: the logarithms of the variances, as `z_mean`.

    Returns:
        float32 `(batch,)`, in nats: a sum over all axes but the first.

    Example:
    >>> import numpy as np
    >>> from vae_keras.priors import gaussian_log_prob
    >>> z = np.zeros((1, 2), "float32")
    >>> round(float(gaussian_log_prob(z, z, z)[0]), 4)
    -1.8379
    """
    z_mean = ops.cast(z_mean, "float32")
    z_log_var = ops.cast(z_log_var, "float32")
    square = ops.square(z - z_mean) * ops.exp(-z_log_var)
    return -0.5 * sum_per_example(square + z_log_var + _LOG_2_PI)


@keras.saving.register_keras_serializable(package="vae_keras")
class StandardNormal(Prior):
    """N(0, I): nothing is learned, and the KL has a closed form.

    Example:
    >>> import numpy as np
    >>> from vae_keras.priors import StandardNormal
    >>> round(float(StandardNormal().log_prob(np.zeros((1, 2)))[0]), 4)
    -1.8379
    """

    is_standard_normal = True

    def log_prob(self, z):
        z = ops.cast(z, "float32")
        return -0.5 * sum_per_example(ops.square(z) + _LOG_2_PI)

    def sample(self, num_samples, seed=None):
        shape = (num_samples, *self.latent_shape)
        return keras.random.normal(shape, seed=integer_seed(seed))

    def kl(self, z, z_mean, z_log_var):
        """Returns KL(q(z|x) ‖ N(0, I)), exactly: z is not looked at."""
        return gaussian_kl(z_mean, z_log_var)


class _Mixture(Prior):
    """Mixtures of diagonal Gaussians, whose parameters a subclass gives.

    log p(z) = log Σₖ wₖ N(z; μₖ, σₖ²)
    """

    def components(self) -> tuple:
        """Logits `(k,)` of the weights, means and log-variances `(k, d)`."""
        raise NotImplementedError

    def log_prob(self, z):
        size = math.prod(self.latent_shape)
        z = ops.reshape(ops.cast(z, "float32"), (-1, size))
        logits, mean, log_var = self.components()
        precision = ops.exp(-log_var)
        # −½ Σ (z − μ)² / σ², multiplied out: two matrix products.
        square = (
            ops.matmul(ops.square(z), ops.transpose(precision))
            - 2 * ops.matmul(z, ops.transpose(mean * precision))
            + ops.sum(ops.square(mean) * precision, axis=1)
        )
        log_prob = -0.5 * (square + ops.sum(log_var + _LOG_2_PI, axis=1))
        return ops.logsumexp(log_prob + ops.log_softmax(logits), axis=1)

    def sample(self, num_samples, seed=None):
        generator = keras.random.SeedGenerator(integer_seed(seed))
        logits, mean, log_var = self.components()
        k = keras.random.categorical(logits[None], num_samples, seed=generator)
        mean, log_var = ops.take(mean, k[0], 0), ops.take(log_var, k[0], 0)
        epsilon = keras.random.normal(ops.shape(mean), seed=generator)
        z = mean + ops.exp(0.5 * log_var) * epsilon
        return ops.reshape(z, (num_samples, *self.latent_shape))


@keras.saving.register_keras_serializable(package="vae_keras")
class Mixture(_Mixture):
    """A mixture of Gaussians that is learned along with the networks.

        p(z) = Σₖ wₖ N(z; μₖ, diag σₖ²)

    Weights w, means μ and variances σ² are learned. At the start the weights
    are equal, the variances 1, and the means draws from N(0, I).

    Args:
        num_components: the number of Gaussians.
        seed: int or `None`, the seed of the first means.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ...     prior=vae_keras.priors.Mixture(10),
    ... )
    >>> tuple(vae.prior.sample(3, seed=0).shape)
    (3, 2)
    """

    def __init__(self, num_components: int = 50, seed=None, **kwargs):
        super().__init__(**kwargs)
        number = positive_integer("num_components", num_components)
        self.num_components, self.seed = number, integer_seed(seed)

    def build(self, input_shape):
        shape = (self.num_components, math.prod(input_shape))
        normal = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        self._logits = self.add_weight(
            shape=shape[:1], initializer="zeros", name="logits"
        )
        self._mean = self.add_weight(
            shape=shape, initializer=normal, name="mean"
        )
        self._log_var = self.add_weight(
            shape=shape, initializer="zeros", name="log_var"
        )

    def components(self) -> tuple:
        return (
            ops.convert_to_tensor(self._logits),
            ops.convert_to_tensor(self._mean),
            ops.convert_to_tensor(self._log_var),
        )

    def get_config(self) -> dict:
        own = {"num_components": self.num_components, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="vae_keras")
class VampPrior(_Mixture):
    """A mixture of the posteriors of inputs that are learned.

        p(z) = Σₖ wₖ q(z|uₖ)

    The inputs u are images in [0, 1], and the encoder turns them into
    Gaussians: so the prior moves with the posterior. In a `ConditionalVAE`
    each has a learned class too, a point between one-hot labels.

    Args:
        num_inputs: the number of inputs u.
        seed: int or `None`, the seed of the first inputs.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ...     prior=vae_keras.priors.VampPrior(20),
    ... )
    >>> vae.prior.inputs.shape
    TensorShape([20, 28, 28, 1])

    Reference:
        Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018,
        arXiv:1705.07120.
    """

    def __init__(self, num_inputs: int = 500, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.num_inputs = positive_integer("num_inputs", num_inputs)
        self.seed = integer_seed(seed)
        self._encode: Any = None

    def _connect(self, vae) -> None:
        self._image_shape, self._num_classes = vae.image_shape, vae.num_classes
        super()._connect(vae)
        # A function: as an attribute the encoder would be saved twice.
        encoder = vae.encoder
        self._encode = lambda inputs: encoder(inputs, training=False)

    def build(self, input_shape):
        # Means of −3 in logits: nearly black, as most of a digit is.
        start = keras.initializers.RandomNormal(-3.0, 2.0, seed=self.seed)
        self._pixels = self.add_weight(
            shape=(self.num_inputs, *self._image_shape),
            initializer=start,
            name="pixels",
        )
        self._logits = self.add_weight(
            shape=(self.num_inputs,), initializer="zeros", name="logits"
        )
        if self._num_classes is not None:
            self._classes = self.add_weight(
                shape=(self.num_inputs, self._num_classes),
                initializer=keras.initializers.RandomNormal(seed=self.seed),
                name="classes",
            )

    @property
    def inputs(self) -> tf.Tensor:
        """The inputs u as images in [0, 1], `(num_inputs, *image_shape)`."""
        return ops.sigmoid(self._pixels)

    def components(self) -> tuple:
        inputs = self.inputs
        if self._num_classes is not None:
            inputs = inputs, ops.softmax(self._classes)
        flat = [
            ops.reshape(ops.cast(values, "float32"), (self.num_inputs, -1))
            for values in self._encode(inputs)
        ]
        return ops.convert_to_tensor(self._logits), *flat

    def get_config(self) -> dict:
        own = {"num_inputs": self.num_inputs, "seed": self.seed}
        return {**super().get_config(), **own}


_BY_NAME: dict[str, type[Prior]] = {
    "standard_normal": StandardNormal,
    "mixture": Mixture,
    "vamp": VampPrior,
}


def get(prior) -> Prior:
    """Returns the `Prior` that a name means.

    Args:
        prior: a name, or a `Prior`, which is returned.
    """
    if isinstance(prior, str) and prior in _BY_NAME:
        prior = _BY_NAME[prior]()
    if not isinstance(prior, Prior):
        raise ValueError(
            f"Expected `prior` to be one of {list(_BY_NAME)}, or a "
            "`vae_keras.priors.Prior`. Received: "
            f"prior={prior!r}. For another distribution, make a subclass of "
            "`Prior` and pass an object of it."
        )
    return prior
