import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras.checks import check_images, checked_data

SHAPE = (28, 28, 1)
ANY = "Expected images of shape (batch, height, width, channels)"
OURS = "Expected images of shape (batch, 28, 28, 1)"
BYTES = "divide by 255, as in `images.astype('float32') / 255`"


def broken(images, value):
    images = images.copy()
    images[3, 5, 7] = value
    return images


# What is wrong, how to make it from good images, what was received, remedy.
BAD = [
    ("bytes", lambda x: (x * 255).astype("uint8"), "dtype uint8", BYTES),
    ("byte floats", lambda x: x * 255, "values from 0 to 255", BYTES),
    ("dark bytes", lambda x: np.minimum(x * 255, 2), "from 0 to 2", BYTES),
    (
        "[-1, 1]",
        lambda x: x * 2 - 1,
        "values from -1 to 1",
        "rescale from [-1, 1], as in `(images + 1) / 2`",
    ),
    ("too wide", lambda x: x * 300 - 7, "from -7 to 293", "to [0, 1]"),
    ("too bright", lambda x: x * 1.001, "from 0 to 1.001", "Rescale or clip"),
    ("NaN", lambda x: broken(x, np.nan), "NaN or infinity in 1 of", "broken"),
    ("inf", lambda x: broken(x, np.inf), "NaN or infinity in 1 of", "broken"),
    ("-inf", lambda x: broken(x, -np.inf), "infinity in 1 of", "broken"),
    ("int", lambda x: np.rint(x).astype(int), "dtype int64", "astype("),
    ("bool", lambda x: x > 0.5, "dtype bool", "astype('float32')"),
    ("no channels", lambda x: x[..., 0], "(64, 28, 28)", "np.newaxis"),
    ("flat", lambda x: x.reshape(64, -1), "(64, 784)", "Reshape"),
    ("five axes", lambda x: x[None], "(1, 64, 28, 28, 1)", "Reshape"),
    ("no images", lambda x: x[:0], "empty array, shape (0, 28", "split"),
    ("list", list, "Received: list", "NumPy array"),
    ("None", lambda x: None, "Received: NoneType", "NumPy array"),
    ("text", lambda x: "images.npy", "Received: str", "NumPy array"),
    ("number", lambda x: 0.5, "Received: float", "NumPy array"),
    ("scalar", lambda x: np.float32(0.5), "shape ()", "Reshape"),
    (
        "byte tensor",
        lambda x: tf.cast(x * 255, tf.uint8),
        "dtype uint8",
        BYTES,
    ),
]


@pytest.mark.parametrize("image_shape", [None, SHAPE])
@pytest.mark.parametrize(
    ("make", "received", "remedy"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_bad_images_are_explained(images, image_shape, make, received, remedy):
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]") as error:
        check_images(make(images[:64]), image_shape)
    message = str(error.value)
    assert message.startswith(OURS if image_shape else ANY)
    assert received in message.split("Received: ")[1] or received in message
    assert remedy in message


@pytest.mark.parametrize(
    ("make", "received", "remedy"),
    [
        (lambda x: x[:, 2:26], "shape (64, 24, 28, 1)", "Resize the images"),
        (lambda x: np.repeat(x, 3, -1), "shape (64, 28, 28, 3)", "decoder"),
        (lambda x: x[0], "shape (28, 28, 1)", "one image: batch the data"),
    ],
)
def test_a_shape_that_is_not_the_models(images, make, received, remedy):
    with pytest.raises(ValueError, match=re.escape(received)) as error:
        check_images(make(images[:64]), SHAPE)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.astype("float16"),
        lambda x: x.astype("float64"),
        lambda x: np.rint(x),
        lambda x: np.zeros_like(x),
        lambda x: x[:1],
        lambda x: x * np.float32(1 + 1e-7),
        lambda x: x - np.float32(1e-7),
        tf.constant,
        tf.Variable,
        keras.Variable,
    ],
)
def test_good_images_pass(images, make):
    assert check_images(make(images[:64])) is None
    assert check_images(make(images[:64]), SHAPE) is None


def test_images_of_any_size_and_colour_pass():
    check_images(np.full((2, 5, 9, 3), 0.5, "float32"))


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return len(self.images) // 16

    def __getitem__(self, i):
        return (self.images[16 * i : 16 * (i + 1)],)


class Loader:
    """An iterable that starts anew each time, as PyTorch's is."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(np.split(self.images, 4))


WRAPPERS = {
    "array": lambda x: x,
    "(x,)": lambda x: (x,),
    "(x, y)": lambda x: (x, np.arange(len(x))),
    "(x, y, w)": lambda x: (x, np.arange(len(x)), np.ones(len(x))),
    "tensor": tf.constant,
    "PyDataset": Batches,
    "loader": Loader,
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(16),
    "dataset of (x,)": lambda x: tf.data.Dataset.from_tensor_slices((x,)).batch(
        16
    ),
    "dataset of (x, y)": lambda x: tf.data.Dataset.from_tensor_slices(
        (x, np.arange(len(x)))
    ).batch(16),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_fit_takes_is_looked_into(images, wrap):
    good = wrap(images[:64])
    assert checked_data(good, SHAPE) is good
    with pytest.raises(ValueError, match="divide by 255"):
        checked_data(wrap(images[:64] * 255), SHAPE)
    with pytest.raises(ValueError, match="Expected images of shape"):
        checked_data(wrap(images[:64, ..., 0]), SHAPE)


def test_a_list_is_no_array(images):
    with pytest.raises(ValueError, match="Received: list"):
        checked_data(list(images[:4]), SHAPE)


def test_a_generator_keeps_its_first_batch(images):
    batches = np.split(images, 8)
    taken = []

    def generate():
        for batch in batches:
            taken.append(batch)
            yield (batch,)

    data = checked_data(generate(), SHAPE)
    assert len(taken) == 1, "only the first batch is looked at"
    received = [batch for (batch,) in data]
    assert len(received) == 8
    assert np.array_equal(np.concatenate(received), images)
    with pytest.raises(ValueError, match="divide by 255"):
        checked_data((255 * batch for batch in batches), SHAPE)


@pytest.mark.parametrize(
    "empty",
    [
        (x for x in ()),
        tf.data.Dataset.from_tensor_slices(np.zeros((0, 28, 28, 1))).batch(2),
    ],
    ids=["generator", "dataset"],
)
def test_an_empty_dataset_is_an_error(empty):
    with pytest.raises(ValueError, match="an empty one"):
        checked_data(empty, SHAPE)


def test_a_single_image_from_an_unbatched_dataset(images):
    dataset = tf.data.Dataset.from_tensor_slices(images)
    with pytest.raises(ValueError, match="batch the data first"):
        checked_data(dataset, SHAPE)


def test_looking_costs_image_dataset_no_epoch(images):
    import vae_keras

    def dataset():
        return vae_keras.image_dataset(images, 256, seed=1)

    looked_at = checked_data(dataset(), SHAPE)
    (expected,) = dataset().as_numpy_iterator()
    (received,) = looked_at.as_numpy_iterator()
    assert np.array_equal(received, expected)
    with pytest.raises(ValueError, match="Resize the images"):
        checked_data(dataset(), (32, 32, 1))
