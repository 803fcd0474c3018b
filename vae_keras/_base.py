"""What all models of images share: generating, and leaving the package."""

from typing import Any

import keras
import tensorflow as tf

from vae_keras._checks import (
    check_images,
    check_labels,
    check_latents,
    explain_images,
    integer_seed,
    positive_integer,
)
from vae_keras._inputs import as_array
from vae_keras._training import OwnLossModel, is_symbolic
from vae_keras.layers import Sampling


class ImageModel(OwnLossModel):
    """A model that decodes latents to images.

    A subclass's constructor sets `decoder`, `image_shape` and `latent_shape`.
    """

    # Whether images can be encoded, and latents drawn from N(0, I).
    has_encoder = has_prior = True
    # Whether q(z|x) is a Gaussian, whose mean and variance `encode` gives.
    has_gaussian_posterior = False
    _latent_dtype = "float32"

    @property
    def _x_shape(self) -> tuple:
        return self.image_shape

    def _check_x(self, x, in_pairs: bool = False) -> None:
        explain_images(x, self.image_shape, in_pairs)

    def compute_output_shape(self, input_shape):
        batch = keras.tree.flatten(input_shape)[0]
        return (batch, *self.image_shape)

    def _add_noise(self, seed: int | None) -> None:
        """Adds the layers that draw the noise of training and validation."""
        self.sampling = Sampling(seed, dtype="float32", name="sampling")
        # Noise of its own, rewound before each evaluation.
        self.validation_sampling = Sampling(
            0, dtype="float32", name="validation_sampling"
        )
        one = keras.KerasTensor((None, *self.latent_shape))
        for sampling in (self.sampling, self.validation_sampling):
            sampling((one, one))  # So that `summary` has its shape.

    # === Using the model ===

    def decode(self, z, labels=None) -> tf.Tensor:
        """Returns the pixel means of latents: for a VAE, those of p(x|z).

        Args:
            z: latents, `(batch, *latent_shape)`.
            labels: in a conditional model, the classes to draw, integers
                `(batch,)`; other models ignore them.

        Returns:
            float32 pixel means, `(batch, *image_shape)`: in [0, 1], unless
            a VAE's likelihood has others, as the Gaussian.
        """
        z = as_array(z)
        self._check_z(z)
        return self._pixel_means(self._given(z, labels), training=False)

    def generate(
        self, num_images: int | None = None, *, labels=None, seed=None
    ) -> tf.Tensor:
        """Decodes latents drawn from the prior: N(0, I), if not another.

        Args:
            num_images: how many images to draw; by default one for each
                label.
            labels: as in `decode`.
            seed: int, to get the same images again; `None` draws new ones.

        Returns:
            float32 pixel means, `(num_images, *image_shape)`, as `decode`.
        """
        if self.num_classes is not None:
            check_labels(labels, self.num_classes, num_images)
        if num_images is None and labels is not None:
            num_images = len(labels)
        if num_images != 0:
            num_images = positive_integer("num_images", num_images)
        return self.decode(self._draw_latents(num_images, seed, labels), labels)

    def _draw_latents(self, num_images, seed, labels) -> tf.Tensor:
        shape = (num_images, *self.latent_shape)
        return keras.random.normal(shape, seed=integer_seed(seed))

    def _check_z(self, z) -> None:
        check_latents(z, self.latent_shape)

    def _eager_images(self, x):
        """Images as an array, and checked, unless they are symbolic."""
        x = as_array(x)
        if not is_symbolic(x):
            check_images(x, self.image_shape)
        return x

    def _pixel_means(self, inputs, training) -> tf.Tensor:
        # Keras's own operations, so that `inputs` may be a `keras.Input`.
        logits = self.decoder(inputs, training=training)
        return keras.ops.sigmoid(keras.ops.cast(logits, "float32"))

    def _given(self, inputs, labels):
        """What a network takes: `inputs`, and one-hot labels if it wants."""
        if self.num_classes is None:
            return inputs
        if not isinstance(inputs, keras.KerasTensor):
            if not tf.is_symbolic_tensor(labels):
                check_labels(labels, self.num_classes, inputs.shape[0])
            # Keras takes no pairs of an array and a tensor.
            inputs = keras.ops.convert_to_tensor(inputs)
        return inputs, keras.ops.one_hot(labels, self.num_classes)

    # === Leaving the package ===

    def generator(self) -> keras.Model:
        """Returns `decode` as a plain Keras model, to save or to export.

        It shares its weights with this model, unless that computes in 16
        bits: then it is a copy in float32, since few programs read others.
        What Keras exports of it needs neither this package nor Keras:

            vae.generator().export("generator", format="tf_saved_model")
            vae.generator().export("generator.onnx", format="onnx")

        The second needs the extra `export`.

        Returns:
            A `keras.Model` from latents `(batch, *latent_shape)`, in a
            conditional model also int32 labels `(batch,)`, unchecked, to
            float32 pixel means `(batch, *image_shape)`.
        """
        return self._plain_model(
            "generator", "z", self.latent_shape, self._latent_dtype
        )

    def reconstructor(self) -> keras.Model:
        """As `generator`, for what `predict` computes: reconstructions.

        Returns:
            A `keras.Model` from images `(batch, *image_shape)`, and labels
            as in `generator`, to float32 pixel means of the same shape.
        """
        if not self.has_encoder:
            raise ValueError(
                "Expected a model that reconstructs images. Received: a "
                f"{type(self).__name__}, which has no encoder. Export its "
                "`generator()` instead."
            )
        return self._plain_model("reconstructor", "images", self.image_shape)

    def _plain_model(
        self, name, input_name, shape, dtype="float32"
    ) -> keras.Model:
        if not all(map(_is_float32, self.layers)):
            copy = self._float32_copy()
            return copy._plain_model(name, input_name, shape, dtype)
        inputs = [keras.Input(shape, name=input_name, dtype=dtype)]
        if self._network_classes is not None:
            inputs.append(keras.Input((), dtype="int32", name="labels"))
        if len(inputs) == 1:
            (inputs,) = inputs
        if name == "generator":
            outputs = self.decode(*keras.tree.flatten(inputs))
        else:
            outputs = self.call(inputs, training=False)
        model = keras.Model(inputs, outputs, name=name)
        model(inputs)  # Keras converts to ONNX only what was called before.
        return model

    def _float32_copy(self):
        copy = type(self).from_config(_in_float32(self.get_config()))
        if not all(map(_is_float32, copy.layers)):
            raise ValueError(
                "Expected networks that compute in float32, to export them. "
                f"Received: {self.decoder.dtype_policy.name}. Build the same "
                "networks in float32 and give them these weights, as in "
                "`vae.set_weights(this.get_weights())`."
            )
        copy.set_weights(self.get_weights())
        return copy

    def export(self, filepath, format="tf_saved_model", *args, **kwargs):
        """As `keras.Model.export`, of the `reconstructor`: without noise."""
        self.reconstructor().export(filepath, format, *args, **kwargs)


def _is_float32(layer) -> bool:
    inner = getattr(layer, "layers", [])
    is_float32 = layer.compute_dtype not in ("float16", "bfloat16")
    return is_float32 and all(map(_is_float32, inner))


def _in_float32(config) -> Any:
    """The configuration of a model, without dtypes of 16 bits."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_in_float32, config))
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return "float32"
    config = {key: _in_float32(value) for key, value in config.items()}
    if config.get("dtype") in ("float16", "bfloat16"):
        config["dtype"] = "float32"
    return config
