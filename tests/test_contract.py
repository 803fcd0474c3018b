"""What all models do alike: each promise is tested once, for every model."""

import copy
import functools
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import (
    Batches,
    assert_close,
    assert_same_state,
    batches,
    dataset,
    dtype_policy,
    regularized,
    run_python,
    scaled,
)
from vae_keras import (
    ConditionalVAE,
    DiscreteVAE,
    baselines,
    discrete,
    likelihoods,
    spatial,
)

SHAPE = (8, 8, 1)
CLASSES = 3
BATCH = 8


def mlp(latent_dim, num_classes=None):
    sizes = {"hidden_units": (4,), "num_classes": num_classes}
    return [
        vae_keras.mlp_encoder(SHAPE, latent_dim, **sizes),
        vae_keras.mlp_decoder(2, SHAPE, **sizes),
    ]


def maps():
    sizes = {"filters": 2, "depth": 1}
    return [
        spatial.spatial_encoder(SHAPE, 1, hidden_units=(4,), **sizes),
        spatial.spatial_decoder(1, SHAPE, **sizes),
    ]


def feature_maps():
    sizes = {"dim": 2, "filters": 2, "depth": 1}
    return [
        discrete.discrete_encoder(SHAPE, **sizes),
        discrete.discrete_decoder(SHAPE, **sizes),
    ]


def quantizer_in_use():
    """All codes are in use, so the first step does not move them."""
    quantizer = discrete.Quantizer(5, seed=1)
    quantizer.build((None, 4, 4, 2))
    quantizer.usage.assign(np.full(5, 0.2))
    return quantizer


# A model is a line here, and all of this file holds for it: its class, what
# makes its networks and other arguments, and its metrics after `loss`. What
# has a likelihood has another one each, so that all are trained in every way.
ELBO = ["reconstruction_loss", "kl_loss"]
CODES = ["reconstruction_loss", "codebook_loss", "kl_loss", "perplexity"]
ADVERSARIAL = ["generator_loss", "discriminator_loss"]
GREY = {"likelihood": likelihoods.ContinuousBernoulli}
COLOUR = {"likelihood": functools.partial(likelihoods.Gaussian, 1.0)}
MODELS = {
    "VAE": (vae_keras.VAE, lambda: mlp(2), {}, ELBO),
    "ConditionalVAE": (ConditionalVAE, lambda: mlp(2, CLASSES), COLOUR, ELBO),
    "SpatialVAE": (vae_keras.SpatialVAE, maps, GREY, ELBO),
    "DiscreteVAE": (
        DiscreteVAE,
        feature_maps,
        {"quantizer": quantizer_in_use, **GREY},
        CODES,
    ),
    "Autoencoder": (baselines.Autoencoder, lambda: mlp(2), {}, ELBO[:1]),
    "GAN": (baselines.GAN, lambda: mlp(1)[::-1], {}, ADVERSARIAL),
}
METRICS = {name: ["loss", *others] for name, (*_, others) in MODELS.items()}


def models(slow=()):
    """Once for each model, of which `make check` leaves the slow ones out:
    what is tested is the same in others.
    """
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.slow] * (name in slow))
            for name in MODELS
        ],
    )


every_model = models()

# Eight by eight pixels, of which the upper or the lower half is bright.
RNG = np.random.default_rng(0)
Y = np.arange(20) % CLASSES
X = RNG.uniform(0, 0.3, size=(20, *SHAPE)).astype("float32")
X[Y == 0, :4] += 0.6
X[Y == 1, 4:] += 0.6
W = np.linspace(0, 3, 20, dtype="float32")

GRAPH = {"jit_compile": False}
EAGER = {"run_eagerly": True}
XLA = {"jit_compile": True}


def new_model(name, /, change=None, subclass=None, **kwargs):
    """A new model, the same each time; `change` goes over its networks."""
    keras.utils.set_random_seed(0)
    model, make_networks, arguments, _ = MODELS[name]
    networks = make_networks()
    if change is not None:
        networks = map(change, networks)
    if subclass is not None:
        model = subclass(model)
    kwargs |= {key: make() for key, make in arguments.items()}
    return model(*networks, **kwargs)


def compiled(name, /, optimizer="adam", how=EAGER, **kwargs):
    """As `new_model`; eager steps, which are small here, need no tracing."""
    model = new_model(name, **kwargs)
    model.compile(optimizer, **how)
    model.optimizer.build(model.trainable_variables)
    return model


def inputs_of(model):
    return X if model.num_classes is None else (X, Y)


def state_of(model):
    return [v.numpy() for v in model.variables + model.optimizer.variables]


