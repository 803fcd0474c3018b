"""The conditional VAE against formulas, its data forms and its refusals."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_normal

import vae_keras

ROOT = pathlib.Path(vae_keras.__file__).parents[1]
SHAPE = (8, 6, 1)
NUM_CLASSES = 10
GRAPH = {"jit_compile": False}


@pytest.fixture
def pictures(images):
    """Middles of digits."""
    return images[:50, 10:18, 11:17]


@pytest.fixture
def classes(labels):
    return labels[:50]


def new_vae(image_shape=SHAPE, **kwargs):
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder(image_shape, 2, (16,), num_classes=NUM_CLASSES),
        vae_keras.mlp_decoder(2, image_shape, (16,), num_classes=NUM_CLASSES),
        NUM_CLASSES,
        **kwargs,
    )


def scaled(vae, factor=2.0):
    """Weights large enough for labels to matter, biases included."""
    rng = np.random.default_rng(0)
    for weight in vae.trainable_weights:
        noise = rng.normal(0, 0.2, size=weight.shape)
        weight.assign(factor * weight.numpy() + noise)
    return vae


def noise(seed, *batch_sizes):
    """What a sampling layer with this seed draws for batches of 2 latents."""
    generator = keras.random.SeedGenerator(seed)
    draws = [keras.random.normal((n, 2), seed=generator) for n in batch_sizes]
    return np.float64(np.concatenate(draws))


# === By hand, in float64 ===


def hidden(inputs, labels, weights):
    """The first layer: what labels add is a row of the kernel for each."""
    kernel, bias = weights[:2]
    size = inputs.shape[1]
    h = inputs @ kernel[:size] + kernel[size:][labels] + bias
    return np.maximum(h, 0)


def encoded(vae, x, labels):
    weights = [np.float64(w) for w in vae.encoder.get_weights()]
    h = hidden(np.float64(x).reshape(len(x), -1), labels, weights)
    return h @ weights[2] + weights[3], h @ weights[4] + weights[5]


def decoded(vae, z, labels):
    weights = [np.float64(w) for w in vae.decoder.get_weights()]
    return hidden(np.float64(z), labels, weights) @ weights[2] + weights[3]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def terms_by_hand(vae, x, labels, epsilon):
    z_mean, z_log_var = encoded(vae, x, labels)
    p = sigmoid(decoded(vae, z_mean + np.exp(z_log_var / 2) * epsilon, labels))
    x = np.float64(x).reshape(p.shape)
    nll = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).sum(axis=1)
    return nll, kl


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_equals_the_formula(pictures, classes, weighted):
    weight = np.linspace(0, 3, 50) if weighted else np.ones(50)
    vae = scaled(new_vae(beta=2.0))
    vae.compile()
    logs = vae.evaluate(
        pictures,
        classes,
        sample_weight=weight if weighted else None,
        batch_size=20,
        verbose=0,
        return_dict=True,
    )
    nll, kl = terms_by_hand(vae, pictures, classes, noise(0, 20, 20, 10))
    assert logs == pytest.approx(
        {
            "loss": np.mean(weight * (nll + 2 * kl)),
            "reconstruction_loss": np.mean(weight * nll),
            "kl_loss": np.mean(weight * kl),
        },
        rel=1e-5,
    )


def test_first_training_loss_equals_the_formula(pictures, classes):
    vae = scaled(new_vae(seed=5))
    nll, kl = terms_by_hand(vae, pictures, classes, noise(5, 50))
    vae.compile("sgd")
    run = {"batch_size": 50, "shuffle": False, "verbose": 0}
    logs = vae.fit(pictures, classes, **run).history
    assert logs["loss"][0] == pytest.approx(np.mean(nll + kl), rel=1e-5)
    assert logs["kl_loss"][0] == pytest.approx(np.mean(kl), rel=1e-5)


def test_a_step_descends_the_gradient(pictures, classes):
    vae = scaled(new_vae(seed=3))
    one_hot = tf.one_hot(classes, NUM_CLASSES)
    epsilon = np.float32(noise(3, 50))
    with tf.GradientTape() as tape:
        z_mean, z_log_var = vae.encoder([tf.constant(pictures), one_hot])
        z = z_mean + tf.sqrt(tf.exp(z_log_var)) * epsilon
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(
            pictures, vae.decoder([z, one_hot])
        )
        kl = z_mean**2 + tf.exp(z_log_var) - 1 - z_log_var
        loss = (tf.reduce_sum(cross_entropy) + tf.reduce_sum(kl) / 2) / 50
    weights = vae.trainable_weights
    gradients = tape.gradient(loss, [w.value for w in weights])
    before = [w.numpy() for w in weights]
    vae.compile(keras.optimizers.SGD(0.1), **GRAPH)
    vae.fit(pictures, classes, batch_size=50, shuffle=False, verbose=0)
    for old, new, gradient in zip(before, weights, gradients, strict=True):
        step = (old - new.numpy()) / 0.1
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(step, gradient, atol=1e-4 * scale)


# === Using the model ===


def test_encode_decode_predict(pictures, classes):
    vae = scaled(new_vae())
    z_mean, z_log_var = vae.encode(pictures, classes)
    assert z_mean.dtype == z_log_var.dtype == tf.float32
    expected = encoded(vae, pictures, classes)
    np.testing.assert_allclose(z_mean, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z_log_var, expected[1], rtol=1e-4, atol=1e-5)
    means = vae.decode(z_mean, labels=classes)
    expected = sigmoid(decoded(vae, z_mean, classes)).reshape(means.shape)
    np.testing.assert_allclose(means, expected, atol=1e-5)

    predicted = vae.predict((pictures, classes), verbose=0)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, means, atol=1e-5)
    pairs = tf.data.Dataset.from_tensor_slices((pictures, classes)).batch(20)
    vae.compile(run_eagerly=True)
    for data in (
        [pictures, classes],
        pairs,
        pairs.map(lambda x, y: (x, y, tf.ones(len(x)))),
        vae_keras.image_dataset(pictures, 20, classes, shuffle=False),
    ):
        np.testing.assert_allclose(
            vae.predict(data, verbose=0), predicted, atol=1e-5
        )
    np.testing.assert_allclose(
        vae.predict_on_batch((pictures, classes)), predicted, atol=1e-5
    )
    np.testing.assert_allclose(vae((pictures, classes)), predicted, atol=1e-5)


def test_generate():
    vae = scaled(new_vae())
    labels = [7, 7, 3]
    once = vae.generate(labels=labels, seed=7)
    np.testing.assert_array_equal(once, vae.generate(labels, seed=7))
    z = keras.random.normal((3, 2), seed=7)
    np.testing.assert_array_equal(once, vae.decode(z, labels))
    assert once.shape == (3, *SHAPE)
    assert not np.array_equal(once[0], once[1])
    assert not np.array_equal(vae.generate(labels), vae.generate(labels))
    # The label decides, for one and the same latent.
    one, other = vae.decode(tf.zeros((2, 2)), [7, 3])
    assert np.abs(one - other).max() > 0.01
    for integers in (np.array(labels, "uint8"), tf.constant(labels)):
        np.testing.assert_array_equal(once, vae.generate(integers, seed=7))


def test_encode_and_decode_in_a_graph(pictures, classes):
    vae = scaled(new_vae())

    @tf.function
    def mean(x, y):
        return vae.decode(vae.encode(x, y)[0], y)

    expected = vae((pictures, classes))
    found = mean(tf.constant(pictures), tf.constant(classes))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_it_learns_what_the_label_says(likelihood):
    """Class 0 has a bright upper half, class 1 a bright lower half."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=512)
    x = np.full((512, *SHAPE), 0.1)
    x[:, :4] += 0.7 * (labels == 0)[:, None, None, None]
    x[:, 4:] += 0.7 * (labels == 1)[:, None, None, None]
    x = np.float32(x + rng.uniform(0, 0.1, size=x.shape))
    sizes = {"filters": 4, "depth": 1, "hidden_units": (16,), "num_classes": 2}
    vae = vae_keras.ConditionalVAE(
        vae_keras.conv_encoder(SHAPE, 2, **sizes),
        vae_keras.conv_decoder(2, SHAPE, **sizes),
        2,
        likelihood=likelihood,
    )
    vae.compile(keras.optimizers.Adam(0.01), **GRAPH)
    vae.fit(x, labels, epochs=15, verbose=0)
    asked = np.array([0, 1, 1, 0, 1])
    means = np.asarray(vae.generate(asked, seed=0))
    upper, lower = means[:, :4].mean((1, 2, 3)), means[:, 4:].mean((1, 2, 3))
    assert np.array_equal(lower > upper, asked == 1)
    assert np.abs(upper - lower).min() > 0.5


