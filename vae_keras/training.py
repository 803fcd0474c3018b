"""What every model of images here shares, whatever its loss.

It looks at the images before the first step, trains fast, counts examples
over all replicas, and is saved whole, random states included.
"""

import keras
import tensorflow as tf

from vae_keras.checks import checked_data
from vae_keras.saving import replacing
from vae_keras.speed import fused_steps, has_convolutions, keep_freed_memory


class ImageModel(keras.Model):
    """A Keras model that is built in its constructor and has its own loss.

    A subclass sets `image_shape`, the shape of one image, in its
    constructor, and writes `train_step` and `test_step`.
    """

    # === Training ===

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        # Under a strategy Keras takes a batch off the data to build model
        # and optimizer, and fails where replicas get unequal shares of it.
        # This model is built in its constructor: only the optimizer is left.
        if self._num_replicas > 1 and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

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
                [0, 1] of the shape that the encoder takes.
        """
        x, args, kwargs = self._checked_data(x, args, kwargs)
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = checked_data(
                kwargs["validation_data"], self.image_shape
            )
        if isinstance(x, tf.data.Dataset):
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
        """Checks the images, and takes apart a tuple `(x, y, …)` of arrays."""
        if isinstance(x, tuple) and (not args or args[0] is None):
            args = args[1:]
            if args:  # Keras's second argument by position: batch_size
                kwargs, args = {"batch_size": args[0], **kwargs}, args[1:]
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(x)
            kwargs = {"y": y, "sample_weight": sample_weight, **kwargs}
        return checked_data(x, self.image_shape), args, kwargs

    def _penalty(self) -> tf.Tensor:
        """The sum of the networks' own losses: regularisers, `add_loss`."""
        losses = [tf.cast(loss, tf.float32) for loss in self.losses]
        return tf.add_n([tf.zeros(()), *losses])

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

    # === Saving ===

    def save(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """As `keras.Model.save`; an existing file is replaced at the end."""
        with replacing(filepath, overwrite) as path:
            super().save(path, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """As `keras.Model.save_weights`; replaces a file only at the end."""
        if kwargs.get("max_shard_size") is not None:  # many files
            super().save_weights(filepath, overwrite=overwrite, **kwargs)
            return
        with replacing(filepath, overwrite) as path:
            super().save_weights(path, overwrite=overwrite, **kwargs)

    def _random_states(self) -> list[keras.Variable]:
        """The states of all seed generators, the networks' own included."""
        weights = {id(weight) for weight in self.weights}
        return [v for v in self.variables if id(v) not in weights]

    def _own_weights(self) -> list[keras.Variable]:
        """The weights of the model itself, not of its networks."""
        nested = {id(w) for layer in self.layers for w in layer.weights}
        return [w for w in self.weights if id(w) not in nested]

    def save_own_variables(self, store) -> None:
        # Keras does not store random states; without them a resumed
        # training would draw other noise than one that never stopped.
        for i, weight in enumerate(self._own_weights()):
            store[f"weight_{i}"] = keras.ops.convert_to_numpy(weight)
        for i, state in enumerate(self._random_states()):
            store[f"random_state_{i}"] = keras.ops.convert_to_numpy(state)

    def load_own_variables(self, store) -> None:
        for i, weight in enumerate(self._own_weights()):
            weight.assign(store[f"weight_{i}"][()])
        for i, state in enumerate(self._random_states()):
            state.assign(store[f"random_state_{i}"][()])