def put_back(model, state):
    variables = model.variables + model.optimizer.variables
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)


def steps_of(model, data=(X, Y), **kwargs):
    """The logs of one `fit`, and how far it moved each trainable weight."""
    before = [w.numpy() for w in model.trainable_weights]
    run = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **kwargs}
    logs = model.fit(*data, **run).history
    after = model.trainable_weights
    return logs, [w.numpy() - b for b, w in zip(before, after, strict=True)]


def logs_of(model, data=(X, Y), **kwargs):
    """The logs of one `evaluate`."""
    run = {"batch_size": BATCH, "verbose": 0, "return_dict": True, **kwargs}
    return model.evaluate(*data, **run)


def first(history, prefix=""):
    """The logs of the first epoch, as `logs_of` gives them."""
    is_val = prefix == "val_"
    names = [name for name in history if name.startswith("val_") == is_val]
    return {name.removeprefix(prefix): history[name][0] for name in names}


def assert_steps_close(found, expected, rtol, atol=1e-7):
    """How far weights were moved, each relative to the largest of its kind."""
    for a, b in zip(found, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale + atol)


def largest(arrays):
    return max(np.abs(array).max() for array in arrays)


def with_random_layers(network):
    """The network behind batch normalisation and dropout."""
    first, *others = keras.tree.flatten(network.input)
    h = keras.layers.BatchNormalization()(first)
    h = keras.layers.Dropout(0.3)(h)
    inputs = [h, *others] if others else h
    return keras.Model(network.input, network(inputs), name=network.name)


@pytest.fixture
def fixed_noise(monkeypatch):
    """Latents get the same noise whatever the batch, mode or replica."""

    def call(self, inputs):
        z_mean, z_log_var = inputs
        return z_mean + 0.3 * keras.ops.exp(0.5 * z_log_var)

    monkeypatch.setattr(vae_keras.Sampling, "call", call)


# === Data ===


def forms_of(x, y, w):
    """Every form that data may have: `(words, data, labels?, weights?)`.

    Generators, which end, are made by a function.
    """
    for parts in ((x,), (x, y), (x, y, w)):
        has = len(parts) > 1, len(parts) > 2
        yield "tuple", parts, *has
        yield "dataset", dataset(BATCH, *parts), *has
        yield "generator", functools.partial(batches, BATCH, *parts), *has
        yield "PyDataset", Batches(BATCH, *parts), *has
    yield "array", x, False, False
    yield "list", [x], False, False
    yield "float64", x.astype("float64"), False, False
    one, pairs = dataset(BATCH, x), dataset(BATCH, x, w)
    yield "dataset of (x,)", one.map(lambda x: (x,)), False, False
    yield "float64s", one.map(lambda x: tf.cast(x, "float64")), False, False
    yield "tensors", (tf.constant(x), tf.constant(y)), True, False
    ours = vae_keras.image_dataset(x, BATCH, y, shuffle=False)
    yield "image_dataset", ours, True, False
    yield "weights alone", (x, None, w), False, True
    pairs = pairs.map(lambda x, w: (x, None, w))
    yield "weights alone, dataset", pairs, False, True


@models(
    slow=["ConditionalVAE", "SpatialVAE", "DiscreteVAE", "Autoencoder", "GAN"]
)
@pytest.mark.filterwarnings("ignore:.*`shuffle=False`")
def test_every_form_of_data_is_alike(name):
    """In `fit`, as `validation_data`, in `evaluate` and in `predict`."""
    model = compiled(name)
    state, expected = state_of(model), []
    for weight in (None, W):
        put_back(model, state)
        before = logs_of(model, sample_weight=weight)
        steps_of(model, sample_weight=weight)
        after = logs_of(model, sample_weight=weight)
        expected.append((before, after, model.get_weights()))
    assert expected[0][0] != expected[1][0]
    weights = [weights for *_, weights in expected]
    assert largest(a - b for a, b in zip(*weights, strict=True)) > 1e-4
    put_back(model, state)
    predicted = model.predict((X, Y), verbose=0)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, model(inputs_of(model)), atol=1e-6)

    def check(words, has_weights, size, data, **kwargs):
        def fresh():
            return data() if callable(data) else data

        put_back(model, state)
        before, after, weights = expected[has_weights]
        run, steps = {"batch_size": size}, None if size else 3
        logs = logs_of(model, (fresh(),), steps=steps, **run, **kwargs)
        assert logs == pytest.approx(before, rel=1e-5), words
        if not has_weights:
            found = model.predict(fresh(), steps=steps, verbose=0, **run)
            np.testing.assert_allclose(found, predicted, atol=1e-6)
        run |= {"steps_per_epoch": steps, "validation_steps": steps}
        if not kwargs:
            run |= {"validation_data": fresh(), "validation_batch_size": BATCH}
        history, _ = steps_of(model, (fresh(),), **run, **kwargs)
        assert int(model.optimizer.iterations) == 3, words
        tolerances = {"rtol": 1e-5, "atol": 1e-6, "err_msg": words}
        assert_close(model.get_weights(), weights, **tolerances)
        logs = first(history, "val_")
        assert logs == pytest.approx({} if kwargs else after, rel=1e-5), words

    for words, data, has_labels, has_weights in forms_of(X, Y, W):
        if has_labels or model.num_classes is None:
            parts = "xyw"[: 1 + has_labels] + "w" * has_weights
            is_whole = isinstance(data, (tuple, list, np.ndarray))
            size = BATCH if is_whole else None
            check(f"{words}: {parts}", has_weights, size, data)
    # A tuple's weights stay, also beside arguments that are None.
    nothing = {"y": None, "sample_weight": None}
    check("(x, y, w), None", True, BATCH, (X, Y, W), **nothing)
    if model.num_classes is None:
        check("sample_weight alone", True, BATCH, X, sample_weight=W)


