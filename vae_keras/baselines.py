"""What a VAE is compared with: an autoencoder and a GAN.

Both take the networks of a VAE and have its habits, so that only what they
minimise differs. Networks that do not fit together are a `ValueError`.
"""

import keras
import tensorflow as tf

from vae_keras._base import ImageModel
from vae_keras._checks import integer_seed
from vae_keras._matching import matching_shapes, matching_shapes_of_gan
from vae_keras._training import weighted
from vae_keras.losses import bernoulli_nll


@keras.saving.register_keras_serializable(package="vae_keras")
class Autoencoder(ImageModel):
    """An autoencoder: a VAE without noise and without a KL term.

    The encoder gives one code z for each image, and training minimises

        loss = reconstruction_loss = −log p(x|z),   z = encoder(x)

    in nats per image. Nothing says what codes are distributed like, so this
    is no bound on −log p(x): compare it with a VAE's `reconstruction_loss`,
    not with its −ELBO.

    Args:
        encoder: a Keras model, images `(batch, *image_shape)` to codes.
            Those for a `VAE` serve too: z_mean is the code, and layers
            that only z_log_var needs are left out or learn nothing.
        decoder: a Keras model, codes to logits `(batch, *image_shape)`.
        **kwargs: keyword arguments of `keras.Model`.

    It takes the same data as a `VAE`. The metrics are `loss` and
    `reconstruction_loss`, which differ only where networks have regularisers.

    Example:
    >>> import vae_keras
    >>> autoencoder = vae_keras.baselines.Autoencoder(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> images, _ = vae_keras.load_mnist("test[:100]")
    >>> z = autoencoder.encode(images)

    Codes do not follow the N(0, I) of `generate`. Fit a distribution to them:

    >>> from sklearn.mixture import GaussianMixture
    >>> mixture = GaussianMixture(10, random_state=0).fit(z)
    >>> tuple(autoencoder.decode(mixture.sample(3)[0]).shape)
    (3, 28, 28, 1)

    References:
        Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with
        Neural Networks", Science, 2006. Ghosh et al., arXiv:1903.12436,
        2020, for the mixture.
    """

    has_prior = False

    def __init__(self, encoder: keras.Model, decoder: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.encoder = _first_output(encoder)
        self.decoder = decoder
        self.image_shape, self.latent_shape = matching_shapes(
            self.encoder, decoder, is_posterior=False
        )
        self._add_metrics("loss", "reconstruction_loss")
        self.built = True

    # === Using the model ===

    def encode(self, x, labels=None) -> tf.Tensor:
        """Returns the codes of images, float32 `(batch, *latent_shape)`."""
        x = self._eager_images(x)
        return tf.cast(self._codes(x, training=False), tf.float32)

    def call(self, x, training=None) -> tf.Tensor:
        """Returns reconstructions."""
        return self._pixel_means(self._codes(x, training), training)

    def _codes(self, x, training) -> tf.Tensor:
        return _first(self.encoder(x, training=training))

    # === Training ===

    def reconstruction_losses(self, data, training: bool) -> tf.Tensor:
        """Returns −log p(x|z) of each example of a batch.

        Args:
            data, training: as in `VAE.elbo_terms`.

        Returns:
            float32 `(batch,)`: nats, times the sample weight if any.
        """
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        logits = self.decoder(self._codes(x, training), training=training)
        return weighted(bernoulli_nll(x, logits), sample_weight)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            reconstruction_loss = self.reconstruction_losses(data, True)
            losses = reconstruction_loss + self._penalty()  # (batch,)
            loss = tf.reduce_sum(losses) / self._batch_size(losses)
            loss = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        gradients = _filled(tape.gradient(loss, weights), weights)
        self.optimizer.apply(gradients, weights)
        return self._update_metrics(losses, reconstruction_loss)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        reconstruction_loss = self.reconstruction_losses(data, False)
        losses = reconstruction_loss + self._penalty()
        return self._update_metrics(losses, reconstruction_loss)

    def get_config(self) -> dict:
        own = {"encoder": self.encoder, "decoder": self.decoder}
        own = keras.saving.serialize_keras_object(own)
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="vae_keras")
class GAN(ImageModel):
    """A generative adversarial network.

    A generator G turns latents into images, and a discriminator D gives
    the probability that an image is real. Each has a loss of its own:

        discriminator_loss = −log D(x) − log(1 − D(G(z)))
        generator_loss     = −log D(G(z)),   z ~ N(0, I)

    in nats, means over examples. The generator's is the paper's
    non-saturating loss. One step moves both networks at once, each down
    the gradient of its own loss, with one optimizer. There is no
    likelihood and no encoder, and losses that fall do not say that samples
    get better: a discriminator that cannot tell has 2 log 2 = 1.39 nats.

    Args:
        decoder: the generator, a Keras model from latents to logits
            `(batch, *image_shape)`; their sigmoids are the pixel means, as
            in a `VAE`.
        discriminator: a Keras model, images `(batch, *image_shape)` to one
            logit `(batch, 1)`, its first output: an encoder with
            `latent_dim=1` serves.
        seed: int or `None`, the seed of the noise, as in `Sampling`.
        **kwargs: keyword arguments of `keras.Model`.

    It takes the same data as a `VAE`; sample weights apply to the term of
    the real images. `predict` gives D(x). The metrics are `generator_loss`,
    `discriminator_loss` and `loss`, their sum, with what regularisers add.

    Example:
    >>> import keras
    >>> import vae_keras
    >>> gan = vae_keras.baselines.GAN(
    ...     vae_keras.mlp_decoder(16, (28, 28, 1)),
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=1),
    ... )
    >>> gan.compile(keras.optimizers.Adam(2e-4, beta_1=0.5))
    >>> tuple(gan.generate(3, seed=0).shape)
    (3, 28, 28, 1)

    References:
        Goodfellow et al., "Generative Adversarial Nets", 2014,
        arXiv:1406.2661. Radford, Metz and Chintala, arXiv:1511.06434, 2016,
        for the optimizer's settings.
    """

    has_encoder = False

    def __init__(
        self,
        decoder: keras.Model,
        discriminator: keras.Model,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.decoder = decoder
        self.discriminator = _first_output(discriminator)
        self.seed = integer_seed(seed)
        self.image_shape, self.latent_shape = matching_shapes_of_gan(
            decoder, self.discriminator
        )
        self._add_noise(self.seed)
        self._add_metrics("loss", "generator_loss", "discriminator_loss")
        self.built = True

    # === Using the model ===

    def call(self, x, training=None) -> tf.Tensor:
        """Returns the probability that images are real, `(batch, 1)`."""
        return tf.sigmoid(self._logits(x, training))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)

    def _logits(self, x, training) -> tf.Tensor:
        logits = _first(self.discriminator(x, training=training))
        return tf.cast(logits, tf.float32)

    # === Training ===

    def adversarial_losses(
        self, data, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the losses of both networks for each example of a batch.

        Args:
            data, training: as in `VAE.elbo_terms`.

        Returns:
            `(generator_loss, discriminator_loss)`, each float32 `(batch,)`
            in nats; a sample weight applies to −log D(x).
        """
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        sampling = self.sampling if training else self.validation_sampling
        zeros = tf.zeros((tf.shape(x)[0], *self.latent_shape))
        z = sampling((zeros, zeros))  # mean 0, log-variance 0
        generated = self._logits(self._pixel_means(z, training), training)[:, 0]
        # Real images last: of what `discriminator` has seen, Keras keeps the
        # activity losses of the last call, and G must not lower these.
        real = self._logits(x, training)[:, 0]
        # −log sigmoid(l) = softplus(−l), finite for logits of any size.
        generator_loss = tf.nn.softplus(-generated)
        discriminator_loss = weighted(tf.nn.softplus(-real), sample_weight)
        discriminator_loss += tf.nn.softplus(generated)
        return generator_loss, discriminator_loss

    def train_step(self, data) -> dict[str, tf.Tensor]:
        generator = self.decoder.trainable_weights
        discriminator = self.discriminator.trainable_weights
        # One tape, from which two gradients are taken.
        with tf.GradientTape(persistent=True) as tape:
            terms = self.adversarial_losses(data, training=True)
            penalty = self._penalty()  # Each network feels its own part.
            size = self._batch_size(terms[0])
            generator_loss, discriminator_loss = (
                tf.reduce_sum(losses + penalty) / size for losses in terms
            )
            generator_loss = self.optimizer.scale_loss(generator_loss)
            discriminator_loss = self.optimizer.scale_loss(discriminator_loss)
        gradients = tape.gradient(generator_loss, generator)
        gradients += tape.gradient(discriminator_loss, discriminator)
        weights = generator + discriminator
        self.optimizer.apply(_filled(gradients, weights), weights)
        return self._update_metrics(sum(terms) + penalty, *terms)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        terms = self.adversarial_losses(data, training=False)
        return self._update_metrics(sum(terms) + self._penalty(), *terms)

    def get_config(self) -> dict:
        own = {
            "decoder": self.decoder,
            "discriminator": self.discriminator,
            "seed": self.seed,
        }
        own = keras.saving.serialize_keras_object(own)
        return {**super().get_config(), **own}


def _first_output(network: keras.Model) -> keras.Model:
    """The network without the layers that only later outputs need.

    Only a functional model knows which these are; others stay as they are.
    """
    if len(getattr(network, "outputs", None) or ()) < 2:
        return network
    return keras.Model(network.input, network.outputs[0], name=network.name)


def _first(outputs) -> tf.Tensor:
    """The first of several tensors, or the only one."""
    return keras.tree.flatten(outputs)[0]


def _filled(gradients, weights) -> list[tf.Tensor]:
    """Gradients, zero for weights that only later outputs need."""
    return [
        tf.zeros(weight.shape) if gradient is None else gradient
        for gradient, weight in zip(gradients, weights, strict=True)
    ]
