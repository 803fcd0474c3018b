"""A callback that draws what a model makes of images, epoch by epoch."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from vae_keras.baselines import GAN, Autoencoder
from vae_keras.checks import check_images, positive_integer
from vae_keras.plotting import as_images, mosaic_of
from vae_keras.saving import moved_into_place
from vae_keras.training import ImageModel


class SampleGrid(keras.callbacks.Callback):
    """Writes a picture of reconstructions and samples after each epoch.

    It has three rows, and a column for each of the images: the images,
    their reconstructions, and samples. The samples come from the same
    latents each time, so that the pictures of two epochs compare. A `GAN`
    reconstructs nothing, and the codes of an `Autoencoder` have no
    distribution to draw from: that row is left out.

    The picture is `epoch-0003.png` after the third epoch, as it is counted
    in a training that goes on with `initial_epoch` or `BackupAndRestore`.
    It has one pixel for each of the images', with white lines between, and
    white is what a model gives as NaN. The noise of the training stays as
    it is.

    Args:
        images: some held-out images in [0, 1], 8 say: an array
            `(n, *image_shape)` with 1 channel (grey) or 3 (colour).
        folder: where the pictures go. It is made if it does not exist, and
            pictures of that name in it are replaced.
        every: how many epochs lie between two pictures.
        log_dir: where TensorBoard finds the pictures as well, at the step
            that `keras.callbacks.TensorBoard` gives the epoch: 0, 1, 2, …
            Needs the extra `tensorboard`. `None` leaves it out.

    Raises:
        ValueError: if `every` is not a positive integer, or, before the
            first step, if the model is not one of `vae_keras`, the images
            are not what it takes, or `folder` is a file.

    Example:
    >>> import pathlib
    >>> import tempfile
    >>> import vae_keras
    >>> vae = vae_keras.VAE(
    ...     vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
    ...     vae_keras.mlp_decoder(2, (28, 28, 1)),
    ... )
    >>> vae.compile("adam")
    >>> images, _ = vae_keras.load_mnist("test[:64]")
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> grid = vae_keras.SampleGrid(images[:8], folder, every=2)
    >>> history = vae.fit(images[8:], epochs=4, verbose=0, callbacks=[grid])
    >>> sorted(path.name for path in folder.iterdir())
    ['epoch-0002.png', 'epoch-0004.png']
    """

    def __init__(self, images, folder, every: int = 1, log_dir=None):
        super().__init__()
        self.images = images
        self.folder = pathlib.Path(folder)
        self.every = positive_integer("every", every)
        self.log_dir = log_dir
        self._writer = None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ImageModel):
            raise ValueError(
                "Expected a model of `vae_keras` to use `SampleGrid` with. "
                f"Received: {type(self.model).__name__}. Leave it out."
            )
        check_images(self.images, self.model.image_shape)
        as_images(self.images)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                "Expected `folder` to be a folder for pictures. Received: "
                f"{self.folder}, which is a file. Give another name."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
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

    def _picture(self) -> np.ndarray:
        """Returns the rows as one picture, `(height, width, channels)`."""
        rows = [self.images]
        if not isinstance(self.model, GAN):
            rows.append(self.model(self.images, training=False))
        if not isinstance(self.model, Autoencoder):
            rows.append(self.model.generate(len(self.images), seed=0))
        picture = mosaic_of(np.concatenate(rows), len(self.images), gap=1)
        picture = np.nan_to_num(picture, nan=1.0).clip(0, 1)
        return np.rint(255 * picture).astype("uint8")
