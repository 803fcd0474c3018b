"""Likelihoods against integrals, and models that use them."""

import decimal
import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from scipy.integrate import quad

import vae_keras
from tests.helpers import dtype_policy
from vae_keras.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    bits_per_dimension,
)

SCALE = 0.3
LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": lambda: Gaussian(SCALE),
}
each = pytest.mark.parametrize("name", LIKELIHOODS)
# Around zero, on both sides of the Taylor series' end, and far away.
LOGITS = [0, 1e-8, -1e-8, 1e-3, 0.3, 0.499, 0.5, -0.501, 1, -3, 30]
EXTREME = [-1e4, -1e3, -89, 89, 1e3, 1e4]


def column(values):
    return np.reshape(np.asarray(values, "float32"), (-1, 1))


# === Oracles, by SciPy's quadrature ===


def moments(logit):
    """log ∫₀¹ exp(l t) dt, and mean and variance of that density."""
    size = abs(logit)
    # Seen from the likelier end, it falls as exp(−|l| s): the rest is 0.
    end = min(1, 60 / size) if size > 0 else 1

    def integral(power):
        return quad(lambda s: s**power * math.exp(-size * s), 0, end, epsabs=0)[
            0
        ]

    total, first, second = map(integral, range(3))
    distance = first / total
    mean = 1 - distance if logit > 0 else distance
    variance = second / total - distance**2
    return max(logit, 0) + math.log(total), mean, variance


@pytest.mark.parametrize("logit", LOGITS + EXTREME)
def test_continuous_bernoulli_is_what_the_integrals_say(logit):
    likelihood = ContinuousBernoulli()
    logit = float(np.float32(logit))
    log_integral, mean, _ = moments(logit)
    x = column([0, 0.3, 1])
    nll = likelihood.nll(x, column([logit] * 3))
    expected = log_integral - logit * np.float64(x[:, 0])
    np.testing.assert_allclose(nll, expected, rtol=1e-6, atol=3e-6)
    found = likelihood.mean(column([logit]))[0, 0]
    assert float(found) == pytest.approx(mean, rel=1e-5, abs=3e-7)


def with_fifty_digits(logit, x):
    """−log p of the continuous Bernoulli, and its derivative by the logit."""
    with decimal.localcontext(prec=120) as context:
        context.Emax, context.Emin = 10**12, -(10**12)
        logit, x = decimal.Decimal(logit), decimal.Decimal(x)
        size = abs(logit)
        rest = (
            -min(size, decimal.Decimal(10**4))
        ).exp()  # beyond, it has no digit left
        nll = ((1 - rest) / size).ln() + max(logit, 0) - logit * x
        mean = 1 / (1 - rest) - 1 / size  # for a positive logit
        return float(nll), float((mean if logit > 0 else 1 - mean) - x)


def test_continuous_bernoulli_is_exact_for_all_logits_of_float32():
    sizes = np.logspace(-37, 38, 151)
    logits = np.float32([*sizes, *-sizes, 3.4e38, -3.4e38])
    for x in (0.0, 1 / 255, 0.5, 1.0):
        x = np.float32(x)
        exact = np.array(
            [with_fifty_digits(float(logit), float(x)) for logit in logits]
        )
        outputs = tf.constant(column(logits))
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            nll = ContinuousBernoulli().nll(np.full_like(outputs, x), outputs)
        gradient = np.asarray(tape.gradient(nll, outputs))[:, 0]
        np.testing.assert_allclose(nll, exact[:, 0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradient, exact[:, 1], atol=1e-6)


def test_gaussian_is_scipys():
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(2, 5, 4, 3, 2))
    nll = Gaussian(SCALE).nll(x, mean)
    expected = -scipy.stats.norm(mean, SCALE).logpdf(x).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


# === Each is a distribution ===


def grid_for(likelihood, output):
    """All values of a pixel, or a fine grid of them, and what each weighs."""
    if isinstance(likelihood, Bernoulli):
        return column([0, 1]), np.ones(2)
    if isinstance(likelihood, Gaussian):
        x = np.linspace(output - 9 * SCALE, output + 9 * SCALE, 2001)
    else:
        x = np.linspace(0, 1, 20_001)
    weight = np.full(len(x), x[1] - x[0])
    weight[[0, -1]] /= 2  # the trapezium rule
    return column(x), weight


