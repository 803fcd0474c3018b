"""What a trained model is worth: held-out likelihood, and use of the latents.

Images and labels that the model does not take, and a model that gives NaN,
are a `ValueError`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras._checks import (
    check_images,
    check_labels,
    integer_seed,
    positive_integer,
)
from vae_keras._cpu import keep_freed_memory

# Samples per block: noise is drawn and decoded for one block at a time.
_BLOCK_SIZE = 500
# Pixels per batch and block: 16 MB of float32 an array.
_MAX_PIXELS = 2**22


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
    labels=None,
    *,
    num_samples: int = 5000,
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
    −log p(x). In a `ConditionalVAE` all this is given the labels, and bounds
    −log p(x|y). Memory depends neither on `num_samples` nor on the number of
    images. On Linux the C library is asked, for the whole process, to keep
    freed memory, as in `VAE.fit`. The posterior of a `DiscreteVAE` is one
    map of codes, so one sample tells all: its −ELBO.

    Args:
        vae: a `VAE` or a `DiscreteVAE`.
        images: held-out images in [0, 1], an array `(n, *image_shape)`;
            binarised if the model was trained on binarised images.
        labels: of a `ConditionalVAE`, integers `(n,)`.
        num_samples: K, the number of samples per image.
        batch_size: how many images are worked on at a time, with 500
            samples of each: an array takes batch_size · 500 · pixels · 4
            bytes, by default at most 16 MB, with 10 images of MNIST. The
            result does not depend on it, up to rounding.
        seed: int, the seed of the noise.
        verbose: whether to show a progress bar, if this takes more than a
            few seconds.

    Returns:
        A `LikelihoodEstimate`, in nats per image.

    Example, with a `vae` and `images`:
    >>> estimate = vae_keras.importance_weighted_nll(
    ...     vae, images, num_samples=10
    ... )
    >>> estimate.num_samples, estimate.per_image.shape
    (10, (64,))

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance Weighted
        Autoencoders", ICLR 2016, arXiv:1509.00519.
    """
    from tqdm import tqdm

    _check(vae, images, labels)
    if vae.num_classes is None:
        labels = None
    num_samples = positive_integer("num_samples", num_samples)
    if hasattr(vae, "code_nll"):
        return _estimate(_bound_of_codes(vae, images, labels), 1)
    _check_gaussian(vae)
    if batch_size is None:
        num_pixels = math.prod(vae.image_shape)
        batch_size = max(1, _MAX_PIXELS // (_BLOCK_SIZE * num_pixels))
    batch_size = positive_integer("batch_size", batch_size)
    seed = integer_seed(seed, or_none=False)
    latent_shape = tuple(vae.latent_shape)
    latent_axes = list(range(2, 2 + len(latent_shape)))
    root: Any = tf.random.fold_in(tf.constant([0, 0]), seed)

    # The logarithm of 0, but finite, for `tf.debugging.enable_check_numerics`.
    nothing = tf.constant(-1e300, tf.float64)
    size = min(_BLOCK_SIZE, num_samples)
    num_blocks = -(-num_samples // _BLOCK_SIZE)

    def noise_of_one(index, block):
        # A seed for each image and block: none depends on what comes along.
        key: Any = tf.random.fold_in(root, index)
        key = tf.random.fold_in(key, block)
        return tf.random.stateless_normal((_BLOCK_SIZE, *latent_shape), key)

    def log_sum_of_weights(x, indices, *y):
        z_mean, z_log_var = vae.encode(x, *y)
        z_mean, z_log_var = z_mean[:, tf.newaxis], z_log_var[:, tf.newaxis]
        repeated = tf.repeat(x, size, axis=0)
        labels = tf.repeat(y[0], size) if y else None

        def add_block(block, log_sum):
            epsilon = tf.map_fn(
                lambda index: noise_of_one(index, block),
                indices,
                fn_output_signature=tf.float32,
            )[:, :size]
            z = z_mean + tf.exp(0.5 * z_log_var) * epsilon
            log_q = -0.5 * tf.reduce_sum(
                tf.square(epsilon) + z_log_var + math.log(2 * math.pi),
                latent_axes,
            )  # (batch, size)
            z = tf.reshape(z, (-1, *latent_shape))
            log_ratio = tf.reshape(vae.prior.log_prob(z), (-1, size)) - log_q
            logits = vae.decoder(vae._given(z, labels), training=False)
            nll = vae.negative_log_likelihood(repeated, logits)
            nll = tf.cast(tf.reshape(nll, (-1, size)), tf.float64)
            log_weights = tf.cast(log_ratio, tf.float64) - nll
            # Of the last block, only as many samples as were asked for.
            is_asked = block * _BLOCK_SIZE + tf.range(size) < num_samples
            log_weights = tf.where(is_asked, log_weights, nothing)
            terms = tf.concat([log_sum[:, tf.newaxis], log_weights], axis=1)
            return block + 1, tf.reduce_logsumexp(terms, axis=1)

        _, log_sum = tf.while_loop(
            lambda block, log_sum: block < num_blocks,
            add_block,
            (0, tf.fill(tf.shape(x)[:1], nothing)),
            # Two at a time: one fills the pauses of the other. By default it
            # would be ten, and take five times the memory.
            parallel_iterations=2,
        )
        return log_sum

    specs = [
        tf.TensorSpec((None, *vae.image_shape), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]
    if labels is not None:
        labels = tf.constant(labels, tf.int32)
        specs.append(tf.TensorSpec((None,), tf.int32))
    # Not with XLA, which cannot compile every layer and gains little here.
    log_sum_of_weights = tf.function(
        log_sum_of_weights, jit_compile=False, autograph=False
    ).get_concrete_function(*specs)
    per_image = np.empty(len(images))
    with tqdm(
        total=len(images), unit=" images", delay=3, disable=not verbose
    ) as bar:
        for start in range(0, len(images), batch_size):
            keep_freed_memory()
            x = tf.cast(images[start : start + batch_size], tf.float32)
            batch = slice(start, start + len(x))
            indices = tf.range(batch.start, batch.stop)
            y = [] if labels is None else [labels[batch]]
            log_sum = log_sum_of_weights(x, indices, *y)
            _check_finite(log_sum)
            per_image[batch] = np.log(num_samples) - log_sum
            bar.update(len(x))
    return _estimate(per_image, num_samples)


def _estimate(per_image: np.ndarray, num_samples: int) -> LikelihoodEstimate:
    standard_error = float("nan")
    if len(per_image) > 1:
        standard_error = float(per_image.std(ddof=1) / len(per_image) ** 0.5)
    return LikelihoodEstimate(
        mean=float(per_image.mean()),
        standard_error=standard_error,
        num_samples=num_samples,
        per_image=per_image,
    )


def _bound_of_codes(vae, images, labels) -> np.ndarray:
    """−log p(x|z(x)) − log p(z(x)) of each image, float64."""
    per_image = []
    for start in range(0, len(images), 500):
        batch = slice(start, start + 500)
        x = tf.cast(images[batch], tf.float32)
        y = None if labels is None else tf.constant(labels[batch], tf.int32)
        nll, _, kl, _ = vae.bound_terms((x, y), training=False)
        _check_finite(nll, kl)
        per_image.append(np.float64(nll) + np.float64(kl))
    return np.concatenate(per_image)


def active_units(vae, images, labels=None, *, threshold: float = 0.01) -> int:
    """Counts the latent dimensions that the model uses.

    As Burda et al. have it (above; section 5.1), a dimension is active if
    its posterior mean varies with the image:

        Var over x of E_q(z|x)[z] > threshold

    Args:
        vae: a `VAE`.
        images: images in [0, 1], an array `(n, *image_shape)`.
        labels: of a `ConditionalVAE`, integers `(n,)`.
        threshold: the least variance; 0.01 is that of the paper.

    Returns:
        The number of active dimensions, of all in a latent.

    Example, with a `vae` and `images`:
    >>> vae_keras.active_units(vae, images) <= 2
    True
    """
    _check_gaussian(vae)
    z_mean, _ = _posteriors(vae, images, labels)
    return _num_active(z_mean, threshold)


def _num_active(z_mean: np.ndarray, threshold: float = 0.01) -> int:
    """Counts the dimensions of means `(n, …)` that vary."""
    if len(z_mean) < 2:
        raise ValueError(
            "Expected two images or more: units are active when they vary "
            f"between images. Received: {len(z_mean)}. Pass some hundreds."
        )
    return int(np.sum(z_mean.var(axis=0) > threshold))


def kl_per_dimension(vae, images, labels=None) -> np.ndarray:
    """Measures how many nats each latent dimension carries.

    In a `DiscreteVAE`, how many it takes to say the code of each place,
    −log p(zᵢⱼ | places before), whatever the prior.

    Args:
        vae: a `VAE` or a `DiscreteVAE`.
        images: images in [0, 1], an array `(n, *image_shape)`.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Raises:
        ValueError: if the prior is not N(0, I): the KL from another is no
            sum over dimensions.

    Returns:
        A float64 array of the shape of one latent, with KL(q(z|x) ‖ p(z))
        of each dimension, in nats, the mean over images. The sum over
        dimensions is the model's `kl_loss`. A dimension that has collapsed has
        nearly 0.

    Example, with a `vae` and `images`:
    >>> vae_keras.kl_per_dimension(vae, images).shape
    (2,)
    """
    if hasattr(vae, "code_nll"):
        return _nll_of_places(vae, images, labels)
    _check_gaussian(vae)
    if not vae.prior.is_standard_normal:
        raise ValueError(
            "Expected a model whose prior is N(0, I): then the KL is a sum "
            f"over dimensions. Received: a {type(vae.prior).__name__}. "
            "`evaluate` gives the whole KL, `active_units` the dimensions in "
            "use."
        )
    return _mean_kl(*_posteriors(vae, images, labels))


def _nll_of_places(vae, images, labels) -> np.ndarray:
    """−log p(zᵢⱼ | places before), the mean over images."""
    _check(vae, images, labels)
    total = np.zeros(vae.latent_shape)
    for start in range(0, len(images), 500):
        batch = slice(start, start + 500)
        _check_finite(vae.encoder(images[batch], training=False))
        y = labels[batch] if vae.num_classes is not None else None
        nll = vae.code_nll(vae.encode(images[batch]), y)
        total += np.float64(nll).sum(axis=0)
    return total / len(images)


def _mean_kl(z_mean: np.ndarray, z_log_var: np.ndarray) -> np.ndarray:
    """The KL of each dimension of posteriors, the mean over images."""
    kl = 0.5 * (np.square(z_mean) + np.expm1(z_log_var) - z_log_var)
    return kl.mean(axis=0)


def _posteriors(vae, images, labels) -> tuple[np.ndarray, np.ndarray]:
    """The mean and log-variance of q(z|x) for each image, float64."""
    _check(vae, images, labels)
    z_mean, z_log_var = vae.encoder.predict(
        vae._given(images, labels), batch_size=500, verbose=0
    )
    _check_finite(z_mean, z_log_var)
    return z_mean.astype("float64"), z_log_var.astype("float64")


def _check(vae, images, labels) -> None:
    check_images(images, vae.image_shape)
    if vae.num_classes is not None:
        check_labels(labels, vae.num_classes, len(images))


def _check_gaussian(vae) -> None:
    if not vae.has_gaussian_posterior:
        raise ValueError(
            "Expected a model whose posterior is a Gaussian, as a `VAE`'s. "
            f"Received: a {type(vae).__name__}. `evaluate` gives what can be "
            "measured of it."
        )


def _check_finite(*values) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            "Expected a model that gives finite numbers. Received: NaN or "
            "infinity. Its training has diverged: load an earlier state of "
            "it, or train again with a lower learning rate."
        )
