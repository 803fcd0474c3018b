"""Posterior collapse: over β, over depth of the decoder, and KL warm-up.

Dense VAEs, each trained with and without KL warm-up over the first
epochs. Measured on held-out images (train[55000:]): −ELBO, KL of each
dimension and active units.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import (
    FAST,
    RESULTS,
    binarized,
    dense_vae,
    falling,
    provenance,
    table,
    write_results,
)

import vae_keras

BATCH_SIZE = 125
BETAS = (0.5, 1, 2, 4, 8, 16, 32, 64)
# The hidden layers of the decoder, at β = 1.
DECODERS = ((32,), (512, 512), (512,) * 8)
LATENT_DIM = 32
LEARNING_RATE = 2e-3
SEED = 0


def measure(beta, hidden_units, warm_up, images, val_images, epochs) -> dict:
    """Trains one VAE and measures how it uses its latents."""
    vae = dense_vae(LATENT_DIM, hidden_units, seed=SEED, beta=beta)
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=SEED
    )
    vae.compile(falling(LEARNING_RATE, epochs * len(dataset)), **FAST)
    callbacks = [vae_keras.KLWarmUp(warm_up)] if warm_up else []
    vae.fit(dataset, epochs=epochs, callbacks=callbacks, verbose=0)
    logs = vae.evaluate(val_images, batch_size=500, verbose=0, return_dict=True)
    kl = np.sort(vae_keras.kl_per_dimension(vae, val_images))[::-1]
    row = {
        "beta": beta,
        "hidden_units": list(hidden_units),
        "warm_up": warm_up,
        "elbo": logs["reconstruction_loss"] + logs["kl_loss"],
        "kl": logs["kl_loss"],
        "active_units": vae_keras.active_units(vae, val_images),
        "kl_per_dimension": [round(x, 4) for x in kl.tolist()],
    }
    print(
        f"beta {beta}, decoder {hidden_units}, warm-up {warm_up}: −ELBO "
        f"{row['elbo']:.1f}, KL {row['kl']:.1f}, {row['active_units']} active",
        flush=True,
    )
    return row


def as_markdown(results) -> str:
    rows = [
        [
            "-".join(map(str, row["hidden_units"])),
            row["beta"],
            row["warm_up"] or "–",
            f"{row['elbo']:.1f}",
            f"{row['kl']:.1f}",
            row["active_units"],
        ]
        for row in results["runs"]
    ]
    return (
        "# Posterior collapse\n\n"
        f"Dense VAEs with {LATENT_DIM} latents, {results['epochs']} epochs "
        f"of {results['images']:,} images binarised anew each epoch, batch "
        f"{BATCH_SIZE}, seed {SEED}; measured on 5,000 validation images, in "
        "nats per image. *Warm-up* is the number of epochs over which β "
        "rises from 0 to its value.\n\n"
        + table(
            ["decoder", "β", "warm-up", "−ELBO", "KL", "active units"], rows
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument(
        "--images", type=int, default=55_000, help="fewer for a quick look"
    )
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    images = vae_keras.load_mnist("train[:55000]")[0][: options.images]
    val_images = binarized(vae_keras.load_mnist("train[55000:]")[0])
    settings = [(beta, (512, 512)) for beta in BETAS]
    settings += [(1, units) for units in DECODERS if units != (512, 512)]
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "epochs": options.epochs,
        "images": len(images),
        "seed": SEED,
        "runs": [],
    }
    for beta, hidden_units in settings:
        for warm_up in (0, options.warm_up):
            results["runs"].append(
                measure(
                    beta,
                    hidden_units,
                    warm_up,
                    images,
                    val_images,
                    options.epochs,
                )
            )
    write_results(options.output, "collapse", results, as_markdown(results))


if __name__ == "__main__":
    main()
