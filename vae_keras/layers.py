"""The sampling layer: the reparameterisation trick as a Keras layer."""

import keras
from keras import ops

from vae_keras._checks import integer_seed


class _ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose seeds differ between replicas.

    Under a `tf.distribute` strategy all replicas hold the same state, so a
    plain `SeedGenerator` would give them the same noise.
    """

    def next(self, ordered: bool = True):
        seed = super().next(ordered)
        if keras.backend.backend() != "tensorflow":
            return seed
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        replica = ops.cast(context.replica_id_in_sync_group, seed.dtype)
        # Any large odd factor keeps the replicas' seeds far apart.
        return seed + ops.stack([replica * 0x9E3779B1, replica * 0])


@keras.saving.register_keras_serializable(package="vae_keras")
class Sampling(keras.layers.Layer):
    """Draws z from the posterior q(z|x) = N(z_mean, exp(z_log_var)).

        z = z_mean + exp(½ z_log_var) · ε,   ε ~ N(0, I)

    The noise ε does not depend on the parameters, so gradients flow from z
    to `z_mean` and `z_log_var` (the reparameterisation trick).

    Args:
        seed: int, or `None` for one drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds. Two layers made with the
            same seed draw the same sequence. Under a `tf.distribute`
            strategy each replica draws noise of its own.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: the pair `(z_mean, z_log_var)`, two tensors of one shape
            `(batch, …)`: vectors, feature maps, any latent shape.

    Returns:
        A tensor of that shape, in the layer's compute dtype.

    Example:
    >>> import numpy as np
    >>> from vae_keras import Sampling
    >>> z = Sampling(seed=0)((np.zeros((3, 2)), np.zeros((3, 2))))
    >>> tuple(z.shape)
    (3, 2)
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = integer_seed(seed)
        self.seed_generator = _ReplicaSeedGenerator(
            self.seed, name="seed_generator"
        )
        self.built = type(self).build is keras.layers.Layer.build

    def call(self, inputs):
        z_mean, z_log_var = inputs
        if tuple(z_mean.shape) != tuple(z_log_var.shape):
            raise ValueError(
                "Expected z_mean and z_log_var of one shape. Received: "
                f"{tuple(z_mean.shape)} and {tuple(z_log_var.shape)}. Give "
                "each latent a mean and a log-variance of its own."
            )
        epsilon = keras.random.normal(
            ops.shape(z_mean), dtype=z_mean.dtype, seed=self.seed_generator
        )
        return z_mean + ops.exp(0.5 * z_log_var) * epsilon

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
