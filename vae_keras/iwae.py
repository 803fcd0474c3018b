"""The importance-weighted autoencoder: a VAE with a tighter bound."""

from typing import Any

import keras
import tensorflow as tf

from vae_keras import likelihoods, priors
from vae_keras._checks import positive_integer
from vae_keras._training import weighted
from vae_keras.models import VAE


@keras.saving.register_keras_serializable(package="vae_keras")
class IWAE(VAE):
    """An importance-weighted autoencoder: a VAE trained on a tighter bound.

    Each image gets k draws of z, and the loss is the bound of
    `importance_weighted_nll` for k samples in place of −ELBO:

        wₖ   = p(x|zₖ) p(zₖ) / q(zₖ|x),   zₖ ~ q(z|x)
        loss = −log 1/k Σₖ wₖ

    The gradient of the encoder is doubly reparameterised: it passes through
    the draws alone, weighted by w̃ₖ², where w̃ₖ = wₖ / Σ w. It has the same
    mean as that of the loss and less noise, the more so the larger k is; for
    k = 1 it is known as "sticking the landing".

    Args:
        encoder: as in `VAE`.
        decoder: as in `VAE`.
        num_samples: k, the number of draws for each image.
        doubly_reparameterized: whether the encoder has that gradient, or
            the loss's own. With k = 1 the latter is the gradient of a `VAE`
            whose KL is estimated from the draw.
        seed, likelihood, prior: as in `VAE`.
        **kwargs: as in `VAE`.

    The metrics are `loss`, and the two terms of −ELBO as in `VAE`, means
    over the draws, in nats per image: `loss` is at most their sum. There is
    no β: to give or to set one is a `ValueError`.

    Example:
    >>> import vae_keras
    >>> images, _ = vae_keras.load_mnist("test[:64]")
    >>> vae = vae_keras.IWAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ...     num_samples=5,
    ... )
    >>> vae.compile("adam")
    >>> history = vae.fit(images, epochs=10, verbose=0).history
    >>> bound = history["loss"][-1]
    >>> bound < history["reconstruction_loss"][-1] + history["kl_loss"][-1]
    True

    References:
        Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders",
        ICLR 2016, arXiv:1509.00519. Tucker et al., "Doubly Reparameterized
        Gradient Estimators for Monte Carlo Objectives", ICLR 2019,
        arXiv:1810.04152. Roeder, Wu and Duvenaud, "Sticking the Landing",
        NeurIPS 2017, arXiv:1703.09194.
    """

    has_beta = False

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        num_samples: int = 5,
        doubly_reparameterized: bool = True,
        seed: int | None = None,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "standard_normal",
        **kwargs,
    ):
        if "beta" in kwargs:
            raise ValueError(
                "Expected no `beta`: the bound of an IWAE has none. "
                f"Received: beta={kwargs['beta']!r}. Use a `VAE` for another "
                "weight of the KL term."
            )
        self.num_samples = positive_integer("num_samples", num_samples)
        self.doubly_reparameterized = bool(doubly_reparameterized)
        super().__init__(
            encoder,
            decoder,
            seed=seed,
            likelihood=likelihood,
            prior=prior,
            **kwargs,
        )

    def draw(self, x, training: bool) -> tuple[tf.Tensor, ...]:
        """Draws k latents of each image.

        Returns:
            z, and the means and log-variances of the Gaussians it is drawn
            from, each `(k · batch, *latent_shape)`.
        """
        sampling = self.sampling if training else self.validation_sampling
        posterior = self.encoder(x, training=training)
        k = self.num_samples
        posterior = [tf.concat([values] * k, axis=0) for values in posterior]
        return sampling(posterior), *posterior

    def log_weights(self, x, z, z_mean, z_log_var, training: bool):
        """Returns log p(x|z) and log p(z) − log q(z|x), each `(k, batch)`."""
        x = tf.concat([x] * self.num_samples, axis=0)
        nll = self.negative_log_likelihood(
            x, self.decoder(z, training=training)
        )
        log_ratio = self.prior.log_prob(z) - priors.gaussian_log_prob(
            z, z_mean, z_log_var
        )
        shape = (self.num_samples, -1)
        return -tf.reshape(nll, shape), tf.reshape(log_ratio, shape)

    def bound(self, log_likelihood, log_ratio) -> tf.Tensor:
        """Returns −log 1/k Σ w of each image, `(batch,)`."""
        log_w = log_likelihood + log_ratio
        log_k = tf.math.log(tf.cast(self.num_samples, tf.float32))
        return log_k - tf.reduce_logsumexp(log_w, axis=0)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = self.trainable_weights
        with tf.GradientTape() as outer:
            drawn = self.draw(x, training=True)
            with tf.GradientTape() as inner:
                inner.watch(drawn)
                terms = self.log_weights(x, *drawn, training=True)
                losses = weighted(self.bound(*terms), sample_weight)
                loss = self._scaled_mean(losses)
            penalty = self._scaled_mean(tf.zeros_like(losses) + self._penalty())
        of_loss: Any = inner.gradient(loss, (weights, drawn))
        gradients, of_drawn = of_loss
        if self.doubly_reparameterized:
            share = tf.nn.softmax(tf.add_n(terms), axis=0)  # w̃, (k, batch)
            share = tf.reshape(share, (-1, *[1] * len(self.latent_shape)))
            of_drawn = share * of_drawn[0], *map(tf.zeros_like, drawn[1:])
        of_all = [*of_drawn, tf.ones_like(penalty)]
        through_drawn: Any = outer.gradient([*drawn, penalty], weights, of_all)
        self.optimizer.apply(
            list(map(_sum_of_known, gradients, through_drawn)), weights
        )
        return self._update_metrics(
            *self._reported(losses, terms, sample_weight)
        )

    def test_step(self, data) -> dict[str, tf.Tensor]:
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        terms = self.log_weights(
            x, *self.draw(x, training=False), training=False
        )
        losses = weighted(self.bound(*terms), sample_weight)
        return self._update_metrics(
            *self._reported(losses, terms, sample_weight)
        )

    def _scaled_mean(self, losses: tf.Tensor) -> tf.Tensor:
        """The mean over the examples of all replicas, scaled if need be."""
        loss = tf.reduce_sum(losses) / self._batch_size(losses)
        return self.optimizer.scale_loss(loss)

    def _reported(self, losses, terms, sample_weight) -> tuple:
        """The loss and the two terms of −ELBO, `(batch,)`, for the metrics."""
        elbo_terms = [
            weighted(-tf.reduce_mean(term, axis=0), sample_weight)
            for term in terms
        ]
        return losses + self._penalty(), *elbo_terms

    def get_config(self) -> dict:
        own = {
            "num_samples": self.num_samples,
            "doubly_reparameterized": self.doubly_reparameterized,
        }
        config = {**super().get_config(), **own}
        return {key: config[key] for key in config if key != "beta"}


def _sum_of_known(*gradients) -> tf.Tensor | None:
    """The sum of those gradients that are not `None`."""
    known = [gradient for gradient in gradients if gradient is not None]
    return tf.add_n(known) if known else None
