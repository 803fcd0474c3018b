"""Autoencoder and GAN against formulas and gradients written by hand."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

ROOT = pathlib.Path(vae_keras.__file__).parents[1]
SHAPE = (8, 6, 1)
GRAPH = {"jit_compile": False}
XLA = {"jit_compile": True}


@pytest.fixture
def pictures(images):
    """Middles of digits."""
    return images[:50, 10:18, 11:17]


def new_autoencoder(**kwargs):
    return vae_keras.Autoencoder(
        vae_keras.mlp_encoder(SHAPE, 2, (16,)),
        vae_keras.mlp_decoder(2, SHAPE, (16,)),
        **kwargs,
    )


def new_gan(**kwargs):
    return vae_keras.GAN(
        vae_keras.mlp_decoder(2, SHAPE, (16,)),
        vae_keras.mlp_encoder(SHAPE, 1, (16,)),
        **{"seed": 3, **kwargs},
    )


MODELS = {"autoencoder": new_autoencoder, "gan": new_gan}
both = pytest.mark.parametrize("new_model", MODELS.values(), ids=MODELS)
METRICS = {
    "Autoencoder": ["loss", "reconstruction_loss"],
    "GAN": ["loss", "generator_loss", "discriminator_loss"],
}


def scaled(model, factor=2.0):
    """Weights large enough for logits far from zero, biases included."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        noise = rng.normal(0, 0.2, size=weight.shape)
        weight.assign(factor * weight.numpy() + noise)
    return model


def noise(seed, *batch_sizes):
    """What a sampling layer with this seed draws for batches of 2 latents."""
    generator = keras.random.SeedGenerator(seed)
    draws = [keras.random.normal((n, 2), seed=generator) for n in batch_sizes]
    return np.float64(np.concatenate(draws))


# === By hand, in float64 ===


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def forward(network, x):
    """The inputs of each dense layer, and the output of the last one."""
    weights = [np.float64(w) for w in network.get_weights()]
    inputs = [np.float64(x).reshape(len(x), -1)]
    for i in range(0, len(weights), 2):
        h = inputs[-1] @ weights[i] + weights[i + 1]
        is_last = i == len(weights) - 2
        inputs.append(h if is_last else np.maximum(h, 0))
    return inputs


