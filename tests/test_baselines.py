"""Autoencoder and GAN against formulas and gradients written by hand.

What they have in common with other models is in `test_contract.py`.
"""

import keras
import numpy as np
import pytest

import vae_keras
from tests.helpers import SubclassedEncoder, noise, scaled, sigmoid
from vae_keras.baselines import GAN, Autoencoder

SHAPE = (8, 6, 1)


def new_autoencoder():
    return Autoencoder(
        vae_keras.mlp_encoder(SHAPE, 2, (16,)),
        vae_keras.mlp_decoder(2, SHAPE, (16,)),
    )


def new_gan():
    return GAN(
        vae_keras.mlp_decoder(2, SHAPE, (16,)),
        vae_keras.mlp_encoder(SHAPE, 1, (16,)),
        seed=3,
    )


MODELS = {"autoencoder": new_autoencoder, "gan": new_gan}
both = pytest.mark.parametrize("new_model", MODELS.values(), ids=MODELS)


# === By hand, in float64 ===


def forward(network, x):
    """The inputs of each dense layer, and the output of the last one."""
    weights = [np.float64(w) for w in network.get_weights()]
    inputs = [np.float64(x).reshape(len(x), -1)]
    for i in range(0, len(weights), 2):
        h = inputs[-1] @ weights[i] + weights[i + 1]
        is_last = i == len(weights) - 2
        inputs.append(h if is_last else np.maximum(h, 0))
    return inputs


def backward(network, inputs, gradient):
    """From the gradient of the output: those of the weights, of the input."""
    weights = [np.float64(w) for w in network.get_weights()]
    gradients = []
    for i in reversed(range(0, len(weights), 2)):
        h = inputs[i // 2]
        gradients[:0] = [h.T @ gradient, gradient.sum(axis=0)]
        gradient = gradient @ weights[i].T
        if i > 0:
            gradient = gradient * (h > 0)
    return gradients, gradient


def reconstruction_by_hand(model, x, weight=1.0):
    """Losses of the examples, and gradients of all weights."""
    h = forward(model.encoder, x)
    g = forward(model.decoder, h[-1])
    p, x = sigmoid(g[-1]), np.float64(x).reshape(len(x), -1)
    losses = -weight * (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    gradient = np.reshape(weight, (-1, 1)) * (p - x) / len(x)
    of_decoder, gradient = backward(model.decoder, g, gradient)
    of_encoder, _ = backward(model.encoder, h, gradient)
    return {"reconstruction_loss": losses}, of_encoder + of_decoder


def adversarial_by_hand(model, x, weight=1.0, seed=3):
    """Losses of both networks, and the gradient that each descends."""
    column = np.reshape(weight, (-1, 1))
    g = forward(model.decoder, noise(seed, len(x)))
    p = sigmoid(g[-1])
    generated = forward(model.discriminator, p)
    real = forward(model.discriminator, x)
    d_generated, d_real = sigmoid(generated[-1]), sigmoid(real[-1])
    discriminator_loss = -column * np.log(d_real) - np.log(1 - d_generated)
    losses = {
        "generator_loss": -np.log(d_generated[:, 0]),
        "discriminator_loss": discriminator_loss[:, 0],
    }
    # The generator's gradient comes through the discriminator.
    _, gradient = backward(
        model.discriminator, generated, (d_generated - 1) / len(x)
    )
    of_decoder, _ = backward(model.decoder, g, gradient * p * (1 - p))
    gradient = column * (d_real - 1) / len(x)
    one, _ = backward(model.discriminator, real, gradient)
    other, _ = backward(model.discriminator, generated, d_generated / len(x))
    return losses, of_decoder + [a + b for a, b in zip(one, other, strict=True)]


def losses_by_hand(model, x, *args, **kwargs):
    """Means of the losses, their sum among them, and gradients."""
    is_gan = isinstance(model, GAN)
    function = adversarial_by_hand if is_gan else reconstruction_by_hand
    losses, gradients = function(model, x, *args, **kwargs)
    means = {name: np.mean(values) for name, values in losses.items()}
    return {"loss": sum(means.values()), **means}, gradients


def assert_steps(model, x, gradients, **kwargs):
    """A `fit` of one batch moves weights down these gradients, first to last.

    It returns the logs.
    """
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1))
    fit = {"batch_size": len(x), "shuffle": False, "verbose": 0, **kwargs}
    logs = model.fit(x, **fit).history
    for old, new, gradient in zip(
        before, model.trainable_weights, gradients, strict=False
    ):
        scale = np.abs(gradient).max()
        assert scale > 0
        step = (old - new.numpy()) / 0.1
        np.testing.assert_allclose(step, gradient, atol=1e-4 * scale + 1e-6)
    return {name: value for name, (value,) in logs.items()}


# === Losses and steps ===


@both
@pytest.mark.parametrize("weighted", [False, True])
def test_step_descends_the_gradients_by_hand(new_model, pictures, weighted):
    model = scaled(new_model())
    kwargs, weight = {}, np.ones(50)
    if weighted:
        weight = np.linspace(0, 3, 50)
        kwargs = {"y": np.zeros(50), "sample_weight": weight}
    expected, gradients = losses_by_hand(model, pictures, weight)
    assert len(gradients) == len(model.trainable_weights)
    found = assert_steps(model, pictures, gradients, **kwargs)
    assert found == pytest.approx(expected, rel=1e-5)