# === What Keras runs and how ===


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return tuple(array[20 * i : 20 * (i + 1)] for array in self.arrays)


def batches(*arrays):
    """An endless generator of tuples, the last of an epoch smaller."""
    while True:
        yield from (Batches(*arrays)[i] for i in range(3))


FORMS = {
    "arrays": lambda x, y: {"x": x, "y": y, "batch_size": 20},
    "by position": lambda x, y: {"x": (x, y), "batch_size": 20},
    "tensors": lambda x, y: {
        "x": tf.constant(x),
        "y": tf.constant(np.int32(y)),
        "batch_size": 20,
    },
    "dataset": lambda x, y: {
        "x": tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    },
    "image_dataset": lambda x, y: {
        "x": vae_keras.image_dataset(x, 20, y, shuffle=False)
    },
    "generator": lambda x, y: {"x": batches(x, y), "steps_per_epoch": 3},
    "PyDataset": lambda x, y: {"x": Batches(x, np.uint8(y))},
}


@pytest.mark.filterwarnings("ignore:.*`shuffle=False`")
def test_every_form_of_data_trains_alike(pictures, classes):
    results = {}
    for name, form in FORMS.items():
        keras.utils.set_random_seed(0)
        vae = new_vae(seed=0)
        vae.compile("adam", **GRAPH)
        data = form(pictures, classes)
        vae.fit(epochs=2, shuffle=False, verbose=0, **data)
        assert int(vae.optimizer.iterations) == 6
        results[name] = vae.get_weights()
    for weights in results.values():
        for a, b in zip(weights, results["arrays"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_form_of_validation_data_measures_alike(pictures, classes):
    vae = scaled(new_vae())
    vae.compile(keras.optimizers.SGD(0.0), **GRAPH)
    expected = vae.evaluate(pictures, classes, batch_size=20, verbose=0)
    ones = np.ones(50, "float32")
    for data in (
        (pictures, classes),
        (pictures, classes, ones),
        FORMS["dataset"](pictures, classes)["x"],
        FORMS["image_dataset"](pictures, classes)["x"],
        Batches(pictures, classes),
    ):
        logs = vae.fit(
            pictures,
            classes,
            validation_data=data,
            validation_batch_size=20,
            verbose=0,
        ).history
        assert logs["val_loss"] == pytest.approx(expected[:1], rel=1e-6)
        batch_size = {"batch_size": 20} if isinstance(data, tuple) else {}
        result = vae.evaluate(data, verbose=0, **batch_size)
        assert result == pytest.approx(expected, rel=1e-6)
    logs = vae.fit(pictures, classes, validation_split=0.4, verbose=0).history
    expected = vae.evaluate(pictures[30:], classes[30:], verbose=0)
    assert logs["val_loss"] == pytest.approx(expected[:1], rel=1e-6)


MODES = {
    "graph, 3 steps": ({**GRAPH, "steps_per_execution": 3}, GRAPH),
    "eager": ({"run_eagerly": True}, GRAPH),
    "xla, 3 steps": (
        {"jit_compile": True, "steps_per_execution": 3},
        {"jit_compile": True},
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_agree(pictures, classes, mode):
    results = []
    for compile_kwargs in MODES[mode]:
        keras.utils.set_random_seed(0)
        vae = new_vae(likelihood="gaussian")
        vae.compile("adam", **compile_kwargs)
        logs = vae.fit(
            pictures,
            classes,
            batch_size=16,
            epochs=2,
            validation_data=(pictures[:16], classes[:16]),
            verbose=0,
        ).history
        results.append((vae.get_weights(), logs))
        predicted = vae.predict((pictures, classes), verbose=0)
        np.testing.assert_allclose(
            predicted, vae((pictures, classes)), atol=1e-5
        )
    (weights, logs), (expected_weights, expected) = results
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, values in logs.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(pictures, classes, policy):
    keras.config.set_dtype_policy(policy)
    try:
        vae = new_vae(seed=0)
        vae.compile("adam", **GRAPH)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(w.dtype == "float32" for w in vae.trainable_weights)
    terms = vae.elbo_terms((pictures, classes), training=False)
    assert [term.dtype for term in terms] == [tf.float32] * 2
    logs = vae.fit(pictures, classes, epochs=8, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    full = new_vae(seed=0)
    full.set_weights(vae.get_weights())
    full.compile(**GRAPH)
    assert vae.predict((pictures, classes), verbose=0).dtype == np.float32
    assert vae.evaluate(pictures, classes, verbose=0)[0] == pytest.approx(
        full.evaluate(pictures, classes, verbose=0)[0], rel=1e-3
    )


# === Evaluation ===


class LinearEncoder(keras.Model):
    """A network of the user's own: the exact posterior, or near it."""

    def __init__(self, means, to_mean, log_var):
        super().__init__()
        self.means, self.to_mean = tf.constant(means), tf.constant(to_mean)
        self.log_var = tf.constant(log_var)

    def call(self, inputs):
        x, one_hot = inputs
        x = tf.reshape(x, (-1, 9)) - one_hot @ self.means
        z_mean = x @ self.to_mean
        return z_mean, tf.zeros_like(z_mean) + self.log_var


class LinearDecoder(keras.Model):
    def __init__(self, kernel, means):
        super().__init__()
        self.kernel, self.means = tf.constant(kernel), tf.constant(means)

    def call(self, inputs):
        z, one_hot = inputs
        x = z @ tf.transpose(self.kernel) + one_hot @ self.means
        return tf.reshape(x, (-1, 3, 3, 1))


def linear_vae(shift=0.0, scale=0.5):
    """A linear-Gaussian model of 4 classes, and log p(x|y) of its images."""
    rng = np.random.default_rng(0)
    kernel = np.linalg.qr(rng.normal(size=(9, 2)))[0] * [0.5, 1.5]
    means = rng.uniform(size=(4, 9))
    variance = 1 / (1 + np.sum(kernel**2, axis=0) / scale**2)
    to_mean = kernel * variance / scale**2 + shift
    log_var = np.log(variance) + shift
    networks = [
        LinearEncoder(*map(np.float32, (means, to_mean, log_var))),
        LinearDecoder(*map(np.float32, (kernel, means))),
    ]
    networks[0]([tf.zeros((1, 3, 3, 1)), tf.zeros((1, 4))])
    networks[1]([tf.zeros((1, 2)), tf.zeros((1, 4))])
    vae = vae_keras.ConditionalVAE(
        *networks, 4, likelihood=vae_keras.Gaussian(scale)
    )
    covariance = kernel @ kernel.T + scale**2 * np.eye(9)
    marginals = [multivariate_normal(mean, covariance) for mean in means]

    def exact_nll(images, labels):
        x = np.float64(images).reshape(len(images), -1)
        return -np.array(
            [marginals[y].logpdf(row) for row, y in zip(x, labels, strict=True)]
        )

    return vae, exact_nll


def linear_data(n):
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(n, 3, 3, 1)).astype("float32")
    return images, rng.integers(4, size=n)


def test_likelihood_of_a_linear_gaussian_model():
    images, labels = linear_data(60)
    # With the exact posterior all weights are equal.
    vae, exact_nll = linear_vae()
    exact = exact_nll(images, labels)
    estimate = vae_keras.importance_weighted_nll(
        vae, images, 3, labels=labels, batch_size=7, verbose=False
    )
    np.testing.assert_allclose(estimate.per_image, exact, atol=1e-4)
    # Given other labels, it is another number.
    other = vae_keras.importance_weighted_nll(
        vae, images, 3, labels=labels[::-1], verbose=False
    )
    moved = labels != labels[::-1]
    assert np.all(np.abs(other.per_image - exact)[moved] > 1e-3)
    # With another posterior, weights differ, and their mean is right.
    vae, _ = linear_vae(shift=0.05)
    images, labels = linear_data(1000)
    exact = exact_nll(images, labels)
    nll = vae_keras.importance_weighted_nll(
        vae, images, 30, labels=list(labels), batch_size=500, verbose=False
    ).per_image
    ratios = np.exp(exact - nll)
    assert ratios.std() > 0.01
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(ratios.mean() - 1) < 4 * error
    vae.compile(**GRAPH)
    one = vae_keras.importance_weighted_nll(
        vae, images, 1, labels=labels, verbose=False
    )
    loss = vae.evaluate(images, labels, verbose=0)[0]
    assert one.mean == pytest.approx(loss, abs=4 * one.standard_error)


def test_use_of_the_latents(pictures, classes):
    vae = scaled(new_vae())
    z_mean, z_log_var = encoded(vae, pictures, classes)
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).mean(axis=0)
    found = vae_keras.kl_per_dimension(vae, pictures, labels=classes)
    np.testing.assert_allclose(found, kl, rtol=1e-4)
    variances = np.sort(z_mean.var(axis=0))
    for threshold, expected in (
        (0.9 * variances[0], 2),
        (np.mean(variances), 1),
        (1.1 * variances[1], 0),
    ):
        active = vae_keras.active_units(
            vae, pictures, threshold, labels=classes
        )
        assert active == expected


def test_callbacks_and_figures(pictures, classes):
    vae = scaled(new_vae())
    vae.compile("sgd", **GRAPH)
    monitor = vae_keras.CollapseMonitor(pictures, classes)
    logs = vae.fit(
        pictures,
        classes,
        epochs=2,
        callbacks=[vae_keras.KLWarmUp(1), monitor],
        verbose=0,
    ).history
    assert logs["beta"] == [0, 1]
    kl = vae_keras.kl_per_dimension(vae, pictures, labels=classes)
    np.testing.assert_array_equal(monitor.kl_per_dimension[-1], kl)
    figure = vae_keras.plot_latent_space(vae, pictures, classes)
    z_mean, _ = vae.encode(pictures, classes)
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, z_mean, atol=1e-5)
    figure = vae_keras.plot_reconstructions(vae, pictures[:3], classes[:3])
    expected = vae((pictures[:3], classes[:3]))[0, ..., 0]
    mosaic = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(mosaic[9:17, :6], expected, atol=1e-5)


# === Saving ===


def with_dropout(**kwargs):
    x, y = keras.Input(SHAPE), keras.Input((NUM_CLASSES,))
    h = keras.layers.Concatenate()([keras.layers.Flatten()(x), y])
    h = keras.layers.Dropout(0.3)(keras.layers.Dense(16, "relu")(h))
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    decoder = vae_keras.mlp_decoder(2, SHAPE, (16,), num_classes=NUM_CLASSES)
    return vae_keras.ConditionalVAE(
        keras.Model([x, y], outputs), decoder, NUM_CLASSES, **kwargs
    )


CHILD = """
import keras
import numpy as np

import vae_keras

x, y = np.load("pictures.npy"), np.load("classes.npy")
vae = keras.saving.load_model("vae.keras")
found = {"predicted": vae.predict((x, y), verbose=0)}
data = vae_keras.image_dataset(x, 16, y, seed=0, initial_epoch=2)
vae.fit(data, initial_epoch=2, epochs=4, verbose=0)
found |= {str(i): w for i, w in enumerate(vae.get_weights())}
found["evaluated"] = vae.evaluate(x, y, verbose=0)
found["generated"] = vae.generate([7, 7, 3], seed=1)
np.savez("found.npz", **found)
"""


class Halfway(keras.callbacks.Callback):
    def __init__(self, path, data):
        super().__init__()
        self.path, self.data = path, data

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.save(self.path)
            self.predicted = self.model.predict(self.data, verbose=0)


def test_a_fresh_process_predicts_and_resumes_alike(
    pictures, classes, tmp_path
):
    """Four epochs in one go, against two, a file, and two elsewhere."""
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "classes.npy", classes)
    vae = with_dropout(likelihood="gaussian")
    vae.compile("adam", **GRAPH, steps_per_execution=3)
    halfway = Halfway(tmp_path / "vae.keras", (pictures, classes))
    data = vae_keras.image_dataset(pictures, 16, classes, seed=0)
    vae.fit(data, epochs=4, verbose=0, callbacks=[halfway])
    expected = {
        "predicted": halfway.predicted,
        **{str(i): w for i, w in enumerate(vae.get_weights())},
        "evaluated": vae.evaluate(pictures, classes, verbose=0),
        "generated": vae.generate([7, 7, 3], seed=1),
    }
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)


