"""Likelihoods against integrals, and models that use them."""

import json
import math
import zipfile

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops
from scipy.integrate import quad

import vae_keras

NAMES = ("bernoulli", "continuous_bernoulli", "gaussian")
SCALE = 0.3
LIKELIHOODS = {
    "bernoulli": vae_keras.Bernoulli,
    "continuous_bernoulli": vae_keras.ContinuousBernoulli,
    "gaussian": lambda: vae_keras.Gaussian(SCALE),
}
each = pytest.mark.parametrize("name", NAMES)
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
    likelihood = vae_keras.ContinuousBernoulli()
    logit = float(np.float32(logit))
    log_integral, mean, _ = moments(logit)
    x = column([0, 0.3, 1])
    nll = likelihood.nll(x, column([logit] * 3))
    expected = log_integral - logit * np.float64(x[:, 0])
    # Terms as large as the logit are rounded before they cancel.
    atol = 2e-7 * (1 + abs(logit))
    np.testing.assert_allclose(nll, expected, rtol=1e-6, atol=atol)
    found = likelihood.mean(column([logit]))[0, 0]
    assert float(found) == pytest.approx(mean, rel=1e-5, abs=3e-7)


def test_gaussian_is_scipys():
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(2, 5, 4, 3, 2))
    nll = vae_keras.Gaussian(SCALE).nll(x, mean)
    expected = -scipy.stats.norm(mean, SCALE).logpdf(x).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


# === Each is a distribution ===


def total(likelihood, output):
    """The sum or the integral of exp(−nll) over one pixel."""
    if isinstance(likelihood, vae_keras.Bernoulli):
        x = column([0, 1])
    elif isinstance(likelihood, vae_keras.Gaussian):
        x = column(np.linspace(output - 9 * SCALE, output + 9 * SCALE, 2001))
    else:
        x = column(np.linspace(0, 1, 20_001))
    density = np.exp(-np.float64(likelihood.nll(x, np.full_like(x, output))))
    if isinstance(likelihood, vae_keras.Bernoulli):
        return density.sum()
    return np.trapezoid(density, x[:, 0])


@each
@pytest.mark.parametrize("output", LOGITS)
def test_it_integrates_to_one(name, output):
    # Within the rounding of float32, where pixels are not exact either.
    assert total(LIKELIHOODS[name](), output) == pytest.approx(1, abs=2e-5)


@each
def test_mean_and_sample_are_those_of_the_density(name):
    """Moments of the nll on a grid, against `mean` and many samples."""
    likelihood = LIKELIHOODS[name]()
    n = 40_000
    for output in (-3.0, 0.0, 0.4, 2.0):
        x = np.linspace(-4, 4, 80_001)
        if name == "bernoulli":
            x = np.array([0.0, 1.0])
        elif name == "continuous_bernoulli":
            x = np.linspace(0, 1, 20_001)
        outputs = np.full_like(column(x), output)
        density = np.exp(-np.float64(likelihood.nll(column(x), outputs)))
        density /= density.sum()
        mean = density @ x
        deviation = np.sqrt(density @ (x - mean) ** 2)
        assert float(likelihood.mean([[output]])[0, 0]) == pytest.approx(
            mean, abs=1e-3
        )
        sample = np.float64(likelihood.sample(np.full((n, 1), output), 1))
        assert abs(sample.mean() - mean) < 4 * deviation / np.sqrt(n)
        if name == "bernoulli":
            assert set(sample.ravel()) == {0, 1}
            continue
        # Kolmogorov and Smirnov's distance to the distribution function.
        found = np.searchsorted(np.sort(sample[:, 0]), x, side="right") / n
        assert np.abs(found - np.cumsum(density)).max() < 2 / np.sqrt(n)


@each
def test_samples_follow_the_seed_and_the_shape(name):
    likelihood = LIKELIHOODS[name]()
    outputs = np.float32(np.random.default_rng(0).normal(size=(5, 4, 3, 2)))
    once, again, other = (likelihood.sample(outputs, s) for s in (1, 1, 2))
    assert (once.shape, once.dtype) == (outputs.shape, "float32")
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert not np.array_equal(
        likelihood.sample(outputs), likelihood.sample(outputs)
    )
    # Each pixel has noise of its own.
    many = likelihood.sample(np.full((1, 50, 50, 1), 0.1, "float32"), 0)
    assert len(np.unique(many)) > (1 if name == "bernoulli" else 1000)


