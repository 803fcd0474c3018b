"""`VAE` and `ConditionalVAE` against their own formulas, and what they take.

What they have in common with other models is in `test_contract.py`.
"""

import copy
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import (
    SubclassedEncoder,
    by_hand,
    dtype_policy,
    noise,
    scaled,
)

SHAPE = (8, 6, 1)


def networks(num_classes=None, hidden_units=(16,)):
    sizes = {"hidden_units": hidden_units, "num_classes": num_classes}
    return [
        vae_keras.mlp_encoder(SHAPE, 2, **sizes),
        vae_keras.mlp_decoder(2, SHAPE, **sizes),
    ]


def new_vae(model="VAE", **kwargs):
    num_classes = 10 if model == "ConditionalVAE" else None
    return getattr(vae_keras, model)(*networks(num_classes), **kwargs)


both = pytest.mark.parametrize("model", ["VAE", "ConditionalVAE"])


# === Losses and steps ===


def terms_by_hand(vae, x, labels, epsilon):
    """Both terms as the paper writes them, in float64."""
    labels = None if vae.num_classes is None else labels
    z_mean, z_log_var = by_hand(vae.encoder, x, labels)
    z = z_mean + np.exp(z_log_var) ** 0.5 * epsilon
    (logits,) = by_hand(vae.decoder, z, labels)
    x = np.float64(x).reshape(logits.shape)
    # −log p where x = 1, −log(1 − p) where x = 0, for p = sigmoid(logits)
    nll = np.logaddexp(0, -logits) * x + np.logaddexp(0, logits) * (1 - x)
    nll = nll.sum(axis=1)
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).sum(axis=1)
    return nll, kl


@both
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_equals_the_formula(model, pictures, classes, weighted):
    weight = np.linspace(0, 3, 50) if weighted else np.ones(50)
    vae = scaled(new_vae(model, beta=2.0))
    vae.compile()
    logs = vae.evaluate(
        pictures,
        classes,
        sample_weight=weight if weighted else None,
        batch_size=20,
        verbose=0,
        return_dict=True,
    )
    # The last batch of 10 counts as 10 examples.
    nll, kl = terms_by_hand(vae, pictures, classes, noise(0, 20, 20, 10))
    expected = {
        "loss": np.mean(weight * (nll + 2 * kl)),
        "reconstruction_loss": np.mean(weight * nll),
        "kl_loss": np.mean(weight * kl),
    }
    assert expected["kl_loss"] > 0.5
    assert logs == pytest.approx(expected, rel=1e-5)


def tape_gradients(vae, x, labels, epsilon, weight):
    """Of the loss, written out once more."""
    one_hot = tf.one_hot(labels, 10)

    def call(network, inputs):
        return network([inputs, one_hot] if vae.num_classes else inputs)

    with tf.GradientTape() as tape:
        z_mean, z_log_var = call(vae.encoder, tf.constant(x))
        z = z_mean + tf.sqrt(tf.exp(z_log_var)) * np.float32(epsilon)
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=x, logits=call(vae.decoder, z)
        )
        nll = tf.reduce_sum(cross_entropy, axis=[1, 2, 3])
        variance = tf.exp(z_log_var)
        kl = tf.reduce_sum(z_mean**2 + variance - 1 - z_log_var, axis=1) / 2
        loss = tf.reduce_mean(weight * (nll + vae.target_beta * kl))
    return tape.gradient(loss, [w.value for w in vae.trainable_weights])


@both
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_a_step_descends_the_gradient(model, pictures, classes, beta):
    vae = scaled(new_vae(model, beta=beta, seed=3))
    weight = np.linspace(0, 2, 50, dtype="float32")
    data, epsilon = (pictures, classes), noise(3, 50)
    gradients = tape_gradients(vae, *data, epsilon, weight)
    nll, kl = terms_by_hand(vae, *data, epsilon)
    before = [w.numpy() for w in vae.trainable_weights]
    vae.compile(keras.optimizers.SGD(0.01))
    run = {"batch_size": 50, "shuffle": False, "verbose": 0}
    logs = vae.fit(*data, sample_weight=weight, **run).history
    for old, new, gradient in zip(
        before, vae.trainable_weights, gradients, strict=True
    ):
        scale = np.abs(gradient).max()
        step = (old - new.numpy()) / 0.01
        np.testing.assert_allclose(step, gradient, atol=1e-3 * scale)
    loss = np.mean(weight * (nll + beta * kl))
    assert logs["loss"][0] == pytest.approx(loss, rel=1e-5)
    kl_loss = np.mean(weight * kl)
    assert logs["kl_loss"][0] == pytest.approx(kl_loss, rel=1e-5)


