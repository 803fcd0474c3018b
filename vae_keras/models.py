"""The variational autoencoder, a Keras model with a train step of its own."""

import keras
import numpy as np
import tensorflow as tf

from vae_keras.checks import matching_shapes, positive_integer
from vae_keras.layers import Sampling
from vae_keras.losses import bernoulli_nll, gaussian_kl
from vae_keras.training import ImageModel


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(ImageModel):
    """A variational autoencoder with Gaussian latents and Bernoulli pixels.

    The prior p(z) is N(0, I), the posterior q(z|x) a diagonal Gaussian.
    Training minimises the negative ELBO, with its KL term weighted by β:

        −ELBO = E_q(z|x)[−log p(x|z)] + KL(q(z|x) ‖ p(z))
        loss  = reconstruction_loss   + β · kl_loss

    Both terms are sums over pixels and over latent dimensions and means
    over examples: nats per image.

    Args:
        encoder: a Keras model, images `(batch, *image_shape)` to
            `[z_mean, z_log_var]`, two tensors of one shape.
        decoder: a Keras model, latents of that shape to logits
            `(batch, *image_shape)`.
        beta: the weight of the KL term. 1 gives the ELBO. The weight in
            force is the variable `vae.beta`, which a callback may change
            during training; `val_loss` always uses the value given here.
        seed: int or `None`, the seed of the noise, as in `Sampling`.
        **kwargs: keyword arguments of `keras.Model`.

    `fit`, `evaluate` and `predict` take images alone or `(images, labels)`
    pairs (labels are ignored), as arrays, `tf.data` datasets or
    generators. The metrics `loss`, `reconstruction_loss` and `kl_loss` are
    means over the examples of an epoch, with sample weights Σ wℓ / n.
    Validation noise is fixed, so two evaluations agree, and evaluating
    does not move the training noise.

    Raises:
        ValueError: if the shapes of encoder, decoder and images do not
            fit together.

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

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        beta: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        is_number = np.isscalar(beta) and np.isreal(beta)
        is_number = is_number and not isinstance(beta, (bool, str))
        if not (is_number and 0 <= beta < float("inf")):
            raise ValueError(
                "Expected `beta` to be a finite number, zero or greater. "
                f"Received: beta={beta!r}."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.target_beta = float(beta)
        self.seed = seed
        self.image_shape, self.latent_shape = matching_shapes(encoder, decoder)

        # === Layers and variables ===
        self.sampling = Sampling(seed, dtype="float32", name="sampling")
        # Noise of its own, rewound before each evaluation.
        self.validation_sampling = Sampling(
            0, dtype="float32", name="validation_sampling"
        )
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

    def decode(self, z) -> tf.Tensor:
        """Returns the mean of p(x|z).

        Args:
            z: latents, `(batch, *latent_shape)`.

        Returns:
            float32 pixel means in [0, 1], `(batch, *image_shape)`.
        """
        logits = self.decoder(z, training=False)
        return tf.sigmoid(tf.cast(logits, tf.float32))

    def generate(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes latents drawn from the prior N(0, I).

        Args:
            num_images: how many images to draw.
            seed: int, to get the same images again; `None` draws new ones.

        Returns:
            float32 pixel means in [0, 1], `(num_images, *image_shape)`.
        """
        if num_images != 0:
            num_images = positive_integer("num_images", num_images)
        z = keras.random.normal((num_images, *self.latent_shape), seed=seed)
        return self.decode(z)

    def call(self, x, training=None) -> tf.Tensor:
        """Returns reconstructions through the posterior mean: no noise."""
        z_mean, _ = self.encoder(x, training=training)
        logits = self.decoder(z_mean, training=training)
        return tf.sigmoid(tf.cast(logits, tf.float32))

    # === Training ===

    def negative_log_likelihood(self, x, logits) -> tf.Tensor:
        """Returns −log p(x|z) of each example.

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.
            logits: what the decoder makes of z, of the same shape.

        Returns:
            float32 `(batch,)`: nats per image.
        """
        return bernoulli_nll(x, logits)

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
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        sampling = self.sampling if training else self.validation_sampling
        z_mean, z_log_var = self.encoder(x, training=training)
        z = sampling((z_mean, z_log_var))
        logits = self.decoder(z, training=training)
        reconstruction_loss = self.negative_log_likelihood(x, logits)
        terms = reconstruction_loss, gaussian_kl(z_mean, z_log_var)
        if sample_weight is not None:
            sample_weight = tf.reshape(sample_weight, [-1])
            terms = [tf.cast(sample_weight, t.dtype) * t for t in terms]
        return tuple(terms)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """Descends the gradient of the loss of one batch."""
        with tf.GradientTape() as tape:
            reconstruction_loss, kl_loss = self.elbo_terms(data, training=True)
            losses = reconstruction_loss + self.beta * kl_loss  # (batch,)
            penalty = self._penalty()
            loss = tf.reduce_sum(losses) / self._batch_size(losses)
            loss += penalty / self._num_replicas
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        losses += penalty
        return self._update_metrics(losses, reconstruction_loss, kl_loss)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Measures the loss of one batch, with the constructor's β."""
        reconstruction_loss, kl_loss = self.elbo_terms(data, training=False)
        losses = reconstruction_loss + self.target_beta * kl_loss
        losses += self._penalty()
        return self._update_metrics(losses, reconstruction_loss, kl_loss)

    def _update_metrics(self, losses, reconstruction_loss, kl_loss):
        self.loss_tracker.update_state(losses)
        self.reconstruction_loss_tracker.update_state(reconstruction_loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {metric.name: metric.result() for metric in self.metrics}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [
            self.loss_tracker,
            self.reconstruction_loss_tracker,
            self.kl_loss_tracker,
        ]

    def reset_metrics(self) -> None:
        """Also rewinds the validation noise: each evaluation draws the same."""
        super().reset_metrics()
        state = self.validation_sampling.seed_generator.state
        state.assign([self.validation_sampling.seed, 0])

    def compile(self, optimizer="rmsprop", loss=None, **kwargs) -> None:
        """As `keras.Model.compile`, without `loss` and `metrics`.

        Raises:
            ValueError: if `loss`, `loss_weights`, `metrics` or
                `weighted_metrics` is given, or `jit_compile=True` or
                `steps_per_execution` under a strategy of several replicas.
        """
        own = {"loss": loss, **kwargs}
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if own.get(name) is not None:
                raise ValueError(
                    f"Expected no `{name}` in `compile`: a VAE computes its "
                    "own loss (reconstruction + beta * KL) and reports it. "
                    f"Received: {name}={own[name]!r}. Remove the argument; "
                    "to change the loss, give `beta` to the constructor, use "
                    "`vae.beta.assign(…)`, or override "
                    "`negative_log_likelihood`."
                )
        if self._num_replicas > 1:
            if kwargs.get("jit_compile") is True:
                raise ValueError(
                    "Expected `jit_compile` to be False or 'auto' under a "
                    "distribution strategy: XLA cannot compile the exchange "
                    "of gradients between replicas. Received: "
                    "jit_compile=True. Remove the argument."
                )
            if kwargs.get("steps_per_execution", 1) != 1:
                raise ValueError(
                    "Expected `steps_per_execution` to be 1 under a "
                    "distribution strategy of several replicas. Received: "
                    f"{kwargs['steps_per_execution']}. Remove the argument."
                )
            kwargs["jit_compile"] = False
        super().compile(optimizer, **kwargs)

    def compile_from_config(self, config: dict) -> None:
        # Keras asks for this method wherever `compile` is overridden.
        config = keras.saving.deserialize_keras_object(config)
        if self._num_replicas > 1:  # saved elsewhere, perhaps with XLA
            alone = {"jit_compile": "auto", "steps_per_execution": 1}
            config = {**config, **alone}
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    # === Saving ===

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "beta": self.target_beta,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        networks = {
            name: keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
            for name in ("encoder", "decoder")
        }
        return cls(**{**config, **networks})