def test_config_round_trip():
    vae = new_vae(beta=2.5, seed=4, name="digits")
    clone = vae_keras.ConditionalVAE.from_config(vae.get_config())
    assert clone.get_config() == vae.get_config()
    assert (clone.name, clone.seed, clone.num_classes) == ("digits", 4, 10)
    assert clone.target_beta == 2.5


# === Networks ===


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_networks_take_labels(kind):
    sizes = {"hidden_units": (16,)} | ({"filters": 4} if kind == "conv" else {})
    encode = getattr(vae_keras, f"{kind}_encoder")
    decode = getattr(vae_keras, f"{kind}_decoder")
    vae = vae_keras.ConditionalVAE(
        encode((9, 7, 3), 4, num_classes=5, **sizes),
        decode(4, (9, 7, 3), num_classes=5, **sizes),
        5,
    )
    assert (vae.image_shape, vae.latent_shape) == ((9, 7, 3), (4,))
    assert vae.generate([0, 4]).shape == (2, 9, 7, 3)
    # Each class costs a row of the first dense layer, and no more.
    for network, plain in (
        (vae.encoder, encode((9, 7, 3), 4, **sizes)),
        (vae.decoder, decode(4, (9, 7, 3), **sizes)),
    ):
        more = network.count_params() - plain.count_params()
        assert more == 5 * 16
    for build in (
        lambda n: encode((9, 7, 3), 4, num_classes=n),
        lambda n: decode(4, (9, 7, 3), num_classes=n),
    ):
        with pytest.raises(ValueError, match=r"`num_classes`.*Received.*=0"):
            build(0)