def test_activity_regularizers_under_mixed_precision(pictures):
    x = keras.Input(SHAPE)
    with dtype_policy("mixed_bfloat16"):
        h = keras.layers.Flatten()(x)
        h = keras.layers.Dense(8, activity_regularizer="l2")(h)
        outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
        vae = vae_keras.VAE(keras.Model(x, outputs), networks()[1])
    vae.compile("adam", run_eagerly=True)
    logs = vae.fit(pictures, batch_size=50, verbose=0).history
    terms = logs["reconstruction_loss"][0] + logs["kl_loss"][0]
    assert logs["loss"][0] > terms


# === beta ===


@pytest.mark.xla
@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param(
            {"jit_compile": True, "steps_per_execution": 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_beta_and_the_learning_rate_change_without_a_new_trace(pictures, how):
    traces = []

    class Counted(vae_keras.VAE):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    vae = scaled(Counted(*networks()))
    vae.compile(keras.optimizers.SGD(0.0), **how)
    run = {"batch_size": 25, "verbose": 0}
    vae.fit(pictures, **run)
    num_traces = len(traces)
    for beta in (0.0, 5.0):
        vae.beta.assign(beta)
        history = vae.fit(pictures, validation_data=pictures, **run).history
        logs = {name: values[0] for name, values in history.items()}
        assert logs["loss"] == pytest.approx(
            logs["reconstruction_loss"] + beta * logs["kl_loss"], rel=1e-5
        )
        # Validation keeps to the constructor's beta.
        assert logs["val_loss"] == pytest.approx(
            logs["val_reconstruction_loss"] + logs["val_kl_loss"], rel=1e-5
        )
    assert logs["kl_loss"] > 0.5
    weights = vae.get_weights()
    vae.optimizer.learning_rate = 1e-3
    vae.fit(pictures, **run)
    assert not all(map(np.array_equal, weights, vae.get_weights()))
    assert len(traces) == num_traces


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"run_eagerly": True},
        pytest.param(
            {"jit_compile": True, "steps_per_execution": 2},
            marks=[pytest.mark.slow, pytest.mark.xla],
        ),
    ],
)
def test_beta_may_be_set(pictures, tmp_path, how):
    """Before compiling and after, in training and in `val_loss`."""
    vae = scaled(new_vae(beta=1.0))
    vae.beta = 2.0
    vae.compile(keras.optimizers.SGD(0.0), **how)
    run = {"batch_size": 25, "verbose": 0, "validation_data": pictures}
    for beta in (2.0, 10.0):
        vae.beta = beta
        logs = vae.fit(pictures, **run).history
        for prefix in ("", "val_"):
            kl = logs[f"{prefix}kl_loss"][0]
            expected = logs[f"{prefix}reconstruction_loss"][0] + beta * kl
            assert logs[f"{prefix}loss"][0] == pytest.approx(expected, rel=1e-5)
            assert kl > 0.5
    assert vae.target_beta == float(vae.beta) == 10
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.target_beta == float(loaded.beta) == 10
    warm_up = vae_keras.callbacks.KLWarmUp(2)
    loaded.beta = 4.0
    logs = loaded.fit(
        pictures, epochs=3, callbacks=[warm_up], verbose=0
    ).history
    assert logs["beta"] == [0, 2, 4]


@pytest.mark.parametrize(
    "name", ["encoder", "decoder", "likelihood", "seed", "latent_shape"]
)
def test_what_cannot_be_set_says_so(name):
    vae = new_vae()
    before = getattr(vae, name)
    with pytest.raises(AttributeError, match=f"Expected `{name}` to stay"):
        setattr(vae, name, before)
    with pytest.raises(AttributeError, match="target_beta"):
        vae.target_beta = 3.0
    vae.something_else = 3


