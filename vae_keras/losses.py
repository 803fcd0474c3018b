"""The two terms of the negative ELBO, one value per example, in nats.

Both are sums over pixels or latent dimensions; the mean over the batch is
taken in `VAE`, once.
"""

import keras
from keras import ops


def sum_per_example(values: keras.KerasTensor) -> keras.KerasTensor:
    """Sums over every axis but the first, to `(batch,)`.

    Args:
        values: `(batch, …)`, any dtype.
    """
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))


def bernoulli_nll(
    x: keras.KerasTensor, logits: keras.KerasTensor
) -> keras.KerasTensor:
    """Negative log-likelihood of pixels under independent Bernoullis.

    With `p = sigmoid(l)`, the binary cross-entropy of one pixel is

        −x log p − (1 − x) log(1 − p) = softplus(l) − x · l

    and the right-hand side stays finite for logits of any size.

    Args:
        x: images in [0, 1], shape `(batch, …)`, any float dtype.
        logits: the decoder's output, the same shape, any float dtype.

    Returns:
        float32 of shape `(batch,)`: nats per image, summed over pixels.

    Example:
    >>> import numpy as np
    >>> from vae_keras import bernoulli_nll
    >>> x = np.array([[1.0, 0.0]], "float32")
    >>> float(bernoulli_nll(x, np.zeros((1, 2), "float32"))[0] / np.log(2))
    2.0
    """
    x, logits = ops.cast(x, "float32"), ops.cast(logits, "float32")
    return sum_per_example(ops.softplus(logits) - x * logits)


def gaussian_kl(
    z_mean: keras.KerasTensor, z_log_var: keras.KerasTensor
) -> keras.KerasTensor:
    """KL divergence from N(0, I) of a Gaussian with diagonal covariance.

        KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − log σ²)

    summed over the latent dimensions.

    Args:
        z_mean: μ, shape `(batch, …)`, any float dtype.
        z_log_var: log σ², the same shape, any float dtype.

    Returns:
        float32 of shape `(batch,)`: nats per image, never negative.

    Example:
    >>> import numpy as np
    >>> from vae_keras import gaussian_kl
    >>> float(gaussian_kl(np.array([[1.0, 2.0]]), np.zeros((1, 2)))[0])
    2.5

    Reference:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2013,
        arXiv:1312.6114, appendix B.
    """
    z_mean = ops.cast(z_mean, "float32")
    z_log_var = ops.cast(z_log_var, "float32")
    # exp(t) − 1 − t as expm1(t) − t: less cancellation where σ is near 1.
    return 0.5 * sum_per_example(
        ops.square(z_mean) + ops.expm1(z_log_var) - z_log_var
    )
