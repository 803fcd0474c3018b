"""The two terms of −ELBO against hand values, float64 and Monte Carlo."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

LN2 = np.log(2)


def arrays(low, high):
    """Pairs of arrays of one shape `(batch, …)`."""
    shapes = hypothesis.extra.numpy.array_shapes(
        min_dims=2, max_dims=4, max_side=6
    )
    # The float32 values nearest to the bounds.
    values = st.floats(low, high, width=32)
    return shapes.flatmap(
        lambda shape: st.tuples(
            *[hypothesis.extra.numpy.arrays("float32", shape, elements=values)]
            * 2
        )
    )


def nll_in_float64(x, logits):
    """The textbook formula, summed over the pixels of an image."""
    x, logits = np.asarray(x, "float64"), np.asarray(logits, "float64")
    p, q = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits))
    terms = x * np.log(p) + (1 - x) * np.log(q)
    return -terms.reshape(len(terms), -1).sum(axis=1)


def kl_in_float64(z_mean, z_log_var):
    mean = np.asarray(z_mean, "float64")
    log_var = np.asarray(z_log_var, "float64")
    terms = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)
    return terms.reshape(len(terms), -1).sum(axis=1)


# === bernoulli_nll ===


@pytest.mark.parametrize(
    ("x", "logit", "expected"),
    [
        (0.0, 0.0, LN2),
        (1.0, 0.0, LN2),
        (0.5, 0.0, LN2),
        (1.0, np.log(3), np.log(4 / 3)),  # p = ¾
        (0.0, np.log(3), np.log(4)),
        # −¼ log ¾ − ¾ log ¼
        (0.25, np.log(3), 2 * LN2 - 0.25 * np.log(3)),
        (1.0, 1e4, 0.0),
        (0.0, 1e4, 1e4),
        (1.0, -1e4, 1e4),
        (0.5, 1e4, 5e3),
    ],
)
def test_nll_of_one_pixel_by_hand(x, logit, expected):
    nll = vae_keras.bernoulli_nll([[x]], [[logit]])
    np.testing.assert_allclose(nll, [expected], rtol=1e-6, atol=1e-7)


def test_nll_of_digits_in_float64(images):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 5, images.shape).astype("float32")
    nll = vae_keras.bernoulli_nll(images, logits)
    np.testing.assert_allclose(nll, nll_in_float64(images, logits), rtol=1e-5)


def test_nll_is_least_at_the_pixels():
    # Its least value is the entropy, reached where sigmoid(l) = x.
    x = np.full((99, 1), 0.3, "float32")
    p = np.arange(1, 100)[:, np.newaxis] / 100
    nll = np.asarray(vae_keras.bernoulli_nll(x, np.log(p / (1 - p))))
    assert nll.argmin() == 29
    entropy = -0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    assert nll.min() == pytest.approx(entropy, rel=1e-6)


@hypothesis.given(arrays(0, 1), st.floats(0, 1e4))
def test_nll_is_finite_and_not_negative(pair, scale):
    x, unit = pair
    logits = ((2 * unit - 1) * scale).astype("float32")
    logits_variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        nll = vae_keras.bernoulli_nll(x, logits_variable)
    assert nll.shape == x.shape[:1]
    assert nll.dtype == "float32"
    assert np.all(np.isfinite(nll))
    assert np.all(nll.numpy() >= -1e-3)
    # And so is its gradient, sigmoid(l) − x.
    gradient = tape.gradient(nll, logits_variable).numpy()
    expected = tf.sigmoid(logits).numpy() - x
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


# === gaussian_kl ===


@pytest.mark.parametrize(
    ("mean", "log_var", "expected"),
    [
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.5),
        (-3.0, 0.0, 4.5),
        (0.0, np.log(4), 1.5 - LN2),  # σ = 2
        (0.0, -np.log(4), LN2 - 3 / 8),  # σ = ½
        (2.0, 1.0, (2 + np.e) / 2),
        (0.0, -1e4, (1e4 - 1) / 2),
        (1e4, 0.0, 5e7),
        # ¼ t² for a small t, where exp(t) − 1 − t would be rounded off.
        (0.0, 1e-3, 0.25e-6 + 1e-9 / 12),
    ],
)
def test_kl_of_one_dimension_by_hand(mean, log_var, expected):
    kl = vae_keras.gaussian_kl([[mean]], [[log_var]])
    np.testing.assert_allclose(kl, [expected], rtol=1e-4, atol=0)


def test_kl_against_monte_carlo():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(6, 3))
    log_var = rng.uniform(-2, 1, size=(6, 3))
    noise = rng.normal(size=(100_000, 6, 3))
    z = mean + np.exp(log_var / 2) * noise
    # log q(z) − log p(z); the constants are the same in both.
    ratios = np.sum((z**2 - noise**2 - log_var) / 2, axis=-1)
    error = ratios.std(axis=0) / np.sqrt(len(ratios))
    kl = vae_keras.gaussian_kl(mean, log_var)
    assert np.all(np.abs(kl - ratios.mean(axis=0)) < 5 * error)


@hypothesis.given(arrays(-50, 50))
def test_kl_is_finite_and_not_negative(pair):
    z_mean, z_log_var = pair
    kl = vae_keras.gaussian_kl(z_mean, z_log_var)
    assert kl.shape == z_mean.shape[:1]
    assert kl.dtype == "float32"
    assert np.all(np.isfinite(kl))
    assert np.all(kl.numpy() >= -1e-6)
    expected = kl_in_float64(z_mean, z_log_var)
    np.testing.assert_allclose(kl, expected, rtol=1e-4, atol=1e-6)


# === Both ===


both = pytest.mark.parametrize(
    "loss", [vae_keras.bernoulli_nll, vae_keras.gaussian_kl]
)


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_dtype_gives_float32_as_exact_as_float32(loss, dtype, images):
    first = tf.cast(images, dtype)
    second = tf.cast(0.5 - 3 * images, dtype)
    values = loss(first, second)
    assert values.dtype == "float32"
    exact = loss(tf.cast(first, "float32"), tf.cast(second, "float32"))
    np.testing.assert_allclose(values, exact, rtol=1e-6)


@both
def test_symbolic_tensors_have_the_batch_as_shape(loss):
    tensor = keras.KerasTensor((None, 4, 4, 2))
    values = loss(tensor, tensor)
    assert (values.shape, values.dtype) == ((None,), "float32")
