"""Priors: densities against SciPy, models with them against closed forms."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

import vae_keras
from tests.helpers import assert_close, run_python
from vae_keras import priors

SHAPE = (6, 4, 1)
RNG = np.random.default_rng(0)
X = RNG.random((40, *SHAPE), "float32")
Y = np.arange(40) % 3
PRIORS = {
    "standard_normal": priors.StandardNormal,
    "mixture": lambda: priors.Mixture(4, seed=1),
    "vamp": lambda: priors.VampPrior(5, seed=1),
}
LEARNED = ["mixture", "vamp"]


def new_model(name="mixture", kind="VAE", **kwargs):
    keras.utils.set_random_seed(0)
    if kind == "SpatialVAE":
        networks = (
            vae_keras.spatial.spatial_encoder(
                (8, 8, 1), 1, 4, hidden_units=(8,)
            ),
            vae_keras.spatial.spatial_decoder(1, (8, 8, 1), 4),
        )
    else:
        number = 3 if kind == "ConditionalVAE" else None
        networks = (
            vae_keras.mlp_encoder(SHAPE, 2, (8,), num_classes=number),
            vae_keras.mlp_decoder(2, SHAPE, (8,), num_classes=number),
        )
    prior = PRIORS[name]() if isinstance(name, str) else name
    return getattr(vae_keras, kind)(*networks, seed=1, prior=prior, **kwargs)


def scatter(model):
    """Gives all weights values of their own."""
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign_add(rng.normal(0, 0.3, weight.shape))


def density_of(model, z):
    """log p(z) of the model's prior, by SciPy, `(n,)`."""
    z = np.reshape(z, (len(z), -1))
    if model.prior.is_standard_normal:
        return scipy.stats.norm.logpdf(z).sum(axis=1)
    if isinstance(model.prior, priors.Mixture):
        logits, mean, log_var = map(np.asarray, model.prior.weights)
    else:
        logits = np.asarray(model.prior.weights[1])
        inputs = scipy.special.expit(np.asarray(model.prior.weights[0]))
        if model.num_classes is None:
            mean, log_var = map(np.asarray, model.encoder(inputs))
        else:
            classes = scipy.special.softmax(
                np.asarray(model.prior.weights[2]), axis=1
            )
            found = model.encoder((inputs, classes.astype("float32")))
            mean, log_var = map(np.asarray, found)
        mean, log_var = (a.reshape(len(logits), -1) for a in (mean, log_var))
    weights = scipy.special.log_softmax(logits.astype("float64"))
    deviation = np.exp(0.5 * log_var.astype("float64"))
    terms = scipy.stats.norm.logpdf(z[:, None], mean, deviation).sum(axis=2)
    return scipy.special.logsumexp(weights + terms, axis=1)