@each
@pytest.mark.parametrize("output", LOGITS)
def test_it_integrates_to_one_around_its_mean(name, output):
    likelihood = LIKELIHOODS[name]()
    x, weight = grid_for(likelihood, output)
    nll = likelihood.nll(x, np.full_like(x, output))
    share = weight * np.exp(-np.float64(nll))
    # Within the rounding of float32, where pixels are not exact either.
    assert share.sum() == pytest.approx(1, abs=2e-5)
    mean = float(likelihood.mean([[output]])[0, 0])
    assert mean == pytest.approx(share @ x[:, 0], rel=1e-4, abs=1e-5)


# === Gradients and extremes ===


@each
def test_gradients_are_finite_and_point_to_the_pixel(name):
    """∂ nll / ∂ outputs is mean − x, or (mean − x) / σ² of the Gaussian."""
    likelihood = LIKELIHOODS[name]()
    logits = column(np.repeat(LOGITS + EXTREME, 3))
    x = column([0, 0.3, 1] * (len(logits) // 3))
    outputs = tf.Variable(logits)
    with tf.GradientTape() as tape:
        nll = likelihood.nll(x, outputs)
    assert (nll.shape, nll.dtype) == ((len(logits),), "float32")
    assert np.isfinite(nll).all()
    gradient = tape.gradient(nll, outputs)
    if name == "gaussian":
        expected = (logits - x) / SCALE**2
    elif name == "bernoulli":
        expected = tf.sigmoid(logits) - x
    else:
        means = [moments(float(logit))[1] for logit in logits[:, 0]]
        expected = np.reshape(means, (-1, 1)) - x
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@each
def test_gradients_of_the_mean_are_finite(name):
    outputs = tf.Variable(column(LOGITS + EXTREME))
    with tf.GradientTape() as tape:
        means = LIKELIHOODS[name]().mean(outputs)
    gradient = np.asarray(tape.gradient(means, outputs))
    if name == "continuous_bernoulli":  # an exponential family
        expected = column([moments(float(x))[2] for x in outputs.numpy()[:, 0]])
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)
    assert np.isfinite(gradient).all()
    assert gradient.min() >= 0


def test_gradient_of_the_scale():
    """Σ over pixels of 1 − r² / σ²: zero where σ² is the mean square."""
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(2, 5, 3, 3, 1))
    likelihood = Gaussian(SCALE)
    with tf.GradientTape() as tape:
        nll = likelihood.nll(x, mean)
    gradient = tape.gradient(nll, likelihood.log_scale.value)
    expected = np.sum(1 - (x - mean) ** 2 / SCALE**2)
    assert float(gradient) == pytest.approx(expected, rel=1e-5)


@each
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_dtype_gives_float32_as_exact_as_float32(name, dtype, images):
    likelihood = LIKELIHOODS[name]()
    x, outputs = tf.cast(images, dtype), tf.cast(0.5 - 3 * images, dtype)
    exact = tf.cast(x, "float32"), tf.cast(outputs, "float32")
    nll = likelihood.nll(x, outputs)
    assert nll.dtype == likelihood.mean(outputs).dtype == "float32"
    np.testing.assert_array_equal(nll, likelihood.nll(*exact))
    np.testing.assert_array_equal(
        likelihood.mean(outputs), likelihood.mean(exact[1])
    )
    # Sums over the pixels of an image, which do not mix.
    single = likelihood.nll(x[7:8], outputs[7:8])
    np.testing.assert_allclose(nll[7], single[0], rtol=1e-5)


# === Bits per dimension ===


def test_bits_bound_the_bits_of_bytes():
    """Against the probabilities of bytes, which are integrals over cells."""
    logits = column([-4, 0, 9])
    bytes_ = np.arange(256)
    for logit in logits[:, 0]:
        log_integral = moments(float(logit))[0]
        edges = np.arange(257) / 256
        if logit == 0:
            cells = np.full(256, 1 / 256)
        else:
            cells = np.diff(np.exp(logit * edges - log_integral)) / logit
        assert cells.sum() == pytest.approx(1)
        # A mean over u, by the midpoints of a thousand parts of each cell.
        u = (np.arange(1000) + 0.5) / 1000
        x = ((bytes_[:, np.newaxis] + u) / 256).reshape(-1, 1)
        nll = ContinuousBernoulli().nll(x, np.full_like(x, logit))
        bits = bits_per_dimension(np.float64(nll), (1, 1, 1))
        bits = bits.reshape(256, 1000).mean(axis=1)
        exact = -np.log2(cells)
        assert np.all(bits > exact - 1e-5)
        np.testing.assert_allclose(bits, exact, atol=1e-3)


