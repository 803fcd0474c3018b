"""Builds the latent page: one HTML file that needs no network.

    python docs/latent/build.py

Three models of notebook 3's kind, with β = 1, 8 and 64, go into it. Those
that `artifacts/` lacks are trained first, at the notebook's settings.

Their 4,000,000 weights have to fit into a megabyte, so each is stored as an
integer times a step. A weight that matters little gets a long step: the loss
changes by about ½ F (Δw)², where F is the mean square of the gradient with
respect to the weight. For a dense layer F is about E[h²] E[g²], with h the
input and g the gradient with respect to the output. So a step is the product
of a number for the row and one for the column, both powers of two, and of
`PRECISION`, which sets how many nats all this costs. Rows that are still to be
rounded make up for the errors of those that are. The integers are small, most
of them zero, and are packed by deflate. What it costs is measured on the test
digits, printed, and shown on the page.
"""

import argparse
import base64
import html
import importlib.metadata
import json
import math
import pathlib
import platform
import zlib
from typing import NamedTuple

import keras
import numpy as np

import vae_keras
from vae_keras._saving import moved_into_place

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

# Notebook 3's settings.
SEED = 0
BATCH_SIZE = 64
EPOCHS = 10
LEARNING_RATE = 1e-3
LATENT_DIM = 2
HIDDEN_UNITS = (512, 512)
IMAGE_SHAPE = (28, 28, 1)

BETAS = (1, 8, 64)
# The step of a weight whose F is 1, over √β: the greater β, the less the
# decoder has to tell apart, and the more of the loss is not its own.
PRECISION = 2.8e-3
# How freely rows make up for others: added to the mean squares of inputs,
# as a share of their mean.
DAMPING = 0.01
NUM_CALIBRATION = 10_000
NUM_DIGITS = 2000
NUM_IMAGES = 100
# The noise of one draw of z for each image, wherever images are measured.
NOISE = np.random.default_rng(SEED).standard_normal((20_000, 2), "float32")
# Means are stored as integers of this unit.
MEAN_UNIT = 1 / 256
MAX_BYTES = 1_500_000


class Layer(NamedTuple):
    """A dense layer: `kernel` (inputs, outputs) and `bias`, float32."""

    kernel: np.ndarray
    bias: np.ndarray


class StoredLayer(NamedTuple):
    """A dense layer as the page has it.

    Attributes:
        integers: int16 `(inputs, outputs)`.
        rows: int8 `(inputs,)`: the step is 2 to the power of the row's
            number plus the column's.
        columns: int8 `(outputs,)`.
        bias: float32 `(outputs,)`.
    """

    integers: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    bias: np.ndarray

    def layer(self) -> Layer:
        """Returns the layer that the page computes with, exactly."""
        exponents = np.add.outer(self.rows, self.columns, dtype="int32")
        kernel = np.ldexp(self.integers.astype("float32"), exponents)
        return Layer(kernel, self.bias)


class Networks(NamedTuple):
    """The layers of an encoder and a decoder, with ReLU between them.

    The encoder's last layer gives means and log-variances side by side.
    """

    encoder: list
    decoder: list


# === Models ===


def load_or_train(beta: float, folder: pathlib.Path):
    """Returns the VAE of this β: from the folder, or trained and saved."""
    path = folder / ("vae.keras" if beta == 1 else f"vae_beta_{beta:g}.keras")
    if path.exists():
        print(f"β = {beta:g}: {path.name} is there", flush=True)
        return checked(keras.saving.load_model(path), path.name)
    print(f"β = {beta:g}: training {path.name}, {EPOCHS} epochs", flush=True)
    images, _ = vae_keras.load_mnist("train[:55000]")
    keras.utils.set_random_seed(SEED)
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM, HIDDEN_UNITS),
        vae_keras.mlp_decoder(LATENT_DIM, IMAGE_SHAPE, HIDDEN_UNITS),
        beta=beta,
        seed=SEED,
    )
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    vae.compile(optimizer, jit_compile=True, steps_per_execution=50)
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=SEED)
    vae.fit(dataset, epochs=EPOCHS, verbose=2)
    folder.mkdir(parents=True, exist_ok=True)
    vae.save(path)
    return vae


