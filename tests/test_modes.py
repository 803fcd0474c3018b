"""The VAE is the same in every way that Keras runs a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

# Under XLA the same seed gives other noise, so that modes of one kind are
# compared with one another, and the two kinds with the noise held fixed.
GRAPH = {"jit_compile": False}
XLA = {"jit_compile": True}
MODES = {
    "graph": GRAPH,
    "graph, 3 steps": {**GRAPH, "steps_per_execution": 3},
    "graph, 50 steps": {**GRAPH, "steps_per_execution": 50},
    "eager": {"run_eagerly": True},
    "eager, 3 steps": {"run_eagerly": True, "steps_per_execution": 3},
    "xla": XLA,
    "xla, 3 steps": {**XLA, "steps_per_execution": 3},
    "xla, 50 steps": {**XLA, "steps_per_execution": 50},
}


class BatchCounter(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(batch)


def train(small_vae, images, mode, **kwargs):
    """Two epochs of five batches, the last of them smaller."""
    keras.utils.set_random_seed(0)
    vae = small_vae(seed=2)
    vae.compile("adam", **MODES[mode])
    counter = BatchCounter()
    fit = {"batch_size": 20, "epochs": 2, "verbose": 0, **kwargs}
    history = vae.fit(images[:90], callbacks=[counter], **fit).history
    assert int(vae.optimizer.iterations) == 10
    return vae.get_weights(), history, counter.ends


@pytest.fixture(scope="module")
def results():
    return {}


@pytest.mark.parametrize(
    ("mode", "reference"),
    [
        ("graph, 3 steps", "graph"),
        ("graph, 50 steps", "graph"),
        ("eager", "graph"),
        ("eager, 3 steps", "graph"),
        ("xla, 3 steps", "xla"),
        ("xla, 50 steps", "xla"),
    ],
)
def test_modes_agree(small_vae, images, results, mode, reference):
    for name in (mode, reference):
        if name not in results:
            results[name] = train(small_vae, images, name)
    weights, history, _ = results[mode]
    expected_weights, expected_history, _ = results[reference]
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected_history[name], rtol=1e-5)


@pytest.mark.parametrize("mode", ["graph, 3 steps", "xla, 3 steps"])
def test_batch_callbacks_see_every_third_step(small_vae, images, results, mode):
    if mode not in results:
        results[mode] = train(small_vae, images, mode)
    assert results[mode][2] == [2, 5]


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian"])
@pytest.mark.parametrize(
    ("mode", "reference"),
    [("eager, 3 steps", "graph"), ("xla, 3 steps", "xla")],
)
def test_modes_agree_for_each_likelihood(
    small_vae, images, likelihood, mode, reference
):
    def new_vae(**kwargs):
        return small_vae(likelihood=likelihood, **kwargs)

    weights, history, _ = train(new_vae, images, mode)
    expected_weights, expected_history, _ = train(new_vae, images, reference)
    assert history["loss"][1] < history["loss"][0]
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected_history[name], rtol=1e-5)


def test_xla_agrees_with_the_noise_held_fixed(small_vae, images, monkeypatch):
    def call(self, inputs):
        z_mean, z_log_var = inputs
        return z_mean + 0.3 * keras.ops.exp(0.5 * z_log_var)

    monkeypatch.setattr(vae_keras.Sampling, "call", call)
    plain = train(small_vae, images, "graph")
    fused = train(small_vae, images, "xla, 3 steps")
    for a, b in zip(plain[0], fused[0], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    np.testing.assert_allclose(plain[1]["loss"], fused[1]["loss"], rtol=1e-5)


def test_fused_steps_count(small_vae, images):
    """Fewer batches than one execution, part of a dataset, no end of it."""
    vae = small_vae()
    vae.compile("sgd", jit_compile=True, steps_per_execution=4)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(16)

    def steps(data, **kwargs):
        before = int(vae.optimizer.iterations)
        vae.fit(data, verbose=0, **kwargs)
        return int(vae.optimizer.iterations) - before

    assert steps(batches.take(3)) == 3
    assert steps(batches.take(9), epochs=2) == 18
    assert steps(batches.repeat(), steps_per_epoch=8, epochs=2) == 16
    # With the noise of 3 batches drawn, the fourth was not computed.
    state = vae.sampling.seed_generator.state
    before = state.numpy()
    assert steps(batches.take(3)) == 3
    assert (state.numpy() - before).tolist() == [0, 3]


def test_large_images_are_stacked_a_few_at_a_time(
    small_vae, images, monkeypatch
):
    sizes = []
    stack = tf.stack

    def spy(values, *args, **kwargs):
        sizes.append(len(values))
        return stack(values, *args, **kwargs)

    monkeypatch.setattr(vae_keras.speed, "_MAX_STACK", 2 * 16 * 28 * 28)
    vae = small_vae()
    vae.compile("sgd", jit_compile=True, steps_per_execution=5)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(16).take(7)
    vae.fit(batches, verbose=0)  # traces, which may stack too
    monkeypatch.setattr(tf, "stack", spy)
    before = int(vae.optimizer.iterations)
    vae.fit(batches, verbose=0)
    assert int(vae.optimizer.iterations) - before == 7
    assert sizes == [2, 2, 2, 2]  # 2 + 2 + 1 of five, then 2 of the rest


def test_fused_steps_follow_beta_and_learning_rate(small_vae, images):
    vae = small_vae()
    vae.compile(
        keras.optimizers.SGD(0.0), jit_compile=True, steps_per_execution=2
    )
    run = {"batch_size": 64, "verbose": 0}
    for beta in (0.0, 3.0):
        vae.beta.assign(beta)
        logs = vae.fit(images, **run).history
        assert logs["loss"][0] == pytest.approx(
            logs["reconstruction_loss"][0] + beta * logs["kl_loss"][0],
            rel=1e-5,
        )
    weights = vae.get_weights()
    vae.fit(images, **run)
    assert all(map(np.array_equal, weights, vae.get_weights()))
    vae.optimizer.learning_rate = 1e-4
    vae.fit(images, **run)
    assert not all(map(np.array_equal, weights, vae.get_weights()))


def test_fused_steps_take_pairs_and_single_batches(small_vae, images, labels):
    vae = small_vae()
    vae.compile("sgd", jit_compile=True, steps_per_execution=2)
    pairs = tf.data.Dataset.from_tensor_slices((images, labels)).batch(128)
    vae.fit(pairs, verbose=0)
    vae.train_on_batch(images[:128])
    assert int(vae.optimizer.iterations) == 3


def test_fused_steps_leave_ragged_data_to_keras(small_vae, images):
    vae = small_vae()
    vae.compile("sgd", run_eagerly=False, steps_per_execution=2)
    vae.jit_compile = True
    calls = []
    function = vae_keras.training.fused_steps(vae, calls.append)
    ragged = tf.ragged.stack([[1]] * len(images))
    pairs = tf.data.Dataset.from_tensor_slices((images, ragged)).batch(64)
    function(iter(pairs))
    assert len(calls) == 1


# === Convolutions ===


def conv_networks():
    kwargs = {"filters": 4, "hidden_units": (16,)}
    return (
        vae_keras.conv_encoder((28, 28, 1), 2, **kwargs),
        vae_keras.conv_decoder(2, (28, 28, 1), **kwargs),
    )


def conv_vae(**kwargs):
    return vae_keras.VAE(*conv_networks(), **kwargs)


def test_convolutions_train_alike_in_one_step_or_three(images):
    # Batches of one size, because XLA compiles once for each.
    weights, history, ends = train(
        conv_vae, images, "xla, 3 steps", batch_size=18
    )
    assert ends == [2, 5]
    expected_weights, expected_history, _ = train(
        conv_vae, images, "xla", batch_size=18
    )
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected_history[name], rtol=1e-5)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("network", ["dense", "convolutions"])
def test_convolutions_are_not_fused(small_vae, monkeypatch, network):
    fused = []
    monkeypatch.setattr(
        vae_keras.training, "fused_steps", lambda *args: fused.append(args)
    )
    vae = small_vae() if network == "dense" else conv_vae()
    vae.compile("adam", **MODES["xla, 3 steps"])
    vae.make_train_function()
    assert bool(fused) == (network == "dense")


@keras.saving.register_keras_serializable(package="tests")
class HoldsOne(keras.layers.Layer):
    """A layer of the user's own, with a convolution among its attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.layers.Conv2D(1, 3, padding="same")]

    def call(self, x):
        return self.parts[0](x)


