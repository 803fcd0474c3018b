"""What `fit`, `evaluate` and `predict` take is what Keras gets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import Batches, dataset, of_images
from vae_keras._inputs import checked_inputs, num_batches

SHAPE = (8, 8, 1)
RNG = np.random.default_rng(0)
X = RNG.random((64, *SHAPE), "float32")
Y = np.arange(64) % 3
W = np.linspace(0, 2, 64)


class Column:
    """An array by its protocol alone, as a column of pandas."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __len__(self):
        return len(self.values)


def objects(values):
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def inputs_of(*data, num_classes=3, **kwargs):
    kwargs = {**of_images(SHAPE), "num_classes": num_classes, **kwargs}
    return checked_inputs(*data, **kwargs)


def memory_map(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


LABELS = [list, Column, tf.constant, np.uint8, np.ma.masked_array]
IMAGES = [list, Column, tf.constant, np.float64, np.ma.masked_array]


@pytest.mark.parametrize("as_labels", LABELS)
@pytest.mark.parametrize("as_images", IMAGES)
def test_arrays_of_all_kinds_are_converted_once(as_images, as_labels):
    x, y = as_images(X), as_labels(Y)
    # Of a list of lists, nobody knows what it is.
    for data in ((x, y), ((x, y),), (x, y) if as_images is list else ([x, y],)):
        received = inputs_of(*data)
        for values, expected in zip(received[:2], (X, Y), strict=True):
            assert type(values) is np.ndarray or tf.is_tensor(values)
            np.testing.assert_array_equal(values, expected)


def test_a_memory_map_stays_on_disk(tmp_path):
    x = memory_map(tmp_path)
    received, _, _ = inputs_of(x, num_classes=None)
    assert np.shares_memory(received, x)


@pytest.mark.parametrize("weights", [W, list(W), W[:, None], Column(W)])
def test_weights_need_no_labels(weights):
    for data in ((X, None, weights), ((X, None, weights),)):
        _, y, sample_weight = inputs_of(*data, num_classes=None)
        np.testing.assert_array_equal(np.ravel(sample_weight), W)
        assert y.shape == (64,)


NAMES = np.array(["cat", "dog"] * 32)


@pytest.mark.parametrize("names", [NAMES, list(NAMES), objects(NAMES)])
def test_names_that_are_ignored_do_not_arrive(names):
    assert inputs_of(X, names, num_classes=None)[1] is None
    batches = [
        tf.data.Dataset.from_tensor_slices((X, list(names))).batch(16),
        iter([(X, names)]),
        vae_keras.image_dataset(X, 16, np.array(list(names))),
    ]
    for data in batches:
        received, _, _ = inputs_of(data, num_classes=None)
        x, y = next(iter(received))
        assert np.all(np.asarray(y) == 0)
        assert len(x) == len(y)
    with pytest.raises(ValueError, match="labels that are numbers"):
        inputs_of(Batches(16, X, np.array(list(names))), num_classes=None)


@pytest.mark.xla
def test_names_that_are_ignored_do_not_stop_a_compiled_step():
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    )
    vae.compile("sgd", jit_compile=True)
    vae.fit(vae_keras.image_dataset(X, 32, NAMES), verbose=0)
    vae.fit(X, NAMES, verbose=0)
    assert int(vae.optimizer.iterations) == 4


