"""Callbacks against posterior collapse: one prevents it, one reports it."""

import keras

from vae_keras.checks import positive_integer
from vae_keras.evaluation import active_units, kl_per_dimension
from vae_keras.models import VAE


class KLWarmUp(keras.callbacks.Callback):
    """Raises the weight of the KL term from zero in the first epochs.

    In epoch k = 0, 1, 2, …, of K = `num_epochs` of warm-up,

        beta = min(1, k / K) · the `beta` given to the constructor

    so that the latents are in use before they are priced. The weight is a
    function of the epoch alone: it is right at once in a training that
    goes on with `initial_epoch` or `BackupAndRestore`, and is the same for
    any `steps_per_execution`. `val_loss` does not depend on it. The weight
    is put in the logs as `beta`: list this callback before those that read
    logs, such as `CSVLogger`.

    Args:
        num_epochs: how many epochs have less than the whole weight. The
            first of them has none.

    Raises:
        ValueError: if `num_epochs` is not a positive integer, or, before
            the first step, if the model is not a `VAE`.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> vae.compile("adam")
    >>> images, _ = vae_keras.load_mnist("test[:64]")
    >>> warm_up = vae_keras.KLWarmUp(num_epochs=2)
    >>> history = vae.fit(images, epochs=4, verbose=0, callbacks=[warm_up])
    >>> history.history["beta"]
    [0.0, 0.5, 1.0, 1.0]

    Reference:
        Bowman et al., "Generating Sentences from a Continuous Space",
        CoNLL 2016, arXiv:1511.06349. Sønderby et al., "Ladder Variational
        Autoencoders", NeurIPS 2016, arXiv:1602.02282, for the straight
        line.
    """

    def __init__(self, num_epochs: int):
        super().__init__()
        self.num_epochs = positive_integer("num_epochs", num_epochs)

    def on_train_begin(self, logs=None):
        _check_vae(self)

    def on_epoch_begin(self, epoch, logs=None):
        fraction = min(1.0, epoch / self.num_epochs)
        self.model.beta.assign(fraction * self.model.target_beta)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["beta"] = float(self.model.beta.numpy())


class CollapseMonitor(keras.callbacks.Callback):
    """Measures after each epoch how many latent dimensions are in use.

    The posterior has collapsed if no dimension is active: q(z|x) is the
    same for every image, and the decoder draws their mean. This is then
    said once, with what to try.

    `active_units`, as `vae_keras.active_units` counts them, is put in the
    logs: list this callback before those that read logs, such as
    `CSVLogger`. A model that gives NaN is not measured.

    Args:
        images: held-out images in [0, 1], an array `(n, *image_shape)`. A
            few hundred will do; they are measured with the posterior mean
            and variance, without noise.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Attributes:
        kl_per_dimension: a list with one float64 array of the shape of a
            latent for each epoch of the last `fit`, in nats, as
            `vae_keras.kl_per_dimension` gives them.

    Raises:
        ValueError: before the first step, if the model is not a `VAE`, or
            images or labels are not what it takes, or fewer than two.

    Example:
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> vae.compile("adam")
    >>> images, _ = vae_keras.load_mnist("test[:64]")
    >>> monitor = vae_keras.CollapseMonitor(images)
    >>> history = vae.fit(images, epochs=3, verbose=0, callbacks=[monitor])
    >>> history.history["active_units"]
    [2, 2, 2]

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance Weighted
        Autoencoders", ICLR 2016, arXiv:1509.00519, section 5.1.
    """

    def __init__(self, images, labels=None):
        super().__init__()
        self.images = images
        self.labels = labels
        self.kl_per_dimension = []

    def on_train_begin(self, logs=None):
        _check_vae(self)
        self._measure(active_units)  # Says what is wrong, now.
        self.kl_per_dimension = []
        self._has_spoken = False

    def on_epoch_end(self, epoch, logs=None):
        try:
            kl = self._measure(kl_per_dimension)
            num_active = self._measure(active_units)
        except ValueError:  # The model gives NaN: others stop the training.
            return
        self.kl_per_dimension.append(kl)
        if logs is not None:
            logs["active_units"] = num_active
        if num_active == 0 and not self._has_spoken:
            self._has_spoken = True
            # A new line, because a progress bar may be in this one.
            print(
                f"\nEpoch {epoch + 1}: the posterior has collapsed, none of "
                f"{kl.size} latent dimensions is active (KL {kl.sum():.2g} "
                "nats); train again with `vae_keras.KLWarmUp`, a smaller "
                "`beta` or a lower learning rate."
            )

    def _measure(self, function):
        return function(self.model, self.images, labels=self.labels)


def _check_vae(callback: keras.callbacks.Callback) -> None:
    if not isinstance(callback.model, VAE):
        name = type(callback).__name__
        raise ValueError(
            f"Expected a `VAE` to use `{name}` with: other models have no "
            f"KL term. Received: {type(callback.model).__name__}. Leave "
            f"`{name}` out."
        )