@pytest.mark.parametrize("logit", LOGITS + EXTREME)
def test_samples_of_continuous_bernoulli_lie_in_the_unit_interval(logit):
    sample = vae_keras.ContinuousBernoulli().sample(
        np.full((20_000, 1), logit, "float32"), 3
    )
    assert np.all((sample >= 0) & (sample <= 1 + 1e-6))
    _, mean, variance = moments(logit)
    error = np.sqrt(variance / 20_000)
    assert abs(np.mean(np.float64(sample)) - mean) < 5 * error + 1e-7


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
    likelihood = vae_keras.Gaussian(SCALE)
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
    assert likelihood.sample(outputs, 0).dtype == "float32"
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
        nll = vae_keras.ContinuousBernoulli().nll(x, np.full_like(x, logit))
        bits = vae_keras.bits_per_dimension(np.float64(nll), (1, 1, 1))
        bits = bits.reshape(256, 1000).mean(axis=1)
        exact = -np.log2(cells)
        assert np.all(bits > exact - 1e-5)
        np.testing.assert_allclose(bits, exact, atol=1e-3)


def test_bits_per_dimension_by_hand():
    bits = vae_keras.bits_per_dimension
    assert bits(0.0, (4, 4, 3)) == 8
    assert bits(48 * math.log(2), (4, 4, 3)) == pytest.approx(9)
    np.testing.assert_allclose(
        bits(np.array([-16, 16]) * math.log(2), (4, 4, 1)), [7, 9]
    )
    # A fair coin for each pixel, which is no density.
    assert bits(16 * math.log(2), (4, 4, 1), levels=1) == pytest.approx(1)
    assert bits(0.0, (4, 4, 1), levels=32) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 0, 1),), r"`image_shape`.*Received: image_shape=\(4, 0, 1\)"),
        (((4, 4, 1), 0), "`levels`.*Received: levels=0"),
    ],
)
def test_bits_of_no_size_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        vae_keras.bits_per_dimension(1.0, *arguments)


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
    assert type(vae.likelihood) is vae_keras.Bernoulli
    logits = vae.decoder(vae.encode(images)[0])
    np.testing.assert_array_equal(
        vae.negative_log_likelihood(images, logits),
        vae_keras.bernoulli_nll(images, logits),
    )


def test_a_step_moves_the_scale_down_its_gradient(small_vae, images):
    vae = small_vae(likelihood="gaussian", seed=3)
    z_mean, z_log_var = vae.encode(images)
    epsilon = keras.random.normal((256, 2), seed=keras.random.SeedGenerator(3))
    outputs = vae.decoder(z_mean + tf.exp(0.5 * z_log_var) * epsilon)
    squares = np.sum((images - np.float64(outputs)) ** 2, axis=(1, 2, 3))
    gradient = np.mean(784 - squares / 0.1**2)
    before = float(vae.likelihood.log_scale)
    assert before == pytest.approx(math.log(0.1))
    vae.compile(keras.optimizers.SGD(1e-6), jit_compile=False)
    vae.fit(images, batch_size=256, shuffle=False, verbose=0)
    step = (before - float(vae.likelihood.log_scale)) / 1e-6
    assert step == pytest.approx(gradient, rel=1e-3)


def test_a_fixed_scale_stays(small_vae, images):
    likelihood = vae_keras.Gaussian(0.2, trainable=False)
    vae = small_vae(likelihood=likelihood)
    vae.compile("adam")
    vae.fit(images, verbose=0)
    assert float(likelihood.log_scale) == pytest.approx(math.log(0.2))


