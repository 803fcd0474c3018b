"""What the notebooks write out is what the package has."""

import ast
import pathlib

import keras
import nbformat
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vae_keras

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS = (28, 28, 1), 2, (32, 32)
SEED = 3


def definitions(number, old="", new=""):
    """Executes a notebook's imports, constants, functions and classes.

    Replaces `old` by `new` in them first.
    """
    (path,) = NOTEBOOKS.glob(f"{number:02}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            nodes = [n for n in ast.parse(cell.source).body if defines(n)]
            source = ast.unparse(nodes)
            exec(source.replace(old, new) if old else source, names)
    return names


def defines(node):
    """Whether a statement defines something and computes nothing."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]).strip("()").split(",")[0].isupper()
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds)


def networks(module):
    """An encoder and a decoder of `module`, always with the same weights."""
    keras.utils.set_random_seed(SEED)
    return (
        module["mlp_encoder"](IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS),
        module["mlp_decoder"](LATENT_DIM, IMAGE_SHAPE, HIDDEN_UNITS),
    )


def trained(module, images):
    """Weights and logs after two epochs of plain gradient descent."""
    vae = module["VAE"](*networks(module), beta=2.0, seed=SEED)
    vae.compile(keras.optimizers.SGD(1e-4), jit_compile=False)
    dataset = vae_keras.image_dataset(images, 50, seed=SEED)
    history = vae.fit(dataset, epochs=2, shuffle=False, verbose=0).history
    return vae, history


def compare(notebook, images):
    package = vars(vae_keras)
    vae, logs = trained(notebook, images)
    expected_vae, expected_logs = trained(package, images)
    for name, values in expected_logs.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5)
    for ours, theirs in zip(
        vae.trainable_weights, expected_vae.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    logits = np.asarray(expected_vae.decoder(np.ones((5, LATENT_DIM))))
    np.testing.assert_allclose(
        notebook["bernoulli_nll"](images[:5], logits),
        vae_keras.bernoulli_nll(images[:5], logits),
        rtol=1e-6,
    )
    z_mean, z_log_var = expected_vae.encode(images[:5])
    np.testing.assert_allclose(
        notebook["gaussian_kl"](z_mean, z_log_var),
        vae_keras.gaussian_kl(z_mean, z_log_var),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        notebook["Sampling"](seed=1)((z_mean, z_log_var)),
        vae_keras.Sampling(seed=1)((z_mean, z_log_var)),
        rtol=1e-6,
    )


@pytest.fixture
def images(mnist_test):
    return mnist_test[0][:200]


def test_notebook_and_package_train_the_same_model(images):
    compare(definitions(2), images)


@pytest.mark.parametrize(
    "change",
    [
        ("0.5 * ops.sum(", "ops.sum("),
        ("ops.exp(0.5 * z_log_var)", "ops.exp(z_log_var)"),
        ("nll + self.beta * kl", "nll + kl"),
        ("activation='relu'", "activation='tanh'"),
    ],
)
def test_parity_notices_a_broken_definition(images, change):
    with pytest.raises(AssertionError):
        compare(definitions(2, *change), images)


def compare_networks(notebook, images):
    """Builds each network of notebook 5 twice; weights and outputs agree."""
    package = {**vars(vae_keras), **vars(vae_keras.judge)}
    z = np.random.default_rng(0).normal(size=(9, LATENT_DIM))
    for name, arguments, x in (
        ("conv_encoder", (IMAGE_SHAPE, LATENT_DIM), images[:9]),
        ("conv_decoder", (LATENT_DIM, IMAGE_SHAPE), z),
        ("build_judge", (), images[:9]),
        ("build_judge", ((4, 8, 16),), images[:9]),
    ):
        ours, theirs = [], []
        for module, outputs in ((package, ours), (notebook, theirs)):
            keras.utils.set_random_seed(SEED)
            network = module[name](*arguments)
            weights = network.get_weights()
            outputs += weights
            # Zeros would hide what the residual blocks do.
            network.set_weights(
                [
                    np.cos(np.arange(w.size).reshape(w.shape)) / len(w)
                    for w in weights
                ]
            )
            outputs += keras.tree.flatten(network(x))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_notebook_and_package_build_the_same_networks(images):
    compare_networks(definitions(5), images)


@pytest.mark.parametrize(
    "change",
    [
        ("kernel_initializer='zeros'", "kernel_initializer='ones'"),
        ("keras.layers.Add()", "keras.layers.Maximum()"),
        ("activation='silu'", "activation='relu'"),
        (
            "Conv2D(channels, 3, padding='same', activation='relu'",
            "Conv2D(channels, 3, padding='same', activation='silu'",
        ),
    ],
)
def test_parity_notices_a_broken_network(images, change):
    with pytest.raises(AssertionError):
        compare_networks(definitions(5, *change), images)


def compare_measures(notebook, images):
    """Notebook 6 measures one small model, and the package does."""
    keras.utils.set_random_seed(SEED)
    vae = vae_keras.VAE(*networks(vars(vae_keras)))
    z_mean, z_log_var = vae.encode(images)
    head = vae.encoder.get_layer("z_mean")
    head.set_weights([weight * 3 for weight in head.get_weights()])

    log_w = notebook["log_weights"](vae, images[:1], 20_000)
    ours = notebook["nll"](log_w)
    theirs = vae_keras.importance_weighted_nll(
        vae, images[:1], 20_000, verbose=False
    )
    assert abs(ours - theirs.mean) < 0.2
    log_q = notebook["log_normal"](z_mean, z_mean, z_log_var)
    expected = scipy.stats.norm(0, np.exp(0.5 * z_log_var)).logpdf(0).sum(1)
    np.testing.assert_allclose(log_q, expected, rtol=1e-4)

    scaled = vae_keras.active_units(vae, images)
    assert notebook["active_units"](vae, images) == scaled

    real, generated = np.random.default_rng(SEED).normal(size=(2, 60, 3))
    generated[:, 0] = 2 * generated[:, 0] + 1
    np.testing.assert_allclose(
        notebook["frechet_distance"](real, generated),
        vae_keras.frechet_distance(real, generated),
    )
    np.testing.assert_allclose(
        notebook["precision_recall"](real, generated),
        vae_keras.precision_recall(real, generated),
    )


def test_notebook_and_package_measure_the_same(images):
    compare_measures(definitions(6), images)


@pytest.mark.parametrize(
    "change",
    [
        ("+ log_prior", "- log_prior"),
        ("np.log(2 * np.pi) +", ""),
        ("> 0.01", "> 10"),
        ("- 2 * roots.sum()", "- roots.sum()"),
        ("[:, num_neighbors]", "[:, num_neighbors - 1]"),
    ],
)
def test_parity_notices_a_broken_measure(images, change):
    with pytest.raises(AssertionError):
        compare_measures(definitions(6, *change), images)


def compare_spatial(notebook, images):
    """Notebook 7 builds what the package's spatial VAE is made of."""
    keras.utils.set_random_seed(SEED)
    statistics = [
        np.random.default_rng(SEED).normal(size=(2, side, 3))
        for side in (4, 4, 5, 5)
    ]
    for a, b in zip(
        notebook["RowColumnGaussian"]()(statistics),
        vae_keras.RowColumnGaussian()(statistics),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    z = np.random.default_rng(0).normal(size=(9, 7, 7, 2))
    for ours, theirs, x in (
        (
            notebook["spatial_encoder"](factored),
            vae_keras.spatial_encoder(IMAGE_SHAPE, 2, factored=factored),
            images[:9],
        )
        for factored in (True, False)
    ):
        compare_outputs(ours, theirs, x)
    compare_outputs(
        notebook["spatial_decoder"](),
        vae_keras.spatial_decoder(2, IMAGE_SHAPE),
        z,
    )


def compare_outputs(ours, theirs, x):
    """Whether two networks agree, with weights that are not zero anywhere."""
    shapes = [[w.shape for w in n.get_weights()] for n in (ours, theirs)]
    assert shapes[0] == shapes[1]
    rng = np.random.default_rng(SEED)
    weights = [
        rng.normal(0, 2 / np.prod(w.shape[:-1]) ** 0.5, size=w.shape)
        for w in ours.get_weights()
    ]
    for network in (ours, theirs):
        network.set_weights(weights)
    for a, b in zip(
        *(keras.tree.flatten(n(x)) for n in (ours, theirs)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_notebook_and_package_build_the_same_spatial_vae(images):
    compare_spatial(definitions(7), images)


@pytest.mark.parametrize(
    "change",
    [
        ("* column_mean", "+ column_mean"),
        ("+ column_log_var", "- column_log_var"),
        ("activation='silu'", "activation='relu'"),
        (
            "Conv2D(32, 3, padding='same')",
            "Conv2D(32, 3, padding='same', activation='relu')",
        ),
        ("Reshape((7, NUM_MAPS))", "Reshape((NUM_MAPS, 7))"),
    ],
)
def test_parity_notices_a_broken_spatial_vae(images, change):
    with pytest.raises((AssertionError, ValueError)):
        compare_spatial(definitions(7, *change), images)


def compare_limitations(notebook, images):
    """What notebook 8 writes out agrees with the package and with SciPy."""
    keras.utils.set_random_seed(SEED)
    encoder, decoder = networks(vars(vae_keras))
    nll, kl = np.array([700.0, 800.0]), np.array([1.0, 3.0])
    beta = 2 * 784
    np.testing.assert_allclose(
        notebook["article_loss"](nll, kl), np.mean(nll + beta * kl) / 784
    )

    x = images[:5]
    vaes = [
        model(encoder, decoder, seed=SEED)
        for model in (vae_keras.VAE, notebook["Uphill"])
    ]
    for ours, theirs in zip(
        *(vae.elbo_terms(x, training=False) for vae in vaes), strict=True
    ):
        np.testing.assert_allclose(ours, -theirs, rtol=1e-6)
    logits = np.asarray(decoder(np.ones((5, LATENT_DIM))))
    gaussian = notebook["GaussianVAE"](encoder, decoder)
    expected = scipy.stats.norm.logpdf(x, scipy.special.expit(logits))
    np.testing.assert_allclose(
        gaussian.negative_log_likelihood(x, logits),
        -expected.sum(axis=(1, 2, 3)),
        rtol=1e-5,
    )

    gan = vae_keras.GAN(
        decoder, vae_keras.mlp_encoder(IMAGE_SHAPE, 1, HIDDEN_UNITS)
    )
    z = np.random.default_rng(0).normal(size=(5, LATENT_DIM))
    gan.validation_sampling = lambda inputs: z.astype("float32")
    for ours, theirs in zip(
        notebook["gan_losses"](gan, x, z),
        gan.adversarial_losses(x, training=False),
        strict=True,
    ):
        np.testing.assert_allclose(ours[:, 0], theirs, rtol=1e-4)

    z_mean, z_log_var = np.random.default_rng(1).normal(size=(2, 7, LATENT_DIM))
    densities = [
        scipy.stats.multivariate_normal(mean, np.diag(np.exp(log_var))).pdf(z)
        for mean, log_var in zip(z_mean, z_log_var, strict=True)
    ]
    np.testing.assert_allclose(
        notebook["log_aggregate"](z, z_mean, z_log_var),
        np.log(np.mean(densities, axis=0)),
    )
    np.testing.assert_allclose(
        notebook["log_prior"](z),
        scipy.stats.norm.logpdf(z).sum(axis=1),
    )
    wave = np.cos(2 * np.pi * 5 * np.arange(28) / 28)
    spectrum = notebook["power_spectrum"](np.tile(wave, (2, 28, 1))[..., None])
    assert spectrum.shape == (14,)
    assert spectrum.argmax() == 5 - 1


def test_notebook_8_agrees_with_package_and_scipy(images):
    compare_limitations(definitions(8), images)


@pytest.mark.parametrize(
    "change",
    [
        ("ops.sum(kl)", "ops.mean(kl)"),
        ("return (-nll, -kl)", "return (-nll, kl)"),
        ("0.5 * error ** 2", "error ** 2"),
        ("ops.softplus(-fake)", "ops.softplus(fake)"),
        ("np.exp(z_log_var)", "np.exp(0.5 * z_log_var)"),
        ("np.log(len(z_mean))", "np.log(len(z))"),
        ("range(1, 15)", "range(2, 16)"),
    ],
)
def test_parity_notices_a_broken_notebook_8(images, change):
    with pytest.raises(AssertionError):
        compare_limitations(definitions(8, *change), images)
