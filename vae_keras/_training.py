"""What models with a loss of their own share: training and saving."""

import copy
from typing import Any

import keras
import tensorflow as tf

from vae_keras._cpu import keep_freed_memory
from vae_keras._inputs import checked_inputs, num_batches
from vae_keras._progress import EpochCallbacks
from vae_keras._saving import load_states, replacing, save_states


class OwnLossModel(keras.Model):
    """A Keras model that is built in its constructor and has its own loss.

    A subclass says what its data are in `_check_x`, and the shape of one
    example in `_x_shape`.
    """

    # In conditional models, how many classes their labels come from.
    num_classes = None
    # What a compiled step has read, so that to set it would do nothing.
    _fixed: tuple[str, ...] = ("encoder", "decoder", "likelihood", "prior")
    _fixed += ("discriminator", "seed", "num_classes", "image_shape")
    _fixed += ("latent_shape", "quantizer")
    # In models with noise, what `_add_noise` makes of it.
    validation_sampling: Any = None
    _validation_id = None

    def __init__(self, **kwargs):
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(
                f"Expected Keras to run on TensorFlow: {type(self).__name__} "
                "is written for it (networks, losses and `Sampling` run "
                f"anywhere). Received: the backend {backend}. Set "
                "KERAS_BACKEND=tensorflow before Keras is imported."
            )
        if "dtype" in kwargs:
            raise ValueError(
                "Expected no `dtype`: the networks have theirs. Received: "
                f"dtype={kwargs['dtype']!r}. Build them after "
                "`keras.config.set_dtype_policy`."
            )
        super().__init__(**kwargs)

    def __setattr__(self, name, value):
        if name in type(self)._fixed and getattr(self, "built", False):
            raise AttributeError(
                f"Expected `{name}` to stay as it is. Received: another "
                f"value for it. Make a new {type(self).__name__}."
            )
        super().__setattr__(name, value)

    def build(self, input_shape=None):
        """Does nothing: the constructor has built the model."""

    # fmt: off
    def summary(
        self, line_length=None, positions=None, print_fn=None,
        expand_nested=True, show_trainable=False, layer_range=None,
    ) -> None:
        """As `keras.Model.summary`, with the layers of the networks."""
        super().summary(
            line_length, positions, print_fn, expand_nested, show_trainable,
            layer_range,
        )
    # fmt: on

    def _add_metrics(self, *names: str) -> None:
        """Adds means over examples, which `metrics` gives in this order."""
        # In float32 whatever Keras's `floatx` is: they are long sums.
        self._means = [keras.metrics.Mean(name, "float32") for name in names]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._means)

    # Whether `call` looks at labels, where they come with the data.
    _call_takes_labels = True

    @property
    def _network_classes(self) -> int | None:
        return self.num_classes if self._call_takes_labels else None

    # === Training ===

    # Keras's own signatures, written out: any argument may come by position.
    # fmt: off
    def fit(
        self, x=None, y=None, batch_size=None, epochs=1,
        verbose: int | str = "auto", callbacks=None, validation_split=0.0,
        validation_data=None, shuffle=True, class_weight=None,
        sample_weight=None, initial_epoch=0, steps_per_epoch=None,
        validation_steps=None, validation_batch_size=None, validation_freq=1,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`, after a look at the data.

        On Linux it also asks the C library, for the whole process, to keep
        freed memory for the next step, unless a GPU does the work or a
        `MALLOC_…` environment variable is set.

        Raises:
            ValueError: before the first step, if the data (all of an
                array, the first batch of anything else) are not what the
                model takes: images that are floats in [0, 1] of its
                `image_shape`, or codes; or the labels not those that a
                conditional model needs.
        """
        x, y, sample_weight = self._checked(
            x, y, sample_weight, needs_labels=class_weight is not None
        )
        test_steps = None
        if validation_data is not None:
            validation_data = self._checked(validation_data)
            self._validation_id = id(validation_data[0])
            test_steps = num_batches(
                validation_data[0], validation_batch_size or batch_size,
                validation_steps,
            )
        callbacks = self._callbacks(
            callbacks, verbose, num_batches(
                x, batch_size, steps_per_epoch,
                0 if validation_data else validation_split,
            ), test_steps, epochs=epochs, add_history=True,
        )
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            shuffle = False  # Keras's default is True, and then it warns.
        try:
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, validation_split,
                validation_data, shuffle, class_weight, sample_weight,
                initial_epoch, steps_per_epoch, validation_steps,
                validation_batch_size, validation_freq,
            )
        except BaseException:  # Keras tells its callbacks nothing of it.
            for callback in callbacks.callbacks:
                getattr(callback, "on_train_interrupted", lambda: None)()
            raise
        finally:
            self._validation_id = None

    def evaluate(
        self, x=None, y=None, batch_size=None, verbose: int | str = "auto",
        sample_weight=None, steps=None, callbacks=None, return_dict=False,
        **kwargs,
    ):
        """As `keras.Model.evaluate`, after the same look as in `fit`."""
        # `fit` has looked at what it evaluates after each epoch.
        if id(x) != self._validation_id:
            x, y, sample_weight = self._checked(x, y, sample_weight)
        size = num_batches(x, batch_size, steps)
        callbacks = self._callbacks(callbacks, verbose, size, size)
        return super().evaluate(
            x, y, batch_size, verbose, sample_weight, steps, callbacks,
            return_dict, **kwargs,
        )

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None,
        return_dict=False,
    ):
        """As `keras.Model.train_on_batch`, after the same look as in `fit`."""
        x, y, sample_weight = self._checked(
            x, y, sample_weight, needs_labels=class_weight is not None
        )
        return super().train_on_batch(
            x, y, sample_weight, class_weight, return_dict
        )
    # fmt: on

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As `keras.Model.test_on_batch`, after the same look as in `fit`."""
        x, y, sample_weight = self._checked(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict)

    def predict_on_batch(self, x):
        """As `predict`, of one batch."""
        return super().predict_on_batch(self._as_network_inputs(x))

    def _as_network_inputs(self, x):
        """What `predict` hands on: data, checked, with labels if need be."""
        x, labels, _ = self._checked(x, num_classes=self._network_classes)
        is_pair = self._network_classes is not None and labels is not None
        return (x, labels) if is_pair else x

    def predict(
        self,
        x,
        batch_size=None,
        verbose: int | str = "auto",
        steps=None,
        callbacks=None,
    ):
        """As `keras.Model.predict`, of images, `(images, labels)` or batches.

        The same look as in `fit` comes first.
        """
        x = self._as_network_inputs(x)
        callbacks = self._callbacks(
            callbacks, verbose, num_batches(x, batch_size, steps)
        )
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def predict_step(self, data):
        # Arrays come as one input, the pair; batches of a dataset as x, y.
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        is_pair = self._network_classes is not None and labels is not None
        return self((x, labels) if is_pair else x, training=False)

    def _checked(self, x, y=None, sample_weight=None, **kwargs) -> tuple:
        return checked_inputs(
            x,
            y,
            sample_weight,
            check=self._check_x,
            shape=self._x_shape,
            **{"num_classes": self.num_classes, **kwargs},
        )

    def _callbacks(
        self, callbacks, verbose, steps, test_steps=None, **kwargs
    ) -> keras.callbacks.CallbackList:
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks
        callbacks = EpochCallbacks(
            callbacks,
            add_progbar=verbose != 0,
            verbose=verbose,
            steps=steps,
            model=self,
            **{"epochs": 1, **kwargs},
        )
        callbacks.num_test_batches = test_steps
        return callbacks

    def make_train_function(self, force: bool = False):
        if self.train_function is None or force:
            super().make_train_function(force=True)
            run = self.train_function

            def train_function(iterator):
                keep_freed_memory()
                return run(iterator)

            self.train_function = train_function
        return self.train_function

    def _penalty(self) -> tf.Tensor:
        """The sum of the networks' own losses: regularisers, `add_loss`."""
        losses = [tf.cast(loss, tf.float32) for loss in self.losses]
        return tf.add_n([tf.zeros(()), *losses])

    def _update_metrics(self, *losses) -> dict[str, tf.Tensor]:
        """Adds losses `(batch,)` to the means, in their order."""
        for mean, values in zip(self._means, losses, strict=True):
            mean.update_state(values)
        logs = {metric.name: metric.result() for metric in self.metrics}
        if _has_other_workers(self.distribute_strategy):
            # Keras takes the mean of what a step returns over workers and
            # along the first dimension, which a scalar lacks (tensorflow
            # issue 72388).
            logs = {name: log[tf.newaxis] for name, log in logs.items()}
        return logs

    def reset_metrics(self) -> None:
        """Also rewinds the validation noise: each evaluation draws the same."""
        super().reset_metrics()
        if self.validation_sampling is not None:
            state = self.validation_sampling.seed_generator.state
            state.assign([self.validation_sampling.seed, 0])

    # === Replicas ===

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

    def _maybe_symbolic_build(self, *args, **kwargs) -> None:
        # A private method of Keras: under a strategy it takes a batch off
        # the data to build model and optimizer, and fails where replicas
        # get unequal shares of it (keras issue 19246). This model is built
        # in its constructor: only the optimizer is left. If Keras drops the
        # method, nothing calls this one.
        if self._num_replicas > 1 and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    # === Compiling ===

    # fmt: off
    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None,
        weighted_metrics=None, run_eagerly=False, steps_per_execution=1,
        jit_compile="auto", auto_scale_loss=True,
    ) -> None:
        """As `keras.Model.compile`, without `loss` and `metrics`.

        Raises:
            ValueError: if one of these is given, or `jit_compile=True` or
                `steps_per_execution` under a strategy of several replicas.
        """
        own = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics,
               "weighted_metrics": weighted_metrics}
        for name, value in own.items():
            if value is not None:
                raise ValueError(
                    f"Expected no `{name}` in `compile`: "
                    f"{type(self).__name__} computes its own loss. Received: "
                    f"{name}={value!r}. Remove the argument; another loss is "
                    "another `likelihood` or `beta`, or a subclass with its "
                    "own `train_step` and `test_step`."
                )
        if self._num_replicas > 1:
            if jit_compile is True or steps_per_execution != 1:
                raise ValueError(
                    "Expected neither `jit_compile=True` nor "
                    "`steps_per_execution` under a distribution strategy of "
                    "several replicas: XLA does not compile their exchange "
                    f"of gradients here. Received: {jit_compile=}, "
                    f"{steps_per_execution=}. Remove both arguments."
                )
            jit_compile = False
        super().compile(
            optimizer, None, None, None, None, run_eagerly,
            steps_per_execution, jit_compile, auto_scale_loss,
        )
    # fmt: on

    def compile_from_config(self, config: dict) -> None:
        # Keras asks for this method wherever `compile` is overridden.
        config = keras.saving.deserialize_keras_object(config)
        if self._num_replicas > 1:  # saved elsewhere, perhaps with XLA
            config |= {"jit_compile": "auto", "steps_per_execution": 1}
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    # === Saving ===

    def get_config(self) -> dict:
        config = super().get_config()
        return {key: config[key] for key in config if key != "dtype"}

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        # Keras takes some of it apart; older files have a `dtype`.
        config = copy.deepcopy(config)
        config.pop("dtype", None)
        return cls(
            **keras.saving.deserialize_keras_object(config, custom_objects)
        )

    def save(self, filepath, overwrite=True, zipped=None, **kwargs) -> None:
        """As `keras.Model.save`; an existing file is replaced at the end.

        Among several workers all have to call it, and the chief writes.
        """
        with replacing(self, filepath, overwrite) as path:
            super().save(path, overwrite, zipped, **kwargs)

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """As `keras.Model.save_weights`; replaces a file only at the end.

        Among several workers all have to call it, and the chief writes.
        """
        is_one = str(filepath).endswith(".weights.h5")
        is_one = is_one and max_shard_size is None
        with replacing(self, filepath, overwrite, is_one) as path:
            super().save_weights(path, overwrite, max_shard_size)

    def save_own_variables(self, store) -> None:
        save_states(self, store)

    def load_own_variables(self, store) -> None:
        load_states(self, store)


def is_symbolic(x) -> bool:
    """Whether a tensor has no values yet, as inside a graph."""
    return isinstance(x, keras.KerasTensor) or tf.is_symbolic_tensor(x)


def weighted(losses: tf.Tensor, sample_weight) -> tf.Tensor:
    """Returns losses `(batch,)` times the sample weights, if there are any."""
    if sample_weight is None:
        return losses
    sample_weight = tf.reshape(sample_weight, [-1])
    return tf.cast(sample_weight, losses.dtype) * losses


def _has_other_workers(strategy) -> bool:
    """Whether other processes train along, as a cluster's workers do."""
    if strategy.cluster_resolver is None:
        return False
    jobs = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(jobs.get(job, ())) for job in ("chief", "worker")) > 1