def nested_twice():
    x = keras.Input((28, 28, 1))
    inner = keras.Sequential([x, keras.layers.Conv2D(1, 3, padding="same")])
    return keras.Sequential([keras.Input((28, 28, 1)), inner])


@pytest.mark.parametrize(
    ("first_layer", "expected"),
    [
        (nested_twice, True),
        (HoldsOne, True),
        (lambda: keras.layers.SeparableConv2D(1, 3, padding="same"), True),
        (lambda: keras.layers.MaxPooling2D(1), False),
    ],
)
def test_convolutions_are_found(first_layer, expected):
    x = keras.Input((28, 28, 1))
    encoder = vae_keras.mlp_encoder((28, 28, 1), 2, (8,))
    encoder = keras.Model(x, encoder(first_layer()(x)))
    decoder = vae_keras.mlp_decoder(2, (28, 28, 1), (8,))
    vae = vae_keras.VAE(encoder, decoder)
    assert vae_keras.speed.has_convolutions(vae) is expected


def test_convolutions_are_found_in_either_network(small_vae):
    encoder, decoder = conv_networks()
    dense = small_vae()
    assert not vae_keras.speed.has_convolutions(dense)
    for networks in ((encoder, dense.decoder), (dense.encoder, decoder)):
        vae = vae_keras.VAE(*networks)
        assert vae_keras.speed.has_convolutions(vae)


