"""Every bad input is told what was expected, what came and what to do.

Nothing is trained, and nothing is written, before that is said.
"""

import inspect
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from vae_keras import (
    callbacks,
    code_prior,
    digits,
    discrete,
    evaluation,
    likelihoods,
    sample_quality,
    spatial,
)

SHAPE = (28, 28, 1)
PIXELS = np.full((8, *SHAPE), 0.5, "float32")
FEATURES = np.random.default_rng(0).normal(size=(100, 8))


def vae_of(latent_dim=2, **kwargs):
    return vae_keras.VAE(
        vae_keras.mlp_encoder(SHAPE, latent_dim, (8,)),
        vae_keras.mlp_decoder(latent_dim, SHAPE, (8,)),
        **kwargs,
    )


@pytest.fixture(scope="module")
def vae():
    return vae_of(seed=0)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def assert_explained(vae, act, received, remedy):
    """Whether `act` says all three parts, and leaves the weights alone."""
    before = [v.numpy().copy() for v in vae.variables]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        act(vae)
    message = str(caught.value)
    parts = re.fullmatch(r"(Expected .+?) (Received: .+)", message, re.S)
    assert parts, message
    assert re.search(rf"Received: .*{received}.*{remedy}", parts[2], re.S)
    assert message.endswith((".", "…", "`."))
    assert len(message) <= 400
    for variable, value in zip(vae.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


# === Sizes and numbers ===

IMAGE_AND_LATENT = {"image_shape": SHAPE, "latent_dim": 2}
IMAGE_AND_MAPS = {"image_shape": SHAPE, "num_maps": 2}
TABLES = {"real_features": FEATURES, "features": FEATURES}
DENSE = "image_shape latent_dim hidden_units"
MAPS = "image_shape filters depth num_blocks"
# A function, its other arguments, and those that must be positive integers.
NUMBERS = [
    (vae_keras.mlp_encoder, IMAGE_AND_LATENT, DENSE),
    (vae_keras.mlp_decoder, IMAGE_AND_LATENT, DENSE),
    (vae_keras.conv_encoder, IMAGE_AND_LATENT, f"{MAPS} latent_dim"),
    (vae_keras.conv_decoder, IMAGE_AND_LATENT, f"{MAPS} hidden_units"),
    (spatial.spatial_encoder, IMAGE_AND_MAPS, f"{MAPS} num_maps hidden_units"),
    (spatial.spatial_decoder, IMAGE_AND_MAPS, f"{MAPS} num_maps"),
    (discrete.discrete_encoder, {"image_shape": SHAPE}, f"{MAPS} dim"),
    (discrete.discrete_decoder, {"image_shape": SHAPE}, f"{MAPS} dim"),
    (discrete.Quantizer, {}, "num_codes"),
    (
        code_prior.CodePrior,
        {"map_shape": (4, 4), "num_codes": 8},
        "num_codes num_classes filters num_layers",
    ),
    (digits.build_classifier, {}, "filters"),
    (vae_keras.image_dataset, {"images": PIXELS}, "batch_size"),
    (callbacks.KLWarmUp, {}, "num_epochs"),
    (callbacks.SampleGrid, {"images": PIXELS, "folder": "grid"}, "every"),
    (
        evaluation.importance_weighted_nll,
        {"vae": None, "images": PIXELS},
        "num_samples batch_size",
    ),
    (
        likelihoods.bits_per_dimension,
        {"nll": 1.0, "image_shape": SHAPE},
        "image_shape levels",
    ),
    (sample_quality.precision_recall, TABLES, "num_neighbors"),
    (sample_quality.density_coverage, TABLES, "num_neighbors"),
    (vae_keras.plot_images, {"images": PIXELS}, "columns"),
    (vae_keras.plot_latent_grid, {"vae": None}, "columns"),
    (
        vae_keras.plot_interpolation,
        {"vae": None, "start": PIXELS, "end": PIXELS},
        "steps",
    ),
]


@pytest.mark.parametrize(
    ("function", "kwargs", "argument"),
    [
        pytest.param(function, kwargs, name, id=f"{function.__name__}-{name}")
        for function, kwargs, names in NUMBERS
        for name in names.split()
    ],
)
def test_only_positive_integers_are_sizes(vae, function, kwargs, argument):
    if "vae" in kwargs:
        kwargs = {**kwargs, "vae": vae}
    parameter = inspect.signature(function).parameters[argument]
    is_many = argument == "image_shape" or isinstance(parameter.default, tuple)
    values = [0, -1, 2.5, True, "2"]
    values = [(28, x, 1) for x in values] if is_many else [*values, (2, 2)]
    for value in values:
        received = re.escape(f"{argument}={value!r}")

        def act(_, value=value):
            function(**{**kwargs, argument: value})

        assert_explained(vae, act, received, "Use 1, 2, 3")


# === Images ===


def fit(vae, x, **kwargs):
    vae.compile("adam")
    vae.fit(x, verbose=0, **kwargs)


def fit_by_position(vae, *arguments):
    vae.compile("adam")
    vae.fit(*arguments)


def evaluate(vae, *arguments):
    vae.compile("adam")
    vae.evaluate(*arguments)


def dataset(images):
    return tf.data.Dataset.from_tensor_slices(images).batch(4)


def autoencoder():
    return vae_keras.baselines.Autoencoder(ENCODER, DECODER)


def watched(callback, x, *arguments):
    return [getattr(callbacks, callback)(x, *arguments)]


# What takes images of the model's shape.
DOORS = {
    "fit": fit,
    "fit, a tuple": lambda vae, x: fit(vae, (x,)),
    "fit, a pair": lambda vae, x: fit(vae, (x, np.zeros(8))),
    "fit, labels": lambda vae, x: fit(vae, x, y=np.zeros(8)),
    "fit, a dataset": lambda vae, x: fit(vae, dataset(x)),
    "fit, a generator": lambda vae, x: fit(vae, iter([x]), steps_per_epoch=1),
    "fit, by position": lambda vae, x: fit_by_position(vae, x, None, 4),
    "validation": lambda vae, x: fit(vae, PIXELS, validation_data=(x,)),
    "validation, by position": lambda vae, x: fit_by_position(
        vae, PIXELS, None, 4, 1, 0, None, 0.0, (x,)
    ),
    "evaluate": evaluate,
    "evaluate, by position": lambda vae, x: evaluate(vae, x, None, 4, 0),
    "predict": lambda vae, x: vae.predict(x, verbose=0),
    "encode": lambda vae, x: vae.encode(x),
    "codes": lambda vae, x: autoencoder().encode(x),
    "the likelihood": lambda vae, x: vae_keras.importance_weighted_nll(
        vae, x, num_samples=5
    ),
    "active units": vae_keras.active_units,
    "the KL of dimensions": vae_keras.kl_per_dimension,
    "CollapseMonitor": lambda vae, x: fit(
        vae, PIXELS, callbacks=watched("CollapseMonitor", x)
    ),
    "SampleGrid": lambda vae, x: fit(
        vae, PIXELS, callbacks=watched("SampleGrid", x, "grid")
    ),
    "callbacks, by position": lambda vae, x: fit_by_position(
        vae, PIXELS, None, 4, 1, 0, watched("SampleGrid", x, "grid")
    ),
    "features": lambda vae, x: digits.features(x),
    "the histogram": lambda vae, x: digits.histogram(x),
    "sample quality": lambda vae, x: digits.sample_quality(PIXELS, x),
    "real samples": lambda vae, x: digits.sample_quality(x, PIXELS),
}


@pytest.mark.parametrize("door", DOORS)
def test_images_are_looked_at_through_every_door(vae, door):
    act = DOORS[door]
    for change, received, remedy in [
        (lambda x: 255 * x, "values from 127.5 to 127.5", "divide by 255"),
        (lambda x: x[:, :20], r"shape \(\d, 20, 28, 1\)", "Resize the images"),
        (lambda x: x[..., 0], r"shape \(\d, 28, 28\)", "Add the axis of"),
    ]:
        assert_explained(
            vae, lambda vae, f=change: act(vae, f(PIXELS)), received, remedy
        )


# === All others ===


class Unbuilt(keras.Model):
    def call(self, inputs):
        return inputs


ENCODER = vae_keras.mlp_encoder(SHAPE, 2, (8,))
DECODER = vae_keras.mlp_decoder(2, SHAPE, (8,))


def dataset_of(images=PIXELS, labels=None, **kwargs):
    return vae_keras.image_dataset(images, 4, labels, **kwargs)


def ending_in(activation, shape=SHAPE):
    """A network of one dense layer with this activation, and a reshape."""
    if activation in ("ReLU", "Softmax"):
        layers = [getattr(keras.layers, activation)()]
    else:
        layers = [keras.layers.Activation(activation)]
    dense = keras.layers.Dense(math.prod(shape))
    layers = [dense, *layers, keras.layers.Reshape(shape)]
    last = keras.layers.Activation("linear", dtype="float32")
    return keras.Sequential([keras.Input((2,)), *layers, last])


def encoder_with(z_mean=None, z_log_var=None):
    x = keras.Input(SHAPE)
    h = keras.layers.Flatten()(x)
    heads = {"z_mean": z_mean, "z_log_var": z_log_var}
    outputs = [
        keras.layers.Dense(2, activation=activation, name=name)(h)
        for name, activation in heads.items()
    ]
    return keras.Model(x, outputs)


def with_a_sample():
    """As the encoder of keras.io's example."""
    z = vae_keras.Sampling()(ENCODER.outputs)
    return keras.Model(ENCODER.inputs, [*ENCODER.outputs, z])


def gan_of(generator, activation):
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation=activation),
        ]
    )
    return vae_keras.baselines.GAN(generator, discriminator)


