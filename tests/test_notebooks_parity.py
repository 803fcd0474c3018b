"""What the notebooks write out is what the package has."""

import ast

import keras
import nbformat
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from sklearn.mixture import GaussianMixture

import vae_keras
from tests.helpers import ROOT
from vae_keras import code_prior, discrete, sample_quality, spatial

IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS = (28, 28, 1), 2, (32, 32)
SEED = 3
PACKAGE = {**vars(vae_keras), **vars(vae_keras.digits), **vars(spatial)}


def definitions(number, old="", new=""):
    """Executes a notebook's imports, constants, functions and classes.

    Replaces `old` by `new` in them first.
    """
    (path,) = (ROOT / "notebooks").glob(f"{number:02}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    nodes = [
        node
        for cell in notebook.cells
        if cell.cell_type == "code"
        for node in ast.parse(cell.source).body
        if defines(node)
    ]
    source = ast.unparse(nodes)
    assert old in source
    names = {}
    exec(source.replace(old, new) if old else source, names)
    return names


def defines(node):
    """Whether a statement defines something and computes nothing."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]).strip("()").split(",")[0].isupper()
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds)


def networks(names):
    """An encoder and a decoder, always with the same weights."""
    keras.utils.set_random_seed(SEED)
    return (
        names["mlp_encoder"](IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS),
        names["mlp_decoder"](LATENT_DIM, IMAGE_SHAPE, HIDDEN_UNITS),
    )


def assert_close(ours, theirs, **tolerances):
    """Compares arrays, or sequences of as many arrays."""
    for a, b in zip(
        keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True
    ):
        np.testing.assert_allclose(a, b, **tolerances)


@pytest.fixture
def images(mnist_test):
    return mnist_test[0][:200]


# === Notebook 2: the model ===


def trained(names, images):
    """A model and its logs after two epochs of plain gradient descent."""
    vae = names["VAE"](*networks(names), beta=2.0, seed=SEED)
    vae.compile(keras.optimizers.SGD(1e-4), jit_compile=False)
    dataset = vae_keras.image_dataset(images, 50, seed=SEED)
    return vae, vae.fit(dataset, epochs=2, shuffle=False, verbose=0).history


def compare_models(notebook, images):
    vae, logs = trained(notebook, images)
    expected_vae, expected_logs = trained(PACKAGE, images)
    for name, values in expected_logs.items():
        assert_close(logs[name], values, rtol=1e-5)
    weights = vae.trainable_weights, expected_vae.trainable_weights
    assert_close(*weights, atol=1e-6)
    x, logits = images[:5], expected_vae.decoder(np.ones((5, LATENT_DIM)))
    posteriors = expected_vae.encode(x)
    for name, arguments in (
        ("bernoulli_nll", (x, logits)),
        ("gaussian_kl", posteriors),
    ):
        ours, theirs = (n[name](*arguments) for n in (notebook, PACKAGE))
        assert_close(ours, theirs, rtol=1e-5)
    ours, theirs = (n["Sampling"](seed=1) for n in (notebook, PACKAGE))
    assert_close(ours(posteriors), theirs(posteriors), rtol=1e-6)


# === Notebooks 5 and 7: networks ===


def compare_outputs(ours, theirs, x):
    """Whether two networks agree, with weights that are not zero anywhere."""
    # Zeros would hide what the residual blocks do.
    rng = np.random.default_rng(SEED)
    weights = [
        rng.normal(0, 2 / np.prod(w.shape[:-1]) ** 0.5, size=w.shape)
        for w in theirs.get_weights()
    ]
    shapes = [w.shape for w in ours.get_weights()]
    assert shapes == [w.shape for w in weights]
    for network in (ours, theirs):
        network.set_weights(weights)
    assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def compare_networks(notebook, images):
    z = np.random.default_rng(0).normal(size=(9, LATENT_DIM))
    for name, arguments, x in (
        ("conv_encoder", (IMAGE_SHAPE, LATENT_DIM), images[:9]),
        ("conv_decoder", (LATENT_DIM, IMAGE_SHAPE), z),
        ("build_classifier", (), images[:9]),
        ("build_classifier", ((4, 8, 16),), images[:9]),
    ):
        built = []
        for names in (notebook, PACKAGE):
            keras.utils.set_random_seed(SEED)
            built.append(names[name](*arguments))
        # Initialised alike, and computing alike.
        assert_close(*(network.get_weights() for network in built))
        compare_outputs(*built, x)


def compare_spatial(notebook, images):
    statistics = [
        np.random.default_rng(SEED).normal(size=(2, side, 3))
        for side in (4, 4, 5, 5)
    ]
    assert_close(
        notebook["RowColumnGaussian"]()(statistics),
        spatial.RowColumnGaussian()(statistics),
        rtol=1e-6,
    )
    for factored in (True, False):
        compare_outputs(
            notebook["spatial_encoder"](factored),
            spatial.spatial_encoder(IMAGE_SHAPE, 2, factored=factored),
            images[:9],
        )
    compare_outputs(
        notebook["spatial_decoder"](),
        spatial.spatial_decoder(2, IMAGE_SHAPE),
        np.random.default_rng(0).normal(size=(9, 7, 7, 2)),
    )


def compare_discrete(notebook, images):
    features = np.random.default_rng(SEED).normal(size=(5, 4, 4, 16))
    ours, theirs = notebook["Quantizer"](32), discrete.Quantizer(32)
    outputs = []
    for layer in (ours, theirs):
        layer.build(features.shape)
        layer.codebook.assign(np.random.default_rng(0).normal(size=(32, 16)))
        x = keras.ops.convert_to_tensor(features, "float32")
        with tf.GradientTape() as tape:
            tape.watch(x)
            z_q, codes, loss = layer(x)
            total = keras.ops.sum(z_q**3) + keras.ops.sum(loss)
        gradients = tape.gradient(total, [x, layer.codebook.value])
        outputs.append(
            [z_q, codes, loss, *map(tf.convert_to_tensor, gradients)]
        )
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    # What each stack sees, against the gradients of the package's prior.
    for place in ((2, 2), (1, 3)):
        seen = notebook["seen"](place)
        for context, sees in zip(("vertical", "horizontal"), seen, strict=True):
            prior = code_prior.CodePrior(
                (4, 4), 5, filters=4, num_layers=3, context=context
            )
            prior.set_weights([w + 0.1 for w in prior.get_weights()])
            found = code_prior_sees(prior, place)
            np.testing.assert_array_equal(found, sees)


def code_prior_sees(prior, place):
    """Which codes move the output at a place, one changed at a time."""
    base = np.zeros((1, 4, 4), int)
    before = prior(base)[0][place]
    sees = np.zeros((4, 4), bool)
    for i, j in np.ndindex(4, 4):
        changed = base.copy()
        changed[0, i, j] = 3
        sees[i, j] = np.any(prior(changed)[0][place] != before)
    return sees


# === Notebooks 6, 9 and 10: measures ===


class Identity:
    """A decoder that gives latents back."""

    def decode(self, z):
        return z


def assert_shuffled(draws):
    """Whether the first of many draws from ten clusters are of them all."""
    clusters = np.round(np.asarray(draws)[:100])
    assert len(np.unique(clusters)) == 10


def ten_clusters():
    rng = np.random.default_rng(SEED)
    return np.repeat(np.arange(10), 30)[:, None] + rng.normal(0, 0.01, (300, 1))


def compare_measures(notebook, images):
    vae = vae_keras.VAE(*networks(PACKAGE))
    z_mean, z_log_var = vae.encode(images)
    head = vae.encoder.get_layer("z_mean")
    head.set_weights([weight * 3 for weight in head.get_weights()])

    log_w = notebook["log_weights"](vae, images[:1], 20_000)
    theirs = vae_keras.importance_weighted_nll(
        vae, images[:1], num_samples=20_000, verbose=False
    )
    assert abs(notebook["nll"](log_w) - theirs.mean) < 0.2
    log_q = notebook["log_normal"](z_mean, z_mean, z_log_var)
    expected = scipy.stats.norm(0, np.exp(0.5 * z_log_var)).logpdf(0).sum(1)
    assert_close(log_q, expected, rtol=1e-4)
    active = vae_keras.active_units(vae, images)
    assert notebook["active_units"](vae, images) == active

    real, generated = np.random.default_rng(SEED).normal(size=(2, 60, 3))
    generated[:, 0] = 2 * generated[:, 0] + 1
    for name in ("frechet_distance", "precision_recall"):
        theirs = getattr(sample_quality, name)(real, generated)
        assert_close(notebook[name](real, generated), tuple(np.ravel(theirs)))
    mixture = GaussianMixture(10, random_state=0).fit(ten_clusters())
    assert_shuffled(notebook["from_mixture"](Identity(), mixture, 1000))


def compare_article(notebook, images):
    """What notebook 9 writes out agrees with the package and with SciPy."""
    encoder, decoder = networks(PACKAGE)
    nll, kl = np.array([700.0, 800.0]), np.array([1.0, 3.0])
    expected = np.mean(nll + 2 * 784 * kl) / 784
    assert_close(notebook["article_loss"](nll, kl), expected)

    x = images[:5]
    downhill, uphill = (
        model(encoder, decoder, seed=SEED).elbo_terms(x, training=False)
        for model in (vae_keras.VAE, notebook["Uphill"])
    )
    assert_close(downhill, [-term for term in uphill], rtol=1e-6)
    logits = np.asarray(decoder(np.ones((5, LATENT_DIM))))
    gaussian = notebook["GaussianVAE"](encoder, decoder)
    expected = scipy.stats.norm.logpdf(x, scipy.special.expit(logits))
    nll = gaussian.negative_log_likelihood(x, logits)
    assert_close(nll, -expected.sum(axis=(1, 2, 3)), rtol=1e-5)

    article = notebook["ArticleVAE"](encoder, decoder, seed=SEED)
    theirs = np.mean(sum(article.elbo_terms(x, training=False)))
    assert_close(theirs, notebook["article_loss"](*downhill), rtol=1e-5)
    p = scipy.special.expit(logits.astype("float64"))
    expected = -x * np.log(p) - (1 - x) * np.log1p(-p)
    assert_close(notebook["clamped_cross_entropy"](p, x), expected)
    assert notebook["clamped_cross_entropy"](np.ones(1), 0) == 100
    made, used = notebook["made_and_used"](
        "import a.b as c\nfor d, (e, _) in c:\n    f = lambda g: g + h(d)"
    )
    assert {"c", "d", "e", "f", "g", "len"} <= made
    assert set(used) - made == {"h"}
    values = np.array([1.0, 2.0, 6.0])
    expected = 3, scipy.stats.sem(values)
    assert_close(notebook["mean_and_error"](values), expected)


def compare_limitations(notebook, images):
    """What notebook 10 writes out agrees with the package and with SciPy."""
    _, decoder = networks(PACKAGE)
    x = images[:5]
    discriminator = vae_keras.mlp_encoder(IMAGE_SHAPE, 1, HIDDEN_UNITS)
    gan = vae_keras.baselines.GAN(decoder, discriminator)
    z = np.random.default_rng(0).normal(size=(5, LATENT_DIM))
    gan.validation_sampling = lambda inputs: z.astype("float32")
    ours = [loss[:, 0] for loss in notebook["gan_losses"](gan, x, z)]
    assert_close(ours, gan.adversarial_losses(x, training=False), rtol=1e-4)

    z_mean, z_log_var = np.random.default_rng(1).normal(size=(2, 7, LATENT_DIM))
    densities = [
        scipy.stats.multivariate_normal(mean, np.diag(np.exp(log_var))).pdf(z)
        for mean, log_var in zip(z_mean, z_log_var, strict=True)
    ]
    log_aggregate = notebook["log_aggregate"](z, z_mean, z_log_var)
    assert_close(log_aggregate, np.log(np.mean(densities, axis=0)))
    log_prior = scipy.stats.norm.logpdf(z).sum(axis=1)
    assert_close(notebook["log_prior"](z), log_prior)
    wave = np.cos(2 * np.pi * 5 * np.arange(28) / 28)
    spectrum = notebook["power_spectrum"](np.tile(wave, (2, 28, 1))[..., None])
    assert spectrum.shape == (14,)
    assert spectrum.argmax() == 5 - 1
    assert_shuffled(notebook["from_mixture"](Identity(), ten_clusters(), 1000))
    mean, error = notebook["mean_and_error"](z[:, 0])
    assert_close((mean, error), (z[:, 0].mean(), scipy.stats.sem(z[:, 0])))
    # A reconstruction loss of 80 nats and a KL of 20, with β = 4.
    row = {"beta": 4, "elbo": 100, "kl": 20}
    assert notebook["objective"](row) == 80 + 4 * 20


# === The tests ===

COMPARISONS = {
    2: compare_models,
    5: compare_networks,
    6: compare_measures,
    7: compare_spatial,
    8: compare_discrete,
    9: compare_article,
    10: compare_limitations,
}


@pytest.mark.parametrize("number", COMPARISONS)
def test_notebook_and_package_agree(images, number):
    COMPARISONS[number](definitions(number), images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (2, "0.5 * ops.sum(", "ops.sum("),
        (2, "ops.exp(0.5 * z_log_var)", "ops.exp(z_log_var)"),
        (2, "nll + self.beta * kl", "nll + kl"),
        (2, "activation='relu'", "activation='tanh'"),
        (5, "kernel_initializer='zeros'", "kernel_initializer='ones'"),
        (5, "keras.layers.Add()", "keras.layers.Maximum()"),
        (5, "activation='silu'", "activation='relu'"),
        (5, "padding='same', activation='relu'", "padding='same'"),
        (8, "squares - 2 * products", "squares - products"),
        (8, "vectors - features", "features - vectors"),
        (8, "self.commitment * drift", "drift"),
        (8, "(1, 1), (0, 0)", "(2, 0), (0, 0)"),
        (6, "+ log_prior", "- log_prior"),
        (6, "np.log(2 * np.pi) +", ""),
        (6, "> 0.01", "> 10"),
        (6, "- 2 * roots.sum()", "- roots.sum()"),
        (6, "[:, num_neighbors]", "[:, num_neighbors - 1]"),
        (6, "shuffle(z, random_state=SEED)", "z"),
        (7, "* column_mean", "+ column_mean"),
        (7, "+ column_log_var", "- column_log_var"),
        (7, "activation='silu'", "activation='relu'"),
        (
            7,
            "3, padding='same')(z)",
            "3, padding='same', activation='relu')(z)",
        ),
        (7, "Reshape((7, NUM_MAPS))", "Reshape((NUM_MAPS, 7))"),
        (9, "ops.sum(kl)", "ops.mean(kl)"),
        (9, "return (-nll, -kl)", "return (-nll, kl)"),
        (9, "0.5 * error ** 2", "error ** 2"),
        (9, "batch_size * kl", "kl"),
        (9, "np.maximum(log_q, -100)", "log_q"),
        (9, "made.add(node.arg)", "pass"),
        (9, "std(ddof=1)", "std()"),
        (10, "ops.softplus(-fake)", "ops.softplus(fake)"),
        (10, "np.exp(z_log_var)", "np.exp(0.5 * z_log_var)"),
        (10, "np.log(len(z_mean))", "np.log(len(z))"),
        (10, "range(1, 15)", "range(2, 16)"),
        (10, "shuffle(z, random_state=SEED)", "z"),
        (10, "std(ddof=1)", "std()"),
        (10, "(row['beta'] - 1)", "row['beta']"),
    ],
)
def test_parity_notices_a_broken_definition(images, number, old, new):
    broken = definitions(number, old, new)
    with pytest.raises((AssertionError, ValueError)):
        COMPARISONS[number](broken, images)