@models(slow=["SpatialVAE", "DiscreteVAE", "GAN"])
def test_arguments_by_position_are_those_of_keras(name):
    """They pass no check by, and mean the same."""
    model = compiled(name)
    state, seen = state_of(model), []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, dict(logs)))
    )
    model.fit(X, Y, BATCH, 2, 0, [callback], 0.4, None, False, None, W, 1)
    weights = model.get_weights()
    put_back(model, state)
    kwargs = {"initial_epoch": 1, "epochs": 2, "validation_split": 0.4}
    history, _ = steps_of(model, sample_weight=W, **kwargs)
    assert_close(model.get_weights(), weights, rtol=0)
    ((epoch, logs),) = seen
    assert epoch == 1
    assert {metric: [value] for metric, value in logs.items()} == history
    logs = logs_of(model, (X[12:], Y[12:]), sample_weight=W[12:])
    assert first(history, "val_") == pytest.approx(logs, rel=1e-6)
    found = model.evaluate(X, Y, BATCH, 0, W)
    logs = logs_of(model, sample_weight=W)
    assert found == [logs[metric] for metric in METRICS[name]]


@every_model
def test_single_batches(name):
    model = compiled(name, how={"steps_per_execution": 3, **EAGER})
    assert np.isfinite(model.train_on_batch(X, Y)).all()
    assert int(model.optimizer.iterations) == 1
    model.reset_metrics()
    once = model.test_on_batch(X, Y)
    model.reset_metrics()
    assert model.test_on_batch(X, Y) == once
    predicted = model.predict((X, Y), verbose=0)
    found = model.predict_on_batch(inputs_of(model))
    np.testing.assert_allclose(found, predicted, atol=1e-6)


# === Batches and weights ===


@every_model
def test_means_are_over_examples(name, fixed_noise):
    """The last batch counts as the few examples that it has."""
    model = scaled(compiled(name, keras.optimizers.SGD(0.0)))
    expected = pytest.approx(logs_of(model, batch_size=20), rel=1e-5)
    assert logs_of(model, batch_size=8) == expected
    assert first(steps_of(model)[0]) == expected


@models(slow=["SpatialVAE", "DiscreteVAE"])
def test_weights_multiply_the_losses_of_examples(name, fixed_noise):
    """Means are Σ wℓ / n, and so are gradients: both are linear in w."""
    model = scaled(compiled(name, keras.optimizers.SGD(0.01)))
    state, whole = state_of(model), {"batch_size": 20}

    def run(**weights):
        put_back(model, state)
        logs, steps = steps_of(model, **whole, **weights)
        return np.array(list(first(logs).values())), steps

    ones = np.ones(20)
    one, other, none, three = (
        run(sample_weight=w) for w in (W, 3 - W, 0 * ones, 3 * ones)
    )
    np.testing.assert_allclose(one[0] + other[0], none[0] + three[0], rtol=1e-5)
    found = [a + b for a, b in zip(one[1], other[1], strict=True)]
    expected = [a + b for a, b in zip(none[1], three[1], strict=True)]
    assert_steps_close(found, expected, rtol=1e-3, atol=1e-6)
    assert largest(a - b for a, b in zip(one[1], other[1], strict=True)) > 1e-4
    for weights, as_weights in (
        ({}, ones),
        # Those of classes are weights of their examples.
        ({"class_weight": {0: 0.5, 1: 2.0, 2: 0.0}}, np.array([0.5, 2, 0])[Y]),
    ):
        found, expected = run(**weights), run(sample_weight=as_weights)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        assert_steps_close(found[1], expected[1], rtol=1e-5)