@both
def test_evaluate_equals_the_formula(new_model, pictures):
    model = scaled(new_model())
    model.compile()
    run = {"batch_size": 50, "verbose": 0, "return_dict": True}
    logs = model.evaluate(pictures, **run)
    seed = {"seed": 0} if isinstance(model, GAN) else {}
    expected, _ = losses_by_hand(model, pictures, **seed)
    assert logs == pytest.approx(expected, rel=1e-5)


def test_activity_of_the_discriminator_is_not_the_generators(pictures):
    x = keras.Input(SHAPE)
    h = keras.layers.Flatten()(x)
    logit = keras.layers.Dense(1, activity_regularizer="l2")(h)
    decoder = vae_keras.mlp_decoder(2, SHAPE, (16,))
    gan = scaled(GAN(decoder, keras.Model(x, logit), seed=3))
    _, gradients = losses_by_hand(gan, pictures)
    assert_steps(gan, pictures, gradients[: len(decoder.weights)])


# === Using the models ===


def test_autoencoder_encodes_and_reconstructs(pictures):
    model = scaled(new_autoencoder())
    z = model.encode(pictures)
    np.testing.assert_allclose(z, forward(model.encoder, pictures)[-1], 1e-4)
    predicted = model.predict(pictures, verbose=0)
    logits = forward(model.decoder, z)[-1].reshape(pictures.shape)
    np.testing.assert_allclose(predicted, sigmoid(logits), atol=1e-5)


def test_gan_predicts_the_probability_of_being_real(pictures):
    model = scaled(new_gan())
    predicted = model.predict(pictures, verbose=0)
    logits = forward(model.discriminator, pictures)[-1]
    assert predicted.shape == (50, 1)
    np.testing.assert_allclose(predicted, sigmoid(logits), atol=1e-5)


def test_a_gan_learns_where_images_are():
    """Its images become those of the data: one grey for each half."""
    x = np.full((640, *SHAPE), 0.8, "float32")
    x[:, :4] = 0.3
    gan = new_gan()
    gan.compile(keras.optimizers.Adam(5e-3, beta_1=0.5))
    before = np.abs(gan.generate(20, seed=0) - x[0]).mean()
    gan.fit(x, epochs=10, batch_size=64, verbose=0)
    after = np.abs(gan.generate(20, seed=0) - x[0]).mean()
    assert after < 0.7 * before


# === Encoders of a VAE ===


def test_the_head_of_the_log_variance_is_left_out(pictures):
    encoder = vae_keras.mlp_encoder(SHAPE, 2, (16,))
    model = Autoencoder(encoder, vae_keras.mlp_decoder(2, SHAPE))
    assert encoder.count_params() - model.encoder.count_params() == 2 * 17
    np.testing.assert_array_equal(model.encode(pictures), encoder(pictures)[0])
    names = [layer.name for layer in model.encoder.layers]
    assert "z_mean" in names
    assert "z_log_var" not in names
    gan = new_gan()
    assert gan.discriminator.count_params() == 48 * 16 + 16 + 17


def test_an_encoder_of_one_output_stays_as_it_is(pictures):
    encoder = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model = Autoencoder(encoder, vae_keras.mlp_decoder(2, SHAPE))
    assert model.encoder is encoder
    np.testing.assert_array_equal(model.encode(pictures), encoder(pictures))


def test_what_cannot_be_left_out_learns_nothing(pictures):
    """Without a warning about gradients, too: warnings are errors here."""

    def is_log_var(weight):
        return "log_var" in weight.path

    def pair(size):
        network = SubclassedEncoder(size)
        network(pictures[:1])
        return network

    spatial = vae_keras.spatial.spatial_encoder((8, 8, 1), 1, filters=4)
    to_logits = vae_keras.spatial.spatial_decoder(1, (8, 8, 1), filters=4)
    decoder = vae_keras.mlp_decoder(2, SHAPE, (16,))
    for model, x in (
        (Autoencoder(pair(2), decoder), pictures),
        (GAN(decoder, pair(1)), pictures),
        (
            Autoencoder(spatial, to_logits),
            np.pad(pictures, [(0, 0), (0, 0), (1, 1), (0, 0)]),
        ),
    ):
        # Biases of zero and rectified units would hide what moves.
        before = [w.numpy() for w in scaled(model).trainable_weights]
        model.compile("adam", run_eagerly=True)
        model.fit(x, batch_size=25, verbose=0)
        assert any(map(is_log_var, model.trainable_weights))
        for old, weight in zip(before, model.trainable_weights, strict=True):
            changed = not np.array_equal(old, weight.numpy())
            assert changed != is_log_var(weight), weight.path


# === Refusals ===


def test_an_autoencoder_refuses_networks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\).*`latent_dim` for"):
        Autoencoder(
            vae_keras.mlp_encoder(SHAPE, 3), vae_keras.mlp_decoder(2, SHAPE)
        )
    with pytest.raises(ValueError, match=r"`encoder` takes.*Use the same"):
        Autoencoder(
            vae_keras.mlp_encoder(SHAPE, 2), vae_keras.mlp_decoder(2, (9, 9, 1))
        )


def test_a_gan_refuses_networks_that_do_not_fit():
    decoder = vae_keras.mlp_decoder(2, SHAPE)
    with pytest.raises(
        ValueError, match=r"one logit.*Received: \(3,\).*`latent_dim=1`"
    ):
        GAN(decoder, vae_keras.mlp_encoder(SHAPE, 3))
    with pytest.raises(
        ValueError, match=r"`discriminator` takes, \(9, 9, 1\).*\(8, 6, 1\)"
    ):
        GAN(decoder, vae_keras.mlp_encoder((9, 9, 1), 1))
    with pytest.raises(ValueError, match="not built"):
        GAN(decoder, SubclassedEncoder(1))
