"""MNIST as it was published, and a pipeline that repeats itself exactly."""

import gzip
import os
import pathlib
import struct
import subprocess
import sys
import time
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
import vae_keras.mnist
from tests.helpers import PACKAGE_ROOT

FILES = sorted(vae_keras.mnist.FOLDER.glob("*.gz"))
SUMS = vae_keras.mnist.FOLDER / "SHA256SUMS"
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

# === load_mnist ===


@pytest.fixture(scope="module")
def mnist_train():
    return vae_keras.load_mnist()


def read_idx(prefix):
    """Images and labels as the original files have them."""
    folder = vae_keras.mnist.FOLDER
    pixels = gzip.decompress(
        (folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes()
    )
    labels = gzip.decompress(
        (folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes()
    )
    pixels = np.frombuffer(pixels, "uint8", offset=16)
    return pixels.reshape(-1, 28, 28, 1), np.frombuffer(labels, "uint8", -1, 8)


def rows_in_order(pixels, labels):
    """The same for the same labelled images in any order."""
    rows = np.c_[pixels.reshape(len(pixels), -1), labels].astype("uint8")
    return np.sort(rows.view(f"V{rows.shape[1]}").ravel())


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("test", TEST_COUNTS),
        pytest.param("train", TRAIN_COUNTS, marks=pytest.mark.slow),
    ],
)
def test_a_split_holds_the_original_digits(split, counts, request):
    images, labels = request.getfixturevalue(f"mnist_{split}")
    assert images.shape == (sum(counts), 28, 28, 1)
    assert images.dtype == "float32"
    assert labels.shape == (sum(counts),)
    assert labels.dtype == "int64"
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == counts
    pixels = np.rint(images * 255).astype("uint8")
    # Exactly byte / 255 in float32, so that nothing is lost.
    assert np.array_equal(pixels.astype("float32") / np.float32(255), images)
    prefix = {"train": "train", "test": "t10k"}[split]
    expected = rows_in_order(*read_idx(prefix))
    assert np.array_equal(rows_in_order(pixels, labels), expected)


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("test[:300]", slice(300)),
        ("test[25%:26%]", slice(2500, 2600)),
        pytest.param(
            "train[55000:]", slice(55_000, None), marks=pytest.mark.slow
        ),
    ],
)
def test_split_strings_cut_the_whole_split(split, part, request):
    whole = request.getfixturevalue(f"mnist_{split.split('[')[0]}")
    for received, expected in zip(
        vae_keras.load_mnist(split), whole, strict=True
    ):
        assert np.array_equal(received, expected[part])


@pytest.mark.parametrize(
    "split",
    ["validation", "train[", "", "test[::2]", None, 55_000, ["train", "test"]],
)
def test_an_unknown_split_is_an_error_that_shows_how(split):
    remedy = "Write 'train', 'test'" if type(split) is str else "in quotes"
    with pytest.raises(ValueError, match="Expected `split`") as error:
        vae_keras.load_mnist(split)
    assert f"Received: split={split!r}" in str(error.value)
    assert remedy in str(error.value)


def test_a_prepared_copy_is_reused(monkeypatch, tmp_path, capfd):
    import tensorflow_datasets as tfds

    folder = pathlib.Path(tfds.core.constants.DATA_DIR).expanduser() / "mnist"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert before
    # There is nothing here to prepare it from once more.
    monkeypatch.setattr(vae_keras.mnist, "FOLDER", tmp_path)
    images, _ = vae_keras.load_mnist("test[:10]")
    assert len(images) == 10
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert before == after
    output = "".join(capfd.readouterr())
    assert "preparing" not in output
    assert "Generating" not in output


def test_tfds_keeps_its_own_mnist_builder(mnist_test):
    import tensorflow_datasets as tfds

    own = tfds.image_classification.MNIST
    assert tfds.builder_cls("mnist") is own