def checked(vae, name: str):
    """Returns a VAE, if the page can show it."""
    is_fit = isinstance(vae, vae_keras.VAE)
    is_fit = is_fit and tuple(vae.image_shape) == IMAGE_SHAPE
    is_fit = is_fit and tuple(vae.latent_shape) == (LATENT_DIM,)
    if not is_fit:
        raise ValueError(
            f"Expected {name} to be a VAE of digits {IMAGE_SHAPE} with "
            f"{LATENT_DIM} latents. Received: another model. Delete the "
            "file, and it is trained anew."
        )
    return vae


def networks_of(vae) -> Networks:
    """Returns the dense layers of a VAE that is made of nothing else."""
    layers = []
    for network in (vae.encoder, vae.decoder):
        dense = [x for x in network.layers if isinstance(x, keras.layers.Dense)]
        if network.count_params() != sum(x.count_params() for x in dense):
            raise ValueError(
                f"Expected a {network.name} of dense layers. Received: "
                "layers of other kinds. The page knows dense layers only."
            )
        layers.append([Layer(*map(np.asarray, x.get_weights())) for x in dense])
    encoder, decoder = layers
    mean, log_var = encoder[-2:]
    kernel = np.concatenate([mean.kernel, log_var.kernel], axis=1)
    both = Layer(kernel, np.concatenate([mean.bias, log_var.bias]))
    return Networks([*encoder[:-2], both], decoder)


# === Arithmetic: what the page does, in NumPy ===


def activations(layers, h) -> list[np.ndarray]:
    """Returns the inputs `(n, width)` of each layer, and the last output."""
    inputs = [h]
    for i, layer in enumerate(layers):
        h = h @ layer.kernel + layer.bias
        if i < len(layers) - 1:
            h = np.maximum(h, 0)
        inputs.append(h)
    return inputs


def encode(networks: Networks, x) -> tuple[np.ndarray, np.ndarray]:
    """Returns z_mean and z_log_var, each `(n, latent_dim)`."""
    output = activations(networks.encoder, x)[-1]
    z_mean, z_log_var = np.split(output, 2, axis=1)
    return z_mean, z_log_var


def decode(networks: Networks, z) -> np.ndarray:
    """Returns logits `(n, pixels)`."""
    return activations(networks.decoder, z)[-1]


def bernoulli_nll(x, logits) -> np.ndarray:
    """Returns −log p(x|z) in nats per image `(n,)`, from logits."""
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return np.sum(softplus - x * logits, axis=1, dtype="float64")


def terms(networks: Networks, x, epsilon) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reconstruction loss and the KL, in nats per image `(n,)`.

    Args:
        networks: the layers.
        x: images in [0, 1], `(n, pixels)`.
        epsilon: the noise of one draw of z, `(n, latent_dim)`.
    """
    z_mean, z_log_var = encode(networks, x)
    logits = decode(networks, z_mean + np.exp(0.5 * z_log_var) * epsilon)
    kl = 0.5 * (z_mean**2 + np.expm1(z_log_var) - z_log_var)
    return bernoulli_nll(x, logits), kl.sum(axis=1, dtype="float64")


def integrated(networks: Networks, x) -> float:
    """Returns −log p(x) of one image `(1, pixels)`, summed over a grid of z."""
    axis = np.linspace(-7, 7, 141, dtype="float32")
    step = axis[1] - axis[0]
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, LATENT_DIM)
    log_joint = -bernoulli_nll(x, decode(networks, z))
    log_joint -= 0.5 * np.sum(z**2, axis=1) + np.log(2 * np.pi)
    largest = log_joint.max()
    total = np.sum(np.exp(log_joint - largest)) * step**2
    return float(-largest - np.log(total))


# === Storing weights ===


class Statistics(NamedTuple):
    """What goes through a dense layer, over images.

    Attributes:
        moments: the mean products of its inputs, to which a 1 is added for
            the bias, `(inputs + 1, inputs + 1)`.
        gradients_rms: the root mean squares of the loss's gradients with
            respect to the outputs, before ReLU, `(outputs,)`.
    """

    moments: np.ndarray
    gradients_rms: np.ndarray


def statistics_of(networks: Networks, x, epsilon, beta: float):
    """Measures what goes through each layer, forwards and backwards.

    Args:
        networks: the layers.
        x, epsilon: as in `terms`.
        beta: the weight of the KL term in the loss.

    Returns:
        The `Statistics` of each layer, encoder first.
    """
    encoder = activations(networks.encoder, x)
    z_mean, z_log_var = np.split(encoder[-1], 2, axis=1)
    deviation = np.exp(0.5 * z_log_var) * epsilon
    decoder = activations(networks.decoder, z_mean + deviation)
    gradient = 0.5 * (1 + np.tanh(0.5 * decoder[-1])) - x  # sigmoid
    of_decoder, gradient = _backwards(networks.decoder, decoder, gradient)
    # The loss depends on the encoder's output through z and through the KL.
    to_mean = gradient + beta * z_mean
    to_log_var = gradient * deviation / 2 + beta / 2 * np.expm1(z_log_var)
    gradient = np.concatenate([to_mean, to_log_var], axis=1)
    of_encoder, _ = _backwards(networks.encoder, encoder, gradient)
    return of_encoder + of_decoder


def _backwards(layers, inputs, gradient) -> tuple[list, np.ndarray]:
    """Returns the layers' statistics, and the gradient of their input."""
    found = []
    for i in reversed(range(len(layers))):
        h = np.pad(inputs[i], ((0, 0), (0, 1)), constant_values=1)
        moments = (h.T @ h).astype("float64") / len(h)
        found.append(Statistics(moments, _rms(gradient)))
        gradient = gradient @ layers[i].kernel.T
        if i > 0:
            gradient *= inputs[i] > 0
    return found[::-1], gradient