def test_the_scale_becomes_that_of_the_residuals():
    """Noise of a known scale around one grey."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(0.5, 0.05, size=(512, 6, 5, 1)))
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((6, 5, 1), 1, (4,)),
        vae_keras.mlp_decoder(1, (6, 5, 1), (4,)),
        likelihood=vae_keras.Gaussian(0.3),
    )
    vae.compile(keras.optimizers.Adam(0.02), steps_per_execution=16)
    vae.fit(x, epochs=20, verbose=0)
    scale = math.exp(float(vae.likelihood.log_scale))
    assert scale == pytest.approx(0.05, rel=0.1)


def test_colour_images(images):
    colour = np.concatenate([images, images[::-1], 1 - images], axis=-1)[:96]
    sizes = {"filters": 4, "hidden_units": (16,)}
    vae = vae_keras.VAE(
        vae_keras.conv_encoder((28, 28, 3), 4, **sizes),
        vae_keras.conv_decoder(4, (28, 28, 3), **sizes),
        likelihood="gaussian",
    )
    vae.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    logs = vae.fit(colour, epochs=6, validation_data=colour, verbose=0).history
    assert logs["val_loss"][-1] < logs["val_loss"][0]
    assert vae.predict(colour, verbose=0).shape == colour.shape
    generated = np.array(vae.generate(4, seed=0))
    assert (generated.shape, generated.dtype) == ((4, 28, 28, 3), "float32")
    # Means outside [0, 1] are drawn, too.
    generated[0, 0, 0] = [-1, 2, 0.5]
    figure = vae_keras.plot_images(generated)
    picture = figure.axes[0].images[0].get_array()
    assert picture[0, 0].tolist() == [0, 1, 0.5]


# === Saving ===


@each
def test_round_trip_and_resuming(small_vae, images, tmp_path, name):
    vae = small_vae(likelihood=name)
    vae.compile("adam")
    vae.fit(images, verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(loaded.likelihood) is type(vae.likelihood)
    for key in ("likelihood", "beta", "seed"):
        assert loaded.get_config()[key] == vae.get_config()[key]
    for _ in range(2):
        for a, b in zip(vae.variables, loaded.variables, strict=True):
            if "loss" not in a.path:
                np.testing.assert_array_equal(a.numpy(), b.numpy(), a.path)
        for model in (vae, loaded):
            model.fit(images, shuffle=False, verbose=0)
    if name == "gaussian":
        scale = float(loaded.likelihood.log_scale)
        assert scale == float(vae.likelihood.log_scale) != math.log(0.1)


@each
def test_likelihood_config_round_trip(name):
    likelihood = LIKELIHOODS[name]()
    other = type(likelihood).from_config(likelihood.get_config())
    assert other.get_config() == likelihood.get_config()
    if name == "gaussian":
        assert other.initial_scale == SCALE


def test_files_from_before_likelihoods_load(small_vae, images, tmp_path):
    vae = small_vae()
    vae.save(tmp_path / "vae.keras")
    with (
        zipfile.ZipFile(tmp_path / "vae.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                config = json.loads(content)
                del config["config"]["likelihood"]
                content = json.dumps(config)
            old.writestr(name, content)
    loaded = keras.saving.load_model(tmp_path / "old.keras")
    assert type(loaded.likelihood) is vae_keras.Bernoulli
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), vae.predict(images, verbose=0)
    )


# === Likelihoods of the user's own ===


@keras.saving.register_keras_serializable(package="tests")
class Heteroscedastic(vae_keras.Likelihood):
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


def test_a_likelihood_of_ones_own(images, tmp_path):
    """It is written in TensorFlow, with two parameters for each pixel."""
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), 2, (16,)),
        vae_keras.mlp_decoder(2, (28, 28, 2), (16,)),
        likelihood=Heteroscedastic(floor=-2.5),
    )
    vae.compile("adam", jit_compile=True, steps_per_execution=2)
    logs = vae.fit(images, epochs=4, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert vae.generate(3).shape == (3, 28, 28, 1)
    x = images[:5]
    nll = vae_keras.importance_weighted_nll(vae, x, 10, verbose=False)
    assert np.isfinite(nll.per_image).all()
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.likelihood.floor == -2.5
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), vae.predict(x, verbose=0)
    )


def test_a_decoder_of_too_many_outputs():
    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*\(28, 28, 2\)"):
        vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), 2, (16,)),
            vae_keras.mlp_decoder(2, (28, 28, 2), (16,)),
            likelihood="gaussian",
        )


# === Refusals ===


@pytest.mark.parametrize(
    "bad", ["poisson", None, 3, vae_keras.Gaussian, keras.layers.Dense(1)]
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
        vae_keras.Gaussian(bad)


def test_the_base_class_has_no_distribution():
    x = ops.zeros((1, 2, 2, 1))
    for method in ("nll", "mean", "sample"):
        arguments = (x, x) if method == "nll" else (x,)
        with pytest.raises(NotImplementedError):
            getattr(vae_keras.Likelihood(), method)(*arguments)