def truncated(name, contents):
    return contents[: len(contents) // 2]


def altered(name, contents):
    unpacked = bytearray(gzip.decompress(contents))
    unpacked[-1] ^= 1
    return gzip.compress(unpacked, 1)


def not_zipped(name, contents):
    return gzip.decompress(contents)


def swapped(name, contents):
    return FILES[FILES.index(vae_keras.mnist.FOLDER / name) - 2].read_bytes()


def lying(name, contents):
    """A header that promises 2**31 images, and three bytes of them."""
    return gzip.compress(struct.pack(">IIII", 2051, 2**31, 28, 28) + b"abc")


def with_damage(folder, name, damage):
    """A folder with the four files, one of them damaged, and their sums."""
    folder.mkdir()
    for path in (*FILES, SUMS):
        if path.name != name:
            (folder / path.name).symlink_to(path)
        elif damage is not None:
            (folder / name).write_bytes(damage(name, path.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-images-idx3-ubyte.gz", truncated),
        ("train-labels-idx1-ubyte.gz", truncated),
        ("t10k-images-idx3-ubyte.gz", altered),
        ("t10k-labels-idx1-ubyte.gz", altered),
        ("train-labels-idx1-ubyte.gz", not_zipped),
        ("train-labels-idx1-ubyte.gz", swapped),
        ("train-images-idx3-ubyte.gz", lying),
        ("t10k-images-idx3-ubyte.gz", lying),
        ("t10k-labels-idx1-ubyte.gz", None),
    ],
)
def test_a_damaged_file_is_named_and_nothing_written(
    name, damage, tmp_path, monkeypatch
):
    folder = with_damage(tmp_path / "mnist", name, damage)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(vae_keras.mnist, "FOLDER", folder)
    error = FileNotFoundError if damage is None else ValueError
    with pytest.raises(error, match="nstall vae_keras again") as info:
        vae_keras.load_mnist("test", data_dir=str(tmp_path / "data"))
    assert name in str(info.value)
    if damage is not None:
        sums = SUMS.read_text().split()
        assert sums[sums.index(name.removesuffix(".gz")) - 1] in str(info.value)
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert left == []
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_file_that_unpacks_to_too_much_is_not_read_whole(
    tmp_path, monkeypatch
):
    def bomb(name, contents):
        # A gzip file may hold several parts: they are read as one.
        return contents + 10 * gzip.compress(bytes(2**25), 1)

    name = "train-images-idx3-ubyte.gz"
    folder = with_damage(tmp_path / "mnist", name, bomb)
    monkeypatch.setattr(vae_keras.mnist, "FOLDER", folder)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=name):
            vae_keras.load_mnist("test", data_dir=str(tmp_path / "data"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The images are 47 MB, the file 383 MB. Python copies what it has read.
    assert peak < 200e6


# Prepares MNIST in TFDS_DATA_DIR or in the folder given, and tells the
# network connections that it tried. Waits for a file first if asked to.
PREPARE = """
import pathlib, sys, time
attempts = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        attempts.append(event)
        raise OSError("no network here")
sys.addaudithook(hook)
import vae_keras
from tensorflow_datasets.image_classification import mnist
go, data_dir = sys.argv[1], sys.argv[2] or None
if go:
    # The first digits are enough for a race.
    mnist._TRAIN_EXAMPLES, mnist._TEST_EXAMPLES = 3000, 1000
    while not pathlib.Path(go).exists():
        time.sleep(0.01)
images, labels = vae_keras.load_mnist("test", data_dir=data_dir)
print(len(images), labels.sum(), round(255 * float(images.sum())), attempts)
"""


@pytest.mark.slow
def test_preparing_survives_a_kill_and_a_race_offline(tmp_path):
    data, go = tmp_path / "手写 数字", tmp_path / "go"

    def start(go, data_dir, variable):
        return subprocess.Popen(
            [sys.executable, "-c", PREPARE, go, data_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(PACKAGE_ROOT),
                "TFDS_DATA_DIR": variable,
                "TMPDIR": str(tmp_path),
            },
            text=True,
        )

    # One is killed half-way, and then two start together in its place; one
    # is told the folder by the environment, the other by the argument.
    elsewhere = tmp_path / "elsewhere"
    victim = start("", str(data), str(elsewhere))
    racers = [
        start(str(go), "", str(data)),
        start(str(go), str(data), str(elsewhere)),
    ]
    try:
        while not list(data.glob("mnist/incomplete*")):
            assert victim.poll() is None, victim.communicate()
            time.sleep(0.05)
        time.sleep(1)  # It takes many more.
        victim.kill()
        victim.communicate()
        (left_by_victim,) = data.glob("mnist/*")
        go.touch()
        pixels, labels = read_idx("t10k")
        # Sums of float32 pixels are rounded.
        brightness = pytest.approx(int(pixels[:1000].sum()), rel=1e-5)
        for racer in racers:
            output, errors = racer.communicate(timeout=120)
            assert racer.returncode == 0, errors
            assert "preparing" in output, "it did not race"
            # Bars are for terminals: in a file they are hundreds of lines.
            assert "\r" not in errors
            count, label_sum, pixel_sum, attempts = output.split()[-4:]
            assert (count, attempts) == ("1000", "[]")
            assert int(label_sum) == labels[:1000].sum()
            assert int(pixel_sum) == brightness
    finally:
        for process in (victim, *racers):
            process.kill()
            process.communicate()
    left = {path.name for path in data.glob("mnist/*")}
    assert left == {left_by_victim.name, "3.0.1"}
    assert not elsewhere.exists()


# === image_dataset ===


def epoch_of(dataset):
    """The batches of one pass, as arrays."""
    return list(dataset.as_numpy_iterator())


def all_of(dataset):
    """The images of one pass as one array."""
    return np.concatenate(epoch_of(dataset))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 256, 300])
