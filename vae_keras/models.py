"""Variational autoencoders: Keras models with a train step of their own."""

import numbers

import keras
import tensorflow as tf

from vae_keras import likelihoods, priors
from vae_keras._base import ImageModel
from vae_keras._checks import integer_seed
from vae_keras._matching import matching_shapes, number_of_classes
from vae_keras._training import weighted


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(ImageModel):
    """A variational autoencoder with Gaussian latents.

    The posterior q(z|x) is a diagonal Gaussian. The prior p(z) is N(0, I) and
    pixels are Bernoulli, unless another prior or likelihood is asked for.
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
        beta: the weight of the KL term. 1 gives the ELBO. `vae.beta = 4.0`
            changes it for good. The weight in force is the variable
            `vae.beta`, which a callback may `assign` to during training;
            `val_loss` does not follow that.
        seed: int or `None`, the seed of the noise, as in `Sampling`.
        likelihood: p(x|z): `"bernoulli"`, `"continuous_bernoulli"` for grey
            pixels, `"gaussian"` for colour and natural images, or a
            likelihood such as `vae_keras.likelihoods.Gaussian(0.3)`.
        prior: p(z): `"standard_normal"`, or one that is learned along, such
            as `vae_keras.priors.VampPrior(100)`, `"vamp"` or `"mixture"`.
            The KL of these is an estimate from the draw of z that is
            decoded.
        **kwargs: keyword arguments of `keras.Model`.

    `fit`, `evaluate` and `predict` take images alone or `(images, labels)`
    pairs (labels are ignored), as arrays, `tf.data` datasets or
    generators. The metrics `loss`, `reconstruction_loss` and `kl_loss` are
    means over the examples of an epoch, with sample weights Σ wℓ / n.
    Validation noise is fixed, so two evaluations agree (with one
    `jit_compile`: XLA draws other normals), and evaluating does not move
    the training noise. Networks that do not fit together, and
    other arguments than these, are a `ValueError`.

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

    has_gaussian_posterior = True
    # Whether the loss weighs the KL term, so that β can be set.
    has_beta = True
    _takes_labels = False

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        beta: float = 1.0,
        seed: int | None = None,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "standard_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._target_beta = _checked_beta(beta)
        self.encoder = encoder
        self.decoder = decoder
        self.seed = integer_seed(seed)
        if self._takes_labels:
            self.num_classes = number_of_classes(encoder)
        self.likelihood = likelihoods.get(likelihood)
        self.image_shape, self.latent_shape = matching_shapes(
            encoder,
            decoder,
            to_means=self.likelihood,
            num_classes=self.num_classes,
        )
        self._check_latents()

        self._add_noise(self.seed)
        self.prior = priors.get(prior)
        self.prior._connect(self)
        self.prior(keras.KerasTensor((None, *self.latent_shape)))
        self._beta = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(beta),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="beta",
        )
        self._add_metrics("loss", "reconstruction_loss", "kl_loss")
        self.built = True

    def _check_latents(self):
        """For subclasses that take only some shapes of latents."""

    @property
    def beta(self) -> keras.Variable:
        """The weight of the KL term in force. To set it sets both weights."""
        return self._beta

    @beta.setter
    def beta(self, beta: float):
        if not self.has_beta:
            raise ValueError(
                f"Expected no β: the bound of {type(self).__name__} has none. "
                f"Received: beta={beta!r}. Use a `VAE` for another weight."
            )
        self._target_beta = _checked_beta(beta)
        self._beta.assign(beta)
        self.test_function = None  # It has the old weight compiled in.

    @property
    def target_beta(self) -> float:
        """The weight that `val_loss` uses, and that warm-up ends with."""
        return self._target_beta

    # === Using the model ===

    def encode(self, x, labels=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `(z_mean, z_log_var)` of q(z|x).

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.
            labels: in a conditional model, their classes, integers
                `(batch,)`; other models ignore them.

        Returns:
            Two float32 tensors `(batch, *latent_shape)`.
        """
        x = self._eager_images(x)
        inputs = self._given(x, labels)
        z_mean, z_log_var = self.encoder(inputs, training=False)
        return tf.cast(z_mean, tf.float32), tf.cast(z_log_var, tf.float32)

    def call(self, inputs, training=None) -> tf.Tensor:
        """Returns reconstructions through the posterior mean: no noise."""
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(inputs)
        z_mean, _ = self.encoder(self._given(x, labels), training=training)
        return self._pixel_means(self._given(z_mean, labels), training)

    def _draw_latents(self, num_images, seed, labels) -> tf.Tensor:
        return self.prior.sample(num_images, seed)

    def _pixel_means(self, inputs, training) -> tf.Tensor:
        return self.likelihood.mean(self.decoder(inputs, training=training))

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
            self._given(x, labels), training=training
        )
        z = sampling((z_mean, z_log_var))
        logits = self.decoder(self._given(z, labels), training=training)
        reconstruction_loss = self.negative_log_likelihood(x, logits)
        kl_loss = self.prior.kl(z, z_mean, z_log_var)
        return (
            weighted(reconstruction_loss, sample_weight),
            weighted(kl_loss, sample_weight),
        )

    def train_step(self, data) -> dict[str, tf.Tensor]:
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
        reconstruction_loss, kl_loss = self.elbo_terms(data, training=False)
        losses = reconstruction_loss + self.target_beta * kl_loss
        losses += self._penalty()
        return self._update_metrics(losses, reconstruction_loss, kl_loss)

    def get_config(self) -> dict:
        own = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "beta": self.target_beta,
            "seed": self.seed,
            "likelihood": self.likelihood,
            "prior": self.prior,
        }
        own = keras.saving.serialize_keras_object(own)
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="vae_keras")
class ConditionalVAE(VAE):
    """A VAE of images given their labels.

    Encoder and decoder both see the label y, the prior does not:

        −ELBO = E_q(z|x,y)[−log p(x|z,y)] + KL(q(z|x,y) ‖ p(z))

    a bound on −log p(x|y). What the label says, latents need not say: they
    are left with what varies within a class, such as the slant of a digit.

    Args:
        encoder: a Keras model of two inputs, images `(batch, *image_shape)`
            and one-hot labels `(batch, num_classes)`, to `[z_mean,
            z_log_var]`, as `mlp_encoder` and `conv_encoder` build it with
            `num_classes`.
        decoder: a Keras model of two inputs, latents and one-hot labels, to
            the likelihood's parameters, as `mlp_decoder` and `conv_decoder`
            build it with `num_classes`.
        beta, seed, likelihood, prior: as in `VAE`.
        **kwargs: as in `VAE`.

    Attributes:
        num_classes: labels are integers from 0 to `num_classes - 1`.

    All that takes images in a `VAE` needs labels here: `fit(images,
    labels)`, `evaluate(images, labels)`, `predict((images, labels))`, and
    datasets and generators of `(images, labels)`, with sample weights or
    without. All labels of an array or an `image_dataset` are checked before
    the first step, of anything else those of the first batch.

    Example:
    >>> import vae_keras
    >>> images, labels = vae_keras.load_mnist("test[:64]")
    >>> vae = vae_keras.ConditionalVAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2, num_classes=10),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1), num_classes=10),
    ... )
    >>> vae.compile("adam")
    >>> history = vae.fit(images, labels, verbose=0)
    >>> tuple(vae.generate(labels=[7, 7, 3], seed=0).shape)
    (3, 28, 28, 1)

    Reference:
        Sohn, Lee and Yan, "Learning Structured Output Representation using
        Deep Conditional Generative Models", NeurIPS 2015.
    """

    _takes_labels = True


def _checked_beta(beta) -> float:
    is_number = isinstance(beta, numbers.Real) and not isinstance(beta, bool)
    number = float(beta) if is_number else -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(
            "Expected `beta` to be a finite number, zero or greater. "
            f"Received: beta={beta!r}. Leave it out for the ELBO."
        )
    return number