def _rms(values) -> np.ndarray:
    return np.sqrt(np.mean(np.square(values, dtype="float64"), axis=0))


def stored(layer: Layer, statistics: Statistics, precision) -> StoredLayer:
    """Rounds a layer's weights to integers times their steps.

    One row after the other is rounded, and the rows that are still to come,
    the bias last, move so that they take over what they can of its error.

    Args:
        layer: the layer.
        statistics: what goes through it.
        precision: the step of a weight for which the root mean squares of
            its input and of its output's gradient are 1.

    Reference:
        Frantar et al., "GPTQ: Accurate Post-Training Quantization for
        Generative Pre-trained Transformers", ICLR 2023, arXiv:2210.17323.
    """
    num_inputs = len(layer.kernel)
    squares = np.diagonal(statistics.moments)[:num_inputs]
    rows = np.rint(-np.log2(_floored(np.sqrt(squares))))
    columns = np.rint(np.log2(precision / _floored(statistics.gradients_rms)))
    # No weight is more than 2¹⁴ steps, for int16.
    largest = np.max(np.abs(layer.kernel) * np.exp2(-rows)[:, None], axis=0)
    columns = np.maximum(columns, np.ceil(np.log2(largest + 1e-30)) - 14)
    steps = np.exp2(np.add.outer(rows, columns))
    # How far rows move is in the Cholesky factor of the inverse moments. The
    # first of them are those with the largest inputs.
    order = np.append(np.argsort(-squares), num_inputs)
    moments = statistics.moments[np.ix_(order, order)]
    damping = DAMPING * squares.mean() + 1e-9
    inverse = np.linalg.inv(moments + damping * np.eye(len(order)))
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    weights = np.vstack([layer.kernel, layer.bias]).astype("float64")[order]
    integers = np.empty(layer.kernel.shape)
    for i, row in enumerate(order[:-1]):
        integers[row] = np.rint(weights[i] / steps[row])
        error = (weights[i] - integers[row] * steps[row]) / factor[i, i]
        weights[i + 1 :] -= np.outer(factor[i, i + 1 :], error)
    return StoredLayer(
        integers.astype("int16"),
        rows.astype("int8"),
        columns.astype("int8"),
        weights[-1].astype("float32"),
    )


def _floored(sizes) -> np.ndarray:
    """Takes the smallest sizes for larger than they were measured.

    A pixel that the training digits never light may be lit in a drawing, and
    the logit of a pixel that is always dark has no gradient because it is far
    below 0, where it has to stay.
    """
    return np.maximum(sizes, max(1e-9, 0.03 * _rms(sizes)))