def vae_with(encoder=ENCODER, decoder=DECODER, **kwargs):
    return vae_keras.VAE(encoder, decoder, **kwargs)


def estimate(vae, seed):
    return vae_keras.importance_weighted_nll(
        vae, PIXELS, num_samples=5, seed=seed
    )


# The remedy; what was received; what was done with a VAE.
OTHERS = {
    # === The pipeline ===
    "divide by 255": {
        "values from 127.5": lambda vae: dataset_of(PIXELS * 255),
    },
    "Check the split": {
        "an empty array": lambda vae: dataset_of(PIXELS[:0]),
    },
    "the same split": {
        r"8 images and labels of shape \(7,\)": lambda vae: dataset_of(
            labels=np.zeros(7)
        ),
        "8 images and 3 labels": lambda vae: vae_keras.plot_latent_space(
            vae, PIXELS, np.zeros(3)
        ),
    },
    "Leave it out": {
        "binarize='static'": lambda vae: dataset_of(binarize="static"),
        "binarize=True": lambda vae: dataset_of(binarize=True),
        "beta=-1.0": lambda vae: vae_of(beta=-1.0),
        "beta=nan": lambda vae: vae_of(beta=math.nan),
        "beta=inf": lambda vae: vae_of(beta=math.inf),
        "beta='1'": lambda vae: vae_of(beta="1"),
        "beta=True": lambda vae: vae_of(beta=True),
        "beta=None": lambda vae: vae_of(beta=None),
    },
    "Use 0, 1, 2": {
        "seed='zero'": lambda vae: dataset_of(seed="zero"),
        "seed='one'": lambda vae: vae_of(seed="one"),
        "seed=1.5": lambda vae: vae.generate(2, seed=1.5),
        "seed=None": lambda vae: estimate(vae, None),
        "seed=0.5": lambda vae: estimate(vae, 0.5),
        "seed=True": lambda vae: estimate(vae, True),
    },
    "how many epochs": {
        "initial_epoch=-1": lambda vae: dataset_of(initial_epoch=-1),
    },
    # === Models ===
    "the same `latent_dim`": {
        r"a decoder that takes shape \(3,\)": lambda vae: vae_with(
            decoder=vae_keras.mlp_decoder(3, SHAPE)
        ),
    },
    "the same `image_shape`": {
        r"\(28, 27, 1\)": lambda vae: vae_with(
            decoder=vae_keras.mlp_decoder(2, (28, 27, 1))
        ),
        r"\(28, 28, 2\)": lambda vae: vae_with(
            decoder=vae_keras.mlp_decoder(2, (28, 28, 2)),
            likelihood="gaussian",
        ),
    },
    "Give it none": {
        **{
            f"activation '{name}'": lambda vae, name=name: vae_with(
                decoder=ending_in(name)
            )
            for name in [
                "sigmoid",
                "tanh",
                "relu",
                "softplus",
                "ReLU",
                "Softmax",
            ]
        },
        "'sigmoid'": lambda vae: vae_with(
            decoder=ending_in("sigmoid"), likelihood="continuous_bernoulli"
        ),
        "'z_log_var' with the activation 'relu'": lambda vae: vae_with(
            encoder_with(z_log_var="relu")
        ),
        "'z_mean' with the activation 'softplus'": lambda vae: vae_with(
            encoder_with(z_mean="softplus")
        ),
        "'activation.*' with the activation 'sigmoid'": (
            lambda vae: vae_keras.baselines.Autoencoder(
                ENCODER, ending_in("sigmoid")
            )
        ),
        "'tanh'": lambda vae: gan_of(ending_in("tanh"), None),
        "'dense.*' with the activation 'sigmoid'": lambda vae: gan_of(
            DECODER, "sigmoid"
        ),
    },
    "those of `encode`": {
        r"shape \(3, 5\)": lambda vae: vae.decode(np.zeros((3, 5))),
        r"shape \(2,\)": lambda vae: vae.decode(np.zeros(2)),
    },
    r"encoder.outputs\[:2\]": {
        "tensors of shapes": lambda vae: vae_with(with_a_sample()),
    },
    "one output layer for each": {
        "tensors of shapes": lambda vae: vae_with(DECODER, ENCODER),
    },
    "Call it once": {
        "which is not built": lambda vae: vae_with(encoder=Unbuilt()),
    },
    "latent_dim=1": {
        r"\(2,\)": lambda vae: vae_keras.baselines.GAN(DECODER, ENCODER),
    },
    "Remove the argument": {
        "loss='mse'": lambda vae: vae.compile("adam", loss="mse"),
        r"metrics=\['mse'\]": lambda vae: vae.compile(metrics=["mse"]),
    },
    "Use 1, 2, 3": {
        "num_images=-1": lambda vae: vae.generate(-1),
        "num_images=2.5": lambda vae: vae.generate(2.5),
        "num_images=None": lambda vae: vae.generate(),
    },
    "Create it first": {
        "nowhere": lambda vae: vae.save("nowhere/vae.keras"),
        "no[w]here": lambda vae: vae.save_weights("nowhere/vae.weights.h5"),
    },
    # === Evaluation ===
    "Pass some hundreds": {
        "1": lambda vae: vae_keras.active_units(vae, PIXELS[:1]),
        r"1\.": lambda vae: fit(
            vae, PIXELS, callbacks=watched("CollapseMonitor", PIXELS[:1])
        ),
    },
    # === Figures ===
    r"image\[np.newaxis\]": {
        rf"shape {re.escape(str(x.shape))}": (
            lambda vae, x=x: vae_keras.plot_images(x)
        )
        for x in (
            PIXELS[0],
            PIXELS[..., 0],
            np.repeat(PIXELS, 2, axis=-1),
            PIXELS[:0],
        )
    },
    "Use ''": {
        "8 images and 1 titles": lambda vae: vae_keras.plot_images(
            PIXELS, titles=["one"]
        ),
    },
    "draw a histogram": {
        "8 and 1": lambda vae: vae_keras.plot_latent_space(vae_of(1), PIXELS),
    },
    "`plot_interpolation`": {
        r"\(3,\)": lambda vae: vae_keras.plot_latent_grid(vae_of(3)),
    },
    "Pass pairs": {
        r"\(8, 28, 28, 1\) and \(3, 28, 28, 1\)": (
            lambda vae: vae_keras.plot_interpolation(vae, PIXELS, PIXELS[:3])
        ),
    },
    "Pass what `fit` returned": {
        "an empty one": lambda vae: vae_keras.plot_history({}),
        "an empty": lambda vae: vae_keras.plot_history({"val_loss": [1.0]}),
    },
}