@models(slow=["SpatialVAE", "DiscreteVAE"])
def test_regularizers_are_in_the_loss_alone(name, fixed_noise):
    plain = scaled(compiled(name, keras.optimizers.SGD(1e-4)))
    model = compiled(name, keras.optimizers.SGD(1e-4), change=regularized)
    model.set_weights(plain.get_weights())
    kernels = [
        w.numpy() if w.name == "kernel" and len(w.shape) == 2 else 0 * w.numpy()
        for w in plain.trainable_weights
    ]
    penalty = 0.7 * sum(np.sum(np.float64(w) ** 2) for w in kernels)
    run = {"batch_size": 20, "sample_weight": W}
    logs, expected = (logs_of(each, **run) for each in (model, plain))
    logs["loss"] -= penalty
    assert logs == pytest.approx(expected, rel=1e-4)
    (_, found), (_, steps) = (steps_of(each, **run) for each in (model, plain))
    steps = [
        step - 1e-4 * 1.4 * kernel
        for step, kernel in zip(steps, kernels, strict=True)
    ]
    assert_steps_close(found, steps, rtol=1e-3)


# === Modes ===


def trained(name, how, **kwargs):
    """Two epochs of three batches, the last of them smaller."""
    model, ends = compiled(name, how=how, **kwargs), []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(batch)
    )
    run = {"epochs": 2, "validation_data": (X[:8], Y[:8])}
    history, _ = steps_of(model, callbacks=[callback], **run)
    assert int(model.optimizer.iterations) == 6
    return model, history, ends


def assert_trained_alike(one, other):
    (model, history, _), (expected_model, expected, _) = one, other
    # Adam's steps are of size 1e-3, six of them.
    assert_close(model.get_weights(), expected_model.get_weights(), atol=2e-5)
    for metric, values in history.items():
        np.testing.assert_allclose(values, expected[metric], rtol=1e-4)


@models(slow=["SpatialVAE", "DiscreteVAE", "Autoencoder"])
def test_graph_eager_and_several_steps_agree(name):
    eager = trained(name, EAGER)
    graph = trained(name, {**GRAPH, "steps_per_execution": 2})
    assert_trained_alike(graph, eager)
    assert eager[2] == [0, 1, 2] * 2
    assert len(graph[2]) == 4
    names = METRICS[name] + [f"val_{metric}" for metric in METRICS[name]]
    assert sorted(graph[1]) == sorted(names)
    assert graph[0].metrics_names == METRICS[name]


@pytest.mark.slow
@pytest.mark.xla
@every_model
def test_any_number_of_steps_agrees(name):
    """Of noise, XLA makes others from the same seed."""
    graph, xla = trained(name, GRAPH), trained(name, XLA)
    for several, one in (
        ({**EAGER, "steps_per_execution": 2}, graph),
        ({**GRAPH, "steps_per_execution": 50}, graph),
        ({**XLA, "steps_per_execution": 50}, xla),
    ):
        assert_trained_alike(trained(name, several), one)
    for model in (graph[0], xla[0]):
        found = model.predict((X, Y), verbose=0)
        np.testing.assert_allclose(found, model(inputs_of(model)), atol=1e-5)


