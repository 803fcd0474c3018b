"""Codes against distances and entropies of SciPy, and all maps of a small
model, enumerated.

What `DiscreteVAE` has in common with other models is in `test_contract.py`.
"""

import itertools
import re

import keras
import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
import tensorflow as tf

import vae_keras
from tests.helpers import assert_same_state, batches, dataset, dtype_policy
from vae_keras.discrete import (
    CodePrior,
    DiscreteVAE,
    Perplexity,
    Quantizer,
    discrete_decoder,
    discrete_encoder,
)

SHAPE, SIDE, CODES = (8, 8, 1), 2, 3
RNG = np.random.default_rng(0)
X = RNG.random((30, *SHAPE)).astype("float32")
Y = np.arange(30) % 2


def in_use(quantizer, dim):
    """All codes are in use, so that a step moves none."""
    quantizer.build((None, SIDE, SIDE, dim))
    quantizer.usage.assign(np.full(quantizer.num_codes, 1.0))
    return quantizer


def new_vae(**kwargs):
    keras.utils.set_random_seed(0)
    sizes = {"dim": 2, "filters": 2, "depth": 2}
    kwargs = {"quantizer": in_use(Quantizer(CODES, seed=0), 2), **kwargs}
    return DiscreteVAE(
        discrete_encoder(SHAPE, **sizes),
        discrete_decoder(SHAPE, **sizes),
        **kwargs,
    )


def new_prior(map_shape=(SIDE, SIDE), num_codes=CODES, seed=0, **kwargs):
    """A prior as if it had been trained: no distribution is uniform."""
    keras.utils.set_random_seed(seed)
    sizes = {"filters": 4, "num_layers": 2, **kwargs}
    prior = CodePrior(map_shape, num_codes, **sizes)
    rng = np.random.default_rng(seed)
    weights = prior.get_weights()
    prior.set_weights([w + rng.normal(size=w.shape) / 2 for w in weights])
    return prior


def all_maps():
    codes = itertools.product(range(CODES), repeat=SIDE * SIDE)
    return np.array(list(codes), "int32").reshape(-1, SIDE, SIDE)


# === The quantizer ===


def test_each_feature_gets_the_nearest_vector():
    features = RNG.normal(size=(6, 5, 4, 3)).astype("float32")
    quantizer = Quantizer(7, commitment=0.5, seed=0)
    z_q, codes, loss = quantizer(features)
    codebook = quantizer.codebook.numpy()
    distances = scipy.spatial.distance.cdist(features.reshape(-1, 3), codebook)
    np.testing.assert_array_equal(np.ravel(codes), distances.argmin(axis=1))
    assert len(np.unique(codes)) > 3
    np.testing.assert_allclose(z_q, codebook[codes], atol=1e-6)
    np.testing.assert_allclose(quantizer.vectors(codes), codebook[codes])
    squares = np.square(distances.min(axis=1)).reshape(6, -1).sum(axis=1)
    np.testing.assert_allclose(loss, 1.5 * squares, rtol=1e-5)