# === As Keras's own ===


def test_layers_and_models_are_built(pictures, capsys):
    vae = new_vae()
    vae.build((None, *SHAPE))
    assert vae.compute_output_shape((None, *SHAPE)) == (None, *SHAPE)
    vae.summary()
    output = capsys.readouterr().out
    assert "unbuilt" not in output
    assert "z_log_var" in output
    assert "?" not in output
    vae.compile("sgd", run_eagerly=True)
    before = vae.evaluate(pictures, verbose=0)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Layers without weights say so.
        vae.quantize("int8")
    vae.compile("sgd", run_eagerly=True)
    after = vae.evaluate(pictures, verbose=0)[0]
    assert after != before
    assert after == pytest.approx(before, rel=0.02)


def test_a_configuration_is_not_used_up():
    config = new_vae().get_config()
    before = copy.deepcopy(config)
    vae_keras.VAE.from_config(config)
    assert config == before
    assert "dtype" not in config
    # Files from before have one.
    vae_keras.VAE.from_config({**config, "dtype": "float32"})
    with pytest.raises(
        ValueError, match=r"Expected no `dtype`.*set_dtype_policy"
    ):
        new_vae(dtype="mixed_bfloat16")


# === Networks of other kinds ===


class Decoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(48)
        self.reshape = keras.layers.Reshape(SHAPE)

    def call(self, z, training=None):
        return self.reshape(self.dense(z))


def test_subclassed_networks(pictures):
    encoder, decoder = SubclassedEncoder(2), Decoder()
    with pytest.raises(ValueError, match="not built"):
        vae_keras.VAE(encoder, networks()[1])
    encoder(pictures[:1])
    decoder(np.zeros((1, 2), "float32"))
    vae = vae_keras.VAE(encoder, decoder)
    vae.compile("adam")
    logs = vae.fit(pictures, epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert vae.predict(pictures, verbose=0).shape == pictures.shape


def two_outputs(h, *sizes):
    return [keras.layers.Dense(size)(h) for size in sizes]


IMAGE, ANY_IMAGE = keras.Input(SHAPE), keras.Input((None, None, 1))
FLAT = keras.layers.Flatten()(IMAGE)
MEAN = keras.layers.GlobalAveragePooling2D()(ANY_IMAGE)
UNFIT = {
    r"\[\(2,\), \(3,\)\]": lambda: keras.Model(IMAGE, two_outputs(FLAT, 2, 3)),
    r"fixed.*\(None, None, 1\)": lambda: keras.Model(
        ANY_IMAGE, two_outputs(MEAN, 2, 2)
    ),
}


@pytest.mark.parametrize("message", UNFIT)
def test_networks_that_do_not_fit(message):
    with pytest.raises(ValueError, match=message):
        vae_keras.VAE(UNFIT[message](), networks()[1])


# === Sizes that can be read only once ===


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (vae_keras.mlp_encoder, {"image_shape": (8, 8, 1), "latent_dim": 2}),
        (vae_keras.mlp_decoder, {"image_shape": (8, 8, 1), "latent_dim": 2}),
        (vae_keras.conv_encoder, {"image_shape": (8, 8, 1), "latent_dim": 2}),
        (vae_keras.conv_decoder, {"image_shape": (8, 8, 1), "latent_dim": 2}),
        (vae_keras.spatial.spatial_encoder, {"image_shape": (8, 8, 1)}),
    ],
)
def test_generators_of_sizes_survive_saving(tmp_path, build, sizes):
    sizes = {"hidden_units": (5, 4), **sizes}
    expected = [weight.shape for weight in build(**sizes).weights]
    once = {
        name: (size for size in value) if isinstance(value, tuple) else value
        for name, value in sizes.items()
    }
    network = build(**once)
    network.save(tmp_path / "network.keras")
    for each in (
        network,
        keras.Model.from_config(network.get_config()),
        keras.saving.load_model(tmp_path / "network.keras"),
    ):
        assert [weight.shape for weight in each.weights] == expected