def counting(model):
    """A subclass with a metric and a log of its own."""

    class Counting(model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.brightness = keras.metrics.Mean(name="brightness")

        @property
        def metrics(self):
            return [*super().metrics, self.brightness]

        def train_step(self, data):
            x, *_ = keras.utils.unpack_x_y_sample_weight(data)
            self.brightness.update_state(x)
            logs = super().train_step(data)
            return {**logs, "twice": 2 * logs["brightness"]}

    return Counting


@pytest.mark.xla
@models(slow=["SpatialVAE", "DiscreteVAE", "Autoencoder", "GAN"])
def test_xla_agrees_and_a_subclass_adds_a_metric_and_a_log(name, fixed_noise):
    data, expected = (X[:16], Y[:16]), None
    for how in (EAGER, {**XLA, "steps_per_execution": 2}):
        model = compiled(name, how=how, subclass=counting)
        history, steps = steps_of(model, data, epochs=2)
        assert model.jit_compile == ("jit_compile" in how)
        assert model.metrics_names == [*METRICS[name], "brightness"]
        mean = pytest.approx([X[:16].mean()] * 2, rel=1e-5)
        assert history.pop("brightness") == mean
        assert [value / 2 for value in history.pop("twice")] == mean
        expected = expected or (history, steps)
        assert sorted(history) == sorted(METRICS[name])
        for metric, values in expected[0].items():
            np.testing.assert_allclose(history[metric], values, rtol=1e-4)
        assert_close(steps, expected[1], atol=2e-5)


@models(slow=["SpatialVAE", "DiscreteVAE"])
def test_training_reaches_the_networks(name):
    model = compiled(name, change=with_random_layers)
    networks = [x for x in model.layers if isinstance(x, keras.Model)]
    states = [v for x in networks for v in x.variables if not v.trainable]
    assert len(states) == 6
    before = [v.numpy() for v in states]
    predicted = [model.predict((X, Y), verbose=0) for _ in range(2)]
    np.testing.assert_array_equal(*predicted)
    assert logs_of(model) == logs_of(model)
    assert_close([v.numpy() for v in states], before, rtol=0)
    model.fit(X, Y, verbose=0)
    for variable, value in zip(states, before, strict=True):
        assert np.any(variable.numpy() != value), variable.path


@models(slow=["SpatialVAE", "DiscreteVAE", "Autoencoder"])
def test_evaluating_does_not_move_the_training_noise(name):
    one, other = compiled(name), compiled(name)
    run = {"batch_size": 20}
    steps_of(one, epochs=2, **run)
    validated = (X[:7], Y[:7])
    for _ in range(2):
        history, _ = steps_of(other, validation_data=validated, **run)
        logs = logs_of(other, validated)
    assert_close(one.get_weights(), other.get_weights(), rtol=0)
    # The validation noise is the same each time.
    assert first(history, "val_") == logs


# === Mixed precision ===


@models(slow=["SpatialVAE", "DiscreteVAE", "Autoencoder", "GAN"])
@pytest.mark.parametrize(
    ("policy", "epsilon"),
    [("mixed_bfloat16", 2**-8), ("mixed_float16", 2**-11)],
)
def test_mixed_precision(name, policy, epsilon, fixed_noise):
    full = scaled(compiled(name, keras.optimizers.SGD(0.01)))
    with dtype_policy(policy):
        model = compiled(name, keras.optimizers.SGD(0.01))
    model.set_weights(full.get_weights())
    optimizer = model.optimizer
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    if is_scaled:  # At the default of 2**15 the first steps overflow.
        optimizer.dynamic_scale.assign(2.0**6)
    networks = [x for x in model.layers if isinstance(x, keras.Model)]
    layers = [layer for network in networks for layer in network.layers]
    assert policy[6:] in {layer.compute_dtype for layer in layers}
    assert all(w.dtype == "float32" for w in model.weights)

    def results(each):
        logs, steps = steps_of(each, batch_size=20, sample_weight=W)
        return [*first(logs).values(), *steps]

    # Where weights that differ by the rounding error lead to, in float32.
    weights, rng = full.trainable_weights, np.random.default_rng(0)
    before, expected, errors = [w.numpy() for w in weights], results(full), []
    for _ in range(6):
        for weight, value in zip(weights, before, strict=True):
            noise = rng.uniform(-epsilon, epsilon, size=value.shape)
            weight.assign(value * (1 + noise))
        differences = zip(results(full), expected, strict=True)
        errors.append([np.abs(a - b).max() for a, b in differences])
    # Inputs, kernels and activations are rounded, and gradients too.
    tolerances = 5 * np.max(errors, axis=0) + 1e-6
    for a, b, atol in zip(results(model), expected, tolerances, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    assert model.predict((X, Y), verbose=0).dtype == np.float32


# === Using the model ===


@every_model
def test_generate_decodes_draws_from_the_prior(name):
    model = scaled(new_model(name), 3.0)
    labels = [0, 2, 2]
    once = model.generate(labels=labels, seed=7)
    z = keras.random.normal((3, *model.latent_shape), seed=7)
    if name == "DiscreteVAE":
        z = keras.random.randint((3, *model.latent_shape), 0, 5, seed=7)
    np.testing.assert_array_equal(once, model.decode(z, labels))
    again = model.generate(3, labels=labels, seed=7)
    np.testing.assert_array_equal(once, again)
    assert once.shape == (3, *SHAPE)
    assert once.dtype == tf.float32
    other = model.generate(labels=labels, seed=8)
    assert not np.array_equal(once, other)
    drawn = [model.generate(labels=labels) for _ in range(2)]
    assert not np.array_equal(*drawn)
    assert model.generate(0, labels=Y[:0]).shape == (0, *SHAPE)
    other = model.decode(z, labels=[0, 1, 1])
    if model.num_classes is None:
        np.testing.assert_array_equal(once, other)
        np.testing.assert_array_equal(once, model.generate(3, seed=7))
        np.testing.assert_array_equal(once, model.decode(z))
    else:
        changed = np.abs(once - other).max(axis=(1, 2, 3))
        assert changed[0] == 0
        assert changed[1:].min() > 0.01


@every_model
def test_generate_refuses(name):
    model = new_model(name)
    refused = [({}, "")]
    refused += [({"num_images": n, "labels": []}, "") for n in (-1, 2.5, True)]
    if model.num_classes is not None:
        refused += [({"num_images": 3}, "labels")]
        refused += [({"num_images": 3, "labels": [0, 1]}, "labels")]
    for arguments, what in refused:
        with pytest.raises(ValueError, match=f"Expected .*{what}.*Received"):
            model.generate(**arguments)


@every_model
def test_reconstructions_are_decoded_codes(name):
    model = scaled(new_model(name))
    if not model.has_encoder:
        assert not hasattr(model, "encode")
        return
    codes = model.encode(X, Y)
    codes = codes if isinstance(codes, tuple) else (codes,)
    for code in codes:
        assert code.shape == (20, *model.latent_shape)
        assert code.dtype == (tf.int32 if name == "DiscreteVAE" else tf.float32)
    decoded = model.decode(codes[0], Y)
    assert decoded.dtype == tf.float32

    @tf.function
    def in_a_graph(x, y):
        codes = model.encode(x, y)
        return model.decode(codes[0] if isinstance(codes, tuple) else codes, y)

    for found in (
        model.predict((X, Y), verbose=0),
        model(inputs_of(model)),
        in_a_graph(tf.constant(X), tf.constant(Y)),
    ):
        np.testing.assert_allclose(found, decoded, atol=1e-5)
    if model.num_classes is None:
        np.testing.assert_array_equal(model.encode(X)[0], model.encode(X, Y)[0])


@models(slow=["SpatialVAE", "DiscreteVAE", "GAN"])
def test_training_lowers_the_loss(name):
    """But for adversaries, whose losses say little."""
    model = compiled(name, keras.optimizers.Adam(0.01), how=GRAPH)
    history, _ = steps_of(model, epochs=10)
    assert np.isfinite(history["loss"]).all()
    if name != "GAN":
        assert history["loss"][-1] < history["loss"][0] - 0.5


@every_model
def test_losses_are_finite_for_logits_of_any_size(name):
    model = compiled(name, "sgd")
    for network in ("decoder", "discriminator"):
        if hasattr(model, network):
            scaled(getattr(model, network), 1e3)
    logs = logs_of(model)
    history, steps = steps_of(model, batch_size=20)
    losses = [*logs.values(), *first(history).values()]
    assert np.isfinite(losses).all()
    assert max(losses) > 1e3
    assert all(np.isfinite(step).all() for step in steps)


# === Refusals ===


BAD = {
    "divide by 255": lambda x: (255 * x).astype("uint8"),
    "divide by 255, as": lambda x: 255 * x,
    r"rescale from \[-1, 1\]": lambda x: 2 * x - 1,
    "Remove or mend": lambda x: np.where(x == x.max(), np.nan, x),
    "axis of channels": lambda x: x[..., 0],
    "Resize the images": lambda x: x[:, ::2],
    "Reshape": lambda x: x.reshape(len(x), -1),
    "an empty": lambda x: x[:0],
}
FORMS = [
    lambda *arrays: arrays,
    functools.partial(dataset, BATCH),
    functools.partial(Batches, BATCH),
    lambda *arrays: (batch for batch in [arrays]),
]


@every_model
def test_refusals_leave_everything_as_it_was(name, tmp_path):
    model = compiled(name)
    before = state_of(model)
    callbacks = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
    ]
    run = {"callbacks": callbacks, "verbose": 0}
    doors = {
        "fit": lambda data: model.fit(data, **run),
        "evaluate": lambda data: model.evaluate(data, **run),
        "predict": lambda data: model.predict(data, **run),
        "validation": lambda data: model.fit(
            *(X, Y, BATCH, 1, 0, callbacks, 0.0),
            data,  # by position
        ),
    }
    for remedy, make_bad in BAD.items():
        bad = make_bad(X)
        for i, form in enumerate(FORMS):
            for door, use in doors.items():
                with pytest.raises(ValueError, match="Expected") as error:
                    use(form(bad, Y[: len(bad)]))
                message = f"(?s)Received: .*{remedy}"
                assert error.match(message), (i, door)
    for empty in (dataset(BATCH, X, Y).take(0), iter(())):
        with pytest.raises(ValueError, match="Received: an empty"):
            model.fit(empty, **run)
    assert_close(state_of(model), before, rtol=0)
    assert list(tmp_path.iterdir()) == []


@every_model
def test_compile_refuses_other_losses(name):
    model = new_model(name)
    kind = type(model).__name__
    for argument in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        message = (
            rf"Expected no `{argument}` in `compile`: {kind} computes its own "
            rf"loss. Received: {argument}='mse'. Remove.*`train_step`"
        )
        with pytest.raises(ValueError, match=message):
            model.compile("adam", **{argument: "mse"})
    with pytest.raises(ValueError, match="Received: loss='mse'"):
        model.compile("adam", "mse")
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, Y)
    model.compile("sgd", None, None, None, None, True, 4)
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert model.run_eagerly
    assert model.steps_per_execution == 4
    model.compile()
    assert isinstance(model.optimizer, keras.optimizers.RMSprop)