def test_gradients_go_where_they_should():
    """Straight through, and each term of the loss to its own side."""
    features = tf.constant(RNG.normal(size=(6, 3)).astype("float32"))
    quantizer = Quantizer(4, commitment=0.5, seed=0)
    quantizer(features)
    codebook = quantizer.codebook.value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        z_q, codes, loss = quantizer(features)
    upstream = tf.constant(RNG.normal(size=(6, 3)).astype("float32"))
    np.testing.assert_array_equal(
        tape.gradient(z_q, features, upstream), upstream
    )
    assert tape.gradient(z_q, codebook) is None
    step = features - quantizer.vectors(codes)
    np.testing.assert_allclose(
        tape.gradient(loss, features), 2 * 0.5 * step, rtol=1e-5
    )
    expected = np.zeros((4, 3))
    np.add.at(expected, codes.numpy(), -2 * step.numpy())
    found = tf.convert_to_tensor(tape.gradient(loss, codebook))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "run", [lambda f: f, tf.function], ids=["eager", "graph"]
)
def test_codes_out_of_use_are_moved_to_features(run):
    quantizer = Quantizer(4, seed=0)
    features = RNG.normal(5.0, 1.0, size=(50, 2)).astype("float32")
    quantizer(features)
    before = quantizer.codebook.numpy()
    (used,) = np.unique(quantizer(features)[1])

    step = run(lambda x: quantizer(x, training=True))
    quantizer(features)  # Without training nothing moves.
    np.testing.assert_array_equal(quantizer.codebook, before)
    np.testing.assert_array_equal(quantizer.usage, np.zeros(4))
    step(features)
    moved = quantizer.codebook.numpy()
    np.testing.assert_array_equal(moved[used], before[used])
    for vector in np.delete(moved, used, axis=0):
        assert np.abs(features - vector).sum(axis=1).min() == 0
    # One that is in use stays, even if it is far away.
    moved[used] = features.mean(axis=0)
    quantizer.codebook.assign(moved)
    assert len(np.unique(quantizer(features)[1])) == 4

    # One that no feature chooses any more is moved again, and no other is.
    far = np.float32([[-50.0, -50.0]])
    quantizer.codebook.assign(np.concatenate([moved[:3], far]))
    for _ in range(20):
        step(features)
    found = quantizer.codebook.numpy()
    np.testing.assert_array_equal(found[:3], moved[:3])
    np.testing.assert_array_equal(found[3], far[0])  # Not at once,
    for _ in range(60):
        step(features)
    found = quantizer.codebook.numpy()
    np.testing.assert_array_equal(found[:3], moved[:3])
    assert np.abs(features - found[3]).sum(axis=1).min() == 0
    quantizer.codebook.assign(moved)
    share = np.bincount(np.ravel(quantizer(features)[1]), minlength=4) / 50
    for _ in range(100):
        step(features)
    np.testing.assert_allclose(quantizer.usage, share, atol=0.01)


def test_perplexity_is_the_exponential_of_the_entropy():
    metric = Perplexity(6)
    assert float(metric.result()) == 1.0
    codes = RNG.integers(0, 4, size=(3, 40, 2))
    for batch in codes:
        metric.update_state(batch)
    entropy = scipy.stats.entropy(np.bincount(codes.ravel()))
    assert float(metric.result()) == pytest.approx(np.exp(entropy), rel=1e-5)
    metric.reset_state()
    metric.update_state(np.full((5, 2), 3))
    assert float(metric.result()) == pytest.approx(1.0)


# === The prior ===


@pytest.mark.parametrize("context", ["both", "vertical", "horizontal", "none"])
@pytest.mark.parametrize("num_classes", [None, 2])
def test_a_place_sees_what_comes_before_and_nothing_else(context, num_classes):
    """Exactly: by the gradient of its logits to what codes are turned into."""
    height, width, layers = 5, 6, 3
    prior = new_prior(
        (height, width),
        num_layers=layers,
        context=context,
        num_classes=num_classes,
    )
    network = prior.network
    embedded = next(
        layer.output
        for layer in network.layers
        if isinstance(layer, keras.layers.Embedding)
        and layer.output.shape[1:3] == (height, width)
    )
    others = network.inputs[1:]
    part = keras.Model([embedded, *others], network.outputs[0])
    h = tf.constant(RNG.normal(size=(1, height, width, 4)).astype("float32"))
    inputs = [h] if num_classes is None else [h, tf.constant([1])]
    with tf.GradientTape() as tape:
        tape.watch(h)
        logits = part(inputs)
        outputs = tf.reshape(tf.reduce_sum(logits**2, axis=-1), (-1,))
    moves = np.abs(tape.jacobian(outputs, h)).sum(axis=(1, 4))
    moves = moves.reshape(height, width, height, width)
    for i, j, row, column in np.ndindex(moves.shape):
        above = 0 < i - row <= layers + 1 and abs(column - j) <= layers
        left = row == i and 0 < j - column <= layers + 1
        sees = context in ("both", "vertical") and above
        sees = sees or (context in ("both", "horizontal") and left)
        seen = moves[i, j, row, column]
        assert (seen > 0) == sees, (i, j, row, column)


