"""The likelihoods p(x|z): how pixels are distributed, given the decoder.

A likelihood reads the decoder's outputs as its parameters. Bernoulli pixels
have a probability, all others a density: its nats may be negative, and
compare with those of other densities only.
"""

import math

import keras
from keras import ops

from vae_keras._checks import (
    positive_integer,
    positive_integers,
    positive_number,
)
from vae_keras.losses import bernoulli_nll, sum_per_example


class Likelihood(keras.layers.Layer):
    """What all likelihoods are: a base class for your own.

    A subclass writes `nll(x, outputs)`, which returns −log p(x|z) as
    float32 `(batch,)`, and `mean(outputs)`, which returns the means of the
    pixels as float32 `(batch, *image_shape)`. `outputs` is what the decoder
    returns. Parameters that are learned are weights of the layer. To save
    models with it, use `keras.saving.register_keras_serializable`.

    Example:
    >>> import vae_keras
    >>> from keras import ops
    >>> class Laplace(vae_keras.likelihoods.Likelihood):
    ...     def nll(self, x, outputs):
    ...         return ops.sum(ops.abs(x - outputs) + ops.log(2.0), (1, 2, 3))
    ...
    ...     def mean(self, outputs):
    ...         return outputs
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ...     likelihood=Laplace(),
    ... )
    """

    # Whether the decoder's outputs are logits, which have any sign.
    takes_logits = False

    def __init__(self, **kwargs):
        # Means and losses are float32, whatever the policy.
        super().__init__(autocast=False, **kwargs)
        # A subclass may have something to build.
        self.built = type(self).build is keras.layers.Layer.build

    def nll(self, x, outputs):
        raise NotImplementedError

    def mean(self, outputs):
        raise NotImplementedError

    def call(self, outputs):
        return self.mean(outputs)


@keras.saving.register_keras_serializable(package="vae_keras")
class Bernoulli(Likelihood):
    """Pixels that are 0 or 1: p(x = 1) = sigmoid(l), for a logit l.

    Of grey pixels, `bernoulli_nll` is the expected nats of pixels drawn
    from them, and no density: `ContinuousBernoulli` is one.

    Example:
    >>> import numpy as np
    >>> from vae_keras.likelihoods import Bernoulli
    >>> float(Bernoulli().mean(np.zeros(1))[0])
    0.5
    """

    takes_logits = True

    def nll(self, x, outputs):
        return bernoulli_nll(x, outputs)

    def mean(self, outputs):
        return ops.sigmoid(ops.cast(outputs, "float32"))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="vae_keras")
class ContinuousBernoulli(Likelihood):
    """Grey pixels: the density on [0, 1] that is proportional to exp(l x).

    With λ = sigmoid(l) this is λˣ (1 − λ)¹⁻ˣ, divided by its integral:

        −log p(x|z) = log ∫₀¹ exp(l t) dt − l x
                    = log((1 − exp(−|l|)) / |l|) + max(l, 0) − l x

    per pixel. The mean of x is ½ + ½ coth(l/2) − 1/l, and not λ. Both are
    finite for any l, and exact around l = 0, where x is uniform.

    Example:
    >>> import numpy as np
    >>> from vae_keras.likelihoods import ContinuousBernoulli
    >>> float(ContinuousBernoulli().nll(np.ones((1, 2)), np.zeros((1, 2)))[0])
    0.0

    Reference:
        Loaiza-Ganem and Cunningham, "The Continuous Bernoulli: Fixing a
        Pervasive Error in Variational Autoencoders", NeurIPS 2019,
        arXiv:1907.06845.
    """

    takes_logits = True

    def nll(self, x, outputs):
        x, logits = ops.cast(x, "float32"), ops.cast(outputs, "float32")
        is_near, near, far = _around_zero(logits)
        square, size = near * near, ops.abs(far)
        log_sinhc = square * (1 / 24 - square * (1 / 2880 - square / 181440))
        # Of large logits, no two terms that are large take each other away.
        away = size * ops.where(far > 0, 1 - x, x)
        nll = ops.where(
            is_near,
            log_sinhc + near * (0.5 - x),
            away + ops.log(-ops.expm1(-size)) - ops.log(size),
        )
        return sum_per_example(nll)

    def mean(self, outputs):
        is_near, near, far = _around_zero(ops.cast(outputs, "float32"))
        square = near * near
        return ops.where(
            is_near,
            0.5 + near * (1 / 12 - square * (1 / 720 - square / 30240)),
            0.5 + 0.5 / ops.tanh(far / 2) - 1 / far,
        )

    def compute_output_shape(self, input_shape):
        return input_shape