def test_networks_of_other_numbers_of_classes():
    with pytest.raises(
        ValueError,
        match=r"'encoder' to take.*one-hot labels \(5,\).*Received.*\(10,\).*"
        "`num_classes=5`",
    ):
        vae_keras.ConditionalVAE(
            vae_keras.mlp_encoder(SHAPE, 2, num_classes=10),
            vae_keras.mlp_decoder(2, SHAPE, num_classes=5),
            num_classes=5,
        )
    with pytest.raises(ValueError, match=r"'decoder'.*\[\(2,\), \(4,\)\]"):
        vae_keras.ConditionalVAE(
            vae_keras.mlp_encoder(SHAPE, 2, num_classes=5),
            vae_keras.mlp_decoder(2, SHAPE, num_classes=4),
            num_classes=5,
        )


def test_networks_without_labels():
    for num_classes in ((None, 10), (10, None)):
        with pytest.raises(ValueError, match=r"labels \(10,\).*Received"):
            vae_keras.ConditionalVAE(
                vae_keras.mlp_encoder(SHAPE, 2, num_classes=num_classes[0]),
                vae_keras.mlp_decoder(2, SHAPE, num_classes=num_classes[1]),
                num_classes=10,
            )
        with pytest.raises(ValueError, match=r"one input.*`ConditionalVAE`"):
            vae_keras.VAE(
                vae_keras.mlp_encoder(SHAPE, 2, num_classes=num_classes[0]),
                vae_keras.mlp_decoder(2, SHAPE, num_classes=num_classes[1]),
            )