# === training= ===


def networks(dtype=None):
    """An encoder with dropout and a decoder with batch normalisation."""
    x = keras.Input((28, 28, 1))
    h = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(x))
    h = keras.layers.Dropout(0.5, seed=1)(h)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    z = keras.Input((2,))
    h = keras.layers.BatchNormalization()(keras.layers.Dense(16)(z))
    logits = keras.layers.Dense(784)(keras.layers.ReLU()(h))
    logits = keras.layers.Reshape((28, 28, 1))(logits)
    return keras.Model(x, outputs), keras.Model(z, logits)


@pytest.mark.parametrize("mode", ["graph", "xla, 3 steps"])
def test_training_reaches_the_networks(images, mode):
    vae = vae_keras.VAE(*networks(), seed=0)
    vae.compile(keras.optimizers.SGD(0.0), **MODES[mode])
    (mean, variance) = vae.decoder.non_trainable_weights
    before = mean.numpy(), variance.numpy()
    vae.evaluate(images, verbose=0)
    first = vae.predict(images, verbose=0)
    np.testing.assert_array_equal(first, vae.predict(images, verbose=0))
    np.testing.assert_array_equal(before, [mean.numpy(), variance.numpy()])

    history = vae.fit(images[:128], verbose=0, batch_size=64).history
    assert np.all(mean.numpy() != before[0])
    assert np.all(variance.numpy() != before[1])
    # With dropout the training loss differs from that of evaluation.
    state = vae.encoder.layers[3].seed_generator.state
    assert state.numpy().tolist() == [1, 2]
    vae.evaluate(images, verbose=0)
    vae.predict(images, verbose=0)
    assert state.numpy().tolist() == [1, 2]
    assert np.isfinite(history["loss"][0])


# === Mixed precision ===


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("policy", "mode", "likelihood"),
    [
        ("mixed_bfloat16", "graph", "bernoulli"),
        ("mixed_float16", "graph", "bernoulli"),
        ("mixed_float16", "xla, 3 steps", "bernoulli"),
        ("mixed_bfloat16", "xla, 3 steps", "continuous_bernoulli"),
        ("mixed_float16", "graph", "gaussian"),
        ("mixed_bfloat16", "xla, 3 steps", "gaussian"),
    ],
    indirect=["policy"],
)
def test_mixed_precision(small_vae, images, policy, mode, likelihood):
    vae = small_vae(seed=0, likelihood=likelihood)
    vae.compile("adam", **MODES[mode])
    is_scaled = isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    hidden = vae.encoder.layers[2]
    assert hidden.compute_dtype == policy.removeprefix("mixed_")
    assert all(v.dtype == "float32" for v in vae.trainable_weights)
    terms = vae.elbo_terms(images[:8], training=False)
    assert [term.dtype for term in terms] == [tf.float32] * 2

    run = {"batch_size": 64, "epochs": 4, "verbose": 0}
    history = vae.fit(images, **run).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["loss"][-1] < history["loss"][0]
    predictions = vae.predict(images, verbose=0)
    assert predictions.dtype == np.float32

    # Close to the loss of the same weights in full precision.
    keras.config.set_dtype_policy("float32")
    full = small_vae(seed=0, likelihood=likelihood)
    full.set_weights(vae.get_weights())
    full.compile(jit_compile=False)
    vae.compile(jit_compile=False)
    assert vae.evaluate(images, verbose=0)[0] == pytest.approx(
        full.evaluate(images, verbose=0)[0], rel=1e-3
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_activity_regularizer_under_mixed_precision(images, policy):
    x = keras.Input((28, 28, 1))
    h = keras.layers.Flatten()(x)
    h = keras.layers.Dense(8, activity_regularizer="l2")(h)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    vae = vae_keras.VAE(
        keras.Model(x, outputs), vae_keras.mlp_decoder(2, (28, 28, 1), (8,))
    )
    vae.compile("adam", run_eagerly=True)
    history = vae.fit(images, batch_size=256, verbose=0).history
    terms = history["reconstruction_loss"][0] + history["kl_loss"][0]
    assert history["loss"][0] > terms
