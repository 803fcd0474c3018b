"""What a trained model is worth: held-out likelihood, and use of the latents.

How good its samples look is measured in `sample_quality`.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras.checks import check_images, positive_integer
from vae_keras.speed import keep_freed_memory

# As many samples of one image get their noise, and are decoded, together.
BLOCK_SIZE = 500
# As many pixels are decoded together: 16 MB of float32 an array.
MAX_PIXELS = 2**22


class LikelihoodEstimate(NamedTuple):
    """What `importance_weighted_nll` returns, in nats per image.

    Attributes:
        mean: the mean over images of the bound on −log p(x).
        standard_error: the standard error of that mean, over images; NaN
            for one image.
        num_samples: the number of samples per image.
        per_image: float64 `(n,)`, the bound for each image.
    """

    mean: float
    standard_error: float
    num_samples: int
    per_image: np.ndarray


def importance_weighted_nll(
    vae,
    images,
    num_samples: int = 5000,
    *,
    labels=None,
    batch_size: int | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> LikelihoodEstimate:
    """Estimates −log p(x), the negative log-likelihood, of held-out images.

    The posterior q(z|x) proposes K latents for each image, and each is
    weighted by how much more probable the model finds it than q does:

        −log p(x) ≈ −log 1/K Σₖ p(x|zₖ) p(zₖ) / q(zₖ|x),   zₖ ~ q(z|x)

    On average this lies above −log p(x). For K = 1 that average is −ELBO,
    whatever β the model was trained with; as K grows it falls towards
    −log p(x). p(x|z) is what `vae.negative_log_likelihood` says. In a
    `ConditionalVAE` all this is given the labels, and bounds −log p(x|y).
    The sum is taken over a block of samples at a time, so that memory
    depends neither on `num_samples` nor on the number of images.

    Args:
        vae: a `VAE`.
        images: held-out images in [0, 1], an array `(n, *image_shape)`;
            binarised if the model was trained on binarised images.
        num_samples: K, the number of samples per image.
        labels: of a `ConditionalVAE`, integers `(n,)`.
        batch_size: how many images are worked on at a time, with 500
            samples of each: an array of them takes batch_size · 500 ·
            pixels · 4 bytes, and some are needed at once. By default as
            many as keep an array below 16 MB, 10 for MNIST. The noise, and
            so the result up to rounding, does not depend on it.
        seed: int, the seed of the noise.
        verbose: whether to show a progress bar, if this takes more than a
            few seconds.

    Returns:
        A `LikelihoodEstimate`: `mean`, `standard_error`, `num_samples` and
        `per_image`, in nats per image.

    Raises:
        ValueError: if images or labels are not what the model takes, if a
            number is not a positive integer, or if the model gives NaN.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> images, _ = vae_keras.load_mnist("test[:8]")
    >>> estimate = vae_keras.importance_weighted_nll(vae, images, 10)
    >>> estimate.num_samples, estimate.per_image.shape
    (10, (8,))

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance Weighted
        Autoencoders", ICLR 2016, arXiv:1509.00519.
    """
    from tqdm import tqdm

    check_images(images, vae.image_shape)
    vae.given(images, labels)  # Says now what is wrong with labels.
    num_samples = positive_integer("num_samples", num_samples)
    if batch_size is None:
        num_pixels = math.prod(vae.image_shape)
        batch_size = max(1, MAX_PIXELS // (BLOCK_SIZE * num_pixels))
    batch_size = positive_integer("batch_size", batch_size)
    if not hasattr(seed, "__index__") or isinstance(seed, bool):
        raise ValueError(
            "Expected `seed` to be an integer. Received: "
            f"seed={seed!r}. Use 0, 1, 2, …"
        )
    latent_shape = tuple(vae.latent_shape)
    latent_axes = list(range(2, 2 + len(latent_shape)))
    root = tf.random.fold_in(tf.constant([0, 0]), int(seed))

    size = min(BLOCK_SIZE, num_samples)
    num_blocks = -(-num_samples // BLOCK_SIZE)

    def noise_of_one(index, block):
        # A seed for each image and block: none depends on what comes along.
        key = tf.random.fold_in(tf.random.fold_in(root, index), block)
        return tf.random.stateless_normal((BLOCK_SIZE, *latent_shape), key)

    # Not with XLA, which cannot compile every layer and gains little here.
    @tf.function(jit_compile=False)
    def log_sum_of_weights(x, y, indices):
        z_mean, z_log_var = vae.encode(x, *y)
        z_mean, z_log_var = z_mean[:, tf.newaxis], z_log_var[:, tf.newaxis]
        labels = [tf.repeat(label, size) for label in y]
        repeated = tf.repeat(x, size, axis=0)
        log_sum = tf.fill([len(x)], -np.inf)
        for block in tf.range(num_blocks):
            # Two at a time: one fills the pauses of the other. By default it
            # would be ten, and take five times the memory.
            tf.autograph.experimental.set_loop_options(parallel_iterations=2)
            epsilon = tf.map_fn(
                lambda index: noise_of_one(index, block),  # noqa: B023
                indices,
                fn_output_signature=tf.float32,
            )[:, :size]
            z = z_mean + tf.exp(0.5 * z_log_var) * epsilon
            # log p(z) − log q(z|x): the constants of the Gaussians cancel.
            log_ratio = tf.reduce_sum(
                0.5 * (tf.square(epsilon) + z_log_var - tf.square(z)),
                latent_axes,
            )  # (batch, size)
            z = tf.reshape(z, (-1, *latent_shape))
            logits = vae.decoder(vae.given(z, *labels), training=False)
            nll = vae.negative_log_likelihood(repeated, logits)
            nll = tf.cast(tf.reshape(nll, (-1, size)), tf.float32)
            # Of the last block, only as many samples as were asked for.
            is_asked = block * BLOCK_SIZE + tf.range(size) < num_samples
            log_weights = tf.where(is_asked, log_ratio - nll, -np.inf)
            log_sum = tf.reduce_logsumexp(
                tf.concat([log_sum[:, tf.newaxis], log_weights], axis=1), axis=1
            )
        return log_sum

    # It is traced in each call, for the model at hand.
    log_sum_of_weights._omit_frequent_tracing_warning = True
    per_image = np.empty(len(images))
    with tqdm(
        total=len(images), unit=" images", delay=3, disable=not verbose
    ) as bar:
        for start in range(0, len(images), batch_size):
            keep_freed_memory()
            x = tf.cast(images[start : start + batch_size], tf.float32)
            batch = slice(start, start + len(x))
            # No label at all, or one array of them.
            y = [tf.constant(labels[batch])] if vae.num_classes else []
            indices = tf.range(batch.start, batch.stop)
            log_sum = log_sum_of_weights(x, y, indices)
            _check_finite(log_sum)
            per_image[batch] = np.log(num_samples) - log_sum
            bar.update(len(x))
    return LikelihoodEstimate(
        mean=float(per_image.mean()),
        standard_error=_standard_error(per_image),
        num_samples=num_samples,
        per_image=per_image,
    )


def _standard_error(values: np.ndarray) -> float:
    """The standard error of the mean; NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def active_units(vae, images, threshold: float = 0.01, *, labels=None) -> int:
    """Counts the latent dimensions that the model uses.

    A dimension is active if its posterior mean varies with the image:

        Var over x of E_q(z|x)[z] > threshold

    Args:
        vae: a `VAE`.
        images: images in [0, 1], an array `(n, *image_shape)`.
        threshold: the least variance; 0.01 is that of the paper.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Returns:
        The number of active dimensions, of all in a latent.

    Raises:
        ValueError: if images or labels are not what the model takes, if
            there are fewer than two, or if the model gives NaN.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> images, _ = vae_keras.load_mnist("test[:8]")
    >>> vae_keras.active_units(vae, images) <= 2
    True

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance Weighted
        Autoencoders", ICLR 2016, arXiv:1509.00519, section 5.1.
    """
    z_mean, _ = _posteriors(vae, images, labels)
    if len(z_mean) < 2:
        raise ValueError(
            "Expected two images or more: units are active when they vary "
            f"between images. Received: {len(z_mean)}. Pass some hundreds."
        )
    return int(np.sum(z_mean.var(axis=0) > threshold))