def stored_networks(networks: Networks, images, beta, precision) -> Networks:
    """Stores all layers, with `images` `(n, pixels)` to measure by."""
    # Blank pages as well: the page has one, and no digit is like it.
    blank = np.zeros((len(images) // 20, images.shape[1]), "float32")
    images = np.concatenate([images, blank])
    epsilon = NOISE[: len(images)]
    statistics = statistics_of(networks, images, epsilon, beta)
    layers = [
        stored(layer, its_statistics, precision)
        for layer, its_statistics in zip(
            [*networks.encoder, *networks.decoder], statistics, strict=True
        )
    ]
    num_encoder = len(networks.encoder)
    return Networks(layers[:num_encoder], layers[num_encoder:])


def unpacked(networks: Networks) -> Networks:
    """Returns stored networks as the page computes with them."""
    return Networks(*([x.layer() for x in part] for part in networks))


def pack(models: list[Networks], means: list, labels, images) -> bytes:
    """Packs all that latent.js unpacks, in its order.

    Args:
        models: stored networks.
        means: the posterior means of each, `(NUM_DIGITS, latent_dim)`.
        labels: of these digits, `(NUM_DIGITS,)`.
        images: those that can be picked, bytes `(NUM_IMAGES, pixels)`.
    """
    parts = [labels.astype("uint8"), images]
    for networks, z_mean in zip(models, means, strict=True):
        parts.append(np.rint(z_mean / MEAN_UNIT).astype("<i2"))
        for layer in [*networks.encoder, *networks.decoder]:
            integers = layer.integers.astype("<i2")
            # Deflate gains where the weights of neighbouring pixels follow
            # one another.
            if layer.bias.size != images.shape[1]:
                integers = np.ascontiguousarray(integers.T)
            # Low bytes, then high bytes, which are nearly all 0 or −1.
            planes = integers.view("uint8")
            parts += [planes[:, 0::2], planes[:, 1::2]]
            parts += [layer.rows, layer.columns, layer.bias.astype("<f4")]
    compressor = zlib.compressobj(9, strategy=zlib.Z_FILTERED)
    data = b"".join(part.tobytes() for part in parts)
    return compressor.compress(data) + compressor.flush()


# === The page ===


def measured(plain: Networks, rounded: Networks, images) -> dict:
    """Measures a model on test digits, before and after it is stored.

    Args:
        plain, rounded: the networks as trained, and as the page has them.
        images: test digits, `(n, pixels)`.

    Returns:
        Nats per image: the means of the terms after storing; how much
        −ELBO has grown, its mean, standard error and root mean square over
        images with the same noise; percentiles of −ELBO.
    """
    epsilon = NOISE[: len(images)]
    before = terms(plain, images, epsilon)
    after = terms(rounded, images, epsilon)
    growth = sum(after) - sum(before)
    return {
        "reconstruction_loss": float(after[0].mean()),
        "kl_loss": float(after[1].mean()),
        "negative_elbo": float(sum(after).mean()),
        "cost": float(growth.mean()),
        "cost_standard_error": float(growth.std(ddof=1) / len(images) ** 0.5),
        "cost_rms": float(_rms(growth)),
        "percentiles": np.percentile(sum(after), np.arange(100) + 0.5).tolist(),
    }


class Built(NamedTuple):
    """A page, and what is in it.

    Attributes:
        page: the HTML.
        results: the page's size, and `measured` for each model.
        networks: the networks of each model as the page computes with them.
    """

    page: str
    results: dict
    networks: list[Networks]


def build(
    vaes: dict,
    notebooks: str = "../../notebooks/",
    suffix: str = ".ipynb",
) -> Built:
    """Builds the page.

    Args:
        vaes: the `VAE` of each β, that of β = 1 first.
        notebooks: where links to notebooks lead: a folder, as seen from
            the page, or an address that ends in "/".
        suffix: how the names of notebooks end there, `.ipynb` or `.html`.
    """
    train_images, _ = vae_keras.load_mnist(f"train[:{NUM_CALIBRATION}]")
    test_images, labels = vae_keras.load_mnist("test")
    train_images, test_images = _rows(train_images), _rows(test_images)
    packed_networks, networks, means, results = [], [], [], []
    for beta, vae in vaes.items():
        plain = networks_of(vae)
        precision = PRECISION * beta**0.5
        packed_networks.append(
            stored_networks(plain, train_images, beta, precision)
        )
        networks.append(unpacked(packed_networks[-1]))
        means.append(encode(networks[-1], test_images[:NUM_DIGITS])[0])
        result = measured(plain, networks[-1], test_images)
        results.append({"beta": beta, **result})
    images = np.rint(255 * test_images[:NUM_IMAGES]).astype("uint8")
    packed = pack(packed_networks, means, labels[:NUM_DIGITS], images)
    num_weights = sum(
        layer.kernel.size for parts in networks for x in parts for layer in x
    )
    texts = {
        "notebooks": html.escape(notebooks),
        "suffix": html.escape(suffix),
        **blank_page(networks[0], results[0]["percentiles"]),
        "weights": f"{num_weights:,}",
        "bits": f"{8 * len(packed) / num_weights:.1f}",
        "costs": "; ".join(
            f"β = {result['beta']}: {result['cost']:+.3f} ± "
            f"{result['cost_standard_error']:.3f}".replace("-", "−")
            for result in results
        ),
        "contents": contents(networks, results),
        "script": (HERE / "latent.js").read_text(encoding="utf-8"),
        "packed": base64.b64encode(packed).decode("ascii"),
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for name, text in texts.items():
        page = page.replace("{{" + name + "}}", text)
    summary = {"page_bytes": len(page.encode()), "models": results}
    return Built(page, summary, networks)


def blank_page(networks: Networks, percentiles) -> dict:
    """Returns what the page says about a page without ink."""
    x = np.zeros((1, math.prod(IMAGE_SHAPE)), "float32")
    cost = np.mean(sum(terms(networks, x, NOISE[:1000])))
    dearer = np.mean(np.array(percentiles) > cost)
    return {
        "blank": f"{cost:.0f}",
        "dearer": f"{dearer:.0%}",
        "integrated": f"{integrated(networks, x):.0f}",
    }


def contents(networks: list, results: list) -> str:
    """Returns the JSON by which latent.js unpacks and compares."""
    names = ("reconstruction_loss", "kl_loss", "negative_elbo")
    models = [
        {
            "beta": result["beta"],
            "encoder": [layer.kernel.shape for layer in parts.encoder],
            "decoder": [layer.kernel.shape for layer in parts.decoder],
            "test": [round(result[name], 3) for name in names],
            "percentiles": [round(x, 1) for x in result["percentiles"]],
        }
        for parts, result in zip(networks, results, strict=True)
    ]
    sizes = {"num_digits": NUM_DIGITS, "num_images": NUM_IMAGES}
    return json.dumps({**sizes, "models": models}, separators=(",", ":"))


def _rows(images) -> np.ndarray:
    return images.reshape(len(images), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--artifacts",
        type=pathlib.Path,
        default=ROOT / "artifacts",
        help="the folder of trained models",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=ROOT / "docs" / "_build" / "latent.html",
    )
    parser.add_argument(
        "--notebooks",
        default="../../notebooks/",
        help="where links to notebooks lead, seen from the page",
    )
    parser.add_argument(
        "--suffix", default=".ipynb", help="how their names end there"
    )
    parser.add_argument(
        "--cost",
        type=pathlib.Path,
        help="a file for what was measured, such as docs/latent/cost.json",
    )
    options = parser.parse_args()
    vaes = {beta: load_or_train(beta, options.artifacts) for beta in BETAS}
    built = build(vaes, options.notebooks, options.suffix)
    results = built.results
    for row in results["models"]:
        del row["percentiles"]
    results["versions"] = {
        "python": platform.python_version(),
        **{
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "numpy")
        },
    }
    if results["page_bytes"] > MAX_BYTES:
        raise ValueError(
            f"Expected a page of at most {MAX_BYTES:,} bytes. Received: "
            f"{results['page_bytes']:,}. Raise PRECISION, and look at what "
            "it costs in nats."
        )
    write(options.output, built.page)
    if options.cost:
        write(options.cost, json.dumps(results, indent=2) + "\n")
    for row in results["models"]:
        print(
            f"β = {row['beta']}: −ELBO {row['negative_elbo']:.2f} nats on "
            f"test digits, of which KL {row['kl_loss']:.2f}; storing the "
            f"weights cost {row['cost']:+.3f} ± "
            f"{row['cost_standard_error']:.3f}"
        )
    print(f"{options.output}: {results['page_bytes']:,} bytes")


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with moved_into_place(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
