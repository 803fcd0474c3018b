"""The variational autoencoder, a Keras model with a train step of its own."""

import keras
import numpy as np
import tensorflow as tf

from vae_keras.likelihoods import Likelihood, get_likelihood
from vae_keras.losses import gaussian_kl
from vae_keras.shapes import matching_shapes
from vae_keras.training import ImageModel, weighted


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(ImageModel):
    """A variational autoencoder with Gaussian latents.

    The prior p(z) is N(0, I), the posterior q(z|x) a diagonal Gaussian, and
    pixels are Bernoulli, unless another likelihood p(x|z) is asked for.
    Training minimises the negative ELBO, with its KL term weighted by β:

        −ELBO = E_q(z|x)[−log p(x|z)] + KL(q(z|x) ‖ p(z))
        loss  = reconstruction_loss   + β · kl_loss

    Both terms are sums over pixels and over latent dimensions and means
    over examples: nats per image.

    Args:
        encoder: a Keras model, images `(batch, *image_shape)` to
            `[z_mean, z_log_var]`, two tensors of one shape.
        decoder: a Keras model, latents of that shape to the likelihood's
            parameters, such as logits `(batch, *image_shape)`.
        beta: the weight of the KL term. 1 gives the ELBO. The weight in
            force is the variable `vae.beta`, which a callback may change
            during training; `val_loss` always uses the value given here.
        seed: int or `None`, the seed of the noise, as in `Sampling`.
        likelihood: p(x|z): `"bernoulli"`, `"continuous_bernoulli"` for grey
            pixels, `"gaussian"` for colour and natural images, or a
            `Likelihood`, such as `vae_keras.Gaussian(initial_scale=0.3)`.
        **kwargs: keyword arguments of `keras.Model`.

    `fit`, `evaluate` and `predict` take images alone or `(images, labels)`
    pairs (labels are ignored), as arrays, `tf.data` datasets or
    generators. The metrics `loss`, `reconstruction_loss` and `kl_loss` are
    means over the examples of an epoch, with sample weights Σ wℓ / n.
    Validation noise is fixed, so two evaluations agree, and evaluating
    does not move the training noise.

    Raises:
        ValueError: if the shapes of encoder, decoder and images do not
            fit together, or if `beta` or `likelihood` is unknown.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> vae.compile("adam")
    >>> tuple(vae.generate(3, seed=0).shape)
    (3, 28, 28, 1)

    References:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2013,
        arXiv:1312.6114. Higgins et al., "beta-VAE", ICLR 2017, for β.
    """

    network_names = ("encoder", "decoder")
    loss_in_words = "its own loss (reconstruction + beta * KL)"
    way_to_another_loss = (
        "give `beta` or `likelihood` to the constructor, use "
        "`vae.beta.assign(…)`, or override `negative_log_likelihood`"
    )

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        beta: float = 1.0,
        seed: int | None = None,
        likelihood: str | Likelihood = "bernoulli",
        **kwargs,
    ):
        super().__init__(**kwargs)
        is_number = np.isscalar(beta) and np.isreal(beta)
        is_number = is_number and not isinstance(beta, (bool, str))
        if not (is_number and 0 <= beta < float("inf")):
            raise ValueError(
                "Expected `beta` to be a finite number, zero or greater. "
                f"Received: beta={beta!r}. Leave it out for the ELBO."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.target_beta = float(beta)
        self.seed = seed
        self.likelihood = get_likelihood(likelihood)
        self.image_shape, self.latent_shape = matching_shapes(
            encoder,
            decoder,
            to_means=self.likelihood,
            num_classes=self.num_classes,
        )

        # === Layers and variables ===
        self._add_noise(seed)
        self.beta = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(beta),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="beta",
        )

        # === Metrics ===
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.reconstruction_loss_tracker = keras.metrics.Mean(
            name="reconstruction_loss"
        )
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")
        self.built = True

    # === Using the model ===

    def encode(self, x) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `(z_mean, z_log_var)` of q(z|x).

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.

        Returns:
            Two float32 tensors `(batch, *latent_shape)`.
        """
        z_mean, z_log_var = self.encoder(x, training=False)
        return tf.cast(z_mean, tf.float32), tf.cast(z_log_var, tf.float32)

    def call(self, x, training=None) -> tf.Tensor:
        """Returns reconstructions through the posterior mean: no noise."""
        z_mean, _ = self.encoder(x, training=training)
        return self._pixel_means(z_mean, training)

    def _pixel_means(self, z, training) -> tf.Tensor:
        return self.likelihood.mean(self.decoder(z, training=training))

    # === Training ===

    def negative_log_likelihood(self, x, logits) -> tf.Tensor:
        """Returns −log p(x|z) of each example.

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.
            logits: what the decoder makes of z, the parameters of p(x|z).

        Returns:
            float32 `(batch,)`: nats per image.
        """
        return self.likelihood.nll(x, logits)

    def elbo_terms(self, data, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the two terms of −ELBO for each example of a batch.

        Args:
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
            training: whether to draw training noise (else the fixed
                validation noise), also passed to encoder and decoder.

        Returns:
            `(reconstruction_loss, kl_loss)`, each float32 `(batch,)` in
            nats, times the sample weight where there is one.
        """
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        sampling = self.sampling if training else self.validation_sampling
        z_mean, z_log_var = self.encoder(
            self.given(x, labels), training=training
        )
        z = sampling((z_mean, z_log_var))
        logits = self.decoder(self.given(z, labels), training=training)
        reconstruction_loss = self.negative_log_likelihood(x, logits)
        terms = reconstruction_loss, gaussian_kl(z_mean, z_log_var)
        return tuple(weighted(term, sample_weight) for term in terms)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """Descends the gradient of the loss of one batch."""
        with tf.GradientTape() as tape:
            reconstruction_loss, kl_loss = self.elbo_terms(data, training=True)
            losses = reconstruction_loss + self.beta * kl_loss  # (batch,)
            losses += self._penalty()
            loss = tf.reduce_sum(losses) / self._batch_size(losses)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self._update_metrics(losses, reconstruction_loss, kl_loss)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Measures the loss of one batch, with the constructor's β."""
        reconstruction_loss, kl_loss = self.elbo_terms(data, training=False)
        losses = reconstruction_loss + self.target_beta * kl_loss
        losses += self._penalty()
        return self._update_metrics(losses, reconstruction_loss, kl_loss)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [
            self.loss_tracker,
            self.reconstruction_loss_tracker,
            self.kl_loss_tracker,
        ]

    # === Saving ===

    def get_config(self) -> dict:
        likelihood = keras.saving.serialize_keras_object(self.likelihood)
        return {
            **super().get_config(),
            "beta": self.target_beta,
            "seed": self.seed,
            "likelihood": likelihood,
        }
