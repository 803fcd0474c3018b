"""The conditional VAE: its labels, what they do, and how they are refused.

What it has in common with other models is in `test_contract.py`, its loss
in `test_models.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_normal

import vae_keras
from tests.helpers import (
    Batches,
    assert_close,
    batches,
    by_hand,
    dataset,
    scaled,
    sigmoid,
)
from vae_keras.callbacks import CollapseMonitor, SampleGrid

SHAPE = (8, 6, 1)
CLASSES = 10


def networks(latent_dim=2, num_classes=(CLASSES, CLASSES)):
    return [
        vae_keras.mlp_encoder(
            SHAPE, latent_dim, (16,), num_classes=num_classes[0]
        ),
        vae_keras.mlp_decoder(2, SHAPE, (16,), num_classes=num_classes[1]),
    ]


def new_vae(**kwargs):
    return vae_keras.ConditionalVAE(*networks(), **kwargs)


# === Using the model ===


def test_both_networks_see_the_label(pictures, classes):
    vae = scaled(new_vae())
    found = vae.encode(pictures, classes)
    for a, b in zip(
        found, by_hand(vae.encoder, pictures, classes), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    means = vae.decode(found[0], labels=classes)
    (logits,) = by_hand(vae.decoder, found[0], classes)
    expected = sigmoid(logits).reshape(means.shape)
    np.testing.assert_allclose(means, expected, atol=1e-5)
    assert vae.num_classes == CLASSES
    assert vae_keras.ConditionalVAE.num_classes is None


def test_labels_may_be_integers_of_any_type():
    vae = scaled(new_vae())
    once = vae.generate(labels=[7, 7, 3], seed=7)
    for kind in (np.array, np.uint8, np.int64, tf.constant):
        found = vae.generate(labels=kind([7, 7, 3]), seed=7)
        np.testing.assert_array_equal(once, found)


def test_it_learns_what_the_label_says():
    """Class 0 has a bright upper half, class 1 a bright lower half."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=512)
    x = np.full((512, *SHAPE), 0.1)
    x[:, :4] += 0.7 * (labels == 0)[:, None, None, None]
    x[:, 4:] += 0.7 * (labels == 1)[:, None, None, None]
    x = np.float32(x + rng.uniform(0, 0.1, size=x.shape))
    vae = new_vae()
    vae.compile(keras.optimizers.Adam(0.02))
    vae.fit(x, labels, epochs=15, verbose=0)
    asked = np.array([0, 1, 1, 0, 1])
    means = np.asarray(vae.generate(labels=asked, seed=0))
    upper, lower = means[:, :4].mean((1, 2, 3)), means[:, 4:].mean((1, 2, 3))
    assert np.array_equal(lower > upper, asked == 1)
    assert np.abs(upper - lower).min() > 0.5


# === Evaluation ===


def linear(shape, latent_shape, *weights):
    """A network of one dense layer for each output, of given weights."""
    x, one_hot = keras.Input(shape), keras.Input((4,))
    h = keras.layers.Flatten()(x)
    h = keras.layers.Concatenate()([h, one_hot])
    layers = [keras.layers.Dense(len(bias)) for _, bias in weights]
    outputs = [keras.layers.Reshape(latent_shape)(dense(h)) for dense in layers]
    for dense, values in zip(layers, weights, strict=True):
        dense.set_weights(values)
    outputs = outputs[0] if len(outputs) == 1 else outputs
    return keras.Model([x, one_hot], outputs)


def linear_vae(shift=0.0, scale=0.5):
    """A linear-Gaussian model of 4 classes, and log p(x|y) of its images.

    The encoder gives the exact posterior, shifted.
    """
    rng = np.random.default_rng(0)
    kernel = np.linalg.qr(rng.normal(size=(9, 2)))[0] * [0.5, 1.5]
    means = rng.uniform(size=(4, 9))
    variance = 1 / (1 + np.sum(kernel**2, axis=0) / scale**2)
    to_mean = kernel * variance / scale**2 + shift
    vae = vae_keras.ConditionalVAE(
        linear(
            (3, 3, 1),
            (2,),
            (np.concatenate([to_mean, -means @ to_mean]), np.zeros(2)),
            (np.zeros((13, 2)), np.log(variance) + shift),
        ),
        linear(
            (2,), (3, 3, 1), (np.concatenate([kernel.T, means]), np.zeros(9))
        ),
        likelihood=vae_keras.likelihoods.Gaussian(scale),
    )
    covariance = kernel @ kernel.T + scale**2 * np.eye(9)
    marginals = [multivariate_normal(mean, covariance) for mean in means]

    def exact_nll(images, labels):
        x = np.float64(images).reshape(len(images), -1)
        return -np.array(
            [marginals[y].logpdf(row) for row, y in zip(x, labels, strict=True)]
        )

    return vae, exact_nll