def test_latents_that_differ():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\).*`latent_dim`"):
        vae_keras.ConditionalVAE(
            vae_keras.mlp_encoder(SHAPE, 3, num_classes=10),
            vae_keras.mlp_decoder(2, SHAPE, num_classes=10),
            num_classes=10,
        )


@pytest.mark.parametrize("bad", [0, -1, 2.5, "10", None])
def test_a_bad_number_of_classes(bad):
    network = vae_keras.mlp_encoder(SHAPE, 2, num_classes=10)
    with pytest.raises(ValueError, match=r"`num_classes`.*Received"):
        vae_keras.ConditionalVAE(network, network, bad)


# === Refusals ===


BAD_LABELS = {
    "none": (lambda y: None, "no labels.*`fit"),
    "too large": (lambda y: y + 1, "values from 1 to 10.*Renumber"),
    "negative": (lambda y: y - 1, "values from -1 to 8.*Renumber"),
    "floats": (lambda y: y.astype("float32"), "dtype float32.*Number the"),
    "names": (lambda y: y.astype(str), "dtype.*Number the classes"),
    "one-hot": (lambda y: np.eye(10)[y], r"shape \(.*, 10\).*argmax"),
    "a column": (lambda y: y[:, np.newaxis], r"shape \(.*, 1\).*ravel"),
}