def test_an_untrained_prior_is_uniform():
    prior = CodePrior((3, 2), num_codes=5)
    codes = RNG.integers(0, 5, size=(7, 3, 2))
    np.testing.assert_allclose(prior.nll(codes), np.log(5), rtol=1e-6)


def test_probabilities_of_all_maps_sum_to_one():
    for num_classes in (None, 2):
        prior = new_prior(num_classes=num_classes)
        maps = all_maps()
        labels = None if num_classes is None else np.ones(len(maps), int)
        log_p = -np.sum(prior.nll(maps, labels), axis=(1, 2))
        assert np.exp(log_p).sum() == pytest.approx(1.0, rel=1e-5)
        assert np.ptp(log_p) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_maps_are_drawn_as_often_as_they_are_probable(temperature):
    prior = new_prior()
    maps = all_maps()
    log_p = scipy.special.log_softmax(prior(maps) / temperature, axis=-1)
    log_p = np.take_along_axis(log_p, maps[..., None], axis=-1)
    p = np.exp(np.sum(log_p, axis=(1, 2, 3), dtype="float64"))
    if temperature == 1:
        nll = np.sum(prior.nll(maps), axis=(1, 2))
        np.testing.assert_allclose(-np.log(p), nll, rtol=1e-5)
    drawn = prior.sample(20000, temperature=temperature, seed=3)
    assert drawn.dtype == tf.int32
    powers = CODES ** np.arange(SIDE * SIDE)[::-1]
    found = np.bincount(np.reshape(drawn, (-1, 4)) @ powers, minlength=len(p))
    assert scipy.stats.chisquare(found, 20000 * p / p.sum()).pvalue > 1e-3
    again = prior.sample(20000, temperature=temperature, seed=3)
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(prior.sample(50), prior.sample(50))


def test_extreme_temperatures_draw_the_likeliest_codes_or_any():
    prior = new_prior()
    cold = prior.sample(50, temperature=1e-50, seed=0).numpy()
    assert (cold == cold[0]).all()
    np.testing.assert_array_equal(cold, np.argmax(prior(cold), axis=-1))
    hot = prior.sample(20000, temperature=1e300, seed=0).numpy()
    counts = np.bincount(hot[:, 0, 0], minlength=CODES)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_classes_have_priors_of_their_own():
    prior = new_prior(num_classes=2)
    codes, labels = RNG.integers(0, CODES, (60, SIDE, SIDE)), np.arange(60) % 2
    one, other = prior.nll(codes, labels), prior.nll(codes, 1 - labels)
    assert np.abs(one - other).max() > 0.1
    drawn = prior.sample(60, labels=labels, seed=0)
    flipped = prior.sample(60, labels=1 - labels, seed=0)
    assert not np.array_equal(drawn, flipped)


@pytest.mark.slow
def test_a_prior_learns_what_is_there():
    """A place that repeats its left neighbour, in rows that differ."""
    codes = np.repeat(RNG.integers(0, CODES, (400, 4, 1)), 4, axis=2)
    prior = CodePrior((4, 4), CODES, filters=8, num_layers=2)
    prior.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    before = prior.evaluate(codes, verbose=0)
    assert before == pytest.approx(16 * np.log(CODES), rel=1e-5)
    prior.fit(codes, epochs=15, verbose=0)
    least = 4 * np.log(CODES)  # What the first column says is all there is.
    assert least - 0.1 < prior.evaluate(codes, verbose=0) < least + 0.5
    drawn = prior.sample(200, seed=0).numpy()
    assert np.mean(drawn[:, :, 1:] == drawn[:, :, :-1]) > 0.95


