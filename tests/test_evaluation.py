"""Likelihood and use of the latents against models known exactly."""

import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
import tqdm
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import vae_keras
from tests.helpers import dtype_policy
from vae_keras import importance_weighted_nll

SCALE = 0.5
MEASURES = [
    importance_weighted_nll,
    vae_keras.active_units,
    vae_keras.kl_per_dimension,
]


class GaussianVAE(vae_keras.VAE):
    """Its pixels are Gaussian, so that p(x) of a linear decoder is, too."""

    def negative_log_likelihood(self, x, logits):
        terms = 0.5 * tf.square((x - logits) / SCALE)
        terms += 0.5 * math.log(2 * math.pi * SCALE**2)
        return tf.reduce_sum(terms, axis=[1, 2, 3])


def linear_encoder(image_shape, latent_shape, mean, log_var):
    """An encoder without a hidden layer, of given kernels and biases."""
    x = keras.Input(image_shape)
    outputs = []
    for kernel, bias in (mean, log_var):
        dense = keras.layers.Dense(len(bias))
        h = dense(keras.layers.Flatten()(x))
        dense.set_weights([kernel, bias])
        outputs.append(keras.layers.Reshape(latent_shape)(h))
    return keras.Model(x, outputs)


def linear_vae(latent_shape=(2,), image_shape=(3, 3, 1), shift=0.0, **kwargs):
    """A linear-Gaussian VAE, and the distribution of its images.

    The encoder gives the exact posterior, shifted.
    """
    rng = np.random.default_rng(0)
    d, k = math.prod(image_shape), math.prod(latent_shape)
    # Orthogonal columns, for a posterior without correlations.
    kernel = np.linalg.qr(rng.normal(size=(d, k)))[0] * np.linspace(0.5, 1.5, k)
    bias = rng.uniform(size=d)
    variance = 1 / (1 + np.sum(kernel**2, axis=0) / SCALE**2)
    to_mean = kernel * variance / SCALE**2
    vae = GaussianVAE(
        linear_encoder(
            image_shape,
            latent_shape,
            (to_mean, shift - bias @ to_mean),
            (np.zeros((d, k)), np.log(variance) + shift),
        ),
        keras.Sequential(
            [
                keras.Input(latent_shape),
                keras.layers.Flatten(),
                keras.layers.Dense(d),
                keras.layers.Reshape(image_shape),
            ]
        ),
        **kwargs,
    )
    vae.decoder.set_weights([kernel.T, bias])
    covariance = kernel @ kernel.T + SCALE**2 * np.eye(d)
    return vae, multivariate_normal(bias, covariance)


def random_images(n, image_shape=(3, 3, 1)):
    rng = np.random.default_rng(1)
    return rng.uniform(size=(n, *image_shape)).astype("float32")


def exact_nll(marginal, images):
    return -marginal.logpdf(np.float64(images).reshape(len(images), -1))


def estimate(vae, images, num_samples=5000, **kwargs):
    """`importance_weighted_nll` for each image, without a bar."""
    kwargs = {"num_samples": num_samples, "batch_size": 100} | kwargs
    kwargs.setdefault("verbose", False)
    return importance_weighted_nll(vae, images, **kwargs).per_image


