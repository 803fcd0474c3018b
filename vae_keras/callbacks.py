"""Callbacks: two against posterior collapse, one that draws what is learned."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from vae_keras._checks import check_images, check_labels, positive_integer
from vae_keras._drawing import as_images, tiled
from vae_keras._saving import moved_into_place
from vae_keras.evaluation import _mean_kl, _num_active, _posteriors


class KLWarmUp(keras.callbacks.Callback):
    """Raises the weight of the KL term from zero in the first epochs.

    In epoch k = 0, 1, 2, …, of K = `num_epochs` of warm-up,

        beta = min(1, k / K) · the `beta` given to the constructor

    so that the latents are in use before they are priced. The weight is a
    function of the epoch alone, so a training run that goes on with
    `initial_epoch` has the right one at once. `val_loss` does not depend on
    it. At the end of each epoch the weight is put in the logs as `beta`, and
    the model gets its whole weight back: list this callback before those
    that read logs or save, such as `CSVLogger` and `ModelCheckpoint`.

    Args:
        num_epochs: how many epochs have less than the whole weight. The
            first of them has none.

    Raises:
        ValueError: before the first step, if the model is not a `VAE`, or
            an `IWAE`, whose bound has no β.

    Example, with a compiled `vae` and `images`:
    >>> warm_up = vae_keras.callbacks.KLWarmUp(num_epochs=2)
    >>> history = vae.fit(images, epochs=4, verbose=0, callbacks=[warm_up])
    >>> history.history["beta"]
    [0.0, 0.5, 1.0, 1.0]

    Reference:
        Sønderby et al., "Ladder Variational Autoencoders", NeurIPS 2016,
        arXiv:1602.02282.
    """

    def __init__(self, num_epochs: int):
        super().__init__()
        self.num_epochs = positive_integer("num_epochs", num_epochs)

    def on_train_begin(self, logs=None):
        _check_vae(self)
        if not self.model.has_beta:
            raise ValueError(
                "Expected a model whose loss weighs the KL term. Received: "
                f"{type(self.model).__name__}, whose bound has no β. Leave "
                "`KLWarmUp` out, or warm up a `VAE` and give its weights on."
            )

    def on_epoch_begin(self, epoch, logs=None):
        fraction = min(1.0, epoch / self.num_epochs)
        self.model.beta.assign(fraction * self.model.target_beta)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["beta"] = float(self.model.beta.numpy())
        # Who stops or saves here leaves no model with a small weight.
        self.on_train_end()

    def on_train_end(self, logs=None):
        self.model.beta.assign(self.model.target_beta)

    def on_train_interrupted(self):  # by an error, or by Ctrl-C
        if hasattr(self.model, "target_beta"):
            self.on_train_end()


class CollapseMonitor(keras.callbacks.Callback):
    """Measures after each epoch how many latent dimensions are in use.

    The posterior has collapsed if no dimension is active: q(z|x) is the
    same for every image, and the decoder draws their mean. This is then
    said once, with what to try.

    `active_units` is put in the logs: list this callback before those that
    read logs, such as `CSVLogger`. A model that gives NaN is not measured.

    Args:
        images: held-out images in [0, 1], an array `(n, *image_shape)`. A
            few hundred will do; they are measured with the posterior mean
            and variance, without noise.
        labels: of a `ConditionalVAE`, integers `(n,)`.

    Attributes:
        kl_per_dimension: a list with one float64 array of the shape of a
            latent for each epoch of the last `fit`, in nats, as
            `vae_keras.kl_per_dimension` gives them: from N(0, I), whatever
            the prior.

    Raises:
        ValueError: as for `active_units`, before the first step.

    Example, with a compiled `vae` and `images`:
    >>> monitor = vae_keras.callbacks.CollapseMonitor(images)
    >>> history = vae.fit(images, epochs=3, verbose=0, callbacks=[monitor])
    >>> history.history["active_units"]
    [2, 2, 2]
    """

    def __init__(self, images, labels=None):
        super().__init__()
        self.images = images
        self.labels = labels
        self.kl_per_dimension = []

    def on_train_begin(self, logs=None):
        _check_vae(self)
        self._measure()  # It raises what it has to, now.
        self.kl_per_dimension = []
        self._warned = False

    def on_epoch_end(self, epoch, logs=None):
        try:
            kl, num_active = self._measure()
        except ValueError:  # The model gives NaN: others stop the training.
            return
        self.kl_per_dimension.append(kl)
        if logs is not None:
            logs["active_units"] = num_active
        if num_active == 0 and not self._warned:
            self._warned = True
            # A new line, because a progress bar may be in this one.
            print(
                f"\nEpoch {epoch + 1}: the posterior has collapsed, none of "
                f"{kl.size} latent dimensions is active (KL {kl.sum():.2g} "
                "nats); train again with `KLWarmUp`, a smaller "
                "`beta` or a lower learning rate."
            )

    def _measure(self) -> tuple[np.ndarray, int]:
        found = _posteriors(self.model, self.images, self.labels)
        return _mean_kl(*found), _num_active(found[0])


def _check_vae(callback: keras.callbacks.Callback) -> None:
    if not hasattr(callback.model, "elbo_terms"):
        name = type(callback).__name__
        raise ValueError(
            f"Expected a `VAE` to use `{name}` with: other models have no "
            f"Gaussian posterior. Received: {type(callback.model).__name__}. "
            f"Leave `{name}` out."
        )


class SampleGrid(keras.callbacks.Callback):
    """Writes a picture of reconstructions and samples after each epoch.

    It has three rows, and a column for each of the images: the images,
    their reconstructions, and samples. The samples come from the same
    latents each time, so that the pictures of two epochs compare. A `GAN`
    reconstructs nothing, and the codes of an `Autoencoder` have no
    distribution to draw from: that row is left out.

    The picture is `epoch-0003.png` after the third epoch, with one pixel
    for each of the images'; NaN is white. The noise of training stays as it
    is. Among several workers the chief draws.

    Args:
        images: some held-out images in [0, 1], 8 say: an array
            `(n, *image_shape)` with 1 channel (grey) or 3 (colour).
        folder: where the pictures go. It is made if it does not exist, and
            pictures of that name in it are replaced.
        every: how many epochs lie between two pictures.
        log_dir: where TensorBoard finds the pictures as well, at the step
            that `keras.callbacks.TensorBoard` gives the epoch: 0, 1, 2, …
            Needs the extra `tensorboard`. `None` leaves it out.
        labels: of a `ConditionalVAE`, integers `(n,)`: the classes of the
            images, and of the samples below them.

    What does not fit is a `ValueError` before the first step.

    Example, with a compiled `vae`, `images` and a `folder`:
    >>> grid = vae_keras.callbacks.SampleGrid(images[:8], folder, every=2)
    >>> history = vae.fit(images[8:], epochs=4, verbose=0, callbacks=[grid])
    >>> sorted(path.name for path in folder.iterdir())
    ['epoch-0002.png', 'epoch-0004.png']
    """

    def __init__(
        self, images, folder, every: int = 1, log_dir=None, labels=None
    ):
        super().__init__()
        self.images = images
        self.folder = pathlib.Path(folder)
        self.every = positive_integer("every", every)
        self.log_dir = log_dir
        self.labels = labels
        self._writer = None

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "has_prior"):
            raise ValueError(
                "Expected a model of `vae_keras` to use `SampleGrid` with. "
                f"Received: {type(self.model).__name__}. Leave it out."
            )
        check_images(self.images, self.model.image_shape)
        as_images(self.images)
        if self.model.num_classes is not None:
            check_labels(self.labels, self.model.num_classes, len(self.images))
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                "Expected `folder` to be a folder for pictures. Received: "
                f"{self.folder}, which is a file. Give another name."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log_dir is not None and self._is_chief():
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every or not self._is_chief():
            return
        picture = self._picture()
        path = self.folder / f"epoch-{epoch + 1:04}.png"
        with moved_into_place(path) as temporary:
            temporary.write_bytes(tf.io.encode_png(picture).numpy())
        if self._writer is not None:
            # Keras's TensorBoard may have said not to record now.
            with self._writer.as_default(epoch), tf.summary.record_if(True):
                tf.summary.image("sample_grid", picture[np.newaxis])
            self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _is_chief(self) -> bool:
        """Of several workers, one writes."""
        return self.model.distribute_strategy.extended.should_checkpoint

    def _picture(self) -> np.ndarray:
        """Returns the rows as one picture, `(height, width, channels)`."""
        rows, count = [self.images], len(self.images)
        if self.model.has_encoder:
            is_pair = self.model.num_classes is not None
            inputs = (self.images, self.labels) if is_pair else self.images
            rows.append(self.model(inputs, training=False))
        if self.model.has_prior:
            rows.append(self.model.generate(count, labels=self.labels, seed=0))
        picture = tiled(np.concatenate(rows), len(self.images), gap=1)
        picture = np.nan_to_num(picture, nan=1.0).clip(0, 1)
        return np.rint(255 * picture).astype("uint8")