def test_an_epoch_has_every_image_once(images, labels, batch_size, shuffle):
    numbers = np.arange(256)
    dataset = vae_keras.image_dataset(
        images, batch_size, numbers, shuffle=shuffle, seed=1
    )
    assert len(dataset) == -(-256 // batch_size)
    # Static shapes, with which a model can be compiled by XLA.
    assert dataset.element_spec[0].shape[1:] == (28, 28, 1)
    for _ in range(2):
        batches = epoch_of(dataset)
        sizes = [len(x) for x, _ in batches]
        whole, rest = divmod(256, batch_size)
        assert sizes == [batch_size] * whole + [rest] * bool(rest)
        x, i = map(np.concatenate, zip(*batches, strict=True))
        assert x.dtype == "float32"
        assert np.array_equal(np.sort(i), numbers)
        assert np.array_equal(x, images[i])
        assert np.array_equal(i, numbers) != shuffle


@hypothesis.given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 40),
    epoch=st.integers(0, 5),
)
def test_any_sizes_give_a_permutation(count, batch_size, epoch):
    x = np.arange(count, dtype="float32").reshape(-1, 1, 1, 1) / 255
    dataset = vae_keras.image_dataset(
        x, batch_size, seed=3, initial_epoch=epoch
    )
    batches = epoch_of(dataset)
    assert len(batches) == len(dataset)
    assert np.array_equal(np.sort(np.concatenate(batches), axis=0), x)


@pytest.mark.parametrize("binarize", [None, "dynamic"])
def test_epochs_depend_on_seed_and_number_alone(images, binarize):
    def dataset(**kwargs):
        return vae_keras.image_dataset(images, 50, binarize=binarize, **kwargs)

    running = dataset(seed=5)
    epochs = [all_of(running) for _ in range(4)]
    for k in range(3):
        assert not np.array_equal(epochs[k], epochs[k + 1])
    resumed = dataset(seed=5, initial_epoch=2)
    assert np.array_equal(all_of(resumed), epochs[2])
    assert np.array_equal(all_of(resumed), epochs[3])
    other = all_of(dataset(seed=6))
    assert not any(np.array_equal(other, epoch) for epoch in epochs)