class Loader:
    """What PyTorch's `DataLoader` is by its protocol."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_a_loader_gives_tuples():
    loader = Loader([X[:16], Y[:16]], [X[16:], Y[16:]])
    assert inputs_of(loader)[0] is loader
    with pytest.raises(ValueError, match=r"Expected a loader .* `\(image,\)`"):
        inputs_of(Loader(X[:16], X[16:]), num_classes=None)


class Iterator(Batches):
    """As those of `ImageDataGenerator`: also an iterator, without an end."""

    def __next__(self):
        raise AssertionError("An iterator without an end was asked for more.")


def test_an_iterator_of_keras_ends_its_epochs():
    data = Iterator(16, X, Y)
    assert inputs_of(data)[0] is data
    assert num_batches(data) == 4


@pytest.mark.parametrize("conditional", [False, True])
def test_single_batches_are_looked_at_too(conditional):
    """`train_on_batch` and its kin check and compute as `fit` does."""
    number = 3 if conditional else None
    kind = vae_keras.ConditionalVAE if conditional else vae_keras.VAE
    vae = kind(
        vae_keras.mlp_encoder(SHAPE, 2, (8,), num_classes=number),
        vae_keras.mlp_decoder(2, SHAPE, (8,), num_classes=number),
        seed=0,
    )
    vae.compile("adam")
    before = [np.array(weight) for weight in vae.weights]
    for act in (vae.train_on_batch, vae.test_on_batch, vae.predict_on_batch):
        with pytest.raises(ValueError, match="divide by 255"):
            act(255 * X)
    for weight, value in zip(vae.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    expected = vae.evaluate(X, Y, batch_size=64, verbose=0)
    assert vae.test_on_batch(X, Y) == pytest.approx(expected, rel=1e-5)
    double = vae.test_on_batch(X, Y, 2 * np.ones(64), return_dict=True)
    assert double["loss"] == pytest.approx(2 * expected[0], rel=1e-5)
    images = (X, Y) if conditional else X
    np.testing.assert_allclose(
        vae.predict_on_batch(images), vae.predict(images, verbose=0), atol=1e-6
    )
    vae.train_on_batch(X, Y)
    assert int(vae.optimizer.iterations) == 1


def test_a_generator_may_give_lists_and_arrays():
    for batch in ([X, Y], (X, Y)):
        received, _, _ = inputs_of(iter([batch, batch]))
        assert [type(batch) for batch in received] == [tuple, tuple]
    received, _, _ = inputs_of(iter([X]), num_classes=None)
    assert [len(batch) for batch in received] == [1]


@pytest.mark.parametrize("kind", ["arrays", "dataset", "generator"])
def test_weights_of_classes_need_classes(kind):
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    )
    vae.compile("sgd")
    data = {"arrays": X, "dataset": dataset(16, X), "generator": iter([(X,)])}
    with pytest.raises(ValueError, match=r"Expected labels.*`sample_weight`"):
        vae.fit(data[kind], class_weight={0: 1.0}, verbose=0)
    assert int(vae.optimizer.iterations) == 0


# What came; what was received; a remedy, and what it does.
REMEDIES = {
    "channels first": (
        lambda: (np.moveaxis(X, -1, 1), Y),
        "np.moveaxis(images, 1, -1)",
        lambda x, y: (np.moveaxis(x, 1, -1), y),
    ),
    "objects": (
        lambda: (objects(X), Y),
        "np.stack(list(images)).astype('float32')",
        lambda x, y: (np.stack(list(x)).astype("float32"), y),
    ),
    "object numbers": (
        lambda: (X.astype(object), Y),
        "np.stack(list(images)).astype('float32')",
        lambda x, y: (np.stack(list(x)).astype("float32"), y),
    ),
    "masked": (
        lambda: (np.ma.masked_greater(X, 0.5), Y),
        "array.filled(0)",
        lambda x, y: (x.filled(0), y),
    ),
    "one-hot": (
        lambda: (X, np.eye(3)[Y]),
        "np.argmax(one_hot, axis=-1)",
        lambda x, y: (x, np.argmax(y, axis=-1)),
    ),
    "a column": (
        lambda: (X, Column(Y[:, None])),
        "np.ravel(labels)",
        lambda x, y: (x, np.ravel(y)),
    ),
    "names": (
        lambda: (X, list("abc" * 21 + "a")),
        "np.unique(labels, return_inverse=True)[1]",
        lambda x, y: (x, np.unique(y, return_inverse=True)[1]),
    ),
    "float labels": (
        lambda: (X, Y.astype("float32")),
        "np.asarray(labels).astype('int64')",
        lambda x, y: (x, np.asarray(y).astype("int64")),
    ),
    "bool labels": (
        lambda: (X, list(Y == 1)),
        "np.asarray(labels).astype('int64')",
        lambda x, y: (x, np.asarray(y).astype("int64")),
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_remedies_for_arrays_work(name):
    make, remedy, mended = REMEDIES[name]
    with pytest.raises(ValueError, match=r"Expected.*Received") as error:
        inputs_of(*make())
    assert f"`{remedy}`" in str(error.value)
    assert len(str(error.value)) <= 400
    inputs_of(*mended(*make()))


def test_remedies_for_datasets_work():
    """Dictionaries of bytes, as TensorFlow Datasets gives them."""
    pixels = np.uint8(255 * X)
    data = tf.data.Dataset.from_tensor_slices({"label": Y, "image": pixels})
    data = data.batch(16)
    with pytest.raises(ValueError, match=r"`dataset.map\(lambda d: d\['image'"):
        inputs_of(data, num_classes=None)
    images = data.map(lambda d: d["image"])
    with pytest.raises(ValueError, match=r"`dataset.map\(lambda x: x / 255\)`"):
        inputs_of(images, num_classes=None)
    inputs_of(images.map(lambda x: x / 255), num_classes=None)
    pairs = data.map(lambda d: (d["image"], d["label"]))
    message = r"`dataset.map\(lambda x, y: \(x / 255, y\)\)`"
    with pytest.raises(ValueError, match=message):
        inputs_of(pairs)
    inputs_of(pairs.map(lambda x, y: (x / 255, y)))


def test_images_of_several_sizes_are_no_array():
    with pytest.raises(ValueError, match="of several shapes"):
        inputs_of([*X, X[0, :4]], num_classes=None)


@pytest.mark.parametrize("batch_size", [None, 7, 64])
def test_batches_are_counted_as_keras_does(batch_size):
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    )
    vae.compile("sgd", run_eagerly=True)
    size = batch_size or 32
    sets = [(X, {"validation_split": 0.3}), (X, {"steps_per_epoch": 1})]
    sets += [(dataset(size, X), {}), (Batches(size, X), {})]
    for data, kwargs in sets:
        is_array = data is X
        arguments = {"batch_size": batch_size} if is_array else {}
        before = int(vae.optimizer.iterations)
        vae.fit(data, verbose=0, **arguments, **kwargs)
        expected = num_batches(
            data,
            batch_size,
            kwargs.get("steps_per_epoch"),
            kwargs.get("validation_split", 0.0),
        )
        assert int(vae.optimizer.iterations) - before == expected
    assert num_batches(iter([X])) is None
    assert num_batches(dataset(8, X).repeat()) is None


class Told(keras.callbacks.Callback):
    """The last batch that each phase has told of."""

    def __init__(self):
        super().__init__()
        self.last = {}

    def on_train_batch_end(self, batch, logs=None):
        self.last["train"] = batch

    def on_test_batch_end(self, batch, logs=None):
        self.last["test"] = batch

    def on_predict_batch_end(self, batch, logs=None):
        self.last["predict"] = batch


def test_callbacks_hear_of_the_batches_that_there_are(capsys):
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (4,)),
        vae_keras.mlp_decoder(2, SHAPE, (4,)),
    )
    vae.compile("sgd", steps_per_execution=50)
    told = Told()
    callbacks = [told]
    validation = {"validation_data": X[:24], "validation_batch_size": 8}
    data = dataset(4, X)
    for x, size in ((X, 4), (data, None), (Batches(4, X), None)):
        history = vae.fit(x, batch_size=size, callbacks=callbacks, **validation)
        assert told.last == {"train": 15, "test": 2}
        assert history.epoch == [0]
        assert history.params["steps"] == 16
        vae.evaluate(x, batch_size=size, callbacks=callbacks)
        assert told.last["test"] == 15
        told.last = {}
    vae.predict(X, batch_size=4, callbacks=callbacks)
    assert told.last == {"predict": 15}
    output = capsys.readouterr().out
    assert "16/16" in output
    assert "50/" not in output
