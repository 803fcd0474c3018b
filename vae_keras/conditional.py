"""The conditional VAE: labels say what to draw, latents say how."""

import keras
import tensorflow as tf

from vae_keras.checks import check_labels, checked_data, positive_integer
from vae_keras.likelihoods import Likelihood
from vae_keras.models import VAE
from vae_keras.training import plain_model


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
            z_log_var]`, two tensors of one shape. `mlp_encoder` and
            `conv_encoder` build it with `num_classes`.
        decoder: a Keras model of two inputs, latents of that shape and
            one-hot labels, to the likelihood's parameters. `mlp_decoder`
            and `conv_decoder` build it with `num_classes`.
        num_classes: labels are integers from 0 to `num_classes - 1`.
        beta: the weight of the KL term, as in `VAE`.
        seed: int or `None`, the seed of the noise, as in `VAE`.
        likelihood: p(x|z, y), as in `VAE`.
        **kwargs: keyword arguments of `keras.Model`.

    All that takes images in a `VAE` needs labels here: `fit(images,
    labels)`, `evaluate(images, labels)`, `predict((images, labels))`, and
    datasets and generators of `(images, labels)`, with sample weights or
    without. `encode` and `decode` have the argument `labels`, as have
    `importance_weighted_nll`, `active_units` and `kl_per_dimension`.

    Raises:
        ValueError: if the shapes of encoder, decoder, images and labels do
            not fit together, or an argument is unknown. Before the first
            step, if labels are missing or others than these integers: all
            of an array or an `image_dataset`, the first batch of anything
            else.

    Example:
    >>> import vae_keras
    >>> images, labels = vae_keras.load_mnist("test[:64]")
    >>> vae = vae_keras.ConditionalVAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2, num_classes=10),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1), num_classes=10),
    ...     num_classes=10,
    ... )
    >>> vae.compile("adam")
    >>> history = vae.fit(images, labels, verbose=0)
    >>> tuple(vae.generate(labels=[7, 7, 3], seed=0).shape)
    (3, 28, 28, 1)

    References:
        Kingma et al., "Semi-Supervised Learning with Deep Generative
        Models", NeurIPS 2014, arXiv:1406.5298. Sohn, Lee and Yan, "Learning
        Structured Output Representation using Deep Conditional Generative
        Models", NeurIPS 2015.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        num_classes: int,
        beta: float = 1.0,
        seed: int | None = None,
        likelihood: str | Likelihood = "bernoulli",
        **kwargs,
    ):
        # `VAE` asks for it when it looks at the networks' shapes.
        self.num_classes = positive_integer("num_classes", num_classes)
        super().__init__(encoder, decoder, beta, seed, likelihood, **kwargs)

    # === Using the model ===

    def given(self, inputs, labels=None) -> tuple:
        """Returns what encoder or decoder take: `(inputs, one_hot)`.

        Args:
            inputs: images or latents, `(batch, …)`.
            labels: integers `(batch,)`.

        Returns:
            `inputs`, and the labels as float32 `(batch, num_classes)`.

        Raises:
            ValueError: if the labels are not such integers.
        """
        if not isinstance(inputs, keras.KerasTensor):
            if not tf.is_symbolic_tensor(labels):
                check_labels(labels, self.num_classes, inputs.shape[0])
            # Keras takes no pairs of an array and a tensor.
            inputs = keras.ops.convert_to_tensor(inputs)
        return inputs, keras.ops.one_hot(labels, self.num_classes)

    def encode(self, x, labels=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `(z_mean, z_log_var)` of q(z|x, y).

        Args:
            x: images in [0, 1], `(batch, *image_shape)`.
            labels: their classes y, integers `(batch,)`.

        Returns:
            Two float32 tensors `(batch, *latent_shape)`.
        """
        return super().encode(self.given(x, labels))

    def decode(self, z, labels=None) -> tf.Tensor:
        """Returns the pixel means of p(x|z, y).

        Args:
            z: latents, `(batch, *latent_shape)`.
            labels: the classes y to draw, integers `(batch,)`.

        Returns:
            float32 pixel means, `(batch, *image_shape)`, as in `VAE`.
        """
        return super().decode(self.given(z, labels))

    def generate(self, labels, seed: int | None = None) -> tf.Tensor:
        """Decodes latents drawn from the prior N(0, I), one for each label.

        Args:
            labels: the classes to draw, integers `(num_images,)`.
            seed: int, to get the same images again; `None` draws new ones.

        Returns:
            float32 pixel means, `(num_images, *image_shape)`, as `decode`.
        """
        check_labels(labels, self.num_classes, None)
        shape = (len(labels), *self.latent_shape)
        return self.decode(keras.random.normal(shape, seed=seed), labels)

    def call(self, inputs, training=None) -> tf.Tensor:
        """Returns reconstructions of `(images, labels)`: no noise."""
        is_pair = isinstance(inputs, (tuple, list))
        x, labels = inputs if is_pair else (inputs, None)
        z_mean, _ = self.encoder(self.given(x, labels), training=training)
        return self._pixel_means(self.given(z_mean, labels), training)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`, of `(images, labels)` or such batches.

        Raises:
            ValueError: as `fit`.
        """
        x = checked_data(x, self.image_shape, self.num_classes)
        return super().predict(x, *args, **kwargs)

    def predict_step(self, data):
        # Arrays come as one input, the pair; batches of a dataset as x, y.
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(x if labels is None else (x, labels), training=False)

    # === Leaving the package ===

    def generator(self) -> keras.Model:
        """As in `VAE`, of two inputs: latents, and int32 labels `(batch,)`.

        Elsewhere nobody looks at the labels: for those that do not exist,
        the exported model draws something all the same.
        """
        z, labels = keras.Input(self.latent_shape, name="z"), _labels()
        return plain_model([z, labels], self.decode(z, labels), "generator")

    def reconstructor(self) -> keras.Model:
        """As in `VAE`, of two inputs: images, and int32 labels `(batch,)`."""
        inputs = [keras.Input(self.image_shape, name="images"), _labels()]
        outputs = self.call(inputs, training=False)
        return plain_model(inputs, outputs, "reconstructor")

    # === Saving ===

    def get_config(self) -> dict:
        return {**super().get_config(), "num_classes": self.num_classes}


def _labels() -> keras.KerasTensor:
    return keras.Input((), dtype="int32", name="labels")