def backward(network, inputs, gradient):
    """From the gradient of the output: those of the weights, of the input."""
    weights = [np.float64(w) for w in network.get_weights()]
    gradients = []
    for i in reversed(range(0, len(weights), 2)):
        h = inputs[i // 2]
        gradients[:0] = [h.T @ gradient, gradient.sum(axis=0)]
        gradient = gradient @ weights[i].T
        if i > 0:
            gradient = gradient * (h > 0)
    return gradients, gradient


def reconstruction_by_hand(model, x, weight=1.0):
    """Losses of the examples, and gradients of all weights."""
    h = forward(model.encoder, x)
    g = forward(model.decoder, h[-1])
    p, x = sigmoid(g[-1]), np.float64(x).reshape(len(x), -1)
    losses = -weight * (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    gradient = np.reshape(weight, (-1, 1)) * (p - x) / len(x)
    of_decoder, gradient = backward(model.decoder, g, gradient)
    of_encoder, _ = backward(model.encoder, h, gradient)
    return [losses], of_encoder + of_decoder


def adversarial_by_hand(model, x, weight=1.0, seed=3):
    """Losses of both networks, and the gradient that each descends."""
    g = forward(model.decoder, noise(seed, len(x)))
    p = sigmoid(g[-1])
    generated = forward(model.discriminator, p)
    real = forward(model.discriminator, x)
    d_generated, d_real = sigmoid(generated[-1]), sigmoid(real[-1])
    losses = [
        -np.log(d_generated[:, 0]),
        -weight * np.log(d_real[:, 0]) - np.log(1 - d_generated[:, 0]),
    ]
    # The generator's gradient comes through the discriminator.
    _, gradient = backward(
        model.discriminator, generated, (d_generated - 1) / len(x)
    )
    of_decoder, _ = backward(model.decoder, g, gradient * p * (1 - p))
    gradient = np.reshape(weight, (-1, 1)) * (d_real - 1) / len(x)
    one, _ = backward(model.discriminator, real, gradient)
    other, _ = backward(model.discriminator, generated, d_generated / len(x))
    return losses, of_decoder + [a + b for a, b in zip(one, other, strict=True)]


def by_hand(model, *args, **kwargs):
    is_gan = isinstance(model, vae_keras.GAN)
    function = adversarial_by_hand if is_gan else reconstruction_by_hand
    return function(model, *args, **kwargs)


def assert_one_sgd_step(model, x, gradients, rtol=1e-4, **kwargs):
    """A `fit` of one batch moves all weights down these gradients."""
    before = [w.numpy() for w in model.trainable_weights]
    if not model.compiled:
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    fit = {"batch_size": len(x), "shuffle": False, "verbose": 0, **kwargs}
    history = model.fit(x, **fit).history
    for old, new, gradient in zip(
        before, model.trainable_weights, gradients, strict=True
    ):
        scale = np.abs(gradient).max()
        assert scale > 0
        step = (old - new.numpy()) / 0.1
        np.testing.assert_allclose(step, gradient, atol=rtol * scale + 1e-6)
    return history


# === Losses and steps ===


@both
@pytest.mark.parametrize("weighted", [False, True])
def test_step_descends_the_gradients_by_hand(new_model, pictures, weighted):
    model = scaled(new_model())
    kwargs, weight = {}, np.ones(50)
    if weighted:
        weight = np.linspace(0, 3, 50)
        kwargs = {"y": np.zeros(50), "sample_weight": weight}
    terms, gradients = by_hand(model, pictures, weight)
    history = assert_one_sgd_step(model, pictures, gradients, **kwargs)
    expected = [np.mean(sum(terms)), *map(np.mean, terms)]
    names = METRICS[type(model).__name__]
    found = [history[name][0] for name in names]
    assert found == pytest.approx(expected, rel=1e-5)


@both
def test_evaluate_equals_the_formula(new_model, pictures):
    model = scaled(new_model())
    model.compile()
    run = {"batch_size": 16, "verbose": 0, "return_dict": True}
    logs = [model.evaluate(pictures, **run) for _ in range(2)]
    if isinstance(model, vae_keras.GAN):
        # The smaller last batch counts as the two examples that it has.
        p = sigmoid(forward(model.decoder, noise(0, 16, 16, 16, 2))[-1])
        generated = forward(model.discriminator, p)[-1][:, 0]
        real = forward(model.discriminator, pictures)[-1][:, 0]
        terms = [
            -np.log(sigmoid(generated)),
            -np.log(sigmoid(real)) - np.log(sigmoid(-generated)),
        ]
    else:
        terms, _ = by_hand(model, pictures)
    values = [np.mean(sum(terms)), *map(np.mean, terms)]
    names = METRICS[type(model).__name__]
    expected = dict(zip(names, values, strict=True))
    assert logs[0] == logs[1]
    assert logs[0] == pytest.approx(expected, rel=1e-5)


def regularized(network):
    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            config["kernel_regularizer"] = keras.regularizers.L2(0.7)
        return type(layer).from_config(config)

    return keras.models.clone_model(network, clone_function=clone)


@both
def test_step_includes_regularizers(new_model, pictures):
    model = new_model()
    networks = [
        regularized(getattr(model, name)) for name in model.network_names
    ]
    kwargs = {"seed": 3} if isinstance(model, vae_keras.GAN) else {}
    model = scaled(type(model)(*networks, **kwargs))
    terms, gradients = by_hand(model, pictures)
    kernels = [w.numpy() * (len(w.shape) == 2) for w in model.trainable_weights]
    gradients = [g + 1.4 * k for g, k in zip(gradients, kernels, strict=True)]
    penalty = 0.7 * sum(np.sum(np.float64(k) ** 2) for k in kernels)
    history = assert_one_sgd_step(model, pictures, gradients)
    total = np.mean(sum(terms))
    assert history["loss"][0] == pytest.approx(total + penalty, rel=1e-5)
    # The terms themselves are free of the penalty.
    logs = [history[name][0] for name in METRICS[type(model).__name__][1:]]
    assert sum(logs) == pytest.approx(total, rel=1e-5)


def test_activity_of_the_discriminator_is_not_the_generators(pictures):
    x = keras.Input(SHAPE)
    h = keras.layers.Flatten()(x)
    logit = keras.layers.Dense(1, activity_regularizer="l2")(h)
    gan = vae_keras.GAN(
        vae_keras.mlp_decoder(2, SHAPE, (16,)), keras.Model(x, logit), seed=3
    )
    gan = scaled(gan)
    _, gradients = by_hand(gan, pictures)
    before = [w.numpy() for w in gan.decoder.trainable_weights]
    gan.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    gan.fit(pictures, batch_size=50, verbose=0)
    gradients = gradients[: len(before)]
    after = gan.decoder.trainable_weights
    for old, new, gradient in zip(before, after, gradients, strict=True):
        step = (old - new.numpy()) / 0.1
        np.testing.assert_allclose(step, gradient, atol=1e-5)


@both
def test_extreme_logits(new_model, pictures):
    model = scaled(new_model(), 1e3)
    model.compile("sgd")
    logs = model.evaluate(pictures, verbose=0)
    assert np.all(np.isfinite(logs))
    assert max(logs) > 1e4
    assert np.all(np.isfinite(model.train_on_batch(pictures)))
    assert all(np.isfinite(w).all() for w in model.get_weights())


# === What Keras runs and how ===

MODES = {
    "graph, 3 steps": ({**GRAPH, "steps_per_execution": 3}, GRAPH),
    "eager": ({"run_eagerly": True}, GRAPH),
    "xla, 3 steps": ({**XLA, "steps_per_execution": 3}, XLA),
}


@both
@pytest.mark.parametrize("mode", MODES)
def test_modes_agree(new_model, pictures, mode):
    results = []
    for compile_kwargs in MODES[mode]:
        keras.utils.set_random_seed(0)
        model = new_model()
        model.compile("adam", **compile_kwargs)
        # Four batches an epoch, the last of them smaller.
        fit = {"batch_size": 16, "epochs": 2, "verbose": 0}
        history = model.fit(
            pictures, validation_data=pictures[:16], **fit
        ).history
        assert int(model.optimizer.iterations) == 8
        results.append((model.get_weights(), history))
    (weights, history), (expected_weights, expected) = results
    names = METRICS[type(model).__name__]
    assert sorted(history) == sorted(names + [f"val_{n}" for n in names])
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4)


@both
def test_forms_of_data_train_alike(new_model, pictures):
    def dataset(*arrays):
        return tf.data.Dataset.from_tensor_slices(arrays).batch(16)

    y = np.zeros(50)
    results = []
    for data in (
        {"x": pictures, "batch_size": 16},
        {"x": (pictures,), "batch_size": 16},
        {"x": (pictures, y), "batch_size": 16},
        {"x": dataset(pictures)},
        {"x": dataset(pictures, y), "validation_data": (pictures, y)},
    ):
        keras.utils.set_random_seed(0)
        model = new_model()
        model.compile("adam", jit_compile=False)
        shuffle = (
            {} if isinstance(data["x"], tf.data.Dataset) else {"shuffle": False}
        )
        model.fit(**data, epochs=2, verbose=0, **shuffle)
        assert int(model.optimizer.iterations) == 8
        results.append(model.get_weights())
    for weights in results[1:]:
        for a, b in zip(weights, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_validating_does_not_move_the_noise_of_a_gan(pictures):
    weights = []
    for validation_data in (None, pictures[:20]):
        keras.utils.set_random_seed(0)
        gan = new_gan()
        gan.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        history = gan.fit(
            pictures, epochs=2, validation_data=validation_data, verbose=0
        ).history
        weights.append(gan.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    logs = gan.evaluate(pictures[:20], verbose=0, return_dict=True)
    assert logs["loss"] == history["val_loss"][-1]


@both
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_steps_alike(new_model, pictures, dtype):
    """Scaled losses and unscaled gradients: both networks step as by hand."""
    keras.config.set_dtype_policy(dtype)
    try:
        model = scaled(new_model())
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    finally:
        keras.config.set_dtype_policy("float32")
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (dtype == "mixed_float16")
    if is_scaled:  # At the default of 2**15 the first steps overflow.
        model.optimizer.initial_scale = 2.0**6
    assert all(v.dtype == "float32" for v in model.trainable_weights)
    terms, gradients = by_hand(model, pictures)
    rtol = 0.01 if is_scaled else 0.05
    history = assert_one_sgd_step(model, pictures, gradients, rtol=rtol)
    assert history["loss"][0] == pytest.approx(np.mean(sum(terms)), rel=0.02)


# === Using the models ===


def test_autoencoder_encodes_and_reconstructs(pictures):
    model = scaled(new_autoencoder())
    z = model.encode(pictures)
    assert z.dtype == tf.float32
    np.testing.assert_allclose(z, forward(model.encoder, pictures)[-1], 1e-4)
    predicted = model.predict(pictures, verbose=0)
    logits = forward(model.decoder, z)[-1].reshape(pictures.shape)
    np.testing.assert_allclose(predicted, sigmoid(logits), atol=1e-5)
    np.testing.assert_allclose(model.decode(z), predicted, atol=1e-5)


def test_gan_predicts_the_probability_of_being_real(pictures):
    model = scaled(new_gan())
    predicted = model.predict(pictures, verbose=0)
    logits = forward(model.discriminator, pictures)[-1]
    assert predicted.shape == (50, 1)
    np.testing.assert_allclose(predicted, sigmoid(logits), atol=1e-5)


@both
def test_generate(new_model):
    model = scaled(new_model())
    once = model.generate(5, seed=7)
    z = keras.random.normal((5, 2), seed=7)
    np.testing.assert_array_equal(once, model.decode(z))
    logits = forward(model.decoder, z)[-1].reshape(5, *SHAPE)
    np.testing.assert_allclose(once, sigmoid(logits), atol=1e-5)
    assert once.dtype == tf.float32
    assert not np.array_equal(model.generate(5), model.generate(5))
    with pytest.raises(ValueError, match=r"Expected `num_images`.*Received"):
        model.generate(-1)


def test_a_gan_learns_where_images_are():
    """Its images become those of the data: one grey for each half."""
    x = np.full((640, *SHAPE), 0.8, "float32")
    x[:, :4] = 0.3
    gan = new_gan()
    gan.compile(keras.optimizers.Adam(5e-3, beta_1=0.5), **GRAPH)
    before = np.abs(gan.generate(20, seed=0) - x[0]).mean()
    gan.fit(x, epochs=10, batch_size=64, verbose=0)
    after = np.abs(gan.generate(20, seed=0) - x[0]).mean()
    assert after < 0.7 * before


# === Encoders of a VAE ===


def test_the_head_of_the_log_variance_is_left_out(pictures):
    encoder = vae_keras.mlp_encoder(SHAPE, 2, (16,))
    model = vae_keras.Autoencoder(encoder, vae_keras.mlp_decoder(2, SHAPE))
    assert encoder.count_params() - model.encoder.count_params() == 2 * 17
    np.testing.assert_array_equal(model.encode(pictures), encoder(pictures)[0])
    names = [layer.name for layer in model.encoder.layers]
    assert "z_mean" in names
    assert "z_log_var" not in names
    gan = new_gan()
    assert gan.discriminator.count_params() == 48 * 16 + 16 + 17


def test_an_encoder_of_one_output_stays_as_it_is(pictures):
    encoder = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model = vae_keras.Autoencoder(encoder, vae_keras.mlp_decoder(2, SHAPE))
    assert model.encoder is encoder
    np.testing.assert_array_equal(model.encode(pictures), encoder(pictures))


class Pair(keras.Model):
    """An encoder that is no functional model."""

    def __init__(self, size=2, **kwargs):
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.z_mean = keras.layers.Dense(size, name="z_mean")
        self.z_log_var = keras.layers.Dense(size, name="z_log_var")

    def call(self, x):
        h = self.flatten(x)
        return self.z_mean(h), self.z_log_var(h)


def test_what_cannot_be_left_out_learns_nothing(pictures):
    """Without a warning about gradients, too: warnings are errors here."""

    def is_log_var(weight):
        return "log_var" in weight.path

    def pair(size):
        network = Pair(size)
        network(pictures[:1])
        return network

    spatial = vae_keras.spatial_encoder((8, 8, 1), 1, filters=4)
    to_logits = vae_keras.spatial_decoder(1, (8, 8, 1), filters=4)
    decoder = vae_keras.mlp_decoder(2, SHAPE, (16,))
    for model, x in (
        (vae_keras.Autoencoder(pair(2), decoder), pictures),
        (vae_keras.GAN(decoder, pair(1)), pictures),
        (
            vae_keras.Autoencoder(spatial, to_logits),
            np.pad(pictures, [(0, 0), (0, 0), (1, 1), (0, 0)]),
        ),
    ):
        # Biases of zero and rectified units would hide what moves.
        before = [w.numpy() for w in scaled(model).trainable_weights]
        model.compile("adam", jit_compile=False)
        model.fit(x, batch_size=25, verbose=0)
        assert any(map(is_log_var, model.trainable_weights))
        for old, weight in zip(before, model.trainable_weights, strict=True):
            changed = not np.array_equal(old, weight.numpy())
            assert changed != is_log_var(weight), weight.path


# === Saving ===


def with_dropout(name):
    """Both kinds of model, with random states in their networks."""
    x = keras.Input(SHAPE)
    h = keras.layers.Flatten()(x)
    h = keras.layers.Dense(16, activation="relu")(h)
    h = keras.layers.Dropout(0.3)(h)
    size = 2 if name == "autoencoder" else 1
    network = keras.Model(x, [keras.layers.Dense(size)(h) for _ in range(2)])
    decoder = vae_keras.mlp_decoder(2, SHAPE, (16,))
    if name == "autoencoder":
        return vae_keras.Autoencoder(network, decoder)
    return vae_keras.GAN(decoder, network)


CHILD = """
import keras
import numpy as np

import vae_keras

x = np.load("pictures.npy")
for name in ("autoencoder", "gan"):
    model = keras.saving.load_model(f"{name}.keras")
    found = {"predicted": model.predict(x, verbose=0)}
    data = vae_keras.image_dataset(x, 16, seed=0, initial_epoch=2)
    model.fit(data, initial_epoch=2, epochs=4, verbose=0)
    found |= {str(i): w for i, w in enumerate(model.get_weights())}
    found["evaluated"] = model.evaluate(x, verbose=0)
    np.savez(f"{name}.npz", **found)
"""


class Halfway(keras.callbacks.Callback):
    def __init__(self, path, x):
        super().__init__()
        self.path, self.x = path, x

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.save(self.path)
            self.predicted = self.model.predict(self.x, verbose=0)


def test_a_fresh_process_predicts_and_resumes_alike(pictures, tmp_path):
    """Four epochs in one go, against two, a file, and two elsewhere."""
    np.save(tmp_path / "pictures.npy", pictures)
    expected = {}
    for name in MODELS:
        model = with_dropout(name)
        steps = 3 if name == "gan" else 1
        model.compile("adam", jit_compile=False, steps_per_execution=steps)
        halfway = Halfway(tmp_path / f"{name}.keras", pictures)
        data = vae_keras.image_dataset(pictures, 16, seed=0)
        model.fit(data, epochs=4, verbose=0, callbacks=[halfway])
        weights = {str(i): w for i, w in enumerate(model.get_weights())}
        expected[name] = {
            "predicted": halfway.predicted,
            **weights,
            "evaluated": model.evaluate(pictures, verbose=0),
        }
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    for name, values in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert set(found) == set(values)
            for key, value in values.items():
                np.testing.assert_array_equal(found[key], value, key)


@both
def test_config_round_trip(new_model):
    model = new_model(name="digits")
    clone = type(model).from_config(model.get_config())
    assert clone.get_config() == model.get_config()
    assert clone.name == "digits"
    assert getattr(clone, "seed", None) == getattr(model, "seed", None)


# === Refusals ===


@both
def test_bad_images_are_refused_before_the_first_step(new_model, pictures):
    model = new_model()
    model.compile("adam")
    before = model.get_weights()
    for bad, remedy in (
        (255 * pictures, "divide by 255"),
        (2 * pictures - 1, r"rescale from \[-1, 1\]"),
        (pictures[..., 0], "axis of channels"),
        (pictures[:, ::2], "Resize"),
    ):
        message = rf"Expected images.*Received: .*{remedy}"
        with pytest.raises(ValueError, match=message):
            model.fit(bad, verbose=0)
        with pytest.raises(ValueError, match=message):
            model.fit(pictures, validation_data=bad, verbose=0)
        with pytest.raises(ValueError, match=message):
            model.evaluate(bad, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert int(model.optimizer.iterations) == 0


@both
@pytest.mark.parametrize("name", ["loss", "metrics"])
def test_compile_refuses_other_losses(new_model, name):
    model = new_model()
    kind = type(model).__name__
    message = (
        rf"Expected no `{name}` in `compile`: {kind} computes its own loss.*"
        rf"Received: {name}='mse'. Remove.*override `train_step`"
    )
    with pytest.raises(ValueError, match=message):
        model.compile("adam", **{name: "mse"})


def test_an_autoencoder_refuses_networks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\).*`latent_dim` for"):
        vae_keras.Autoencoder(
            vae_keras.mlp_encoder(SHAPE, 3), vae_keras.mlp_decoder(2, SHAPE)
        )
    with pytest.raises(ValueError, match=r"`encoder` takes.*Use the same"):
        vae_keras.Autoencoder(
            vae_keras.mlp_encoder(SHAPE, 2), vae_keras.mlp_decoder(2, (9, 9, 1))
        )


def test_a_gan_refuses_networks_that_do_not_fit():
    decoder = vae_keras.mlp_decoder(2, SHAPE)
    with pytest.raises(
        ValueError, match=r"one logit.*Received: \(3,\).*`latent_dim=1`"
    ):
        vae_keras.GAN(decoder, vae_keras.mlp_encoder(SHAPE, 3))
    with pytest.raises(
        ValueError, match=r"`discriminator` takes, \(9, 9, 1\).*\(8, 6, 1\)"
    ):
        vae_keras.GAN(decoder, vae_keras.mlp_encoder((9, 9, 1), 1))
    with pytest.raises(ValueError, match="not built"):
        vae_keras.GAN(decoder, Pair())


# === Two replicas ===

REPLICAS = """
import json

import keras
import numpy as np
import tensorflow as tf

import vae_keras

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one = tf.distribute.get_strategy()
x = np.load("pictures.npy")
shape = x.shape[1:]
# Noise that is the same on every replica.
vae_keras.Sampling.call = lambda self, inputs: inputs[0] + 0.5


def new_model(name, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        decoder = vae_keras.mlp_decoder(2, shape, (16,))
        size = 2 if name == "autoencoder" else 1
        network = vae_keras.mlp_encoder(shape, size, (16,))
        network.layers[2].kernel_regularizer = keras.regularizers.L2(0.1)
        if name == "autoencoder":
            model = vae_keras.Autoencoder(network, decoder)
        else:
            model = vae_keras.GAN(decoder, network)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


report = {}
for name in ("autoencoder", "gan"):
    results = []
    for strategy in (one, two):
        model = new_model(name, strategy)
        before = model.get_weights()
        # The last batch has one example: one replica gets none.
        run = {"batch_size": 16, "verbose": 0}
        logs = model.fit(x[:33], shuffle=False, **run).history
        metrics = model.evaluate(x[:33], **run)
        steps = [a - b for a, b in zip(model.get_weights(), before)]
        results.append((steps, logs, metrics))
    (steps, logs, metrics), (steps_two, logs_two, metrics_two) = results
    report[name] = {
        "moved": max(float(np.abs(s).max()) for s in steps),
        "differ": max(
            float(np.abs(a - b).max()) for a, b in zip(steps, steps_two)
        ),
        "history": [logs, logs_two],
        "metrics": [metrics, metrics_two],
    }
json.dump(report, open("report.json", "w"))
"""


def test_two_replicas_step_as_one(pictures, tmp_path):
    np.save(tmp_path / "pictures.npy", pictures)
    child = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    for result in report.values():
        assert result["moved"] > 1e-3
        assert result["differ"] < 1e-5
        one, two = result["history"]
        for metric, values in one.items():
            assert two[metric] == pytest.approx(values, rel=1e-5)
        one, two = result["metrics"]
        assert two == pytest.approx(one, rel=1e-5)
