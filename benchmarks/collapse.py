"""Posterior collapse: over β, over depth of the decoder, and KL warm-up.

Dense VAEs, each trained with and without KL warm-up over the first
epochs. Measured on held-out images (train[55000:]): −ELBO, KL of each
dimension, active units, and the objective that the model minimises, which
is the reconstruction loss plus β × KL, or −ELBO + (β − 1) × KL. Warm-up is
judged by the objective: −ELBO is that of β = 1, whatever was minimised.

Settings that sentences rest on have three seeds, the others one. Rows that
the results already hold, for as many epochs and images, are not run again.
"""

import json
import pathlib

import common
import numpy as np

import vae_keras

BATCH_SIZE = 125
BETAS = (0.5, 1, 2, 4, 8, 16, 32, 64)
# The hidden layers of the decoder, at β = 1.
DECODERS = ((32,), (512, 512), (512,) * 8)
LATENT_DIM = 32
NATS = ("objective", "elbo", "kl")
LEARNING_RATE = 2e-3
SEEDS = (0, 1, 2)
# What has all seeds; the rest has the first.
BETAS_WITH_SEEDS = (0.5, 1, 2, 4, 8)
DECODERS_WITH_SEEDS = ((512, 512), (512,) * 8)


def measure(setting, images, val_images, epochs) -> dict:
    """Trains one VAE and measures how it uses its latents."""
    beta, hidden_units, warm_up, seed = setting
    vae = common.dense_vae(LATENT_DIM, hidden_units, seed=seed, beta=beta)
    callbacks = [vae_keras.callbacks.KLWarmUp(warm_up)] if warm_up else []
    common.train(
        vae, images, BATCH_SIZE, epochs, LEARNING_RATE, seed, callbacks
    )
    logs = common.evaluated(vae, val_images)
    kl = np.sort(vae_keras.kl_per_dimension(vae, val_images))[::-1]
    row = {
        "beta": beta,
        "hidden_units": list(hidden_units),
        "warm_up": warm_up,
        "seed": seed,
        "elbo": logs["reconstruction_loss"] + logs["kl_loss"],
        "kl": logs["kl_loss"],
        "active_units": vae_keras.active_units(vae, val_images),
        "kl_per_dimension": [round(x, 4) for x in kl.tolist()],
    }
    print(
        f"beta {beta}, decoder {hidden_units}, warm-up {warm_up}, seed "
        f"{seed}: objective {objective(row):.1f}, −ELBO {row['elbo']:.1f}, "
        f"KL {row['kl']:.1f}, {row['active_units']} active",
        flush=True,
    )
    return row


def setting_of(row) -> tuple:
    """Returns what makes one row another than the rest."""
    hidden_units = tuple(row["hidden_units"])
    return row["beta"], hidden_units, row["warm_up"], row["seed"]


def settings(warm_up: int) -> list[tuple]:
    """Returns β, decoder, epochs of warm-up and seed of every row."""
    pairs = [(beta, (512, 512)) for beta in BETAS]
    pairs += [(1, units) for units in DECODERS if units != (512, 512)]
    return [
        (beta, units, epochs, seed)
        for beta, units in pairs
        for epochs in (0, warm_up)
        for seed in SEEDS
        if seed == SEEDS[0]
        or (beta in BETAS_WITH_SEEDS and units in DECODERS_WITH_SEEDS)
    ]


def objective(row) -> float:
    """Returns what the model minimises: reconstruction plus β × KL."""
    return row["elbo"] + (row["beta"] - 1) * row["kl"]


def paired(rows, value) -> tuple[float, float]:
    """Returns the mean of warm-up minus plain over seeds, and its error."""
    seeds = sorted({row["seed"] for row in rows})
    values = {(bool(row["warm_up"]), row["seed"]): value(row) for row in rows}
    gaps = [
        values[True, seed] - values[False, seed]
        for seed in seeds
        if {(True, seed), (False, seed)} <= values.keys()
    ]
    if len(gaps) == 1:
        return gaps[0], float("nan")
    return np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5


def as_markdown(results) -> str:
    groups = {}
    for row in results["runs"]:
        key = "-".join(map(str, row["hidden_units"])), row["beta"]
        groups.setdefault(key, []).append(row)
    rows, gaps = [], []
    for (decoder, beta), group in groups.items():
        for warm_up in sorted({row["warm_up"] for row in group}):
            same = [row for row in group if row["warm_up"] == warm_up]
            same = [{**row, "objective": objective(row)} for row in same]
            rows.append(
                [
                    decoder,
                    beta,
                    warm_up or "–",
                    len(same),
                    *(common.spread(same, k) for k in NATS),
                    common.spread(same, "active_units", 0),
                ]
            )
        cells = [paired(group, objective)]
        cells += [paired(group, lambda row: row["elbo"])]
        cells += [paired(group, lambda row: row["kl"])]
        gaps.append(
            [
                decoder,
                beta,
                *(
                    f"{round(mean, 1) + 0.0:+.1f}"
                    + (f" ± {error:.1f}" if np.isfinite(error) else "")
                    for mean, error in cells
                ),
            ]
        )
    return (
        "# Posterior collapse\n\n"
        f"Dense VAEs with {LATENT_DIM} latents, {results['epochs']} epochs "
        f"of {results['images']:,} images binarised anew each epoch, batch "
        f"{BATCH_SIZE}; measured on 5,000 validation images, in nats per "
        "image; means and, in brackets, ranges over seeds. *Warm-up* is the "
        "number of epochs over which β rises from 0 to its value. The "
        "*objective* is what the model minimises: −ELBO + (β − 1) × KL.\n\n"
        + common.table(
            [
                "decoder",
                "β",
                "warm-up",
                "seeds",
                "objective",
                "−ELBO",
                "KL",
                "active units",
            ],
            rows,
        )
        + "\nWarm-up minus plain, seed by seed: the mean and, where there "
        "are three seeds, its standard error. A negative objective speaks "
        "for warm-up.\n\n"
        + common.table(["decoder", "β", "objective", "−ELBO", "KL"], gaps)
    )


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument(
        "--anew", action="store_true", help="run rows that are there as well"
    )
    options = parser.parse_args()
    images, val_images = common.held_out_split(options.images)
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "epochs": options.epochs,
        "images": len(images),
        "runs": [],
    }
    rows = {}
    path = pathlib.Path(options.output) / "collapse.json"
    if path.exists() and not options.anew:
        old = json.loads(path.read_text())
        if all(old[k] == results[k] for k in ("epochs", "images")):
            rows = {setting_of(row): row for row in old["runs"]}
    wanted = settings(options.warm_up)
    for setting in wanted:
        if setting not in rows:
            rows[setting] = measure(setting, images, val_images, options.epochs)
            results["runs"] = [rows[key] for key in wanted if key in rows]
            common.write_results(
                options.output, "collapse", results, as_markdown(results)
            )


if __name__ == "__main__":
    main()
