"""What holds for any sizes, dtypes and values, whichever hypothesis finds."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

import vae_keras

# Where each example builds and traces a model.
few = hypothesis.settings(
    max_examples=-(-hypothesis.settings().max_examples // 5)
)
image_shapes = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)
)
likelihoods = st.sampled_from(["bernoulli", "continuous_bernoulli", "gaussian"])
EXTREMES = [0.0, 1.0, 1e-7, 1 - 1e-7, 0.5, np.finfo("float32").tiny]


def dense(shape, latent_dim, **kwargs):
    return vae_keras.VAE(
        vae_keras.mlp_encoder(shape, latent_dim, (8,)),
        vae_keras.mlp_decoder(latent_dim, shape, (8,)),
        seed=0,
        **kwargs,
    )


def images_of(size, shape, dtype, seed):
    """Pixels of which many are 0, 1 or as near to them as they can be."""
    rng = np.random.default_rng(seed)
    x = rng.random((size, *shape))
    x = np.where(rng.random(x.shape) < 0.5, x, rng.choice(EXTREMES, x.shape))
    return x.astype(dtype)


@hypothesis.given(
    image_shapes,
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from(["float16", "float32", "float64"]),
    likelihoods,
    st.integers(0, 9),
)
def test_terms_are_finite_and_those_of_each_image(
    shape, latent_dim, size, dtype, likelihood, seed
):
    vae = dense(shape, latent_dim, likelihood=likelihood)
    x = images_of(size, shape, dtype, seed)
    nll, kl = vae.elbo_terms(x, training=False)
    assert nll.dtype == kl.dtype == "float32"
    assert nll.shape == kl.shape == (size,)
    assert np.all(np.isfinite(nll))
    assert np.all(kl >= 0)
    if likelihood == "bernoulli":
        assert np.all(nll >= 0)
    # The KL, which has no noise, does not depend on what comes along.
    for i in range(size):
        _, one = vae.elbo_terms(x[i : i + 1], training=False)
        np.testing.assert_allclose(one, kl[i : i + 1], rtol=1e-4, atol=1e-5)
    # Keras's own mean of the terms.
    vae.compile("sgd", run_eagerly=True)
    logs = vae.evaluate(x, batch_size=size, verbose=0, return_dict=True)
    vae.reset_metrics()
    nll, kl = vae.elbo_terms(x, training=False)
    np.testing.assert_allclose(logs["kl_loss"], np.mean(kl), rtol=1e-4)
    np.testing.assert_allclose(
        logs["reconstruction_loss"], np.mean(nll), rtol=1e-4, atol=1e-5
    )


@few
@hypothesis.given(
    image_shapes, st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)
)
def test_one_step_moves_finite_weights(shape, latent_dim, size, batch_size):
    vae = dense(shape, latent_dim)
    vae.compile("sgd", run_eagerly=True)
    x = images_of(size, shape, "float32", seed=size)
    dataset = vae_keras.image_dataset(x, batch_size, seed=0)
    history = vae.fit(dataset, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert int(vae.optimizer.iterations) == -(-size // batch_size)
    assert all(np.all(np.isfinite(w)) for w in vae.trainable_weights)
    means = vae.predict(x, verbose=0)
    assert means.shape == x.shape
    assert means.min() >= 0
    assert means.max() <= 1
    assert vae.generate(size).shape == x.shape


@few
@hypothesis.given(
    image_shapes,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 900),
    likelihoods,
)
def test_the_bound_does_not_depend_on_the_batch(
    shape, latent_dim, size, batch_size, num_samples, likelihood
):
    vae = dense(shape, latent_dim, likelihood=likelihood)
    x = images_of(size, shape, "float32", seed=0)
    estimates = [
        vae_keras.importance_weighted_nll(
            vae, x, num_samples=num_samples, batch_size=n, verbose=False
        )
        for n in (size, batch_size)
    ]
    assert np.all(np.isfinite(estimates[0].per_image))
    np.testing.assert_allclose(
        estimates[0].per_image, estimates[1].per_image, rtol=1e-4, atol=1e-3
    )


@few
@hypothesis.given(
    image_shapes,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_convolutions_give_back_any_size(shape, depth, filters, size):
    hypothesis.assume(min(shape[:2]) >= 2**depth)
    sizes = {"filters": filters, "depth": depth, "hidden_units": (4,)}
    vae = vae_keras.VAE(
        vae_keras.conv_encoder(shape, 2, **sizes),
        vae_keras.conv_decoder(2, shape, **sizes),
    )
    x = images_of(size, shape, "float32", seed=0)
    assert vae(x).shape == x.shape
