"""Digits on request: does the conditional VAE draw what it is asked for?

`ConditionalVAE`s of few and of more latents are trained alike and draw as
many images of each digit; the classifier says which digits it sees. Beside its
share of the requested digits stands what the classifier gets right of the
real test digits: the most that can be expected.
"""

import time

import common
import keras
import numpy as np

import vae_keras

BATCH_SIZE = 100
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIMS = (2, 4, 8)
LEARNING_RATE = 2e-3
NUM_CLASSES = 10


def new_vae(latent_dim: int, seed: int) -> vae_keras.ConditionalVAE:
    """Returns the article's dense layers, with labels."""
    return vae_keras.ConditionalVAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, latent_dim, num_classes=NUM_CLASSES),
        vae_keras.mlp_decoder(latent_dim, IMAGE_SHAPE, num_classes=NUM_CLASSES),
        seed=seed,
    )


def recognised(images, labels) -> list[float]:
    """Returns the share of each digit that is recognised as what it is."""
    classifier = vae_keras.digits.load_classifier()
    predictions = classifier.predict(
        np.asarray(images), batch_size=500, verbose=0
    )
    right = predictions.argmax(axis=1) == labels
    return [float(right[labels == y].mean()) for y in range(NUM_CLASSES)]


def measure(latent_dim: int, train, test, options) -> dict:
    """Trains one model, and measures it on held-out images and its own."""
    common.start_anew(options.seed)
    vae = new_vae(latent_dim, options.seed)
    images, labels = train
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, labels, seed=options.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, options.epochs * len(dataset)
    )
    vae.compile(keras.optimizers.Adam(schedule), **common.FAST)
    start = time.perf_counter()
    history = vae.fit(dataset, epochs=options.epochs, verbose=0).history
    seconds = time.perf_counter() - start
    logs = common.evaluated(vae, *test)
    asked = np.repeat(np.arange(NUM_CLASSES), options.per_digit)
    row = {
        "parameters": [vae.encoder.count_params(), vae.decoder.count_params()],
        "seconds": seconds,
        "training": history["loss"][-1],
        "elbo": logs["loss"],
        "kl": logs["kl_loss"],
        "recognised": recognised(
            vae.generate(labels=asked, seed=options.seed), asked
        ),
    }
    print(
        f"{latent_dim} latents: {seconds:.0f} s, −ELBO {row['elbo']:.2f}, "
        f"recognised {np.mean(row['recognised']):.1%}",
        flush=True,
    )
    return row


def as_markdown(results) -> str:
    def shares(values):
        worst = int(np.argmin(values))
        return [f"{np.mean(values):.1%}", f"{values[worst]:.1%} ({worst})"]

    rows = [
        [
            f"{latent_dim} latents",
            f"{run['elbo']:.1f}",
            f"{run['kl']:.1f}",
            *shares(run["recognised"]),
        ]
        for latent_dim, run in results["runs"].items()
    ]
    rows.append(["real test digits", "", "", *shares(results["real"])])
    return (
        "# Digits on request\n\n"
        f"`ConditionalVAE`s of dense layers, {results['epochs']} epochs of "
        f"{results['images']:,} grey images, seed {results['seed']}: −ELBO "
        "given the label and its KL on the test images, in nats per image; "
        f"how many of {results['per_digit']:,} drawings of each digit the "
        "classifier takes for it, and of the digit where these are fewest.\n\n"
        + common.table(["", "−ELBO", "KL", "recognised", "least"], rows)
    )


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-digit", type=int, default=1000)
    parser.add_argument("--latents", nargs="+", type=int, default=LATENT_DIMS)
    options = parser.parse_args()
    images, labels = vae_keras.load_mnist("train")
    train = images[: options.images], labels[: options.images]
    test = vae_keras.load_mnist("test")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seed": options.seed,
        "epochs": options.epochs,
        "per_digit": options.per_digit,
        "images": len(train[0]),
        "real": recognised(*test),
        "runs": {},
    }
    for latent_dim in options.latents:
        run = measure(latent_dim, train, test, options)
        results["runs"][str(latent_dim)] = run
    common.write_results(
        options.output, "conditional", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