def test_bits_per_dimension_by_hand():
    bits = bits_per_dimension
    assert bits(0.0, (4, 4, 3)) == 8
    assert bits(48 * math.log(2), (4, 4, 3)) == pytest.approx(9)
    np.testing.assert_allclose(
        bits(np.array([-16, 16]) * math.log(2), (4, 4, 1)), [7, 9]
    )
    # A fair coin for each pixel, which is no density.
    assert bits(16 * math.log(2), (4, 4, 1), levels=1) == pytest.approx(1)
    assert bits(0.0, (4, 4, 1), levels=32) == 5


# === In a VAE ===


@each
def test_a_vae_takes_its_likelihood(small_vae, images, name):
    vae = small_vae(likelihood=name)
    assert type(vae.likelihood) is type(LIKELIHOODS[name]())
    vae.compile()
    logs = vae.evaluate(images, batch_size=256, verbose=0, return_dict=True)
    # The noise of validation, drawn again.
    z_mean, z_log_var = vae.encode(images)
    epsilon = keras.random.normal((256, 2), seed=keras.random.SeedGenerator(0))
    outputs = vae.decoder(z_mean + tf.exp(0.5 * z_log_var) * epsilon)
    nll = vae.likelihood.nll(images, outputs)
    assert logs["reconstruction_loss"] == pytest.approx(np.mean(nll), rel=1e-5)
    means = vae.likelihood.mean(vae.decoder(z_mean))
    predicted = vae.predict(images, verbose=0)
    np.testing.assert_allclose(vae.decode(z_mean), means, atol=1e-6)
    np.testing.assert_allclose(predicted, means, atol=1e-5)
    z = keras.random.normal((5, 2), seed=7)
    np.testing.assert_array_equal(vae.generate(5, seed=7), vae.decode(z))
    nll = vae.negative_log_likelihood(images, outputs)
    np.testing.assert_array_equal(nll, vae.likelihood.nll(images, outputs))


def test_the_default_is_bernoulli(small_vae, images):
    vae = small_vae()
    assert type(vae.likelihood) is Bernoulli
    logits = vae.decoder(vae.encode(images)[0])
    np.testing.assert_array_equal(
        vae.negative_log_likelihood(images, logits),
        vae_keras.bernoulli_nll(images, logits),
    )