@models(
    slow=["ConditionalVAE", "SpatialVAE", "DiscreteVAE", "Autoencoder", "GAN"]
)
def test_the_private_name_of_keras_may_go(name, monkeypatch):
    """One is overridden, for several replicas only, and no other."""
    model, private = compiled(name), "_maybe_symbolic_build"
    parents = type(model).__mro__
    ours = [p for p in parents if p.__module__.startswith("vae_keras")]
    names = {name for parent in ours for name in vars(parent)}
    names = {x for x in names if x.startswith("_") and x[:2] != "__"}
    assert {x for x in names if hasattr(keras.Model, x)} == {private}
    for parent in keras.Model.__mro__:
        if private in vars(parent):
            monkeypatch.delattr(parent, private)
    steps_of(model, validation_data=(X, Y))
    model.predict((X, Y), verbose=0)
    assert int(model.optimizer.iterations) == 3


# === Saving ===


@every_model
def test_config_round_trip(name):
    has_noise = name not in ("Autoencoder", "DiscreteVAE")
    kwargs = {"seed": 4} if has_noise else {}
    if "beta" in new_model(name).get_config():
        kwargs["beta"] = 2.5
    model = new_model(name, **kwargs, name="mine")
    config = json.dumps(model.get_config())
    clones = [
        type(model).from_config(json.loads(config)),
        keras.models.clone_model(model),
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(model)
        ),
    ]
    for clone in clones:
        assert type(clone) is type(model)
        assert json.dumps(clone.get_config()) == config
        assert clone.name == "mine"
        assert getattr(clone, "seed", None) == kwargs.get("seed")
        assert getattr(clone, "target_beta", None) == kwargs.get("beta")
        assert [w.shape for w in clone.weights] == [
            w.shape for w in model.weights
        ]


