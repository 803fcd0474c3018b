"""Posterior collapse: over β, over depth of the decoder, and KL warm-up.

Dense VAEs, each trained with and without KL warm-up over the first
epochs. Measured on held-out images (train[55000:]): −ELBO, KL of each
dimension and active units.
"""

import common
import numpy as np

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
    vae = common.dense_vae(LATENT_DIM, hidden_units, seed=SEED, beta=beta)
    callbacks = [vae_keras.callbacks.KLWarmUp(warm_up)] if warm_up else []
    common.train(
        vae, images, BATCH_SIZE, epochs, LEARNING_RATE, SEED, callbacks
    )
    logs = common.evaluated(vae, val_images)
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
        + common.table(
            ["decoder", "β", "warm-up", "−ELBO", "KL", "active units"], rows
        )
    )


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2)
    options = parser.parse_args()
    images, val_images = common.held_out_split(options.images)
    settings = [(beta, (512, 512)) for beta in BETAS]
    settings += [(1, units) for units in DECODERS if units != (512, 512)]
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
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
    common.write_results(
        options.output, "collapse", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