def assert_means_agree(values, expected, num_errors=4):
    """Whether a mean is what is expected, within its standard errors."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < num_errors * error


@pytest.fixture(autouse=True)
def _no_warning(caplog):
    """TensorFlow warns only twice, in whichever test comes first."""
    yield
    assert not caplog.records


# === The exact value ===


@pytest.mark.parametrize(
    ("num_samples", "own"), [(1, True), (30, False), (730, True)]
)
def test_likelihood_of_a_linear_gaussian_model(num_samples, own):
    vae, marginal = linear_vae(shift=0.3)
    if not own:
        likelihood = vae_keras.likelihoods.Gaussian(SCALE)
        vae = vae_keras.VAE(vae.encoder, vae.decoder, likelihood=likelihood)
    images = random_images(1000)
    exact = exact_nll(marginal, images)
    nll = estimate(vae, images, num_samples, batch_size=250)
    # The weights are unbiased for any K; their logarithm is not.
    assert_means_agree(np.exp(exact - nll), 1)
    spread = np.std(nll - exact)
    assert 0.2 / num_samples**0.5 < spread < 1.5 / num_samples**0.5
    if not own:  # Another scale is another model.
        vae.likelihood.log_scale.assign(math.log(2 * SCALE))
        nll = estimate(vae, images[:9], num_samples)
        assert np.all(np.abs(nll - exact[:9]) > 0.1)


@pytest.mark.parametrize(
    ("latent_shape", "image_shape"), [((2,), (3, 3, 1)), ((3, 2, 4), (5, 5, 1))]
)
@pytest.mark.parametrize("num_samples", [1, 501])
def test_exact_posterior_gives_the_exact_value(
    latent_shape, image_shape, num_samples
):
    # All weights are equal.
    vae, marginal = linear_vae(latent_shape, image_shape)
    images = random_images(5, image_shape)
    exact = exact_nll(marginal, images)
    nll = estimate(vae, images, num_samples)
    np.testing.assert_allclose(nll, exact, atol=1e-4)


def networks(kind):
    if kind == "convolutional":
        sizes = {"filters": 4, "depth": 1, "hidden_units": (8,)}
        encoder = vae_keras.conv_encoder((4, 4, 1), 2, **sizes)
        decoder = vae_keras.conv_decoder(2, (4, 4, 1), **sizes)
    else:
        with dtype_policy(kind):
            encoder = vae_keras.mlp_encoder((4, 4, 1), 2, (8,))
            decoder = vae_keras.mlp_decoder(2, (4, 4, 1), (8,))
    # Weights so large that the posterior is far from the prior.
    decoder.set_weights([3 * w + 0.1 for w in decoder.get_weights()])
    return encoder, decoder


def log_sinhc(x):
    """log(sinh(x) / x), by the plain formula."""
    x = np.where(x == 0, 1e-5, x)
    return np.log(np.sinh(x) / x)


def nll_on_a_grid(decoder, images, likelihood, side=6.0, num=301):
    """−log ∫ p(x|z) p(z) dz over two latents, in float64."""
    axis, step = np.linspace(-side, side, num, retstep=True)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    logits = np.float64(decoder.predict(z, batch_size=10_000, verbose=0))
    logits = logits.reshape(len(z), -1)
    x = np.float64(images).reshape(len(images), -1)
    log_normalizer = np.logaddexp(0, logits)
    if likelihood == "continuous_bernoulli":
        log_normalizer = logits / 2 + log_sinhc(logits / 2)
    log_joint = x @ logits.T - log_normalizer.sum(axis=1)
    log_joint += multivariate_normal(np.zeros(2)).logpdf(z)
    return -logsumexp(log_joint, axis=1) - 2 * np.log(step)


@pytest.mark.parametrize(
    ("kind", "likelihood"),
    [
        ("float32", "bernoulli"),
        ("mixed_bfloat16", "bernoulli"),
        ("convolutional", "bernoulli"),
        ("float32", "continuous_bernoulli"),
    ],
)
def test_likelihood_of_bernoulli_pixels_on_a_grid(kind, likelihood):
    encoder, decoder = networks(kind)
    vae = vae_keras.VAE(encoder, decoder, likelihood=likelihood)
    images = random_images(30, (4, 4, 1))
    if likelihood == "bernoulli":
        images = np.round(images)
    exact = nll_on_a_grid(decoder, images, likelihood)
    # The model must see more in the images than sixteen coins would.
    assert np.std(exact) > (0.5 if likelihood == "bernoulli" else 0.1)
    nll = estimate(vae, images)
    assert_means_agree(np.exp(exact - nll), 1)
    assert np.mean(nll) == pytest.approx(np.mean(exact), abs=0.05)


def test_one_sample_gives_the_elbo_and_more_a_tighter_bound():
    vae, marginal = linear_vae(shift=0.5)
    # One image, many times: the noise is all that differs.
    images = np.repeat(random_images(1), 2000, axis=0)
    exact = exact_nll(marginal, images)[0]
    bounds = [estimate(vae, images, k, batch_size=500) for k in (1, 3, 10, 100)]
    vae.compile()
    loss = vae.evaluate(images, batch_size=500, verbose=0)[0]
    # Both sides of the difference are noisy.
    assert_means_agree(bounds[0], loss, num_errors=4 * 2**0.5)
    means = np.array([np.mean(bound) for bound in bounds])
    assert np.all(np.diff(means) < -0.01)
    assert exact < means[-1] < exact + 0.05 < means[0] - 0.3


def test_beta_does_not_matter():
    vae, _ = linear_vae(shift=0.3)
    other = GaussianVAE(vae.encoder, vae.decoder, beta=4.0)
    images = random_images(5)
    np.testing.assert_array_equal(
        estimate(vae, images, 50), estimate(other, images, 50)
    )


# === The noise ===


def test_batch_size_and_other_images_do_not_matter():
    vae, _ = linear_vae(shift=0.3)
    images = random_images(23)
    whole = estimate(vae, images, 730, batch_size=23)
    others = np.concatenate([1 - images[:5], images[5:]])
    for x, batch_size in ((images, 10), (images[:20], 100), (others, 23)):
        rows = slice(5 * (x is others), len(x))
        nll = estimate(vae, x, 730, batch_size=batch_size)
        np.testing.assert_allclose(nll[rows], whole[rows], atol=1e-4)


@pytest.mark.parametrize(
    ("side", "expected"), [(53, [2, 2, 1]), (100, [1] * 5)]
)
def test_large_images_are_taken_a_few_at_a_time(side, expected):
    """500 samples of each image are to make no array above 16 MB."""
    sizes = []

    class Recording(vae_keras.VAE):
        def encode(self, x, labels=None):
            tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(x)[0]], [])
            return super().encode(x, labels)

    shape = (side, side, 1)
    vae = Recording(
        vae_keras.mlp_encoder(shape, 2, ()), vae_keras.mlp_decoder(2, shape, ())
    )
    estimate(vae, random_images(5, shape), 2, batch_size=None)
    assert sizes == expected


def test_seed_decides():
    vae, _ = linear_vae(shift=0.3)
    images = random_images(4)
    first, again, other = [
        estimate(vae, images, 20, seed=seed) for seed in (3, np.int64(3), 4)
    ]
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - other) > 1e-3)


def test_each_image_and_each_block_of_samples_has_noise_of_its_own():
    vae, _ = linear_vae(shift=0.3)
    images = np.repeat(random_images(1), 5, axis=0)
    one, two = [np.exp(-estimate(vae, images, k)) for k in (500, 1000)]
    blocks = np.concatenate([one, 2 * two - one])
    assert np.diff(np.sort(blocks)).min() > 1e-4 * blocks.mean()


def test_samples_come_in_blocks():
    rows = set()

    class Recording(GaussianVAE):
        def negative_log_likelihood(self, x, logits):
            for pixels in (x, logits):
                tf.py_function(
                    lambda n: rows.add(int(n)), [tf.shape(pixels)[0]], []
                )
            return super().negative_log_likelihood(x, logits)

    vae, _ = linear_vae()
    vae = Recording(vae.encoder, vae.decoder)
    # Batches of three images and one, blocks of 500 samples, or all of a few.
    estimate(vae, random_images(4), 1230, batch_size=3)
    assert rows == {1500, 500}
    rows.clear()
    estimate(vae, random_images(4), 7, batch_size=3)
    assert rows == {21, 7}


def test_of_the_last_block_only_what_was_asked_for_counts():
    """Sums of weights grow with each sample, since weights are positive."""
    vae, _ = linear_vae(shift=0.3)
    numbers = np.array([1, 499, 500, 501, 999, 1001])
    images = random_images(3)
    sums = [k * np.exp(-estimate(vae, images, k)) for k in numbers]
    growth = np.diff(sums, axis=0) / np.diff(numbers)[:, np.newaxis]
    assert growth.min() > 0
    # And the mean weight of many is what it is of others.
    many = np.diff(numbers) > 200
    ratios = growth[many] / (sums[-1] / 1001)
    np.testing.assert_allclose(ratios, 1, atol=0.2)


# === Numbers and types ===


def test_extreme_logits():
    encoder, decoder = networks("float32")
    vae = vae_keras.VAE(encoder, decoder)
    images = np.round(random_images(3, (4, 4, 1)))
    # The posterior is the prior, so all weights are equal at first.
    encoder.set_weights([0 * w for w in encoder.get_weights()])
    *weights, bias = decoder.get_weights()
    decoder.set_weights([*[0 * w for w in weights], np.full_like(bias, -1e4)])
    # Each white pixel costs 10⁴ nats, whatever z.
    white = images.sum(axis=(1, 2, 3))
    nll = estimate(vae, images, 600)
    np.testing.assert_allclose(nll, 1e4 * white, rtol=1e-6)
    decoder.set_weights([1e4 * np.sign(w) for w in weights] + [bias])
    assert np.all(np.isfinite(estimate(vae, images, 600)))


def test_digits_behind_the_comma_are_kept_at_ten_thousand_nats():
    """Where float32 has steps of 0.001, images of one noise still compare."""

    class Dear(GaussianVAE):
        cost = 0.0

        def negative_log_likelihood(self, x, logits):
            return self.cost + tf.zeros(tf.shape(x)[:1])

    vae, _ = linear_vae(shift=0.3)
    vae = Dear(vae.encoder, vae.decoder)
    images = random_images(5)
    for num_samples in (1, 730):
        vae.cost = 0.0
        free = estimate(vae, images, num_samples)
        vae.cost = 10_000.0
        dear = estimate(vae, images, num_samples)
        np.testing.assert_allclose(dear - 10_000, free, atol=1e-6)


def test_summary_of_the_estimate():
    vae, _ = linear_vae(shift=0.3)
    estimate = importance_weighted_nll(vae, random_images(7), num_samples=20)
    assert isinstance(estimate, vae_keras.evaluation.LikelihoodEstimate)
    values = estimate.per_image
    assert (values.shape, values.dtype) == ((7,), "float64")
    assert estimate.num_samples == 20
    assert estimate.mean == pytest.approx(sum(values) / 7)
    variance = sum((values - estimate.mean) ** 2) / 6
    assert estimate.standard_error == pytest.approx((variance / 7) ** 0.5)
    one = importance_weighted_nll(vae, random_images(1), num_samples=20)
    assert np.isnan(one.standard_error)
    assert one.mean == one.per_image[0] == pytest.approx(values[0], abs=1e-4)


# === Effects on everything else ===


def with_dropout(network):
    """The same network, with a layer that drops half of what comes in."""
    x = keras.Input(network.input_shape[1:])
    return keras.Model(x, network(keras.layers.Dropout(0.5)(x)))


def test_the_setting_of_the_whole_process_is_documented():
    assert "whole process" in " ".join(importance_weighted_nll.__doc__.split())


def test_labels_are_looked_at_before_images_are_converted(monkeypatch):
    kwargs = {"hidden_units": (4,), "num_classes": 3}
    vae = vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder((3, 3, 1), 2, **kwargs),
        vae_keras.mlp_decoder(2, (3, 3, 1), **kwargs),
    )
    sizes = []
    convert = keras.ops.convert_to_tensor

    def watched(x, *args, **kwargs):
        sizes.append(getattr(x, "shape", [0])[0])
        return convert(x, *args, **kwargs)

    monkeypatch.setattr(keras.ops, "convert_to_tensor", watched)
    images, labels = random_images(7), np.array([0, 1, 2, 2, 1, 0, 3])
    with pytest.raises(ValueError, match=r"labels.*Received: values from 0 to"):
        estimate(vae, images, 5, labels=labels, batch_size=2)
    estimate(vae, images, 5, labels=labels % 3, batch_size=2)
    assert 7 not in sizes


def test_nothing_changes_and_nothing_is_dropped():
    vae, _ = linear_vae(shift=0.3)
    dropping = GaussianVAE(with_dropout(vae.encoder), with_dropout(vae.decoder))
    images = random_images(4)
    variables = [np.array(v) for v in dropping.variables]
    assert any("seed" in v.path for v in dropping.variables)
    state = random.getstate()
    for measure in (estimate, *MEASURES[1:]):
        results = measure(dropping, images), measure(vae, images)
        np.testing.assert_allclose(*results, atol=1e-5)
    assert random.getstate() == state
    for before, after in zip(variables, dropping.variables, strict=True):
        np.testing.assert_array_equal(before, after)


def test_short_work_is_silent(capfd):
    vae, _ = linear_vae()
    # TensorFlow warns of a function that is traced again and again.
    for _ in range(6):
        estimate(vae, random_images(4), 600, batch_size=3, verbose=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [False, True])
def test_bar_counts_images(monkeypatch, verbose):
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.shown, self.steps = not self.disable, []
            bars.append(self)

        def update(self, n=1):
            self.steps.append(n)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    vae, _ = linear_vae()
    estimate(vae, random_images(7), 2, batch_size=3, verbose=verbose)
    (bar,) = bars
    assert bar.shown is verbose
    assert bar.steps == [3, 3, 1]
    assert not verbose or bar.total == 7


# === Refusals ===


@pytest.mark.parametrize(
    ("measure", "broken"),
    [(estimate, "decoder")] + [(measure, "encoder") for measure in MEASURES],
)
def test_a_model_that_diverged_is_refused(measure, broken):
    vae, _ = linear_vae()
    network = getattr(vae, broken)
    network.set_weights([w * np.nan for w in network.get_weights()])
    message = "finite.* Received: NaN.*lower learning rate"
    with pytest.raises(ValueError, match=message):
        measure(vae, random_images(4))


# === The latents ===


def vae_of_known_posteriors(factors, means, variances, latent_shape):
    """z_mean is each pixel times a factor, plus a mean."""
    encoder = linear_encoder(
        (2, 2, 1),
        latent_shape,
        (np.diag(factors), np.asarray(means)),
        (np.zeros((4, 4)), np.log(variances)),
    )
    decoder = keras.Sequential(
        [keras.Input(latent_shape), keras.layers.Reshape((2, 2, 1))]
    )
    return vae_keras.VAE(encoder, decoder)


@pytest.mark.parametrize("latent_shape", [(4,), (2, 1, 2)])
def test_active_units(latent_shape):
    # A uniform pixel has variance 1/12: here 0, 0.0008, 0.02 and 0.3.
    vae = vae_of_known_posteriors(
        (0, 0.1, 0.5, 2), (3, 0, 0, 5), (1, 1, 1, 0.1), latent_shape
    )
    images = random_images(1200, (2, 2, 1))
    assert vae_keras.active_units(vae, images) == 2
    for threshold, expected in ((1e-4, 3), (0.015, 2), (0.1, 1), (0.5, 0)):
        found = vae_keras.active_units(vae, images, threshold=threshold)
        assert found == expected
    # Two latents that differ by 1 have the variance ¼, over images.
    images = np.zeros((2, 2, 2, 1), "float32")
    images[1, 1, 1] = 0.5
    assert vae_keras.active_units(vae, images, threshold=0.2499) == 1
    assert vae_keras.active_units(vae, images, threshold=0.25) == 0


@pytest.mark.parametrize("latent_shape", [(4,), (2, 1, 2)])
def test_kl_per_dimension(latent_shape):
    factors, means = (0, 0, 1, 2), (0, 3, 0, 0)
    variances = (1, 4, 1, 0.5)
    vae = vae_of_known_posteriors(factors, means, variances, latent_shape)
    images = random_images(600, (2, 2, 1))
    kl = vae_keras.kl_per_dimension(vae, images)
    assert (kl.shape, kl.dtype) == (latent_shape, "float64")
    x = np.float64(images).reshape(600, 4)
    expected = [
        0,  # has collapsed
        (9 + 4 - 1 - np.log(4)) / 2,
        np.mean(x[:, 2] ** 2) / 2,
        (4 * np.mean(x[:, 3] ** 2) + 0.5 - 1 + np.log(2)) / 2,
    ]
    np.testing.assert_allclose(kl.ravel(), expected, rtol=1e-5, atol=1e-7)
    vae.compile()
    results = vae.evaluate(images, return_dict=True, verbose=0)
    assert kl.sum() == pytest.approx(results["kl_loss"], rel=1e-5)