@pytest.mark.parametrize("kind", ["VAE", "ConditionalVAE", "SpatialVAE"])
@pytest.mark.parametrize("name", PRIORS)
def test_densities_are_those_of_scipy(name, kind):
    model = new_model(name, kind)
    scatter(model)
    z = RNG.normal(0, 2, (20, *model.latent_shape)).astype("float32")
    found = model.prior.log_prob(z)
    assert found.dtype == "float32"
    assert_close([found], [density_of(model, z)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_the_density(name):
    """Of draws, the mean of any f(z) / p(z) is the integral of f."""
    model = new_model(name)
    scatter(model)
    z = np.asarray(model.prior.sample(20_000, seed=3))
    assert z.shape == (20_000, 2)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, model.prior.sample(20_000, seed=3))
    assert not np.any(z == np.asarray(model.prior.sample(20_000, seed=4)))
    # f: a narrow Gaussian in the middle of the draws, whose integral is 1.
    f = scipy.stats.multivariate_normal(z.mean(axis=0), 0.3 * np.cov(z.T))
    ratio = np.exp(f.logpdf(z) - density_of(model, z))
    error = ratio.std() / len(z) ** 0.5
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 4 * error


@pytest.mark.parametrize("name", PRIORS)
def test_the_kl_is_an_estimate_of_the_integral(name):
    model = new_model(name)
    scatter(model)
    z_mean, z_log_var = RNG.normal(0, 0.5, (2, 1, 2)).astype("float32")
    z = z_mean + np.exp(0.5 * z_log_var) * RNG.normal(size=(50_000, 2))
    z = z.astype("float32")
    log_q = scipy.stats.norm.logpdf(z, z_mean, np.exp(0.5 * z_log_var))
    expected = log_q.sum(axis=1) - density_of(model, z)
    found = np.asarray(model.prior.kl(z, z_mean, z_log_var))
    if model.prior.is_standard_normal:  # in closed form
        error = expected.std() / len(z) ** 0.5
        assert found == pytest.approx(expected.mean(), abs=4 * error)
    else:
        assert_close([found], [expected], rtol=1e-3, atol=1e-3)


class Linear(keras.layers.Layer):
    """Adds nothing: a decoder x = z + noise has itself as its mean."""

    def call(self, z):
        return keras.ops.reshape(z, (-1, 2, 1, 1))


def test_the_likelihood_of_a_linear_model_is_exact():
    """x = z + ε with two components: the marginal is a mixture as well."""
    images = keras.Input((2, 1, 1))
    h = keras.layers.Flatten()(images)
    z_mean, z_log_var = keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)
    z = keras.Input((2,))
    vae = vae_keras.VAE(
        keras.Model(images, [z_mean, z_log_var]),
        keras.Model(z, Linear()(z)),
        likelihood=vae_keras.likelihoods.Gaussian(0.5),
        prior=priors.Mixture(2),
    )
    mean, log_var = np.array([[0, 0], [1, 0.5]]), np.full((2, 2), np.log(0.2))
    vae.prior.set_weights([np.log([0.3, 0.7]), mean, log_var])
    # q(z|x): the posterior under one wide Gaussian, near the true one.
    zero = np.zeros(2)
    vae.encoder.set_weights(
        [0.8 * np.eye(2), zero, np.zeros((2, 2)), zero + np.log(0.2)]
    )
    x = np.random.default_rng(4).random((5, 2, 1, 1), "float32")
    found = vae_keras.importance_weighted_nll(
        vae, x, num_samples=20_000, verbose=False
    )
    parts = [
        np.log(weight)
        + scipy.stats.norm.logpdf(x[:, :, 0, 0], mean, (0.2 + 0.25) ** 0.5).sum(
            1
        )
        for weight, mean in zip([0.3, 0.7], mean, strict=True)
    ]
    expected = -np.logaddexp(*parts)
    np.testing.assert_allclose(found.per_image, expected, atol=0.02)


# === As the prior of a model ===