def linear_data(n):
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(n, 3, 3, 1)).astype("float32")
    return images, rng.integers(4, size=n)


def nll_of(vae, images, labels, **kwargs):
    return vae_keras.importance_weighted_nll(
        vae, images, labels, verbose=False, **kwargs
    )


def test_likelihood_of_a_linear_gaussian_model():
    images, labels = linear_data(60)
    # With the exact posterior all weights are equal.
    vae, exact_nll = linear_vae()
    exact = exact_nll(images, labels)
    estimate = nll_of(vae, images, labels, num_samples=3, batch_size=7)
    np.testing.assert_allclose(estimate.per_image, exact, atol=1e-4)
    # Given other labels, it is another number.
    other = nll_of(vae, images, labels[::-1], num_samples=3)
    moved = labels != labels[::-1]
    assert np.all(np.abs(other.per_image - exact)[moved] > 1e-3)
    # With another posterior, weights differ, and their mean is right.
    vae, _ = linear_vae(shift=0.05)
    images, labels = linear_data(1000)
    exact = exact_nll(images, labels)
    nll = nll_of(vae, images, list(labels), num_samples=30, batch_size=500)
    ratios = np.exp(exact - nll.per_image)
    assert ratios.std() > 0.01
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(ratios.mean() - 1) < 4 * error
    vae.compile()
    one = nll_of(vae, images, labels, num_samples=1)
    loss = vae.evaluate(images, labels, verbose=0)[0]
    assert one.mean == pytest.approx(loss, abs=4 * one.standard_error)


def test_use_of_the_latents(pictures, classes):
    vae = scaled(new_vae())
    z_mean, z_log_var = by_hand(vae.encoder, pictures, classes)
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - 1 - z_log_var).mean(axis=0)
    found = vae_keras.kl_per_dimension(vae, pictures, classes)
    np.testing.assert_allclose(found, kl, rtol=1e-4)
    threshold = np.mean(z_mean.var(axis=0))
    use = vae_keras.active_units(vae, pictures, classes, threshold=threshold)
    assert use == 1


def test_a_monitor_and_figures(pictures, classes):
    vae = scaled(new_vae())
    vae.compile("sgd")
    monitor = CollapseMonitor(pictures, classes)
    vae.fit(pictures, classes, callbacks=[monitor], verbose=0)
    kl = vae_keras.kl_per_dimension(vae, pictures, classes)
    np.testing.assert_array_equal(monitor.kl_per_dimension[-1], kl)
    figure = vae_keras.plot_latent_space(vae, pictures, classes)
    z_mean, _ = vae.encode(pictures, classes)
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, z_mean, atol=1e-5)
    figure = vae_keras.plot_reconstructions(vae, pictures[:3], classes[:3])
    expected = vae((pictures[:3], classes[:3]))[0, ..., 0]
    mosaic = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(mosaic[9:17, :6], expected, atol=1e-5)


# === Networks ===


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_networks_take_labels(kind):
    sizes = {"hidden_units": (16,)} | ({"filters": 4} if kind == "conv" else {})
    encode = getattr(vae_keras, f"{kind}_encoder")
    decode = getattr(vae_keras, f"{kind}_decoder")
    encoder = encode((9, 7, 3), 4, num_classes=5, **sizes)
    decoder = decode(4, (9, 7, 3), num_classes=5, **sizes)
    vae = vae_keras.ConditionalVAE(encoder, decoder)
    assert (vae.image_shape, vae.latent_shape) == ((9, 7, 3), (4,))
    assert vae.num_classes == 5
    assert vae.generate(labels=[0, 4]).shape == (2, 9, 7, 3)
    # Each class costs a row of the first dense layer, and no more.
    for network, plain in (
        (encoder, encode((9, 7, 3), 4, **sizes)),
        (decoder, decode(4, (9, 7, 3), **sizes)),
    ):
        assert network.count_params() - plain.count_params() == 5 * 16
    for build in (
        lambda n: encode((9, 7, 3), 4, num_classes=n),
        lambda n: decode(4, (9, 7, 3), num_classes=n),
    ):
        with pytest.raises(ValueError, match=r"`num_classes`.*Received.*=0"):
            build(0)


ConditionalVAE, VAE = vae_keras.ConditionalVAE, vae_keras.VAE


@pytest.mark.parametrize(
    ("model", "latent_dim", "num_classes", "message"),
    [
        (ConditionalVAE, 2, (5, 4), r"'decoder'.*\[\(2,\), \(4,\)\].*=5"),
        (ConditionalVAE, 2, (None, 10), r"'encoder'.*one-hot.*`VAE`"),
        (ConditionalVAE, 2, (10, None), r"labels \(10,\).*Received.*=10"),
        (ConditionalVAE, 3, (10, 10), r"\(3,\).*\(2,\).*`latent_dim`"),
        (VAE, 2, (10, None), r"one input.*`ConditionalVAE`"),
        (VAE, 2, (None, 10), r"one input.*`ConditionalVAE`"),
    ],
)
def test_networks_that_do_not_fit(model, latent_dim, num_classes, message):
    with pytest.raises(ValueError, match=message):
        model(*networks(latent_dim, num_classes))