def test_without_context_a_prior_learns_what_each_place_has():
    """Its marginal distribution, which differs from place to place."""
    codes = np.minimum(RNG.integers(0, CODES, (600, 2, 2)), [[0, 1], [2, 2]])
    prior = CodePrior((2, 2), CODES, filters=8, num_layers=1, context="none")
    rate = keras.optimizers.schedules.CosineDecay(0.05, 10 * 19)
    prior.compile(keras.optimizers.Adam(rate), jit_compile=False)
    prior.fit(codes, epochs=10, verbose=0)
    entropies = [
        scipy.stats.entropy(np.bincount(codes[:, i, j]))
        for i, j in np.ndindex(2, 2)
    ]
    found = np.mean(prior.nll(codes), axis=0).ravel()
    np.testing.assert_allclose(found, entropies, atol=0.005)


def test_a_prior_trains_on_every_form_of_codes(tmp_path):
    codes = RNG.integers(0, CODES, (24, SIDE, SIDE)).astype("int64")
    results = []
    for data in (
        codes,
        tf.constant(codes, tf.int32),
        dataset(8, codes),
        batches(8, codes),
    ):
        prior = new_prior()
        prior.compile("sgd", run_eagerly=True)
        is_array = hasattr(data, "shape")
        run = {"batch_size": 8} if is_array else {"steps_per_epoch": 3}
        logs = prior.fit(data, shuffle=False, verbose=0, **run).history
        results.append((logs["loss"], prior.get_weights()))
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for a, b in zip(found, results[0][1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    prior.save(tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    assert_same_state(prior, loaded)
    np.testing.assert_array_equal(
        prior.sample(5, seed=1), loaded.sample(5, seed=1)
    )
    assert loaded.get_config() == prior.get_config()


@pytest.mark.slow
def test_a_prior_computes_alike_in_every_way(tmp_path):
    """Graphs, XLA, weights, pairs in a dataset; in float32 under a policy."""
    codes, labels = RNG.integers(0, CODES, (24, SIDE, SIDE)), np.arange(24) % 2
    weights, found = np.linspace(0, 2, 24, dtype="float32"), []
    for how in (
        {"run_eagerly": True},
        {"jit_compile": False, "steps_per_execution": 2},
        {"jit_compile": True},
    ):
        with dtype_policy("mixed_bfloat16"):
            prior = new_prior(num_classes=2)
        prior.compile(keras.optimizers.SGD(0.01), **how)
        data = dataset(8, codes, labels, weights)
        logs = prior.fit(data, epochs=2, verbose=0).history
        found.append([np.array(logs["loss"]), *prior.get_weights()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # It goes with its model, optimizer included, and goes on as it would.
    vae = new_vae(prior=prior)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras").prior
    for each in (prior, loaded):
        each.fit(codes, labels, shuffle=False, verbose=0)
    assert_same_state(prior, loaded)
    for seed in (2**31, 2**40):
        drawn = [prior.sample(2, labels=[0, 1], seed=seed) for _ in range(2)]
        np.testing.assert_array_equal(*drawn)


# === The model ===


@pytest.mark.slow
def test_codes_are_moved_in_a_training_run(tmp_path):
    """All but those in use in the first batch; in graphs too, and with XLA."""
    x = np.where(RNG.random((64, 1, 1, 1)) < 0.5, X[0], 1 - X[0])
    x = np.float32(0.5 * x + 0.5 * RNG.random((64, *SHAPE)))
    for how in ({"run_eagerly": True}, {"jit_compile": True}):
        vae = new_vae(quantizer=Quantizer(6, seed=0))
        before = vae.quantizer.codebook.numpy()
        vae.compile(keras.optimizers.SGD(0.0), **how)
        vae.fit(x, batch_size=32, verbose=0)
        after = vae.quantizer.codebook.numpy()
        moved = np.any(before != after, axis=1)
        assert 1 <= moved.sum() <= 5
        features = np.reshape(vae.encoder(x), (-1, 2))
        distances = scipy.spatial.distance.cdist(after[moved], features)
        np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-4)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert_same_state(vae, loaded)
    for model in (vae, loaded):
        model.quantizer.usage.assign(np.zeros(6))
        model.fit(x, batch_size=32, shuffle=False, verbose=0)
    assert_same_state(vae, loaded)


def test_a_large_array_is_encoded_in_parts():
    vae, x = new_vae(), np.tile(X, (50, 1, 1, 1))
    np.testing.assert_array_equal(
        vae.encode(x), np.tile(vae.encode(X), (50, 1, 1))
    )


@pytest.fixture(params=[None, "learned", "with classes"])
def vae(request):
    prior = None
    if request.param:
        classes = 2 if request.param == "with classes" else None
        prior = new_prior(num_classes=classes)
    vae = new_vae(prior=prior)
    vae.compile("sgd", run_eagerly=True)
    return vae


def test_the_bound_lies_above_the_likelihood_of_all_maps(vae):
    """log p(x) = log Σ p(x|z) p(z), over all 81 maps of codes."""
    maps, x = all_maps(), np.round(X[:6])
    labels = None if vae.num_classes is None else Y[:6]
    logits = vae.decoder(vae.quantizer.vectors(maps))
    exact, at_codes = [], []
    codes = vae.encode(x, labels).numpy()
    for i in range(len(x)):
        pixels = np.repeat(x[i : i + 1], len(maps), axis=0)
        log_p = -np.float64(vae_keras.bernoulli_nll(pixels, logits))
        if vae.prior is None:
            log_p -= 4 * np.log(CODES)
        else:
            y = None if labels is None else np.full(len(maps), labels[i])
            log_p -= np.sum(vae.prior.nll(maps, y), axis=(1, 2))
        exact.append(-scipy.special.logsumexp(log_p))
        is_code = (maps == codes[i]).all(axis=(1, 2))
        at_codes.append(-log_p[is_code].item())
    found = vae_keras.importance_weighted_nll(vae, x, labels, num_samples=9)
    assert found.num_samples == 1
    np.testing.assert_allclose(found.per_image, at_codes, rtol=1e-5)
    assert (found.per_image > exact).all()
    data = (x,) if labels is None else (x, labels)
    logs = vae.evaluate(*data, verbose=0, return_dict=True)
    bound = logs["reconstruction_loss"] + logs["kl_loss"]
    assert bound == pytest.approx(found.mean, rel=1e-5)
    of_places = vae_keras.kl_per_dimension(vae, x, labels)
    assert of_places.shape == (SIDE, SIDE)
    assert of_places.sum() == pytest.approx(logs["kl_loss"], rel=1e-5)
    if vae.prior is None:
        np.testing.assert_allclose(of_places, np.log(CODES), rtol=1e-6)


def test_training_leaves_the_prior_alone(vae):
    if vae.prior is None:
        pytest.skip("no prior, nothing to leave alone")
    prior, others = vae.prior.get_weights(), vae.encoder.get_weights()
    labels = None if vae.num_classes is None else Y
    vae.fit(X, labels, verbose=0)
    for before, after in zip(prior, vae.prior.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    moved = zip(others, vae.encoder.get_weights(), strict=True)
    assert any(np.any(a != b) for a, b in moved)
    # And a prior that is fitted moves nothing but itself.
    others = vae.encoder.get_weights()
    vae.prior.compile("sgd", run_eagerly=True)
    vae.prior.fit(vae.encode(X, labels), labels, verbose=0)
    changed = zip(prior, vae.prior.get_weights(), strict=True)
    assert any(np.any(a != b) for a, b in changed)
    for before, after in zip(others, vae.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_file_holds_the_prior_too(vae, tmp_path):
    labels = None if vae.num_classes is None else Y
    vae.fit(X, labels, verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert_same_state(vae, loaded)
    run = {"labels": None if labels is None else labels[:4], "seed": 2}
    np.testing.assert_array_equal(
        vae.generate(4, **run), loaded.generate(4, **run)
    )
    assert loaded.num_classes == vae.num_classes


def test_generate_draws_from_the_prior(vae):
    labels = None if vae.num_classes is None else Y[:5]
    found = vae.generate(5, labels=labels, seed=4)
    if vae.prior is None:
        z = keras.random.randint((5, SIDE, SIDE), 0, CODES, seed=4)
    else:
        z = vae.prior.sample(5, labels=labels, seed=4)
    np.testing.assert_array_equal(found, vae.decode(z))


def test_a_model_with_a_prior_is_of_the_same_parts():
    vae = new_vae(likelihood="gaussian")
    vae.compile(keras.optimizers.SGD(0.02), run_eagerly=True)
    again = vae.with_prior(new_prior())
    assert again.likelihood is vae.likelihood
    assert float(again.optimizer.learning_rate) == pytest.approx(0.02)
    one, other = (
        each.evaluate(X, verbose=0, return_dict=True) for each in (vae, again)
    )
    for name in ("reconstruction_loss", "codebook_loss", "perplexity"):
        assert one[name] == other[name]
    assert one["kl_loss"] != other["kl_loss"]
    assert not new_vae().with_prior(new_prior()).compiled
    more = again.count_params() - vae.count_params()
    assert more == again.prior.count_params()
    parts = again.trainable_weights + again.non_trainable_weights
    assert {id(w) for w in parts} == {id(w) for w in again.weights}
    again.fit(X, verbose=0)
    np.testing.assert_array_equal(vae.encode(X), again.encode(X))
    np.testing.assert_allclose(vae.predict(X, verbose=0), again(X), atol=1e-6)


def test_codes_and_images_may_have_any_shape():
    for shape, depth, expected in (
        ((9, 14, 3), 1, (5, 7)),
        ((33, 20, 1), 3, (5, 3)),
    ):
        sizes = {"dim": 3, "filters": 2, "depth": depth}
        vae = DiscreteVAE(
            discrete_encoder(shape, **sizes),
            discrete_decoder(shape, **sizes),
            4,
            likelihood="gaussian",
        )
        assert vae.latent_shape == expected
        vae.compile("adam", run_eagerly=True)
        x = RNG.random((5, *shape)).astype("float32")
        logs = vae.fit(x, verbose=0).history
        assert np.isfinite(logs["loss"]).all()
        assert vae.generate(2, seed=0).shape == (2, *shape)


def test_pictures_of_a_discrete_vae(vae):
    labels = two = None
    if vae.num_classes is not None:
        labels, two = Y[:8], Y[:2]
    vae_keras.plot_reconstructions(vae, X[:8], labels)
    vae_keras.plot_latent_space(vae, X, Y)
    with pytest.raises(ValueError, match="Received: a DiscreteVAE, whose lat"):
        vae_keras.plot_interpolation(vae, X[:2], X[2:4], two)
    with pytest.raises(ValueError, match=r"Gaussian.*Received: a DiscreteVAE"):
        vae_keras.active_units(vae, X, None if labels is None else Y)


# === Refusals ===


BAD_CODES = {
    "values from 0 to 3": np.array([[[0, 1], [2, 3]]]),
    "values from -1 to 0": np.array([[[0, 0], [-1, 0]]]),
    r"shape \(1, 2, 3\)": np.zeros((1, 2, 3), int),
    r"shape \(1, 4\)": np.zeros((1, 4), int),
    "dtype float32": np.zeros((1, 2, 2), "float32"),
    "dtype bool": np.zeros((1, 2, 2), bool),
}


@pytest.mark.parametrize("received", BAD_CODES)
def test_codes_that_are_none(received):
    bad = BAD_CODES[received]
    vae, prior = new_vae(), new_prior()
    prior.compile("sgd")
    before = prior.get_weights()
    message = rf"Expected codes of shape \(batch, 2, 2\), .*{received}\. "
    for use in (
        vae.decode,
        prior.fit,
        prior.evaluate,
        prior.predict,
        lambda z: prior.fit(dataset(1, z)),
        lambda z: prior.fit(np.zeros((1, 2, 2), int), validation_data=(z,)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            use(bad)
        assert len(str(error.value)) <= 400
    for a, b in zip(before, prior.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="an empty"):
        prior.fit(np.zeros((0, 2, 2), int))


def refused(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        function(*args, **kwargs)
    assert re.search("Expected .*Received", str(error.value))
    assert len(str(error.value)) <= 400


def test_what_does_not_fit_is_refused():
    vae = new_vae()
    parts = vae.encoder, vae.decoder
    for prior, received in (
        (new_prior(num_codes=4), "maps (2, 2) of 4 codes"),
        (new_prior((2, 3)), "maps (2, 3) of 3 codes"),
        ("pixelcnn", "str"),
        (vae_keras.priors.StandardNormal(), "StandardNormal"),
    ):
        refused(received, DiscreteVAE, *parts, CODES, prior=prior)
    wide = in_use(Quantizer(CODES), 5)
    refused("vectors of 5", DiscreteVAE, *parts, wide)
    refused("num_codes=0", DiscreteVAE, *parts, 0)
    refused("num_codes='many'", DiscreteVAE, *parts, "many")
    dense = vae_keras.mlp_encoder(SHAPE, 2), vae_keras.mlp_decoder(2, SHAPE)
    refused("shape (2,)", DiscreteVAE, *dense)
    refused("map_shape=(4,)", CodePrior, 4, 8)
    refused("map_shape=(0, 4)", CodePrior, (0, 4), 8)
    refused("context='all'", CodePrior, (4, 4), 8, context="all")
    refused("commitment=-1", Quantizer, 8, commitment=-1)
    for temperature in (0, -0.5, float("inf"), float("nan"), "hot", None):
        received = f"temperature={temperature!r}"
        refused(received, new_prior().sample, 3, temperature=temperature)
    with pytest.raises(AttributeError, match="`prior` to stay"):
        vae.prior = new_prior()
    with pytest.raises(AttributeError, match="commitment"):
        vae.quantizer.commitment = 1.0
    for use in (new_prior().nll, new_prior()):
        refused("values from 3 to 3", use, np.full((2, 2, 2), 3))
    refused("no labels", new_prior(num_classes=2).nll, np.zeros((2, 2, 2), int))


def test_labels_that_are_missing():
    prior = new_prior(num_classes=2)
    codes = RNG.integers(0, CODES, (6, SIDE, SIDE))
    prior.compile("sgd")
    for use in (prior.fit, prior.evaluate):
        refused("no labels", use, codes)
        refused("values from 0 to 2", use, codes, np.arange(6) % 3)
    refused("no labels", prior.sample, 3)
    refused("shape (2,) for 3", prior.sample, 3, labels=[0, 1])
    vae = new_vae(prior=prior)
    vae.compile("sgd")
    refused("no labels", vae.fit, X)
    refused("no labels", vae.evaluate, X)
    refused("no labels", vae.generate, 3)
    refused("no labels", vae_keras.importance_weighted_nll, vae, X)
    refused("no labels", vae_keras.kl_per_dimension, vae, X)
    assert vae.generate(labels=[0, 1], seed=0).shape == (2, *SHAPE)
    # What the networks compute needs none.
    np.testing.assert_allclose(vae.predict(X, verbose=0), vae(X), atol=1e-6)
    assert len(vae.generator().inputs) == 1
