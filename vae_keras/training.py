"""What every model of images here shares, whatever its loss.

It decodes latents, looks at the images before the first step, trains fast
and counts examples over all replicas. Saving is in `saving`.
"""

import keras
import tensorflow as tf

from vae_keras.checks import checked_data, positive_integer
from vae_keras.layers import Sampling
from vae_keras.saving import ExactlySaved, protect_backups
from vae_keras.speed import fused_steps, has_convolutions, keep_freed_memory


class ImageModel(ExactlySaved):
    """A Keras model that is built in its constructor and has its own loss.

    A subclass names its networks, one of them `decoder`, in
    `network_names`, sets `image_shape` and `latent_shape`, the shapes of
    one image and of one latent, in its constructor, and writes `call`,
    `metrics`, `train_step` and `test_step`.
    """

    # In conditional models, how many classes their labels come from.
    num_classes = None
    # What `compile` says about the loss, and about how to change it.
    loss_in_words = "its own loss"
    way_to_another_loss = "override `train_step` and `test_step`"
    # In models with noise, what `_add_noise` makes of it.
    validation_sampling = None

    def _add_noise(self, seed: int | None) -> None:
        """Adds the layers that draw the noise of training and validation."""
        self.sampling = Sampling(seed, dtype="float32", name="sampling")
        # Noise of its own, rewound before each evaluation.
        self.validation_sampling = Sampling(
            0, dtype="float32", name="validation_sampling"
        )

    # === Using the model ===

    def given(self, inputs, labels=None):
        """Returns what encoder or decoder take: here `inputs` alone.

        Args:
            inputs: images or latents.
            labels: ignored; a `ConditionalVAE` joins them to the inputs.

        Returns:
            `inputs`.
        """
        return inputs

    def decode(self, z) -> tf.Tensor:
        """Returns the pixel means of latents: for a VAE, those of p(x|z).

        Args:
            z: latents, `(batch, *latent_shape)`.

        Returns:
            float32 pixel means, `(batch, *image_shape)`: in [0, 1], unless
            a VAE's likelihood has others, as the Gaussian.
        """
        return self._pixel_means(z, training=False)

    def generate(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes latents drawn from the prior N(0, I).

        Args:
            num_images: how many images to draw.
            seed: int, to get the same images again; `None` draws new ones.

        Returns:
            float32 pixel means, `(num_images, *image_shape)`, as `decode`.
        """
        if num_images != 0:
            num_images = positive_integer("num_images", num_images)
        z = keras.random.normal((num_images, *self.latent_shape), seed=seed)
        return self.decode(z)

    def _pixel_means(self, z, training) -> tf.Tensor:
        # Keras's own operations, so that `z` may be a `keras.Input`.
        logits = self.decoder(z, training=training)
        return keras.ops.sigmoid(keras.ops.cast(logits, "float32"))

    # === Leaving the package ===

    def generator(self) -> keras.Model:
        """Returns `decode` as a plain Keras model, to save or to export.

        It shares its weights with this model, draws nothing at random, and
        what Keras exports of it needs neither this package nor Keras:

            vae.generator().export("generator", format="tf_saved_model")
            vae.generator().export("generator.onnx", format="onnx")

        The second needs the extra `export`, and networks that were built
        under the policy float32. For new images, give it draws from N(0, I).

        Returns:
            A `keras.Model` from latents `(batch, *latent_shape)` to what
            `decode` gives, float32 pixel means `(batch, *image_shape)`.
        """
        z = keras.Input(self.latent_shape, name="z")
        return plain_model(z, self.decode(z), "generator")

    def reconstructor(self) -> keras.Model:
        """As `generator`, for what `predict` computes: reconstructions.

        Returns:
            A `keras.Model` from images `(batch, *image_shape)` to float32
            pixel means of the same shape; in a `VAE`, through the posterior
            mean.
        """
        x = keras.Input(self.image_shape, name="images")
        return plain_model(x, self.call(x, training=False), "reconstructor")

    def export(self, filepath, *args, **kwargs) -> None:
        """As `keras.Model.export`, of the `reconstructor`: without noise."""
        self.reconstructor().export(filepath, *args, **kwargs)

    # === Training ===

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        # Under a strategy Keras takes a batch off the data to build model
        # and optimizer, and fails where replicas get unequal shares of it.
        # This model is built in its constructor: only the optimizer is left.
        if self._num_replicas > 1 and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _make_function(self, step_function):
        # From several workers Keras takes the mean of what a step returns
        # over replicas and along the first dimension, the examples'. A
        # metric is a scalar, and has none: TensorFlow refuses, whatever the
        # model (tensorflow issue 72388). So it gets one, of length 1.
        def step(data):
            logs = step_function(data)
            return tf.nest.map_structure(
                lambda log: tf.expand_dims(log, 0), logs
            )

        workers = self.distribute_strategy.extended._in_multi_worker_mode()
        return super()._make_function(step if workers else step_function)

    def make_train_function(self, force: bool = False):
        if self.train_function is None or force:
            super().make_train_function(force=True)
            fused = self.jit_compile and self.steps_per_execution > 1
            fused = fused and not has_convolutions(self)
            run = self.train_function
            if fused and not self.run_eagerly:
                run = fused_steps(self, run)

            def train_function(iterator):
                keep_freed_memory()
                return run(iterator)

            self.train_function = train_function
        return self.train_function

    def fit(self, x=None, *args, **kwargs) -> keras.callbacks.History:
        """As `keras.Model.fit`, after a look at the images.

        On Linux it also asks the C library to keep freed memory for the
        next step; a `MALLOC_…` environment variable prevents that.

        Raises:
            ValueError: before the first step, if the images (all of an
                array, the first batch of anything else) are not floats in
                [0, 1] of the model's `image_shape`, or the labels not
                those that a conditional model needs.
        """
        x, args, kwargs = self._checked_data(x, args, kwargs)
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = checked_data(
                kwargs["validation_data"], self.image_shape, self.num_classes
            )
        protect_backups(kwargs.get("callbacks"))
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            # Keras warns when it is asked to shuffle one, its own default.
            kwargs.setdefault("shuffle", False)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`, after the same look as in `fit`."""
        # `fit` evaluates each epoch, on images that it has looked at.
        if not kwargs.get("_use_cached_eval_dataset"):
            x, args, kwargs = self._checked_data(x, args, kwargs)
        return super().evaluate(x, *args, **kwargs)

    def _checked_data(self, x, args, kwargs):
        """Checks the data, and takes apart a tuple `(x, y, …)` of arrays."""
        if isinstance(x, tuple) and (not args or args[0] is None):
            args = args[1:]
            if args:  # Keras's second argument by position: batch_size
                kwargs, args = {"batch_size": args[0], **kwargs}, args[1:]
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(x)
            kwargs = {"y": y, "sample_weight": sample_weight, **kwargs}
        y = kwargs.get("y", args[0] if args else None)
        if self.num_classes is not None and y is not None:
            checked_data((x, y), self.image_shape, self.num_classes)
        else:
            x = checked_data(x, self.image_shape, self.num_classes)
        return x, args, kwargs

    def _penalty(self) -> tf.Tensor:
        """The sum of the networks' own losses: regularisers, `add_loss`."""
        losses = [tf.cast(loss, tf.float32) for loss in self.losses]
        return tf.add_n([tf.zeros(()), *losses])

    def _update_metrics(self, *losses) -> dict[str, tf.Tensor]:
        """Adds losses `(batch,)` to the metrics, in the metrics' order."""
        for metric, values in zip(self.metrics, losses, strict=True):
            metric.update_state(values)
        return {metric.name: metric.result() for metric in self.metrics}

    def reset_metrics(self) -> None:
        """Also rewinds the validation noise: each evaluation draws the same."""
        super().reset_metrics()
        if self.validation_sampling is not None:
            state = self.validation_sampling.seed_generator.state
            state.assign([self.validation_sampling.seed, 0])

    @property
    def _num_replicas(self) -> int:
        return self.distribute_strategy.num_replicas_in_sync

    def _batch_size(self, losses: tf.Tensor) -> tf.Tensor:
        """The number of examples in the batch, over all replicas.

        Keras adds up the replicas' gradients. So each replica divides its
        sum of losses by the number of examples of all: a replica that got
        fewer examples, or none, then counts for just as much as it should.
        """
        size = tf.cast(tf.shape(losses)[0], losses.dtype)
        if self._num_replicas > 1:
            context = tf.distribute.get_replica_context()
            size = context.all_reduce(tf.distribute.ReduceOp.SUM, size)
        return size

    # === Compiling ===

    def compile(self, optimizer="rmsprop", loss=None, **kwargs) -> None:
        """As `keras.Model.compile`, without `loss` and `metrics`.

        Raises:
            ValueError: if `loss`, `loss_weights`, `metrics` or
                `weighted_metrics` is given, or `jit_compile=True` or
                `steps_per_execution` under a strategy of several replicas,
                or if Keras does not run on TensorFlow.
        """
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(
                "Expected Keras to run on TensorFlow: the train step of "
                f"{type(self).__name__} is written for it (networks, losses "
                f"and `Sampling` run anywhere). Received: the backend "
                f"{backend}. Set KERAS_BACKEND=tensorflow before Keras is "
                "imported."
            )
        own = {"loss": loss, **kwargs}
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if own.get(name) is not None:
                raise ValueError(
                    f"Expected no `{name}` in `compile`: "
                    f"{type(self).__name__} computes {self.loss_in_words} "
                    f"and reports it. Received: {name}={own[name]!r}. Remove "
                    "the argument; to change the loss, "
                    f"{self.way_to_another_loss}."
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


def plain_model(inputs, outputs, name: str) -> keras.Model:
    """Returns a functional model that Keras can export."""
    model = keras.Model(inputs, outputs, name=name)
    model(inputs)  # Keras converts to ONNX only what was called before.
    return model


def weighted(losses: tf.Tensor, sample_weight) -> tf.Tensor:
    """Returns losses `(batch,)` times the sample weights, if there are any."""
    if sample_weight is None:
        return losses
    sample_weight = tf.reshape(sample_weight, [-1])
    return tf.cast(sample_weight, losses.dtype) * losses