@pytest.mark.parametrize("trainable", [True, False])
def test_a_scale_becomes_that_of_the_residuals_unless_fixed(trainable):
    """Noise of a known scale around one grey."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(0.5, 0.05, size=(512, 6, 5, 1)))
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((6, 5, 1), 1, (4,)),
        vae_keras.mlp_decoder(1, (6, 5, 1), (4,)),
        likelihood=Gaussian(0.3, trainable=trainable),
    )
    vae.compile(keras.optimizers.Adam(0.02), steps_per_execution=16)
    vae.fit(x, epochs=20 if trainable else 1, verbose=0)
    scale = math.exp(float(vae.likelihood.log_scale))
    expected, rel = (0.05, 0.1) if trainable else (0.3, 1e-6)
    assert scale == pytest.approx(expected, rel=rel)


# === Saving ===


@each
def test_config_round_trip(small_vae, name):
    likelihood = LIKELIHOODS[name]()
    vae = small_vae(likelihood=likelihood)
    for other in (
        type(likelihood).from_config(likelihood.get_config()),
        type(vae).from_config(vae.get_config()).likelihood,
    ):
        assert type(other) is type(likelihood)
        assert other.get_config() == likelihood.get_config()
        if name == "gaussian":
            assert other.initial_scale == SCALE


def test_the_scale_is_saved_and_learned_further(small_vae, images, tmp_path):
    vae = small_vae(likelihood="gaussian")
    vae.compile("adam")
    vae.fit(images, verbose=0)
    vae.save(tmp_path / "vae.keras")
    models = vae, keras.saving.load_model(tmp_path / "vae.keras")
    for _ in range(2):
        one, other = [float(model.likelihood.log_scale) for model in models]
        assert one == other != math.log(0.1)
        for a, b in zip(*(m.get_weights() for m in models), strict=True):
            np.testing.assert_array_equal(a, b)
        for model in models:
            model.fit(images, shuffle=False, verbose=0)


# === Likelihoods of the user's own ===


@keras.saving.register_keras_serializable(package="tests")
class Heteroscedastic(Likelihood):
    """Gaussian pixels; the decoder gives mean and log-scale of each."""

    def __init__(self, floor=-3.0, **kwargs):
        super().__init__(**kwargs)
        self.floor = floor

    def nll(self, x, outputs):
        mean, log_scale = tf.split(outputs, 2, axis=-1)
        log_scale = tf.maximum(log_scale, self.floor)
        noise = (x - mean) * tf.exp(-log_scale)
        constant = 0.5 * math.log(2 * math.pi)
        return tf.reduce_sum(
            0.5 * noise**2 + log_scale + constant, axis=(1, 2, 3)
        )

    def mean(self, outputs):
        return tf.split(outputs, 2, axis=-1)[0]

    def get_config(self):
        return {**super().get_config(), "floor": self.floor}


@pytest.mark.slow
def test_a_likelihood_of_ones_own(images, tmp_path):
    """It is written in TensorFlow, with two parameters for each pixel."""
    x = images[:, 10:18, 10:18]
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((8, 8, 1), 2, (16,)),
        vae_keras.mlp_decoder(2, (8, 8, 2), (16,)),
        likelihood=Heteroscedastic(floor=-2.5),
    )
    vae.compile("adam", jit_compile=True, steps_per_execution=2)
    logs = vae.fit(x, epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert vae.generate(3).shape == (3, 8, 8, 1)
    nll = vae_keras.importance_weighted_nll(
        vae, x[:5], num_samples=10, verbose=False
    )
    assert np.isfinite(nll.per_image).all()
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.likelihood.floor == -2.5
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), vae.predict(x, verbose=0)
    )


# === Refusals ===


@pytest.mark.parametrize(
    "bad", ["poisson", None, 3, Gaussian, keras.layers.Dense(1)]
)
def test_an_unknown_likelihood_is_refused(small_vae, bad):
    message = (
        r"Expected `likelihood` to be one of \['bernoulli', "
        r"'continuous_bernoulli', 'gaussian'\].*Received: likelihood=.*"
        "subclass of `Likelihood`"
    )
    with pytest.raises(ValueError, match=message):
        small_vae(likelihood=bad)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, "wide", None])
def test_a_bad_scale_is_refused(bad):
    message = "Expected `initial_scale`.*Received: initial_scale=.*Use 0.1"
    with pytest.raises(ValueError, match=message):
        Gaussian(bad)


def test_the_base_class_has_no_distribution():
    x = np.zeros((1, 2, 2, 1))
    with pytest.raises(NotImplementedError):
        Likelihood().nll(x, x)
    with pytest.raises(NotImplementedError):
        Likelihood().mean(x)


@each
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_as_a_layer_it_is_its_mean(name, policy):
    """Whatever the policy: its inputs stay as they come."""
    outputs = np.linspace(-3, 3, 20, dtype="float32").reshape(4, 5)
    with dtype_policy(policy):
        likelihood = LIKELIHOODS[name]()
    means = likelihood(outputs)
    assert means.dtype == "float32"
    np.testing.assert_array_equal(means, likelihood.mean(outputs))
    assert likelihood.built
    assert likelihood.compute_output_shape((None, 4, 3)) == (None, 4, 3)


def test_a_scale_that_is_set_is_the_scale(small_vae, images):
    """Also in a step that was compiled before."""
    vae, other = (small_vae(likelihood=Gaussian(s)) for s in (0.5, 2.0))
    for model in (vae, other):
        model.compile("sgd")
        model.evaluate(images, verbose=0)
    vae.likelihood.scale = 2.0
    assert vae.likelihood.scale == pytest.approx(2)
    other.set_weights(vae.get_weights())
    found = [model.evaluate(images, verbose=0)[0] for model in (vae, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    with pytest.raises(
        ValueError, match=r"Expected `scale`.*Received: scale=0"
    ):
        vae.likelihood.scale = 0