def kl_per_dimension(vae, images, *, labels=None) -> np.ndarray:
    """Measures how many nats each latent dimension carries.

    Args:
        vae: a `VAE`.
        images: images in [0, 1], an array `(n, *image_shape)`.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Returns:
        float64 of the shape of one latent: KL(q(z|x) ‖ p(z)) of each
        dimension, in nats, the mean over images. The sum over dimensions
        is the model's `kl_loss`. A dimension that has collapsed has
        nearly 0.

    Raises:
        ValueError: if images or labels are not what the model takes, or if
            the model gives NaN.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> images, _ = vae_keras.load_mnist("test[:8]")
    >>> vae_keras.kl_per_dimension(vae, images).shape
    (2,)

    Reference:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2013,
        arXiv:1312.6114, appendix B.
    """
    z_mean, z_log_var = _posteriors(vae, images, labels)
    kl = 0.5 * (np.square(z_mean) + np.expm1(z_log_var) - z_log_var)
    return kl.mean(axis=0)


def _posteriors(vae, images, labels) -> tuple[np.ndarray, np.ndarray]:
    """The mean and log-variance of q(z|x) for each image, float64."""
    check_images(images, vae.image_shape)
    z_mean, z_log_var = vae.encoder.predict(
        vae.given(images, labels), batch_size=500, verbose=0
    )
    _check_finite(z_mean, z_log_var)
    return np.float64(z_mean), np.float64(z_log_var)


def _check_finite(*values) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            "Expected a model that gives finite numbers. Received: NaN or "
            "infinity. Its training has diverged: load an earlier state of "
            "it, or train again with a lower learning rate."
        )