@pytest.mark.parametrize(
    "kind",
    [
        "VAE",
        pytest.param("ConditionalVAE", marks=pytest.mark.slow),
        pytest.param("SpatialVAE", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", LEARNED)
def test_a_model_trains_saves_and_resumes(name, kind, tmp_path):
    model = new_model(name, kind)
    x = X if kind != "SpatialVAE" else RNG.random((40, 8, 8, 1), "float32")
    model.compile("adam")
    before = [np.array(w) for w in model.prior.weights]
    run = {"batch_size": 10, "verbose": 0}
    model.fit(vae_keras.image_dataset(x, 10, Y, seed=3), epochs=2, verbose=0)
    for weight, value in zip(model.prior.weights, before, strict=True):
        assert np.abs(np.asarray(weight) - value).max() > 1e-4, weight.path
    model.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(loaded.prior) is type(model.prior)
    for each in (model, loaded):
        data = vae_keras.image_dataset(x, 10, Y, seed=3, initial_epoch=2)
        each.fit(data, initial_epoch=2, epochs=3, verbose=0)
    assert_close(loaded.get_weights(), model.get_weights(), rtol=0)
    assert model.evaluate(x, Y, **run) == loaded.evaluate(x, Y, **run)
    labels = Y[:5] if kind == "ConditionalVAE" else None
    assert_close(
        [model.generate(5, labels=labels, seed=1)],
        [loaded.generate(5, labels=labels, seed=1)],
        rtol=0,
    )
    model.save_weights(tmp_path / "vae.weights.h5")
    other = new_model(name, kind)
    other.load_weights(tmp_path / "vae.weights.h5")
    assert_close(other.get_weights(), model.get_weights(), rtol=0)


@pytest.mark.slow
def test_another_process_loads_it(tmp_path):
    model = new_model("vamp")
    model.save(tmp_path / "vae.keras")
    np.save(tmp_path / "z.npy", np.ones((3, 2), "float32"))
    code = """
import keras, numpy as np, vae_keras
vae = keras.saving.load_model("vae.keras")
np.save("found.npy", vae.prior.log_prob(np.load("z.npy")))
"""
    run_python(code, cwd=tmp_path)
    found = np.load(tmp_path / "found.npy")
    assert_close([found], [model.prior.log_prob(np.ones((3, 2)))], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.xla
@pytest.mark.parametrize("name", LEARNED)
def test_xla_and_16_bits_agree(name):
    expected = None
    for policy, how in (
        ("float32", {}),
        ("float32", {"jit_compile": True, "steps_per_execution": 2}),
        ("mixed_bfloat16", {}),
    ):
        keras.config.set_dtype_policy(policy)
        try:
            model = new_model(name)
        finally:
            keras.config.set_dtype_policy("float32")
        assert {w.dtype for w in model.prior.weights} == {"float32"}
        model.sampling.call = lambda inputs: tf.cast(inputs[0], tf.float32)
        model.compile("sgd", **how)
        loss = model.fit(X, shuffle=False, verbose=0, epochs=2).history["loss"]
        expected = expected or loss
        tolerance = 1e-5 if policy == "float32" else 2**-6
        assert loss == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("name", LEARNED)
def test_two_replicas_step_as_one(name, two):
    found = []
    for scope in (tf.distribute.get_strategy().scope, two.scope):
        with scope():
            model = new_model(name)
            model.compile(keras.optimizers.SGD(0.01))
        model.sampling.call = lambda inputs: inputs[0]
        model.fit(X, batch_size=20, shuffle=False, verbose=0)
        found.append(model.get_weights())
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_meets_the_aggregate_posterior():
    """The bound with a learned prior is better than from N(0, I)."""
    losses = {}
    rng = np.random.default_rng(5)
    x = rng.random((200, *SHAPE)) < rng.choice([0.05, 0.95], (200, 6, 1, 1))
    x = x.astype("float32")
    for name in PRIORS:
        model = new_model(name)
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(x, epochs=120, batch_size=50, verbose=0)
        losses[name] = model.evaluate(x, verbose=0)[0]
    assert losses["mixture"] < losses["standard_normal"]
    assert losses["vamp"] < losses["standard_normal"]


def test_what_the_rest_of_the_package_makes_of_it(tmp_path):
    model = new_model("vamp")
    model.compile("adam")
    monitor = vae_keras.callbacks.CollapseMonitor(X)
    model.fit(X, verbose=0, callbacks=[monitor])
    assert vae_keras.active_units(model, X) <= 2
    with pytest.raises(ValueError, match=r"N\(0, I\).*VampPrior.*`evaluate`"):
        vae_keras.kl_per_dimension(model, X)
    assert not vae_keras.plot_latent_space(model, X, Y).axes[0].patches
    standard = vae_keras.plot_latent_space(new_model("standard_normal"), X)
    assert len(standard.axes[0].patches) == 2
    z = model.prior.sample(3, seed=0)
    assert_close([model.generator()(z)], [model.decode(z)], atol=1e-6)


class Laplace(priors.Prior):
    def log_prob(self, z):
        return -keras.ops.sum(keras.ops.abs(z) + keras.ops.log(2.0), axis=1)

    def sample(self, num_samples, seed=None):
        shape = (num_samples, *self.latent_shape)
        u = keras.random.uniform(shape, -1.0, 1.0, seed=seed)
        return -keras.ops.sign(u) * keras.ops.log1p(-keras.ops.abs(u))


def test_a_prior_of_ones_own():
    model = new_model(Laplace())
    model.compile("adam")
    model.fit(X, verbose=0)
    expected = scipy.stats.laplace.logpdf(X[:, 0, :2, 0]).sum(axis=1)
    assert_close([model.prior.log_prob(X[:, 0, :2, 0])], [expected], rtol=1e-5)
    assert model.generate(3, seed=0).shape == (3, *SHAPE)


@pytest.mark.parametrize("name", PRIORS)
def test_names_stand_for_priors(name):
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, 2, (8,)),
        vae_keras.mlp_decoder(2, SHAPE, (8,)),
        prior=name,
    )
    assert isinstance(vae.prior, type(PRIORS[name]()))
    copy = type(vae.prior).from_config(vae.prior.get_config())
    assert copy.get_config() == vae.prior.get_config()


def test_bad_priors_are_refused():
    for prior in ("gaussian", None, priors.Mixture):
        with pytest.raises(ValueError, match=r"Expected `prior`.*Received"):
            new_model(lambda: None) if prior is None else vae_keras.VAE(
                vae_keras.mlp_encoder(SHAPE, 2, (8,)),
                vae_keras.mlp_decoder(2, SHAPE, (8,)),
                prior=prior,
            )
    for argument in (0, 1.5, True, "3"):
        with pytest.raises(ValueError, match="num_components"):
            priors.Mixture(argument)
        with pytest.raises(ValueError, match="num_inputs"):
            priors.VampPrior(argument)
    model = new_model("mixture")
    with pytest.raises(ValueError, match="a prior of its own"):
        vae_keras.VAE(
            vae_keras.mlp_encoder(SHAPE, 3, (8,)),
            vae_keras.mlp_decoder(3, SHAPE, (8,)),
            prior=model.prior,
        )
    with pytest.raises(AttributeError, match="`prior` to stay"):
        model.prior = priors.StandardNormal()