# === Refusals ===


BAD_LABELS = {
    "none": (lambda y: None, "no labels.*`fit"),
    "too large": (lambda y: y + 1, "values from 1 to 10.*Renumber"),
    "negative": (lambda y: y - 1, "values from -1 to 8.*Renumber"),
    "floats": (lambda y: y.astype("float32"), "dtype float32.*Convert them"),
    "names": (lambda y: y.astype(str), "dtype.*Number the classes"),
    "one-hot": (lambda y: np.eye(10)[y], r"shape \(.*, 10\).*argmax"),
    "a column": (lambda y: y[:, np.newaxis], r"shape \(.*, 1\).*ravel"),
}


@pytest.fixture
def balanced():
    """Labels with each of the ten classes in every batch of 20."""
    return np.arange(50) % 10


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused(pictures, balanced, bad, tmp_path):
    make_bad, received = BAD_LABELS[bad]
    labels = make_bad(balanced)
    vae = new_vae()
    vae.compile("adam")
    before = [v.numpy() for v in vae.variables]
    callbacks = [keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")]
    parts = (pictures,) if labels is None else (pictures, labels)
    many = [
        parts,
        dataset(20, *parts),
        Batches(20, *parts),
        vae_keras.image_dataset(pictures, 20, labels),
    ]
    once = {"x": batches(20, *parts), "steps_per_epoch": 3}
    good = {"x": pictures, "y": balanced}
    fits = [{"x": pictures, "y": labels}, once]
    fits += [{"x": data} for data in many]
    fits += [{**good, "validation_data": data} for data in many]
    z = np.zeros((50, 2), "float32")

    def watched(callback):
        vae.fit(pictures, balanced, callbacks=[callback], verbose=0)

    doors = [
        *(lambda fit=fit: vae.fit(**fit, callbacks=callbacks) for fit in fits),
        *(lambda data=data: vae.evaluate(data) for data in many),
        *(lambda data=data: vae.predict(data) for data in many),
        lambda: vae.encode(pictures, labels),
        lambda: vae.decode(z, labels),
        lambda: vae.generate(50, labels=labels),
        lambda: vae.generate(labels=labels),
        lambda: nll_of(vae, pictures, labels, num_samples=2),
        lambda: vae_keras.active_units(vae, pictures, labels),
        lambda: vae_keras.kl_per_dimension(vae, pictures, labels),
        lambda: watched(CollapseMonitor(pictures, labels)),
        lambda: watched(SampleGrid(pictures, tmp_path, labels=labels)),
    ]
    for door in doors:
        message = f"Expected labels.*from 0 to 9. Received: {received}"
        with pytest.raises(ValueError, match=message):
            door()
    assert_close([v.numpy() for v in vae.variables], before, rtol=0)
    assert int(vae.optimizer.iterations) == 0
    assert list(tmp_path.iterdir()) == []


def test_all_labels_of_arrays_are_looked_at(pictures, balanced):
    """Also those of an `image_dataset`, which loses no epoch by it."""
    labels = balanced.copy()
    labels[-1] = 10
    vae = new_vae()
    vae.compile("adam")
    dataset = vae_keras.image_dataset(pictures, 20, labels, shuffle=False)
    for data in ((pictures, labels), dataset):
        with pytest.raises(ValueError, match="values from 0 to 10"):
            vae.fit(data, verbose=0)
    good = [
        vae_keras.image_dataset(pictures, 50, balanced, seed=1)
        for _ in range(2)
    ]
    vae.fit(good[0], verbose=0)
    next(iter(good[1]))
    one, other = (next(iter(dataset)) for dataset in good)
    np.testing.assert_array_equal(one[0], other[0])


def test_as_many_labels_as_images(pictures, balanced):
    vae = new_vae()
    message = r"Received: shape \(49,\) for 50 image"
    with pytest.raises(ValueError, match=message):
        vae.encode(pictures, balanced[1:])
    vae.compile("adam")
    with pytest.raises(ValueError, match=message):
        vae.fit(pictures, balanced[1:], verbose=0)


def test_a_batch_without_labels(pictures):
    vae = new_vae()
    vae.compile("adam")
    for use in (vae, vae.train_on_batch, vae.test_on_batch):
        with pytest.raises(ValueError, match="Received: no labels"):
            use(pictures)
    assert int(vae.optimizer.iterations) == 0
