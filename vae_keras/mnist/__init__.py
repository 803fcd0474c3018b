"""MNIST, whole and offline, through TensorFlow Datasets.

TensorFlow Datasets' own MNIST builder is pointed at the four files beside
this module, so splits, metadata and its cache on disk are the real ones.
"""

import gzip
import hashlib
import pathlib
import sys
import tempfile
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def load_mnist(
    split: str = "train", data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Loads handwritten digits as floats in [0, 1], with their labels.

    The first call prepares the data set on disk, from files that ship with
    this package; later calls reuse that copy, or any copy of MNIST that
    TensorFlow Datasets has prepared there before. Nothing is downloaded.
    Where there is no terminal, TensorFlow Datasets' bars are switched off.

    Args:
        split: a split of TensorFlow Datasets: `"train"` (60,000 digits),
            `"test"` (10,000), `"train[:55000]"`, `"train[55000:]"`, …
        data_dir: where prepared data sets are kept. By default
            `TFDS_DATA_DIR`, or `tensorflow_datasets` in the home folder.

    Returns:
        `(images, labels)`: float32 `(n, 28, 28, 1)` in [0, 1] and int64
        `(n,)` from 0 to 9.

    Raises:
        FileNotFoundError: if one of the four files is missing.
        ValueError: if one of them is damaged, or there is no such split.

    Example:
    >>> from vae_keras import load_mnist
    >>> images, labels = load_mnist("test")
    >>> images.shape, labels[:3].tolist()
    ((10000, 28, 28, 1), [2, 0, 4])

    Reference:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
        to document recognition", Proceedings of the IEEE, 1998.
    """
    if not isinstance(split, str):
        raise ValueError(
            "Expected `split` to be a string such as 'train[:55000]'. "
            f"Received: split={split!r}. Write it in quotes."
        )
    # TensorFlow Datasets takes a while to import: only who loads MNIST pays.
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = _prepared_builder(tfds, data_dir)
    try:
        dataset = builder.as_dataset(split=split, batch_size=-1)
    except (ValueError, AssertionError, KeyError) as error:
        raise ValueError(
            "Expected `split` to be a split of TensorFlow Datasets. "
            f"Received: split={split!r} ({str(error).splitlines()[0]}). "
            "Write 'train', 'test' or a part, such as 'train[:55000]'."
        ) from error
    except tf.errors.OpError as error:
        raise ValueError(
            f"Expected a whole copy of MNIST in {builder.data_dir}. "
            f"Received: a damaged one ({error.message}). Delete that folder: "
            "the next call prepares it again."
        ) from error
    examples = tfds.as_numpy(dataset)
    images = examples["image"].astype("float32") / np.float32(255)
    return images, examples["label"]


def _prepared_builder(tfds, data_dir):
    """TensorFlow Datasets' MNIST builder, fed with the files beside this."""
    original = tfds.image_classification.MNIST
    # A registered class of this name would take the original one's place.
    with tfds.core.registered.skip_registration():

        class MNIST(original):
            def _split_generators(self, dl_manager):
                return super()._split_generators(_LocalFiles(unpacked))

    builder = MNIST(data_dir=data_dir)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (builder.info.splits or is_terminal):
        tfds.disable_progress_bar()  # They would fill a file.
    with tempfile.TemporaryDirectory() as unpacked:
        try:
            builder.download_and_prepare()
        except Exception:
            # Another process may have prepared the same data meanwhile:
            # then the last step, a rename, fails, and its copy is as good.
            builder = MNIST(data_dir=data_dir)
            if not builder.info.splits:
                raise
    return builder


class _LocalFiles:
    """Stands in for the download manager; unpacks and checks our files."""

    def __init__(self, folder: str):
        self.folder = pathlib.Path(folder)

    def download_and_extract(self, urls: dict[str, str]) -> dict[str, str]:
        names = {key: url.rsplit("/", 1)[1] for key, url in urls.items()}
        return {key: self._unpack(name) for key, name in names.items()}

    def _unpack(self, name: str) -> str:
        source, target = FOLDER / name, self.folder / name
        if not source.exists():
            raise FileNotFoundError(
                f"Expected the MNIST file {name} in the package. Received: "
                f"no such file in {FOLDER}. Install vae_keras again."
            )
        sums = (FOLDER / "SHA256SUMS").read_text("utf-8").split()
        expected = sums[sums.index(name.removesuffix(".gz")) - 1]
        try:
            with gzip.open(source) as file:
                contents = file.read(2**26)  # More than the largest has.
        except (OSError, EOFError, zlib.error) as error:
            contents = f"unreadable: {error}".encode()
        received = hashlib.sha256(contents).hexdigest()
        if received != expected:
            raise ValueError(
                f"Expected the MNIST file {name}, unpacked, to have the "
                f"SHA-256 checksum {expected}. Received: {received}. The "
                "file is damaged: install vae_keras again."
            )
        target.write_bytes(contents)
        return str(target)