def _around_zero(logits):
    """Where logits are near 0, for a Taylor series; those near, those far.

    `near` is 0 elsewhere, and `far` is 1 where they are near, so that the
    formula that is not used has finite values and gradients.
    """
    is_near = ops.abs(logits) < 0.5
    near = ops.where(is_near, logits, 0.0)
    return is_near, near, ops.where(is_near, 1.0, logits)


@keras.saving.register_keras_serializable(package="vae_keras")
class Gaussian(Likelihood):
    """Pixels with Gaussian noise of one scale σ, which is learned.

        −log p(x|z) = ½ ((x − μ) / σ)² + log σ + ½ log 2π

    per pixel. The decoder's outputs are the means μ, which may leave
    [0, 1]. σ is shared by all pixels and images: training brings σ² to
    the mean squared error, and so finds by itself how much
    reconstructions weigh against the KL term. `trainable=False` fixes it.

    Args:
        initial_scale: σ before training, positive. With a large one the
            KL term outweighs reconstructions, and the posterior collapses.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Attributes:
        log_scale: log σ, a trainable weight.
        scale: σ. To set it sets the weight.

    Example:
    >>> import numpy as np
    >>> from vae_keras.likelihoods import Gaussian
    >>> nll = Gaussian(1.0).nll(np.zeros((1, 2)), np.zeros((1, 2)))
    >>> round(float(nll[0]), 4)  # log 2π
    1.8379

    Reference:
        Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training
        with Calibrated Decoders", ICML 2021, arXiv:2006.13202.
    """

    def __init__(self, initial_scale: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = positive_number(
            "initial_scale", initial_scale, _SCALE
        )
        self.log_scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(initial_scale)),
            dtype="float32",
            autocast=False,
            name="log_scale",
        )

    @property
    def scale(self) -> float:
        """σ, which may be set."""
        return float(ops.exp(self.log_scale))

    @scale.setter
    def scale(self, scale: float):
        self.log_scale.assign(math.log(positive_number("scale", scale, _SCALE)))

    def nll(self, x, outputs):
        difference = ops.cast(x, "float32") - self.mean(outputs)
        noise = difference * ops.exp(-self.log_scale)
        constant = self.log_scale + 0.5 * math.log(2 * math.pi)
        return sum_per_example(0.5 * ops.square(noise) + constant)

    def mean(self, outputs):
        return ops.cast(outputs, "float32")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_scale": self.initial_scale}


_SCALE = "0.1 for images in [0, 1]"  # the hint of an error

_BY_NAME = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
}


def get(likelihood) -> Likelihood:
    """Returns the `Likelihood` that a name means.

    Args:
        likelihood: a name, or a `Likelihood`, which is returned.
    """
    if isinstance(likelihood, str) and likelihood in _BY_NAME:
        likelihood = _BY_NAME[likelihood]()
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"Expected `likelihood` to be one of {list(_BY_NAME)}, or a "
            "`vae_keras.likelihoods.Likelihood`. Received: "
            f"likelihood={likelihood!r}. For another distribution, make a "
            "subclass of `Likelihood` and pass an object of it."
        )
    return likelihood


def bits_per_dimension(nll, image_shape, levels: int = 256):
    """Converts nats per image to the bits that each byte of it costs.

        bits = nll / (D log 2) + log₂ levels,   D = pixels · channels

    A density says nothing about bytes until noise has spread each of them
    over a cell of its own: this assumes that the images measured were

        x = (byte + u) / 256,   u uniform in [0, 1), new for each byte

    (uniform dequantisation), so that cells are 1/256 wide and a density
    costs 8 bits more for each dimension. The result is then, on average
    over u, an upper bound on −log₂ p(bytes) / D. For byte / 255 without
    noise it bounds nothing: a density may be as high as it likes at 256
    points.

    Args:
        nll: −log p(x), or a bound on it, in nats per image: a number or
            an array.
        image_shape: `(height, width, channels)` of the images.
        levels: the number of cells in [0, 1]: 256 for bytes; 1 for a
            probability, such as that of binary pixels.

    Returns:
        Bits per dimension, a number or an array like `nll`.

    Example:
    >>> from vae_keras.likelihoods import bits_per_dimension
    >>> bits_per_dimension(0.0, (28, 28, 1))  # a uniform density
    8.0

    Reference:
        Theis, van den Oord and Bethge, "A note on the evaluation of
        generative models", ICLR 2016, arXiv:1511.01844, section 3.1.
    """
    size = math.prod(positive_integers("image_shape", image_shape))
    levels = positive_integer("levels", levels)
    return nll / (size * math.log(2)) + math.log2(levels)
