"""Builds the latent page: one HTML file that needs no network.

    python docs/latent/build.py

Three models of notebook 3's kind, with β = 1, 8 and 64, go into it. Those
that `artifacts/` lacks are trained first, at the notebook's settings.

Their 4,000,000 weights have to fit into a megabyte: stored_weights.py says how.
What that costs is measured on the test digits, printed, and shown on the page.
"""

import argparse
import base64
import html
import importlib.metadata
import json
import math
import pathlib
import platform
from typing import NamedTuple

import keras
import numpy as np
from stored_weights import (
    NOISE,
    Layer,
    Networks,
    encode,
    integrated,
    pack,
    rms,
    stored_networks,
    terms,
    unpacked,
)

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
NUM_CALIBRATION = 10_000
NUM_DIGITS = 2000
NUM_IMAGES = 100
MAX_BYTES = 1_500_000


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
        "cost_rms": float(rms(growth)),
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