@pytest.fixture
def balanced():
    """Labels with each of the ten classes in every batch of 20."""
    return np.arange(50) % 10


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused_before_the_first_step(
    pictures, balanced, bad, tmp_path
):
    make_bad, received = BAD_LABELS[bad]
    labels = make_bad(balanced)
    message = f"Expected labels.*from 0 to 9. Received: {received}"
    vae = new_vae()
    vae.compile("adam")
    before = [v.numpy() for v in vae.variables]
    callbacks = [keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")]
    parts = (pictures,) if labels is None else (pictures, labels)
    dataset = tf.data.Dataset.from_tensor_slices(
        parts if labels is not None else pictures
    )
    datasets = [
        dataset.batch(20),
        Batches(*parts),
        vae_keras.image_dataset(pictures, 20, labels),
    ]
    good = {"x": pictures, "y": balanced}
    arguments = [
        {"x": pictures, "y": labels},
        {"x": parts},
        *({"x": data} for data in datasets),
        {"x": batches(*parts), "steps_per_epoch": 3},
        {**good, "validation_data": parts},
        *({**good, "validation_data": data} for data in datasets),
    ]
    for fit in arguments:
        with pytest.raises(ValueError, match=message):
            vae.fit(**fit, callbacks=callbacks, verbose=0)
    for data in (parts, *datasets):
        with pytest.raises(ValueError, match=message):
            vae.evaluate(data, verbose=0)
        with pytest.raises(ValueError, match=message):
            vae.predict(data, verbose=0)
    for old, new in zip(before, vae.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert int(vae.optimizer.iterations) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused_everywhere(pictures, balanced, bad):
    make_bad, received = BAD_LABELS[bad]
    labels = make_bad(balanced)
    message = f"Expected labels.*from 0 to 9. Received: {received}"
    vae = new_vae()
    z = np.zeros((50, 2), "float32")
    for use in (
        lambda: vae.encode(pictures, labels),
        lambda: vae.decode(z, labels),
        lambda: vae.generate(labels),
        lambda: vae_keras.importance_weighted_nll(
            vae, pictures, 2, labels=labels
        ),
        lambda: vae_keras.active_units(vae, pictures, labels=labels),
        lambda: vae_keras.kl_per_dimension(vae, pictures, labels=labels),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_all_labels_of_arrays_are_looked_at(pictures, balanced):
    """Also those of an `image_dataset`, which loses no epoch by it."""
    labels = balanced.copy()
    labels[-1] = 10
    vae = new_vae()
    vae.compile("adam")
    dataset = vae_keras.image_dataset(pictures, 20, labels, shuffle=False)
    for data in ((pictures, labels), dataset):
        with pytest.raises(ValueError, match="values from 0 to 10"):
            vae.fit(data, verbose=0)
    good = [
        vae_keras.image_dataset(pictures, 50, balanced, seed=1)
        for _ in range(2)
    ]
    vae.fit(good[0], verbose=0)
    next(iter(good[1]))
    one, other = (next(iter(dataset)) for dataset in good)
    np.testing.assert_array_equal(one[0], other[0])


def test_as_many_labels_as_images(pictures, balanced):
    vae = new_vae()
    message = r"Received: shape \(49,\) for 50 image"
    with pytest.raises(ValueError, match=message):
        vae.encode(pictures, balanced[1:])
    vae.compile("adam")
    with pytest.raises(ValueError, match=message):
        vae.fit(pictures, balanced[1:], verbose=0)


def test_generate_needs_labels_and_not_a_number():
    with pytest.raises(ValueError, match=r"Expected labels.*shape \(\)"):
        new_vae().generate(5)


def test_a_batch_without_labels(pictures):
    vae = new_vae()
    vae.compile("adam", **GRAPH)
    for use in (vae, vae.train_on_batch, vae.test_on_batch):
        with pytest.raises(ValueError, match="Received: no labels"):
            use(pictures)
    assert int(vae.optimizer.iterations) == 0


def test_images_are_checked(pictures, balanced):
    vae = new_vae()
    vae.compile("adam")
    for use in (vae.fit, vae.evaluate, vae.predict):
        with pytest.raises(ValueError, match="divide by 255"):
            use((255 * pictures, balanced), verbose=0)


def test_a_plain_vae_ignores_labels(small_vae, images, labels):
    vae = small_vae()
    for measure in (vae_keras.active_units, vae_keras.kl_per_dimension):
        np.testing.assert_array_equal(
            measure(vae, images, labels=labels), measure(vae, images)
        )
    one, other = (
        vae_keras.importance_weighted_nll(
            vae, images[:5], 3, labels=y, verbose=False
        )
        for y in (None, labels[:5])
    )
    np.testing.assert_array_equal(one.per_image, other.per_image)


# === Pictures of a training ===


def test_a_sample_grid_draws_what_was_asked_for(pictures, classes, tmp_path):
    vae = new_vae()
    vae.compile("adam", jit_compile=False)
    few, y = pictures[:5], classes[:5]
    grid = vae_keras.SampleGrid(few, tmp_path, labels=y)
    vae.fit(pictures, classes, verbose=0, callbacks=[grid])
    png = tf.io.decode_png((tmp_path / "epoch-0001.png").read_bytes()).numpy()
    expected = np.concatenate(
        [
            few,
            vae.predict((few, y), verbose=0),
            vae.generate(labels=y, seed=0),
        ]
    )
    height, width = few.shape[1:3]
    for i, tile in enumerate(expected):
        top, left = i // 5 * (height + 1), i % 5 * (width + 1)
        found = png[top : top + height, left : left + width]
        np.testing.assert_allclose(found, 255 * tile, atol=0.51)


@pytest.mark.parametrize("bad", [None, [0, 1], [0, 1, 2, 3, 10]])
def test_a_sample_grid_looks_at_its_labels(pictures, classes, tmp_path, bad):
    vae = new_vae()
    vae.compile("adam", jit_compile=False)
    grid = vae_keras.SampleGrid(pictures[:5], tmp_path, labels=bad)
    with pytest.raises(ValueError, match=r"Expected labels.*Received"):
        vae.fit(pictures, classes, verbose=0, callbacks=[grid])
    assert int(vae.optimizer.iterations) == 0
    assert list(tmp_path.iterdir()) == []
