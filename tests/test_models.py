"""The VAE against its own formula, its data forms and its refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras


def dense(x, kernel, bias):
    return x.reshape(len(x), -1) @ kernel + bias


def numpy_terms(vae, x, epsilon):
    """Both terms as the paper writes them, in float64, for one-layer MLPs."""
    enc = [w.astype("float64") for w in vae.encoder.get_weights()]
    dec = [w.astype("float64") for w in vae.decoder.get_weights()]
    x = x.astype("float64")
    h = np.maximum(dense(x, *enc[:2]), 0)
    z_mean, z_log_var = dense(h, *enc[2:4]), dense(h, *enc[4:])
    z = z_mean + np.exp(z_log_var) ** 0.5 * epsilon
    p = 1 / (1 + np.exp(-dense(np.maximum(dense(z, *dec[:2]), 0), *dec[2:])))
    x = x.reshape(p.shape)
    nll = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).sum(axis=1)
    return nll, kl


def noise(seed, *batch_sizes):
    """What a sampling layer with this seed draws for batches of 2 latents."""
    generator = keras.random.SeedGenerator(seed)
    draws = [keras.random.normal((n, 2), seed=generator) for n in batch_sizes]
    return np.concatenate(draws)


def scaled(vae, factor=2.0):
    """Weights large enough for a KL term of some nats."""
    for network in (vae.encoder, vae.decoder):
        network.set_weights([factor * w for w in network.get_weights()])
    return vae


def assert_same_weights(one, other, rtol=0.0):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# === Losses and metrics ===


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_equals_the_formula(small_vae, images, weighted):
    x, weight = images[:200], np.ones(200, "float32")
    if weighted:
        weight = np.linspace(0, 3, 200, dtype="float32")
    vae = scaled(small_vae(beta=2.0))
    vae.compile()
    sample_weight = weight if weighted else None
    results = [
        vae.evaluate(
            x,
            np.zeros(200),
            batch_size=64,
            sample_weight=sample_weight,
            return_dict=True,
            verbose=0,
        )
        for _ in range(2)
    ]
    nll, kl = numpy_terms(vae, x, noise(0, 64, 64, 64, 8))
    # Weighted means are Σwℓ / n. The last batch of 8 counts as 8 examples.
    expected = {
        "loss": np.mean(weight * (nll + 2 * kl)),
        "reconstruction_loss": np.mean(weight * nll),
        "kl_loss": np.mean(weight * kl),
    }
    assert expected["kl_loss"] > 0.5
    assert results[0] == results[1]
    assert results[0] == pytest.approx(expected, rel=1e-5)


def test_each_metric_is_there_once(small_vae, images):
    vae = small_vae()
    vae.compile()
    names = [metric.name for metric in vae.metrics]
    assert names == ["loss", "reconstruction_loss", "kl_loss"]
    assert vae.metrics_names == names
    history = vae.fit(images, validation_data=images, verbose=0).history
    assert sorted(history) == sorted(names + ["val_" + name for name in names])


def test_first_training_loss_equals_the_formula(small_vae, images):
    vae = scaled(small_vae(seed=5))
    nll, kl = numpy_terms(vae, images, noise(5, 256))
    vae.compile("sgd")
    history = vae.fit(images, batch_size=256, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.mean(nll + kl), rel=1e-5)
    assert history["kl_loss"][0] == pytest.approx(np.mean(kl), rel=1e-5)


def test_evaluating_does_not_move_the_training_noise(small_vae, images):
    vaes = []
    for validation_data in (None, images[:50]):
        keras.utils.set_random_seed(1)
        vae = small_vae(seed=1)
        vae.compile("adam")
        for _ in range(2):
            vae.fit(images, validation_data=validation_data, verbose=0)
            if validation_data is not None:
                vae.evaluate(images, verbose=0)
        vaes.append(vae)
    assert_same_weights(*vaes)


def test_validation_noise_does_not_depend_on_training(small_vae, images):
    vae = small_vae()
    vae.compile(keras.optimizers.SGD(0.0))
    before = vae.evaluate(images, verbose=0)
    history = vae.fit(
        images, epochs=2, validation_data=images, verbose=0
    ).history
    assert history["val_loss"] == [before[0]] * 2
    assert vae.evaluate(images, verbose=0) == before
    assert history["loss"][0] != history["loss"][1]


# === One train step ===


def tape_gradients(vae, x, epsilon, beta, weight=1.0, penalty=0.0):
    with tf.GradientTape() as tape:
        z_mean, z_log_var = vae.encoder(x)
        z = z_mean + tf.sqrt(tf.exp(z_log_var)) * epsilon
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=x, logits=vae.decoder(z)
        )
        nll = tf.reduce_sum(cross_entropy, axis=[1, 2, 3])
        variance = tf.exp(z_log_var)
        kl = tf.reduce_sum(z_mean**2 + variance - 1 - z_log_var, axis=1) / 2
        loss = tf.reduce_mean(weight * (nll + beta * kl))
        for kernel in vae.trainable_weights:
            if kernel.shape.rank == 2:
                loss += penalty * tf.reduce_sum(kernel.value**2)
    return tape.gradient(loss, [w.value for w in vae.trainable_weights])


def assert_one_sgd_step(vae, x, gradients, learning_rate=1e-3, **fit_kwargs):
    before = [w.numpy() for w in vae.trainable_weights]
    vae.compile(keras.optimizers.SGD(learning_rate))
    fit_kwargs |= {"batch_size": len(x), "shuffle": False, "verbose": 0}
    history = vae.fit(x, **fit_kwargs).history
    for old, new, gradient in zip(
        before, vae.trainable_weights, gradients, strict=True
    ):
        scale = np.abs(gradient).max()
        step = (old - new.numpy()) / learning_rate
        np.testing.assert_allclose(step, gradient, atol=2e-3 * scale)
    return history


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_step_descends_the_gradient(small_vae, images, beta):
    vae = scaled(small_vae(beta=beta, seed=3))
    gradients = tape_gradients(vae, images, noise(3, 256), beta)
    assert_one_sgd_step(vae, images, gradients)


def test_step_weights_the_samples(small_vae, images):
    vae = scaled(small_vae(seed=3))
    weight = np.linspace(0, 2, 256, dtype="float32")
    gradients = tape_gradients(vae, images, noise(3, 256), 1.0, weight)
    assert_one_sgd_step(
        vae, images, gradients, y=np.zeros(256), sample_weight=weight
    )


def test_class_weights_are_sample_weights(small_vae, images, labels):
    weights = {digit: digit / 4 for digit in range(10)}
    vae = scaled(small_vae(seed=3))
    weight = np.array([weights[y] for y in labels], "float32")
    gradients = tape_gradients(vae, images, noise(3, 256), 1.0, weight)
    assert_one_sgd_step(vae, images, gradients, y=labels, class_weight=weights)


def test_step_includes_regularizers(images):
    def regularized(network):
        def clone(layer):
            config = layer.get_config()
            if isinstance(layer, keras.layers.Dense):
                config["kernel_regularizer"] = keras.regularizers.L2(0.7)
            return type(layer).from_config(config)

        return keras.models.clone_model(network, clone_function=clone)

    vae = vae_keras.VAE(
        regularized(vae_keras.mlp_encoder((28, 28, 1), 2, (32,))),
        regularized(vae_keras.mlp_decoder(2, (28, 28, 1), (32,))),
        seed=3,
    )
    epsilon = noise(3, 256)
    gradients = tape_gradients(vae, images, epsilon, 1.0, penalty=0.7)
    kernels = [w.numpy() for w in vae.trainable_weights if len(w.shape) == 2]
    penalty = 0.7 * sum(np.sum(k.astype("float64") ** 2) for k in kernels)
    nll, kl = numpy_terms(vae, images, epsilon)
    history = assert_one_sgd_step(vae, images, gradients)
    assert history["loss"][0] == pytest.approx(
        np.mean(nll + kl) + penalty, rel=1e-5
    )
    # The terms themselves are free of the penalty.
    terms = history["reconstruction_loss"][0] + history["kl_loss"][0]
    assert terms == pytest.approx(np.mean(nll + kl), rel=1e-5)


# === Data forms ===


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 4

    def __getitem__(self, i):
        rows = slice(64 * i, min(64 * (i + 1), 200))
        batch = tuple(array[rows] for array in self.arrays)
        return batch if len(batch) > 1 else batch[0]


def batches(*arrays):
    """An endless generator of tuples, the last of an epoch smaller."""
    while True:
        for start in range(0, 200, 64):
            rows = slice(start, min(start + 64, 200))
            yield tuple(array[rows] for array in arrays)


def dataset(*arrays):
    """Batches of the arrays: tuples unless there is one array alone."""
    arrays = arrays if len(arrays) > 1 else arrays[0]
    return tf.data.Dataset.from_tensor_slices(arrays).batch(64)


FORMS = {
    "arrays": lambda x, y: {"x": x, "y": y, "batch_size": 64},
    "(x,)": lambda x, y: {"x": (x,), "batch_size": 64},
    "(x, y)": lambda x, y: {"x": (x, y), "batch_size": 64},
    "float64": lambda x, y: {"x": x.astype("float64"), "batch_size": 64},
    "tensor": lambda x, y: {"x": tf.constant(x), "batch_size": 64},
    "dataset of x": lambda x, y: {"x": dataset(x)},
    "dataset of (x,)": lambda x, y: {"x": dataset(x).map(lambda x: (x,))},
    "dataset of (x, y)": lambda x, y: {"x": dataset(x, y)},
    "dataset of float64": lambda x, y: {"x": dataset(x.astype("float64"))},
    "generator of (x,)": lambda x, y: {"x": batches(x), "steps_per_epoch": 4},
    "generator of (x, y)": lambda x, y: {
        "x": batches(x, y),
        "steps_per_epoch": 4,
    },
    "PyDataset of x": lambda x, y: {"x": Batches(x)},
    "PyDataset of (x, y)": lambda x, y: {"x": Batches(x, y)},
}


@pytest.fixture(scope="module")
def trained_on_an_array():
    """Weights after two epochs over 200 images, the way of `arrays`."""
    return []


def fit_two_epochs(vae, **kwargs):
    vae.compile("adam")
    vae.fit(epochs=2, shuffle=False, verbose=0, **kwargs)
    assert int(vae.optimizer.iterations) == 8
    return vae.get_weights()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*`shuffle=False`")
def test_every_form_of_data_trains_alike(
    small_vae, images, labels, form, trained_on_an_array
):
    x, y = images[:200], labels[:200]
    if not trained_on_an_array:
        weights = fit_two_epochs(small_vae(seed=0), x=x, batch_size=64)
        trained_on_an_array.extend(weights)
        keras.utils.set_random_seed(0)
    weights = fit_two_epochs(small_vae(seed=0), **FORMS[form](x, y))
    for a, b in zip(weights, trained_on_an_array, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_form_of_validation_data_measures_alike(
    small_vae, images, labels
):
    x, y = images[:200], labels[:200]
    forms = [x, (x,), (x, y), (x, y, np.ones(200, "float32"))]
    forms += [dataset(x), dataset(x, y), Batches(x), Batches(x, y)]
    vae = small_vae()
    vae.compile(keras.optimizers.SGD(0.0))
    expected = vae.evaluate(x, batch_size=64, verbose=0)[0]
    for form in forms:
        history = vae.fit(
            images, validation_data=form, validation_batch_size=64, verbose=0
        ).history
        assert history["val_loss"] == pytest.approx([expected], rel=1e-6)
    history = vae.fit(
        images,
        validation_data=batches(x, y),
        validation_steps=4,
        verbose=0,
    ).history
    assert history["val_loss"] == pytest.approx([expected], rel=1e-6)


def test_evaluate_takes_tuples_of_arrays(small_vae, images, labels):
    vae = small_vae()
    vae.compile()
    expected = vae.evaluate(images, verbose=0)
    for data in ((images,), (images, labels), dataset(images, labels)):
        result = vae.evaluate(data, verbose=0)
        if not isinstance(data, tuple):  # It has batches of another size.
            expected = vae.evaluate(images, batch_size=64, verbose=0)
        assert result == pytest.approx(expected, rel=1e-6)


def test_validation_split(small_vae, images):
    vae = small_vae()
    vae.compile(keras.optimizers.SGD(0.0))
    history = vae.fit(images, validation_split=0.25, verbose=0).history
    expected = vae.evaluate(images[192:], verbose=0)
    assert history["val_loss"] == pytest.approx(expected[:1], rel=1e-6)


def test_single_batches(small_vae, images):
    vae = small_vae()
    vae.compile("sgd", steps_per_execution=3, jit_compile=False)
    first = vae.train_on_batch(images, return_dict=True)
    assert int(vae.optimizer.iterations) == 1
    assert first["loss"] > 0
    vae.reset_metrics()
    once = vae.test_on_batch(images)
    vae.reset_metrics()
    assert vae.test_on_batch(images) == once


# === encode, decode, generate, predict ===


def test_predict_goes_through_the_posterior_mean(small_vae, images, labels):
    vae = scaled(small_vae())
    z_mean, z_log_var = vae.encode(images)
    assert z_mean.shape == z_log_var.shape == (256, 2)
    assert z_mean.dtype == z_log_var.dtype == tf.float32
    reconstructions = vae.decode(z_mean).numpy()
    assert reconstructions.shape == images.shape
    assert reconstructions.dtype == np.float32
    predicted = vae.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, reconstructions, atol=1e-5)
    np.testing.assert_array_equal(predicted, vae.predict(images, verbose=0))
    np.testing.assert_allclose(vae(images), predicted, atol=1e-5)
    pairs = dataset(images, labels)
    np.testing.assert_allclose(
        vae.predict(pairs, verbose=0), predicted, atol=1e-5
    )


def test_decode_gives_probabilities(small_vae):
    z = np.array([[1e4, -1e4], [0, 0], [-1e8, 1e8]], "float32")
    pixels = scaled(small_vae()).decode(z).numpy()
    assert np.all((pixels >= 0) & (pixels <= 1))
    assert pixels.min() < 1e-6
    assert pixels.max() > 1 - 1e-6


def test_generate(small_vae):
    vae = scaled(small_vae(), 3.0)
    once, again = vae.generate(5, seed=7), vae.generate(5, seed=7)
    np.testing.assert_array_equal(once, again)
    assert once.shape == (5, 28, 28, 1)
    z = keras.random.normal((5, 2), seed=7)
    np.testing.assert_array_equal(once, vae.decode(z))
    assert not np.array_equal(once, vae.generate(5, seed=8))
    assert not np.array_equal(vae.generate(5), vae.generate(5))
    assert vae.generate(0).shape == (0, 28, 28, 1)


@pytest.mark.parametrize("num_images", [-1, 2.5, "3", True])
def test_generate_refuses(small_vae, num_images):
    with pytest.raises(ValueError, match=r"Expected .*num_images.*Received"):
        small_vae().generate(num_images)


# === beta ===


@pytest.mark.parametrize("beta", [-1, float("inf"), float("nan"), "high", None])
def test_bad_beta_is_refused(small_vae, beta):
    with pytest.raises(ValueError, match=r"Expected `beta`.*Received: beta="):
        small_vae(beta=beta)


def test_beta_changes_without_a_new_trace(small_vae, images):
    traces = []

    class Counted(vae_keras.VAE):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    small = small_vae()
    vae = Counted(small.encoder, small.decoder, beta=1.0)
    scaled(vae)
    vae.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    for beta in (0.0, 1.0, 5.0):
        vae.beta.assign(beta)
        history = vae.fit(
            images, validation_data=images, batch_size=128, verbose=0
        ).history
        terms = {name: values[0] for name, values in history.items()}
        assert terms["loss"] == pytest.approx(
            terms["reconstruction_loss"] + beta * terms["kl_loss"], rel=1e-5
        )
        assert terms["val_loss"] == pytest.approx(
            terms["val_reconstruction_loss"] + terms["val_kl_loss"], rel=1e-5
        )
    assert terms["kl_loss"] > 0.5
    assert len(traces) == 1


# === compile ===


@pytest.mark.parametrize(
    "kwargs",
    [
        {"loss": "mse"},
        {"loss_weights": [1.0]},
        {"metrics": ["mse"]},
        {"weighted_metrics": ["mse"]},
    ],
)
def test_compile_refuses_other_losses(small_vae, kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f"Expected no `{name}`") as error:
        small_vae().compile("adam", **kwargs)
    assert f"Received: {name}={value!r}. Remove" in str(error.value)


def test_compile_refuses_a_positional_loss(small_vae):
    with pytest.raises(ValueError, match="Received: loss='mse'"):
        small_vae().compile("adam", "mse")


def test_compile_is_otherwise_that_of_keras(small_vae):
    vae = small_vae()
    vae.compile()
    assert isinstance(vae.optimizer, keras.optimizers.RMSprop)
    vae.compile("sgd", None, run_eagerly=True, steps_per_execution=4)
    assert isinstance(vae.optimizer, keras.optimizers.SGD)
    assert vae.run_eagerly
    assert vae.steps_per_execution == 4


def test_fit_before_compile(small_vae, images):
    with pytest.raises(ValueError, match="compile"):
        small_vae().fit(images)


# === Mismatches at construction ===


def test_latents_that_differ():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), 3, (32,)),
            vae_keras.mlp_decoder(2, (28, 28, 1), (32,)),
        )


def test_image_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*\(14, 28, 1\)"):
        vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), 2, (32,)),
            vae_keras.mlp_decoder(2, (14, 28, 1), (32,)),
        )


def test_encoder_with_one_output():
    x = keras.Input((28, 28, 1))
    h = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    with pytest.raises(ValueError, match=r"z_mean, z_log_var.*\[\(2,\)\]"):
        vae_keras.VAE(
            keras.Model(x, h), vae_keras.mlp_decoder(2, (28, 28, 1), (32,))
        )


def test_encoder_with_outputs_of_two_shapes():
    x = keras.Input((28, 28, 1))
    h = keras.layers.Flatten()(x)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(3)(h)]
    with pytest.raises(ValueError, match=r"\[\(2,\), \(3,\)\]"):
        vae_keras.VAE(
            keras.Model(x, outputs),
            vae_keras.mlp_decoder(2, (28, 28, 1), (32,)),
        )


def test_unknown_image_size():
    x = keras.Input((None, None, 1))
    h = keras.layers.GlobalAveragePooling2D()(x)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    with pytest.raises(ValueError, match=r"fixed.*\(None, None, 1\)"):
        vae_keras.VAE(
            keras.Model(x, outputs),
            vae_keras.mlp_decoder(2, (28, 28, 1), (32,)),
        )


class SubclassedEncoder(keras.Model):
    """Its `call` has no `training` argument."""

    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.z_mean = keras.layers.Dense(2)
        self.z_log_var = keras.layers.Dense(2)

    def call(self, x):
        h = self.flatten(x)
        return self.z_mean(h), self.z_log_var(h)


class SubclassedDecoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(784)
        self.reshape = keras.layers.Reshape((28, 28, 1))

    def call(self, z, training=None):
        return self.reshape(self.dense(z))


def test_unbuilt_networks():
    with pytest.raises(ValueError, match="not built"):
        vae_keras.VAE(
            SubclassedEncoder(), vae_keras.mlp_decoder(2, (28, 28, 1))
        )


def test_subclassed_networks(images):
    encoder, decoder = SubclassedEncoder(), SubclassedDecoder()
    encoder(images[:1])
    decoder(np.zeros((1, 2), "float32"))
    vae = vae_keras.VAE(encoder, decoder)
    vae.compile("adam")
    history = vae.fit(images, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert vae.predict(images, verbose=0).shape == images.shape


def test_feature_maps_as_latents(images):
    x = keras.Input((28, 28, 1))
    h = keras.layers.Conv2D(4, 7, strides=7, activation="relu")(x)
    outputs = [keras.layers.Conv2D(2, 1)(h) for _ in range(2)]
    z = keras.Input((4, 4, 2))
    logits = keras.layers.Conv2DTranspose(1, 7, strides=7)(z)
    vae = vae_keras.VAE(keras.Model(x, outputs), keras.Model(z, logits))
    assert vae.latent_shape == (4, 4, 2)
    assert vae.generate(3).shape == (3, 28, 28, 1)
    vae.compile("adam")
    history = vae.fit(images, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    # 32 latents: the KL term is their sum, as in the formula.
    z_mean, z_log_var = map(np.float64, vae.encode(images))
    kl = (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).sum(axis=(1, 2, 3))
    measured = vae.evaluate(images, return_dict=True, verbose=0)["kl_loss"]
    assert measured == pytest.approx(kl.mean() / 2, rel=1e-4)


# === Refusals ===


BAD_IMAGES = {
    "bytes": lambda x: (255 * x).astype("uint8"),
    "bytes as floats": lambda x: 255 * x,
    "[-1, 1]": lambda x: 2 * x - 1,
    "NaN": lambda x: np.where(x == x.max(), np.nan, x),
    "no channels": lambda x: x[..., 0],
    "another size": lambda x: x[:, ::2],
    "flat": lambda x: x.reshape(len(x), -1),
}
BAD_DATA = {
    "array": lambda bad, x: {"x": bad},
    "pair": lambda bad, x: {"x": bad, "y": np.zeros(len(bad))},
    "dataset": lambda bad, x: {"x": dataset(bad)},
    "dataset of pairs": lambda bad, x: {"x": dataset(bad, np.zeros(len(bad)))},
    "generator": lambda bad, x: {"x": batches(bad), "steps_per_epoch": 2},
    "PyDataset": lambda bad, x: {"x": Batches(bad)},
    "validation array": lambda bad, x: {"x": x, "validation_data": bad},
    "validation pair": lambda bad, x: {
        "x": x,
        "validation_data": (bad, np.zeros(len(bad))),
    },
    "validation dataset": lambda bad, x: {
        "x": x,
        "validation_data": dataset(bad),
    },
    "validation generator": lambda bad, x: {
        "x": x,
        "validation_data": batches(bad),
        "validation_steps": 2,
    },
}


@pytest.mark.parametrize("data", BAD_DATA)
def test_refusals_leave_everything_as_it_was(small_vae, images, tmp_path, data):
    vae = small_vae()
    vae.compile("adam")
    before = [v.numpy() for v in vae.variables]
    callbacks = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
    ]
    for make_bad in BAD_IMAGES.values():
        arguments = BAD_DATA[data](make_bad(images), images)
        with pytest.raises(ValueError, match=r"Expected images.*Received: "):
            vae.fit(**arguments, epochs=2, callbacks=callbacks, verbose=0)
        if "validation_data" not in arguments:
            with pytest.raises(ValueError, match="Expected images"):
                vae.evaluate(arguments["x"], steps=2, verbose=0)
    for old, new in zip(before, vae.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert int(vae.optimizer.iterations) == 0
    assert list(tmp_path.iterdir()) == []


def test_empty_data_is_refused(small_vae, images):
    vae = small_vae()
    vae.compile("adam")
    for empty in (images[:0], dataset(images).take(0), iter_of_nothing()):
        with pytest.raises(ValueError, match=r"Received: an empty"):
            vae.fit(empty, verbose=0)


def iter_of_nothing():
    yield from ()