def test_networks_that_look_odd_and_are_right():
    """The means of Gaussian pixels may be squashed, and codes of any sign."""
    vae_with(decoder=ending_in("sigmoid"), likelihood="gaussian")
    vae_with(encoder_with(z_mean="tanh", z_log_var="tanh"))
    vae_keras.baselines.Autoencoder(encoder_with("relu", "relu"), DECODER)
    gan_of(DECODER, None)


def test_an_encoder_without_its_sample_is_taken():
    encoder = with_a_sample()
    vae_with(keras.Model(encoder.inputs, encoder.outputs[:2]))


def test_networks_that_do_not_tell_are_tried():
    z = keras.Input((2,))
    logits = keras.layers.Reshape(SHAPE)(keras.layers.Dense(784)(z))
    vae_with(decoder=keras.Model(z, keras.ops.multiply(logits, 2.0)))
    squashed = keras.Model(z, keras.ops.sigmoid(logits))
    with pytest.warns(UserWarning, match=r"logits.*below 0.*sigmoid"):
        vae_with(decoder=squashed)


@pytest.mark.parametrize(
    ("remedy", "received"),
    [
        (remedy, received)
        for remedy, acts in OTHERS.items()
        for received in acts
    ],
)
def test_bad_input_is_explained(vae, remedy, received):
    assert_explained(vae, OTHERS[remedy][received], received, remedy)
