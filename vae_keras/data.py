"""Images for training: MNIST, your own, and a fast pipeline for both."""

import os
import random
import warnings

import numpy as np
import tensorflow as tf

from vae_keras._checks import (
    check_images,
    integer_seed,
    is_integer,
    positive_integer,
    positive_integers,
)
from vae_keras._inputs import peeking
from vae_keras.mnist import load_mnist as load_mnist

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
# What red, green and blue add to grey, in the JPEG standard.
_LUMINANCE = np.array([[0.299], [0.587], [0.114]], "float32")


def images_from_folder(
    folder, image_size, color_mode: str = "rgb"
) -> np.ndarray:
    """Reads the pictures of a folder, of any sizes, as one array.

    They are found in subfolders and behind links too, but not where names
    begin with a dot. Each comes as a viewer shows it: turned as the camera
    noted, over white where it is transparent, and the first one if it
    moves. It is cropped in the middle to the proportions of `image_size`,
    then scaled: each new pixel is the mean of those that it covers.

    More pictures than fit in memory are read when a batch needs them:

        class Pictures(keras.utils.PyDataset):
            def __len__(self):
                return math.ceil(len(files) / 64)

            def __getitem__(self, i):
                return images_from_folder(files[64 * i : 64 * (i + 1)], 64)

        files = glob.glob(f"{folder}/**/*.jpg", recursive=True)
        random.shuffle(files)
        vae.fit(Pictures())

    Args:
        folder: the folder's path, or a list of the paths of files.
        image_size: `(height, width)` of the result, or one number for both.
        color_mode: `"rgb"` or `"grayscale"`, whatever the files have.

    Returns:
        float32 `(n, height, width, 3 or 1)` in [0, 1], sorted by the
        files' paths, or as the list is.

    Raises:
        ValueError: if there are no PNG, JPEG, GIF, WebP or BMP files, or
            names one that is broken.

    Example:
    >>> from sklearn.datasets import images
    >>> from vae_keras import images_from_folder
    >>> images_from_folder(images.__path__[0], (32, 48)).shape
    (2, 32, 48, 3)
    """
    from PIL import Image

    sizes = positive_integers("image_size", image_size)
    if len(sizes) not in (1, 2):
        raise ValueError(
            "Expected `image_size` to be (height, width), or one number for "
            f"both. Received: image_size={image_size!r}. Leave the channels "
            "to `color_mode`."
        )
    height, width = sizes * 2 if len(sizes) == 1 else sizes
    if color_mode not in ("rgb", "grayscale"):
        raise ValueError(
            "Expected `color_mode` to be 'rgb' or 'grayscale'. Received: "
            f"color_mode={color_mode!r}. Use 'grayscale' for one channel."
        )
    is_folder = isinstance(folder, (str, os.PathLike))
    paths = _pictures_in(folder) if is_folder else list(folder)
    if not paths:
        raise ValueError(
            f"Expected a folder of pictures ({', '.join(_ENDINGS)}). Received: "
            f"{folder}, which holds none, or is no folder. Check the path."
        )
    channels = 3 if color_mode == "rgb" else 1
    images = np.empty((len(paths), height, width, channels), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd notes of the camera
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, path in enumerate(paths):
            try:
                picture = _read_picture(path, height, width)
            except (
                Image.DecompressionBombWarning,
                Image.DecompressionBombError,
            ) as error:
                raise ValueError(
                    f"Expected pictures of at most {Image.MAX_IMAGE_PIXELS:,} "
                    f"pixels. Received: {path}, which claims more. Scale it "
                    "down, or, if all files can be trusted, set "
                    "`PIL.Image.MAX_IMAGE_PIXELS` to what you need."
                ) from error
            except Exception as error:  # Pillow raises many kinds.
                raise ValueError(
                    "Expected pictures that can be decoded. Received: "
                    f"{path}, which cannot. Mend it or take it out of the "
                    "folder."
                ) from error
            if channels == 1 and picture.shape[2] == 3:
                picture = picture @ _LUMINANCE
            images[i] = picture
    images /= 255
    # The mean of many pixels may be rounded to a little more than 1.
    return np.minimum(images, 1, out=images)


def _pictures_in(folder) -> list[str]:
    """The paths of all pictures, folder by folder, sorted in each."""
    paths, entered = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:  # Links may lead back to where they are.
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths += [
            os.path.join(parent, name)
            for name in sorted(files)
            if name[0] != "." and name.lower().endswith(_ENDINGS)
        ]
    return paths


def _read_picture(path, height: int, width: int) -> np.ndarray:
    """One picture, from 0 to 255, float32 `(height, width, 1 or 3)`."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        ImageOps.exif_transpose(picture, in_place=True)
        clear = picture.info.get("transparency")
        mode = "L" if picture.mode in ("1", "L") else "RGB"
        mode = "RGBA" if picture.has_transparency_data else mode
        is_deep = picture.mode.startswith("I")  # 16 bits of grey
        if not is_deep and picture.mode != mode:
            picture = picture.convert(mode)
        pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    rows = max(1, min(pixels.shape[0], pixels.shape[1] * height // width))
    columns = max(1, min(pixels.shape[1], pixels.shape[0] * width // height))
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    pixels = pixels[top : top + rows, left : left + columns]
    if is_deep:
        pixels = np.where(pixels == clear, 255, np.float32(pixels) / 257)
    elif pixels.shape[2] == 4:
        alpha = np.float32(pixels[..., 3:]) / 255
        pixels = 255 + alpha * (np.float32(pixels[..., :3]) - 255)
    with tf.device("CPU"):
        return tf.image.resize(pixels, (height, width), "area").numpy()


def image_dataset(
    images,
    batch_size: int,
    labels=None,
    *,
    shuffle: bool = True,
    binarize: str | None = None,
    seed: int | None = None,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Makes a fast dataset of batches from images that fit in memory.

    Each pass over the dataset is an epoch: every image once, in a new
    order, the last batch smaller if need be. The order and the
    binarisation of epoch k depend on `(seed, k)` alone, so a training run
    that stopped after k epochs continues exactly with `initial_epoch=k`.
    Images that do not pass `check_images` are a `ValueError`.

    Args:
        images: floats in [0, 1], shape `(n, height, width, channels)`.
        batch_size: images per batch.
        labels: optional array of length n, carried along.
        shuffle: whether to reshuffle the images each epoch.
        binarize: `None` keeps grey pixels; `"dynamic"` draws each pixel
            from Bernoulli(x) anew each epoch; `"threshold"` rounds: 1
            where x ≥ ½. These are three different data sets, and their
            losses are not comparable.
        seed: int, or `None` for one drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds. All workers must have the
            same, or their shares of the images overlap.
        initial_epoch: the number of the first epoch.

    Returns:
        A `tf.data.Dataset` of float32 batches `(batch, height, width,
        channels)`, or of pairs with the labels; `len()` is known.

    Example:
    >>> import numpy as np
    >>> from vae_keras import image_dataset
    >>> len(image_dataset(np.zeros((10, 8, 8, 1), "float32"), 4))
    3

    Reference:
        Salakhutdinov and Murray, "On the Quantitative Analysis of Deep
        Belief Networks", ICML 2008, for dynamic binarisation.
    """
    check_images(images)
    images = np.asarray(images)
    num_images = len(images)
    batch_size = positive_integer("batch_size", batch_size)
    if labels is not None and np.shape(labels)[:1] != (num_images,):
        raise ValueError(
            "Expected as many labels as images. Received: "
            f"{num_images} images and labels of shape {np.shape(labels)}. "
            "Take both from the same split."
        )
    if binarize not in (None, "dynamic", "threshold"):
        raise ValueError(
            "Expected `binarize` to be None, 'dynamic' or 'threshold'. "
            f"Received: binarize={binarize!r}. Leave it out to keep grey "
            "pixels."
        )
    seed = random.randrange(2**31) if seed is None else int(integer_seed(seed))
    if not is_integer(initial_epoch) or initial_epoch < 0:
        raise ValueError(
            "Expected `initial_epoch` to be the number of an epoch, 0, 1, "
            f"2, … Received: initial_epoch={initial_epoch!r}. Pass how many "
            "epochs are done."
        )
    num_whole = num_images - num_images % batch_size
    chunk_size = max(1, 1024 // batch_size)
    num_chunks = -(-num_whole // (batch_size * chunk_size))
    pixels = tf.constant(_as_bytes_if_exact(images))
    labels = None if labels is None else tf.constant(np.asarray(labels))

    # One Python number per epoch, the only thing that TensorFlow asks for.
    next_epoch = int(initial_epoch)

    def number_of_epoch():
        nonlocal next_epoch
        epoch = next_epoch
        if not peeking.is_set():  # A look at the first batch is no epoch.
            next_epoch += 1
        yield epoch

    dataset = tf.data.Dataset.from_generator(
        number_of_epoch, output_signature=tf.TensorSpec((), tf.int64)
    )

    def load(rows, draw):
        """Pixels (and labels) of the images `rows`, any shape of indices."""
        x = tf.gather(pixels, rows)
        if x.dtype == tf.uint8:
            x = tf.cast(x, tf.float32) / 255.0
        if binarize == "dynamic":
            uniform = tf.random.stateless_uniform(
                tf.shape(x), seed=tf.stack([tf.cast(seed, tf.int64), draw])
            )
            x = tf.cast(uniform < x, tf.float32)
        elif binarize == "threshold":
            x = tf.cast(x >= 0.5, tf.float32)
        return x if labels is None else (x, tf.gather(labels, rows))

    def batches_of_epoch(epoch):
        order = tf.range(num_images)
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(  # pyright: ignore
                order, seed=[seed, -1 - epoch]
            )
        whole, rest = order[:num_whole], order[num_whole:]
        rows = tf.reshape(whole, [-1, batch_size])

        # TensorFlow's cost is by the operation more than by the pixel: a
        # chunk of batches, (chunk, batch), is gathered at once, then cut.
        def batches_of_chunk(i):
            chunk = rows[i * chunk_size : (i + 1) * chunk_size]
            parts = load(chunk, epoch * (num_chunks + 1) + i)
            return tf.data.Dataset.from_tensor_slices(parts)

        batches = tf.data.Dataset.range(num_chunks).flat_map(batches_of_chunk)
        if num_whole < num_images:
            last = load(rest[tf.newaxis], (epoch + 1) * (num_chunks + 1) - 1)
            last = tf.data.Dataset.from_tensor_slices(last)
            batches = batches.concatenate(last)
        return batches

    dataset = dataset.flat_map(batches_of_epoch)
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(-(-num_images // batch_size))
    )
    # No prefetching and no tuning: on a CPU they take the cores from the
    # training step for longer than loading a batch takes.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    # There are no files to share out: each worker takes its part of a batch.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)
    # For `checked_inputs`.
    dataset.all_labels = labels  # pyright: ignore[reportAttributeAccessIssue]
    return dataset


def _as_bytes_if_exact(images: np.ndarray) -> np.ndarray:
    """Returns pixels as uint8 where that loses nothing, else as float32."""
    images = images.astype("float32", copy=False)
    pixels = np.rint(images * 255).astype("uint8")
    exact = np.array_equal(pixels.astype("float32") / np.float32(255), images)
    return pixels if exact else images