@models(slow=["ConditionalVAE", "SpatialVAE", "DiscreteVAE", "Autoencoder"])
def test_a_file_holds_all(name, tmp_path):
    """The weights, the training's state, and all random states."""
    model = compiled(name, change=with_random_layers)
    data = vae_keras.image_dataset(X, BATCH, Y, binarize="dynamic", seed=3)
    model.fit(data, verbose=0)
    if hasattr(model, "beta"):
        model.beta.assign(0.5)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.keras", "model.weights.h5"}
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.run_eagerly
    assert not loaded.jit_compile
    other = compiled(name, change=with_random_layers)
    for variable in other.variables + other.optimizer.variables:
        variable.assign(variable + tf.cast(1, variable.dtype))
    other.load_weights(tmp_path / "model.weights.h5")
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for each in (loaded, other, *copies):
        assert_same_state(model, each)
    # So a training goes on as if nothing had happened.
    again = vae_keras.image_dataset(
        X, BATCH, Y, binarize="dynamic", seed=3, initial_epoch=1
    )
    predicted = []
    for each, its_data in ((model, data), (loaded, again)):
        each.fit(its_data, verbose=0)
        predicted.append(each.predict((X, Y), verbose=0))
    np.testing.assert_array_equal(*predicted)
    assert_same_state(model, loaded)


RESUME = """
import sys

import keras
import numpy as np

import vae_keras

x, y = np.load("x.npy"), np.load("y.npy")
for name in sys.argv[1:]:
    model = keras.saving.load_model(f"{name}.keras")
    found = {"predicted": model.predict((x, y), verbose=0)}
    data = vae_keras.image_dataset(x, 8, y, seed=3, initial_epoch=2)
    model.fit(data, initial_epoch=2, epochs=4, verbose=0)
    found |= {str(i): w for i, w in enumerate(model.get_weights())}
    found["evaluated"] = model.evaluate(x, y, verbose=0)
    found["generated"] = model.generate(labels=[0, 2], seed=1)
    np.savez(f"{name}.npz", **found)
"""


