"""Digits on request: does the conditional VAE draw what it is asked for?

A `ConditionalVAE` is trained, draws as many images of each digit, and the
judge says which digits it sees. Beside its share of the requested digits
stands what the judge gets right of the real test digits: the most that can
be expected.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from common import FAST, RESULTS, provenance, table, write_results

import vae_keras

BATCH_SIZE = 100
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 8
LEARNING_RATE = 2e-3
NUM_CLASSES = 10


def new_vae(seed: int) -> vae_keras.ConditionalVAE:
    """Returns the article's network, with labels and more latents."""
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM, num_classes=NUM_CLASSES),
        vae_keras.mlp_decoder(LATENT_DIM, IMAGE_SHAPE, num_classes=NUM_CLASSES),
        NUM_CLASSES,
        seed=seed,
    )


def recognised(images, labels) -> list[float]:
    """Returns the share of each digit that the judge takes for what it is."""
    predictions = vae_keras.load_judge().predict(
        np.asarray(images), batch_size=500, verbose=0
    )
    right = predictions.argmax(axis=1) == labels
    return [float(right[labels == y].mean()) for y in range(NUM_CLASSES)]


def measure(images, labels, test_images, test_labels, options) -> dict:
    """Trains the model, and measures it on held-out images and its own."""
    keras.utils.set_random_seed(options.seed)
    vae = new_vae(options.seed)
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, labels, seed=options.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, options.epochs * len(dataset)
    )
    vae.compile(keras.optimizers.Adam(schedule), **FAST)
    start = time.perf_counter()
    history = vae.fit(dataset, epochs=options.epochs, verbose=2).history
    seconds = time.perf_counter() - start
    test = vae.evaluate(
        test_images, test_labels, batch_size=500, verbose=0, return_dict=True
    )
    asked = np.repeat(np.arange(NUM_CLASSES), options.per_digit)
    return {
        "parameters": [vae.encoder.count_params(), vae.decoder.count_params()],
        "seconds": seconds,
        "training": history["loss"][-1],
        "elbo": test["loss"],
        "kl": test["kl_loss"],
        "active_units": vae_keras.active_units(
            vae, test_images, labels=test_labels
        ),
        "recognised": recognised(vae.generate(asked, options.seed), asked),
        "real": recognised(test_images, test_labels),
    }


def as_markdown(results) -> str:
    rows = [
        [digit, f"{drawn:.1%}", f"{real:.1%}"]
        for digit, (drawn, real) in enumerate(
            zip(results["recognised"], results["real"], strict=True)
        )
    ]
    means = [np.mean(results[name]) for name in ("recognised", "real")]
    rows.append(["all", *(f"{mean:.1%}" for mean in means)])
    return (
        "# Digits on request\n\n"
        f"A `ConditionalVAE` of dense layers, {LATENT_DIM} latents, "
        f"{results['epochs']} epochs of {results['images']:,} grey images in "
        f"{results['seconds']:.0f} s, seed {results['seed']}: −ELBO "
        f"{results['elbo']:.1f} nats given the label on "
        f"{results['test_images']:,} test images, KL {results['kl']:.1f}, "
        f"{results['active_units']} active units. How many of "
        f"{results['per_digit']:,} drawings of each digit the judge takes "
        "for it, beside the real test digits.\n\n"
        + table(["digit", "drawn", "real"], rows)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-digit", type=int, default=1000)
    parser.add_argument(
        "--images", type=int, default=60_000, help="fewer for a quick look"
    )
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    images, labels = vae_keras.load_mnist("train")
    images, labels = images[: options.images], labels[: options.images]
    test_images, test_labels = vae_keras.load_mnist("test")
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "seed": options.seed,
        "epochs": options.epochs,
        "per_digit": options.per_digit,
        "images": len(images),
        "test_images": len(test_images),
        **measure(images, labels, test_images, test_labels, options),
    }
    write_results(options.output, "conditional", results, as_markdown(results))


if __name__ == "__main__":
    main()
