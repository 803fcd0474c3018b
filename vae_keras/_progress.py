"""What callbacks hear of an epoch: no batch that it lacks, no lost cause."""

import warnings

import keras
import numpy as np


class EpochCallbacks(keras.callbacks.CallbackList):
    """Keras's list of callbacks, with two habits of its own.

    With several steps per execution Keras counts whole groups, so a bar
    would say 50 of 32 steps: here the count ends where the epoch does. And
    a training run whose loss cannot be one ends, with a warning.
    """

    num_test_batches: int | None = None

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(_within(batch, self.params["steps"]), logs)
        trouble = _trouble_of_logs(logs or {}, self.model)
        if trouble and not self.model.stop_training:
            self.model.stop_training = True
            warnings.warn(trouble, stacklevel=3)

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(_within(batch, self.num_test_batches), logs)

    def on_predict_batch_end(self, batch, logs=None):
        batch = _within(batch, self.params["steps"])
        super().on_predict_batch_end(batch, logs)


def _within(batch: int, num_batches: int | None) -> int:
    return batch if num_batches is None else min(batch, num_batches - 1)


def _trouble_of_logs(logs, model) -> str | None:
    """What is wrong with the losses, and the remedy, if anything."""
    loss = float(np.mean(logs.get("loss", 0.0)))
    if not np.isfinite(loss):
        return (
            f"The loss is {loss}, so training has ended. Train again with a "
            "lower learning rate, or clip gradients with the optimizer's "
            "`global_clipnorm`."
        )
    kl = float(np.mean(logs.get("kl_loss", 0.0)))
    # A latent that is in use carries a few nats.
    is_gaussian = getattr(model, "has_gaussian_posterior", False)
    if is_gaussian and kl > 1e4 * np.prod(model.latent_shape):
        return (
            f"`kl_loss` is {kl:.2g} nats, so training has ended: z_log_var "
            "has run away. Give its layer `kernel_initializer='zeros'` and "
            "train again, with a lower learning rate if that is not enough."
        )
    return None
