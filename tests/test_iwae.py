"""The importance-weighted autoencoder: its bound, and its gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import assert_close

SHAPE = (5, 4, 1)
X = (np.random.default_rng(0).random((24, *SHAPE)) < 0.4).astype("float32")
W = np.linspace(0, 2, 24).astype("float32")


def networks(latent_dim=2, **kwargs):
    keras.utils.set_random_seed(0)
    return (
        vae_keras.mlp_encoder(SHAPE, latent_dim, (8,), **kwargs),
        vae_keras.mlp_decoder(latent_dim, SHAPE, (8,), **kwargs),
    )


def new_model(num_samples=5, encoder=None, **kwargs):
    plain, decoder = networks()
    model = vae_keras.IWAE(encoder or plain, decoder, num_samples, **kwargs)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign_add(rng.normal(0, 0.2, weight.shape))
    return model


class Fixed(keras.layers.Layer):
    """Noise that is handed in, `(k · batch, latent_dim)`."""

    def __init__(self, noise):
        super().__init__()
        self.noise = tf.constant(noise, tf.float32)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        return z_mean + tf.exp(0.5 * z_log_var) * self.noise


def with_noise(model, noise):
    model.sampling.call = Fixed(noise).call
    return model


def step_of(model, x=X, **fit):
    """What one step of SGD with rate 1 takes off each weight."""
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    before = values_of(model)
    model.fit(x, batch_size=len(x), shuffle=False, verbose=0, **fit)
    return [a - b for a, b in zip(before, values_of(model), strict=True)]


def values_of(model):
    return [np.array(weight) for weight in model.trainable_weights]


def bound_of(model, noise, x=X):
    z, *posterior = with_noise(model, noise).draw(x, training=True)
    terms = model.log_weights(x, z, *posterior, training=True)
    return np.asarray(model.bound(*terms), "float64")


def test_the_bound_is_that_of_the_estimate():
    model = new_model(num_samples=50)
    estimate = vae_keras.importance_weighted_nll(
        model, X, num_samples=50, verbose=False
    )
    found = [
        bound_of(model, np.random.default_rng(i).normal(size=(50 * 24, 2)))
        for i in range(40)
    ]
    error = np.std(np.mean(found, axis=1)) / 40**0.5
    assert np.mean(found) == pytest.approx(estimate.mean, abs=12 * error)
    model.compile("adam")
    logs = model.evaluate(X, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(estimate.mean, abs=0.1)
    assert logs["loss"] < logs["reconstruction_loss"] + logs["kl_loss"]


def test_one_draw_without_double_reparameterisation_is_a_vae():
    noise = np.random.default_rng(2).normal(size=(24, 2))
    iwae = with_noise(new_model(1, doubly_reparameterized=False), noise)
    # A prior whose KL is estimated from the draw, as here.
    prior = vae_keras.priors.StandardNormal()
    prior.kl = lambda *of_draw: vae_keras.priors.Prior.kl(prior, *of_draw)
    vae = vae_keras.VAE(*networks(), prior=prior)
    vae.set_weights(iwae.get_weights())
    with_noise(vae, noise)
    steps, expected = step_of(iwae), step_of(vae)
    assert_close(steps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
def test_its_own_gradient_is_that_of_finite_differences(prior):
    noise = np.random.default_rng(3).normal(size=(5 * 24, 2))
    if prior == "vamp":
        prior = vae_keras.priors.VampPrior(3, seed=0)
    model = new_model(doubly_reparameterized=False, prior=prior)
    weights = model.trainable_weights
    before = model.get_weights()
    steps = step_of(with_noise(model, noise))
    model.set_weights(before)
    # Along a gradient the slope is its size; along any other, less.
    for weight, step in zip(weights, steps, strict=True):
        size = np.linalg.norm(step)
        direction, values = 3e-3 * step / size, []
        for sign in (1, -2):
            weight.assign_add(sign * direction)
            values.append(bound_of(model, noise).mean())
        weight.assign_add(direction)
        slope = (values[0] - values[1]) / 6e-3
        assert slope == pytest.approx(size, rel=0.02, abs=2e-3), weight.path


@pytest.mark.slow
def test_double_reparameterisation_has_the_same_mean_and_less_noise():
    steps = {}
    for is_double in (False, True):
        model = new_model(8, doubly_reparameterized=is_double)
        whole, before, found = model.get_weights(), values_of(model), []
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        for i in range(300):
            rng = np.random.default_rng(i)
            noise = rng.normal(size=(8 * 6, 2)).astype("float32")
            if i == 0:
                held = tf.Variable(noise)
                model.sampling.call = lambda inputs, held=held: (
                    inputs[0] + tf.exp(0.5 * inputs[1]) * held
                )
            held.assign(noise)
            model.train_on_batch(X[:6])
            pairs = zip(before, values_of(model), strict=True)
            found.append([a - b for a, b in pairs])
            model.set_weights(whole)
        steps[is_double] = [np.stack(each) for each in zip(*found, strict=True)]
    is_of_encoder = [True] * 6 + [False] * 4
    for plain, double, of_encoder in zip(
        steps[False], steps[True], is_of_encoder, strict=True
    ):
        if of_encoder:
            # Paired: the same noise for both.
            difference = double - plain
            error = difference.std(axis=0) / 300**0.5 + 1e-7
            assert np.mean(np.abs(difference.mean(axis=0)) < 4 * error) > 0.98
            assert double.var(axis=0).sum() < plain.var(axis=0).sum()
        else:
            np.testing.assert_allclose(double, plain, rtol=1e-3, atol=1e-5)


def test_weights_and_penalties_count_as_in_a_vae():
    noise = np.random.default_rng(5).normal(size=(5 * 24, 2))
    encoder, _ = networks()
    encoder.layers[2].kernel_regularizer = keras.regularizers.L2(0.1)
    encoder.layers[2].activity_regularizer = keras.regularizers.L1(0.01)
    for is_double in (False, True):
        plain = with_noise(new_model(doubly_reparameterized=is_double), noise)
        before = plain.get_weights()
        expected = step_of(plain)
        model = with_noise(
            new_model(encoder=encoder, doubly_reparameterized=is_double), noise
        )
        model.set_weights(before)
        kernel = encoder.layers[2].kernel
        with tf.GradientTape() as tape:
            encoder(X, training=True)
            penalty = tf.add_n(encoder.losses)
        of_penalty = tape.gradient(penalty, kernel)
        steps = step_of(model)
        assert_close(
            [steps[0]], [expected[0] + of_penalty], rtol=1e-3, atol=1e-4
        )
        model.set_weights(before)
        ones = step_of(model, sample_weight=np.ones(24))
        assert_close(ones, steps, rtol=1e-4, atol=1e-5)
    x = np.concatenate([X, X])
    model = new_model()
    model.compile("adam")
    logs = model.evaluate(X, sample_weight=W, batch_size=24, verbose=0)
    weightless = model.evaluate(X, batch_size=24, verbose=0)
    assert logs != weightless
    assert len(x) == 48


@pytest.mark.slow
@pytest.mark.xla
def test_it_trains_saves_and_resumes(tmp_path):
    def data(epoch=0):
        return vae_keras.image_dataset(X, 8, seed=3, initial_epoch=epoch)

    for how in ({}, {"jit_compile": True, "steps_per_execution": 3}):
        model = new_model(prior="mixture")
        model.compile("adam", **how)
        logs = model.fit(data(), epochs=20, verbose=0).history
        assert logs["loss"][-1] < logs["loss"][0]
        model.save(tmp_path / "iwae.keras")
        loaded = keras.saving.load_model(tmp_path / "iwae.keras")
        assert loaded.num_samples == 5
        for each in (model, loaded):
            each.fit(data(20), initial_epoch=20, epochs=22, verbose=0)
        assert_close(loaded.get_weights(), model.get_weights(), rtol=0)
    assert model.generate(3, seed=0).shape == (3, *SHAPE)
    assert model.predict(X, verbose=0).shape == X.shape


def test_two_replicas_step_as_one(two):
    found = []
    for scope in (tf.distribute.get_strategy().scope, two.scope):
        with scope():
            model = new_model(3)
            model.compile(keras.optimizers.SGD(0.01))
        model.sampling.call = lambda inputs: inputs[0]
        model.fit(X[:23], batch_size=8, shuffle=False, verbose=0)
        found.append(model.get_weights())
    assert_close(*found, rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_refused():
    for number in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"num_samples.*Received"):
            new_model(number)
    with pytest.raises(ValueError, match="Received"):
        vae_keras.IWAE(*networks(num_classes=3))
    model = new_model()
    model.compile("adam")
    warm_up = vae_keras.callbacks.KLWarmUp(2)
    for act in (
        lambda: new_model(beta=2.0),
        lambda: setattr(model, "beta", 2.0),
        lambda: model.fit(X, verbose=0, callbacks=[warm_up]),
    ):
        with pytest.raises(ValueError, match=r"Expected.*Received.*`VAE`"):
            act()
    assert float(model.beta) == 1
