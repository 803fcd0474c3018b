"""What `check_images` says, and what of the data `fit` looks at."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import Batches, dataset, of_images
from vae_keras._inputs import checked_inputs

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
    ("complex", lambda x: x + 0j, "dtype complex", "Convert the images"),
    ("texts", lambda x: x[:4].astype(str), "dtype <U", "Convert the images"),
    ("objects", lambda x: x.astype(object), "object", "Convert the images"),
    ("no channels", lambda x: x[..., 0], "(64, 28, 28)", "np.newaxis"),
    ("flat", lambda x: x.reshape(64, -1), "(64, 784)", "Reshape"),
    ("five axes", lambda x: x[None], "(1, 64, 28, 28, 1)", "Reshape"),
    ("no images", lambda x: x[:0], "empty array, shape (0, 28", "split"),
    ("list", list, "Received: list", "NumPy array"),
    (
        "dictionary",
        lambda x: {"image": x, "label": 0},
        "Received: a dictionary of 'image', 'label'",
        "`dataset.map(lambda d: d['image'])`",
    ),
    ("None", lambda x: None, "Received: NoneType", "NumPy array"),
    ("a path", lambda x: "images.npy", "Received: str", "NumPy array"),
    ("number", lambda x: 0.5, "Received: float", "NumPy array"),
    ("scalar", lambda x: np.float32(0.5), "shape ()", "Reshape"),
    ("tensor", lambda x: tf.cast(x * 255, tf.uint8), "dtype uint8", BYTES),
]


@pytest.mark.parametrize("image_shape", [None, SHAPE])
@pytest.mark.parametrize(
    ("make", "received", "remedy"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_bad_images_are_explained(images, image_shape, make, received, remedy):
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]") as error:
        vae_keras.check_images(make(images[:64]), image_shape)
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
        (lambda x: x.reshape(64, 1, 28, 28), "(64, 1, 28, 28)", "moveaxis"),
    ],
)
def test_a_shape_that_is_not_the_models(images, make, received, remedy):
    with pytest.raises(ValueError, match=re.escape(received)) as error:
        vae_keras.check_images(make(images[:64]), SHAPE)
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
    assert vae_keras.check_images(make(images[:64])) is None
    assert vae_keras.check_images(make(images[:64]), SHAPE) is None


def test_images_of_any_size_and_colour_pass():
    vae_keras.check_images(np.full((2, 5, 9, 3), 0.5, "float32"))


# === What `fit` takes ===


def looked_into(data, image_shape=SHAPE):
    return checked_inputs(data, **of_images(image_shape))[0]


class Loader:
    """An iterable of tuples that starts anew each time, as PyTorch's is."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return ((part,) for part in np.split(self.images, 4))


WRAPPERS = {
    "array": lambda x: x,
    "(x,)": lambda x: (x,),
    "(x, y)": lambda x: (x, np.arange(len(x))),
    "(x, y, w)": lambda x: (x, np.arange(len(x)), np.ones(len(x))),
    "tensor": tf.constant,
    "PyDataset": lambda x: Batches(16, x),
    "PyDataset of (x, y)": lambda x: Batches(16, x, np.arange(len(x))),
    "loader": Loader,
    "dataset": lambda x: dataset(16, x),
    "dataset of (x,)": lambda x: dataset(16, x).map(lambda x: (x,)),
    "dataset of (x, y)": lambda x: dataset(16, x, np.arange(len(x))),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_fit_takes_is_looked_into(images, wrap):
    good = wrap(images[:64])
    assert looked_into(good) is (good[0] if isinstance(good, tuple) else good)
    with pytest.raises(ValueError, match="divide by 255"):
        looked_into(wrap(images[:64] * 255))
    with pytest.raises(ValueError, match="Expected images of shape"):
        looked_into(wrap(images[:64, ..., 0]))


def test_a_generator_keeps_its_first_batch(images):
    batches = np.split(images, 8)
    taken = []

    def generate():
        for batch in batches:
            taken.append(batch)
            yield (batch,)

    data = looked_into(generate())
    assert len(taken) == 1, "only the first batch is looked at"
    received = [batch for (batch,) in data]
    assert len(received) == 8
    assert np.array_equal(np.concatenate(received), images)
    with pytest.raises(ValueError, match="divide by 255"):
        looked_into(255 * batch for batch in batches)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((x for x in ()), "an empty one"),
        (dataset(4, np.zeros((0, *SHAPE))), "an empty one"),
        (dataset(4, np.zeros((5, *SHAPE))).unbatch(), "batch the data first"),
    ],
    ids=["no batch in a generator", "none in a dataset", "images one by one"],
)
def test_data_without_batches_is_an_error(data, message):
    with pytest.raises(ValueError, match=message):
        looked_into(data)


# === Looking is free ===


def recorded(run):
    """The batches that a model is trained on and evaluated on in `run`."""
    batches = []

    class Recording(vae_keras.VAE):
        def elbo_terms(self, data, training):
            x, *_ = keras.utils.unpack_x_y_sample_weight(data)
            batches.append(x.numpy())
            return super().elbo_terms(data, training)

    vae = Recording(
        vae_keras.mlp_encoder((4, 4, 1), 2, (4,)),
        vae_keras.mlp_decoder(2, (4, 4, 1), (4,)),
    )
    vae.compile("sgd", run_eagerly=True)
    run(vae)
    return batches


PIPELINES = {
    "as it is": lambda data: data,
    "mapped": lambda data: data.map(lambda x: (1 - x, x[:, 0, 0, 0])),
    "batched anew": lambda data: data.unbatch().batch(5),
    "read ahead": lambda data: data.map(lambda x: x).repeat(2).prefetch(4),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (i > 1))
        for i, name in enumerate(PIPELINES)
    ],
)
def test_looking_costs_no_epoch(images, name):
    def new_data(seed):
        x = images[:12, 10:14, 10:14]
        data = vae_keras.image_dataset(x, 4, binarize="dynamic", seed=seed)
        return PIPELINES[name](data)

    def train_and_evaluate(vae):
        data, validation = new_data(1), new_data(2)
        kwargs = {"validation_data": validation, "verbose": 0}
        vae.fit(data, epochs=2, **kwargs)
        vae.evaluate(data, verbose=0)

    received = recorded(train_and_evaluate)
    data, validation = new_data(1), new_data(2)
    expected = [
        batch[0] if isinstance(batch, tuple) else batch
        for part in (data, validation, data, validation, data)
        for batch in part.as_numpy_iterator()
    ]
    assert len(received) == len(expected) >= 15
    assert all(map(np.array_equal, received, expected))
    assert len({batch.tobytes() for batch in expected}) == len(expected)


def test_an_image_dataset_of_another_size_is_refused(images):
    data = vae_keras.image_dataset(images, 64)
    with pytest.raises(ValueError, match="Resize the images"):
        looked_into(data, (32, 32, 1))