def test_without_a_seed_python_decides(images):
    first = all_of(vae_keras.image_dataset(images, 50))
    second = all_of(vae_keras.image_dataset(images, 50))
    keras.utils.set_random_seed(0)
    again = all_of(vae_keras.image_dataset(images, 50))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_orders_do_not_repeat():
    # 8 images have 40,320 orders: 15 epochs agree with chance 0.3 %.
    x = np.arange(8, dtype="float32").reshape(8, 1, 1, 1) / 255
    dataset = vae_keras.image_dataset(x, 4, seed=0)
    orders = {all_of(dataset).tobytes() for _ in range(15)}
    assert len(orders) == 15


def test_labels_may_be_lists_or_vectors(images, labels):
    one_hot = np.eye(10, dtype="float32")[labels]
    for y in (labels.tolist(), one_hot):
        dataset = vae_keras.image_dataset(images, 256, y, shuffle=False)
        ((_, received),) = epoch_of(dataset)
        assert np.array_equal(received, y)


def test_two_datasets_side_by_side_are_what_they_are_alone(images):
    def datasets():
        return [
            vae_keras.image_dataset(images, 60, binarize="dynamic", seed=seed)
            for seed in (1, 2)
        ]

    alone = [all_of(dataset) for dataset in datasets()]
    pairs = list(tf.data.Dataset.zip(*datasets()).as_numpy_iterator())
    for i in range(2):
        assert np.array_equal(np.concatenate([p[i] for p in pairs]), alone[i])


def test_bytes_are_exact(images):
    # Every byte, as MNIST stores it, comes out as the very same float.
    x = np.arange(256).reshape(4, 8, 8, 1).astype("float32") / np.float32(255)
    dataset = vae_keras.image_dataset(x, 3, shuffle=False)
    assert all_of(dataset).tobytes() == x.tobytes()
    assert vae_keras.data._as_bytes_if_exact(x).dtype == "uint8"
    assert vae_keras.data._as_bytes_if_exact(images).dtype == "uint8"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_other_floats_are_exact(images, dtype):
    x = (np.sqrt(images[:64]) * 0.999).astype(dtype)
    assert vae_keras.data._as_bytes_if_exact(x).dtype == "float32"
    batches = all_of(vae_keras.image_dataset(x, 20, shuffle=False))
    assert batches.tobytes() == x.astype("float32").tobytes()


def test_dynamic_binarisation_draws_from_the_pixels(images):
    # Each of 16 images 100 times over, for two epochs: 200 draws.
    x = np.repeat(images[:16, np.newaxis], 100, axis=1)
    flat = x.reshape(-1, 28, 28, 1)
    dataset = vae_keras.image_dataset(
        flat, 64, binarize="dynamic", shuffle=False, seed=4
    )
    draws = np.stack([all_of(dataset).reshape(x.shape) for _ in range(2)])
    assert set(np.unique(draws)) == {0, 1}
    mean, x = draws.mean(axis=(0, 2)), images[:16]
    assert np.array_equal(mean[x == 0], x[x == 0])
    assert np.array_equal(mean[x == 1], x[x == 1])
    # 12,544 means of 200 draws: 5 standard errors leave a chance near 1 %.
    assert np.all(np.abs(mean - x) <= 5 * np.sqrt(x * (1 - x) / 200) + 1e-6)
    # Draws are independent from image to image, from epoch to epoch and
    # from pixel to pixel: standardised correlations are N(0, 1/n).
    x = x[:, np.newaxis]
    scale = np.sqrt(np.where((x > 0.1) & (x < 0.9), x * (1 - x), np.inf))
    noise = (draws - x) / scale
    for one, other in [
        (noise[0], noise[1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[..., 1:, :], noise[..., :-1, :]),
    ]:
        count = np.count_nonzero(one * other)
        assert abs(np.sum(one * other) / count) < 5 / np.sqrt(count)


def test_threshold_rounds(images):
    x = images.copy()
    x[0, 0, :3, 0] = 0.5, np.nextafter(np.float32(0.5), np.float32(0)), 1
    dataset = vae_keras.image_dataset(
        x, 50, binarize="threshold", shuffle=False
    )
    batches = all_of(dataset)
    assert np.array_equal(batches, (x >= 0.5).astype("float32"))
    assert batches[0, 0, :3, 0].tolist() == [1, 0, 1]