@pytest.mark.slow
@pytest.mark.xla
def test_a_fresh_process_predicts_and_resumes_alike(tmp_path):
    """Four epochs in one go, against two, a file, and two elsewhere."""
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    expected = {}
    for name in MODELS:
        how = {**(XLA if name == "VAE" else GRAPH), "steps_per_execution": 2}
        model = compiled(name, how=how, change=with_random_layers)
        data = vae_keras.image_dataset(X, BATCH, Y, seed=3)
        model.fit(data, epochs=2, verbose=0)
        model.save(tmp_path / f"{name}.keras")
        predicted = model.predict((X, Y), verbose=0)
        model.fit(data, initial_epoch=2, epochs=4, verbose=0)
        expected[name] = {
            "predicted": predicted,
            **{str(i): w for i, w in enumerate(model.get_weights())},
            "evaluated": model.evaluate(X, Y, verbose=0),
            "generated": model.generate(labels=[0, 2], seed=1),
        }
    run_python(RESUME, *MODELS, cwd=tmp_path)
    for name, values in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert set(found) == set(values)
            for key, value in values.items():
                words = f"{name}: {key}"
                np.testing.assert_array_equal(found[key], value, words)


# === Two replicas ===


# TensorFlow's convolutions refuse an empty share (oneDNN's, on some CPUs).
CONVOLUTIONS = {"SpatialVAE", "DiscreteVAE"}


@models(
    slow=["ConditionalVAE", "SpatialVAE", "DiscreteVAE", "Autoencoder", "GAN"]
)
def test_two_replicas_compute_what_one_computes(name, two, fixed_noise):
    """Also where a replica's share of the last batch is smaller or empty."""
    sgd = functools.partial(keras.optimizers.SGD, 1e-4)
    one = scaled(compiled(name, sgd(), change=regularized), 1.0)
    with two.scope():
        both = compiled(name, sgd(), {}, change=regularized)
    state, ones = one.get_weights(), np.ones(20, "float32")
    cases = [(8, ones), (13, ones), (17, W)]
    for size, weight in cases[: 2 if name in CONVOLUTIONS else None]:
        data, found = (X[:size], Y[:size]), []
        run = {"sample_weight": weight[:size]}
        for model in (one, both):
            model.set_weights(state)
            logs, steps = steps_of(model, data, **run)
            found.append((logs, steps, logs_of(model, data, **run)))
        (logs, steps, measured), (logs_two, steps_two, measured_two) = found
        assert largest(steps) > 1e-4
        assert_steps_close(steps_two, steps, rtol=1e-3)
        for metric, values in logs.items():
            assert logs_two[metric] == pytest.approx(values, rel=1e-5)
        assert measured_two == pytest.approx(measured, rel=1e-5)


@pytest.mark.slow
@every_model
def test_two_replicas_train_save_and_load(name, two, tmp_path):
    with two.scope():
        model = compiled(name, how={})
        for refused in (XLA, {"steps_per_execution": 5}):
            (received,) = [f"{key}={value}" for key, value in refused.items()]
            message = f"Expected neither `jit_compile.*Received.*{received}"
            with pytest.raises(ValueError, match=message):
                model.compile("adam", **refused)
    if hasattr(model, "sampling"):  # Noise of its own for each replica.
        zeros = tf.zeros((4, 2))
        draws = two.run(lambda: model.sampling((zeros, zeros)))
        one, other = two.experimental_local_results(draws)
        assert not np.any(one.numpy() == other.numpy())
    history, _ = steps_of(model, (X[:13], Y[:13]), validation_data=(X, Y))
    assert history["val_loss"] == [logs_of(model)["loss"]]
    predicted = model.predict((X, Y), batch_size=BATCH, verbose=0)
    model.save(tmp_path / "two.keras")
    loaded = keras.saving.load_model(tmp_path / "two.keras")
    np.testing.assert_allclose(
        loaded.predict((X, Y), verbose=0), predicted, atol=1e-6
    )
    # What one has compiled with XLA, two train without.
    loaded.compile("adam", **XLA, steps_per_execution=2)
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.save(tmp_path / "one.keras")
    with two.scope():
        loaded = keras.saving.load_model(tmp_path / "one.keras")
    iterations = loaded.optimizer.iterations.numpy()
    steps_of(loaded, (X[:13], Y[:13]))
    assert loaded.optimizer.iterations.numpy() == iterations + 2
