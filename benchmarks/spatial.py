"""Vector latents against maps of latents, whole or of rows and columns.

Three posteriors for one decoder, with as many latents each:

    vector            each latent is read off the whole image
    map               each place of the map has a mean and variance of its own
    rows and columns  they are products of those of its row and its column

and, to compare with, the usual convolutional VAE, whose decoder begins with
dense layers. All are trained alike, with every seed, and measured on the
test images. No choice is made by these numbers: learning rate and number of
maps were chosen on train[55000:].

Three questions of notebook 7 have parts of their own:

    seven maps      rows and columns with as many numbers as the map has, 196
    learning rates  of the models that are compared, on train[55000:]
    places          which row or column carries the nats, upright and with
                    transposed images, and how near its place a latent acts

`--runs` runs some parts only and keeps what the results hold of the others.
"""

import json
import math
import pathlib
import time

import common
import keras
import numpy as np

import vae_keras

BATCH_SIZE = 125
IMAGE_SHAPE = (28, 28, 1)
LEARNING_RATE = 4e-3
NUM_MAPS = 2
SEEDS = (0, 1, 2)
KINDS = ("vector", "map", "rows and columns", "vector, dense decoder")
# 7 × 2 (7 + 7) numbers, as many as the 2 × 2 × 7 × 7 of "map".
SEVEN_MAPS = "rows and columns, seven maps"
LEARNING_RATES = (2e-3, 4e-3, 8e-3)
# Kind, whether images are transposed, and seeds.
PLACES = (
    ("rows and columns", False, (0, 1, 2)),
    ("rows and columns", True, (0, 1, 2)),
    ("map", False, (0, 1, 2)),
)
SHORT_EPOCHS = 2
# −ELBO and −log p(x) of the same images.
GAP_IMAGES, GAP_SAMPLES = 500, 500
PARTS = (*KINDS, SEVEN_MAPS, "learning rates", "places")


def vector_encoder(latent_shape) -> keras.Model:
    """Returns `conv_encoder`, with its latents laid out as a map."""
    encoder = vae_keras.conv_encoder(IMAGE_SHAPE, math.prod(latent_shape))
    reshape = keras.layers.Reshape(latent_shape)
    return keras.Model(encoder.input, [reshape(h) for h in encoder.outputs])


def new_vae(kind: str, seed: int) -> vae_keras.VAE:
    """Returns one of the models."""
    num_maps = 7 if kind == SEVEN_MAPS else NUM_MAPS
    if kind == "vector, dense decoder":
        latent_dim = 49 * NUM_MAPS
        return vae_keras.VAE(
            vae_keras.conv_encoder(IMAGE_SHAPE, latent_dim),
            vae_keras.conv_decoder(latent_dim, IMAGE_SHAPE),
            seed=seed,
        )
    if kind == "vector":
        encoder = vector_encoder((7, 7, NUM_MAPS))
    else:
        encoder = vae_keras.spatial.spatial_encoder(
            IMAGE_SHAPE, num_maps, factored=kind.startswith("rows")
        )
    decoder = vae_keras.spatial.spatial_decoder(num_maps, IMAGE_SHAPE)
    return vae_keras.SpatialVAE(encoder, decoder, seed=seed)


def posterior_numbers(kind: str) -> int:
    """Returns how many numbers per image the encoder gives."""
    sides = 7 + 7 if kind.startswith("rows") else 7 * 7
    return 2 * sides * (7 if kind == SEVEN_MAPS else NUM_MAPS)


# === Three posteriors, and seven maps ===


def measure(kind: str, seed: int, images, test_images, options) -> dict:
    """Trains one model and measures it on held-out images."""
    common.start_anew(seed)
    vae = new_vae(kind, seed)
    start = time.perf_counter()
    history = common.train(
        vae, images, BATCH_SIZE, options.epochs, LEARNING_RATE, seed
    )
    seconds = time.perf_counter() - start
    binary = common.binarized(test_images)
    test = common.evaluated(vae, binary)
    nll = vae_keras.importance_weighted_nll(
        vae,
        binary[: options.nll_images],
        num_samples=options.samples,
        verbose=False,
    )
    real = test_images[: options.quality_images]
    samples = np.asarray(vae.generate(len(real), seed=seed))
    row = {
        "seed": seed,
        "parameters": [vae.encoder.count_params(), vae.decoder.count_params()],
        "seconds": seconds,
        "training": history["loss"][-1],
        "elbo": test["loss"],
        "kl": test["kl_loss"],
        "nll": nll.mean,
        "nll_standard_error": nll.standard_error,
        "active_units": vae_keras.active_units(vae, binary),
        **vae_keras.digits.sample_quality(real, samples)._asdict(),
    }
    print(
        f"{kind}, seed {seed}: {seconds:.0f} s, training "
        f"{row['training']:.2f}, −ELBO {row['elbo']:.2f}, −log p(x) "
        f"{row['nll']:.2f}, active {row['active_units']}, Fréchet "
        f"{row['frechet']:.1f}",
        flush=True,
    )
    return row


# === Learning rates ===


def tried_rates(kind: str, learning_rate: float, split) -> dict:
    """Trains briefly and returns −ELBO on validation images."""
    images, val_binary = split
    common.start_anew(SEEDS[0])
    vae = new_vae(kind, SEEDS[0])
    common.train(vae, images, BATCH_SIZE, SHORT_EPOCHS, learning_rate)
    loss = common.evaluated(vae, val_binary)["loss"]
    print(f"{kind}, learning rate {learning_rate}: {loss:.2f}", flush=True)
    return {"kind": kind, "learning_rate": learning_rate, "elbo": loss}


# === Places ===


def influence(vae, images):
    """How each latent moves each pixel, if it moves by its own σ.

    Returns:
        The mean over images of |change|, of probabilities and of logits, as
        two arrays `(maps, 7, 7, 28, 28)`.
    """
    z_mean, z_log_var = map(np.asarray, vae.encode(images))
    sigma = np.exp(0.5 * z_log_var)
    sums = []
    before = np.asarray(vae.decoder.predict_on_batch(z_mean))
    for k, i, j in np.ndindex(z_mean.shape[-1], 7, 7):
        moved = z_mean.copy()
        moved[:, i, j, k] += sigma[:, i, j, k]
        after = np.asarray(vae.decoder.predict_on_batch(moved))
        pairs = ((sigmoid(before), sigmoid(after)), (before, after))
        sums.append([np.abs(b - a).mean(0)[..., 0] for a, b in pairs])
    sums = np.array(sums).reshape(-1, 7, 7, 2, 28, 28)
    return sums[:, :, :, 0], sums[:, :, :, 1]


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def near(changes, reach: int) -> tuple[float, float]:
    """How much of all change lies within so many places of its latent.

    Returns:
        That share, and the share if a latent changed what all of them
        together change, wherever its place is.
    """
    everywhere = changes.sum(axis=(0, 1, 2))
    share = alike = 0.0
    for i, j in np.ndindex(7, 7):
        rows = slice(4 * max(i - reach, 0), 4 * (i + reach + 1))
        columns = slice(4 * max(j - reach, 0), 4 * (j + reach + 1))
        here = changes[:, i, j]
        share += here[:, rows, columns].sum()
        alike += here.sum() * everywhere[rows, columns].sum()
    total = everywhere.sum()
    return float(share / total), float(alike / total**2)


def displacement(changes):
    """How far from its patch a latent acts, for each map, in pixels.

    The middle of |change|, less the middle of the patch, down and right:
    the mean over the 3 × 3 places whose reach the border does not cut.
    """
    pixels = np.arange(28)
    result = []
    for i, j in np.ndindex(3, 3):
        here = changes[:, i + 2, j + 2]
        total = here.sum(axis=(1, 2))
        down = here.sum(axis=2) @ pixels / total - (4 * (i + 2) + 1.5)
        right = here.sum(axis=1) @ pixels / total - (4 * (j + 2) + 1.5)
        result.append(np.stack([down, right], axis=1))
    return np.mean(result, axis=0)


def lean(images):
    """The angles between strokes and the upright, in degrees."""
    x, pixels = images[..., 0], np.arange(28)
    ink = x.sum(axis=(1, 2))
    down = pixels - (x.sum(axis=2) @ pixels / ink)[:, None]
    right = pixels - (x.sum(axis=1) @ pixels / ink)[:, None]
    both = np.einsum("nij,ni,nj->n", x, down, right)
    slope = both / np.einsum("nij,ni->n", x, down**2)
    return np.degrees(np.arctan(np.abs(slope)))


def rebuilding(vae, images) -> float:
    """Returns the mean −log p(x|z) at the posterior's mean."""
    logits = vae.decoder.predict_on_batch(vae.encode(images)[0])
    return float(np.mean(vae_keras.bernoulli_nll(images, logits)))


def places(kind, transposed, seed, images, binary, labels) -> dict:
    """Trains one model and asks which places are used, and how locally."""
    if transposed:
        images, binary = (np.swapaxes(x, 1, 2) for x in (images, binary))
    common.start_anew(seed)
    vae = new_vae(kind, seed)
    common.train(vae, images, BATCH_SIZE, SHORT_EPOCHS, LEARNING_RATE, seed)
    kl = vae_keras.kl_per_dimension(vae, binary)
    changes, logits = influence(vae, binary[:200])
    ones = binary[labels == 1]
    upright, *_, leaning = np.array_split(ones[np.argsort(lean(ones))], 4)
    few = binary[:GAP_IMAGES]
    nll = vae_keras.importance_weighted_nll(
        vae, few, num_samples=GAP_SAMPLES, verbose=False
    )
    row = {
        "kind": kind,
        "transposed": transposed,
        "seed": seed,
        "elbo": common.evaluated(vae, binary)["loss"],
        "elbo_of_few": common.evaluated(vae, few)["loss"],
        "nll_of_few": nll.mean,
        "kl_of_rows": kl.sum(axis=1).T.tolist(),
        "kl_of_columns": kl.sum(axis=0).T.tolist(),
        "own_patch": near(changes, 0),
        "nine_patches": near(changes, 1),
        "displacement": displacement(logits).tolist(),
        "upright_ones": rebuilding(vae, upright),
        "leaning_ones": rebuilding(vae, leaning),
    }
    print(f"{row}", flush=True)
    return row


def busiest(row) -> list[tuple[str, int, float]]:
    """Returns, for each map, its busiest line and that line's share."""
    lines = []
    for rows, columns in zip(
        row["kl_of_rows"], row["kl_of_columns"], strict=True
    ):
        name, nats = max(
            ("row", rows), ("column", columns), key=lambda x: max(x[1])
        )
        lines.append((name, int(np.argmax(nats)), max(nats) / sum(nats)))
    return lines


# === Tables ===


def as_markdown(results) -> str:
    parts = [posteriors_as_markdown(results)]
    if "learning_rates" in results:
        parts.append(rates_as_markdown(results["learning_rates"]))
    if "places" in results:
        parts.append(places_as_markdown(results["places"]))
    return "\n".join(parts)


def rates_as_markdown(rows) -> str:
    kinds = dict.fromkeys(row["kind"] for row in rows)
    cells = {(row["kind"], row["learning_rate"]): row["elbo"] for row in rows}
    rates = sorted({row["learning_rate"] for row in rows})
    return (
        "## Learning rates\n\n"
        f"−ELBO on train[55000:] after {SHORT_EPOCHS} epochs of "
        f"train[:55000], seed {SEEDS[0]}.\n\n"
        + common.table(
            ["posterior", *(f"{rate:g}" for rate in rates)],
            [
                [kind, *(f"{cells[kind, r]:.1f}" for r in rates)]
                for kind in kinds
                if all((kind, r) in cells for r in rates)
            ],
        )
    )


def places_as_markdown(rows) -> str:
    table = []
    for row in rows:
        lines = [
            f"{name} {index + 1}: {share:.0%}"
            for name, index, share in busiest(row)
        ]
        moves = [f"{a:+.1f}, {b:+.1f}" for a, b in row["displacement"]]
        table.append(
            [
                row["kind"],
                "transposed" if row["transposed"] else "upright",
                row["seed"],
                f"{row['elbo']:.1f}",
                f"{row['elbo_of_few'] - row['nll_of_few']:.1f}",
                *lines,
                "{:.0%} ({:.0%})".format(*row["own_patch"]),
                "{:.0%} ({:.0%})".format(*row["nine_patches"]),
                *moves,
                f"{row['upright_ones']:.1f}",
                f"{row['leaning_ones']:.1f}",
            ]
        )
    return (
        "## Places\n\n"
        f"{SHORT_EPOCHS} epochs. *Gap*: −ELBO minus the bound on −log p(x) by "
        f"{GAP_SAMPLES} samples, of the same {GAP_IMAGES} test images. *Map "
        "1* and *map 2*: the row or column that carries most of the map's "
        "nats, and its share. *Own patch* and *3 × 3 patches*: how much of "
        "all that latents change in the picture, each moved by its own σ, "
        "lies there; in brackets, how much would if each changed what all "
        "together change. *Moved*: how far from its patch a latent of each "
        "map acts on the logits, in pixels, down and right. *Ones*: "
        "−log p(x|z) at the posterior's mean, of the quarter of all ones that "
        "lean least and of the quarter that lean most.\n\n"
        + common.table(
            [
                "posterior",
                "images",
                "seed",
                "−ELBO",
                "gap",
                "map 1",
                "map 2",
                "own patch",
                "3 × 3 patches",
                "moved, map 1",
                "moved, map 2",
                "upright ones",
                "leaning ones",
            ],
            table,
        )
    )


def compared(results) -> str:
    """Returns seven maps minus the map, seed by seed."""
    if not results.get("seven_maps"):
        return ""
    maps = dict(zip(results["seeds"], results["runs"]["map"], strict=True))
    gaps = [
        row["elbo"] - maps[row["seed"]]["elbo"] for row in results["seven_maps"]
    ]
    spread = ""
    if len(gaps) > 1:
        spread = f" ± {np.std(gaps, ddof=1) / len(gaps) ** 0.5:.1f}"
    return (
        f"\nAt 196 numbers each, {SEVEN_MAPS} have {np.mean(gaps):+.1f}"
        f"{spread} nats of −ELBO compared with the map, seed by seed (seeds: "
        f"{', '.join(str(row['seed']) for row in results['seven_maps'])}).\n"
    )


def posteriors_as_markdown(results) -> str:
    runs = dict(results["runs"])
    if results.get("seven_maps"):
        runs[SEVEN_MAPS] = results["seven_maps"]
    rows = [
        [
            kind,
            posterior_numbers(kind),
            f"{runs[0]['parameters'][0] / 1e3:.0f} k",
            f"{runs[0]['parameters'][1] / 1e3:.0f} k",
            common.spread(runs, "elbo"),
            common.spread(runs, "kl"),
            common.spread(runs, "nll"),
            common.spread(runs, "active_units", 0),
            common.spread(runs, "frechet"),
            common.spread(runs, "precision", 2),
            common.spread(runs, "coverage", 2),
        ]
        for kind, runs in runs.items()
        if runs
    ]
    return (
        "# Three posteriors for one decoder\n\n"
        f"{49 * NUM_MAPS} latents each (seven maps: 343), "
        f"{results['epochs']} epochs of {results['images']:,} images, "
        f"binarised anew each epoch, batch {BATCH_SIZE}, Adam with a learning "
        "rate that falls to zero. Mean "
        f"and, in brackets, range over {len(results['seeds'])} seeds, on test "
        "images binarised once: −ELBO in nats per image, its KL, the bound on "
        f"−log p(x) by {results['samples']:,} samples for each of "
        f"{results['nll_images']:,} images, active units; Fréchet distance, "
        f"precision and coverage of {results['quality_images']:,} samples. "
        "*Numbers* counts what the encoder gives for one image.\n\n"
        + common.table(
            [
                "posterior",
                "numbers",
                "encoder",
                "decoder",
                "−ELBO",
                "KL",
                "−log p(x)",
                "active",
                "Fréchet",
                "precision",
                "coverage",
            ],
            rows,
        )
        + compared(results)
    )


# === Running ===


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--nll-images", type=int, default=1000)
    parser.add_argument("--quality-images", type=int, default=3000)
    parser.add_argument("--runs", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    test_images, test_labels = vae_keras.load_mnist("test")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        **{
            name: getattr(options, name)
            for name in ("epochs", "samples", "nll_images", "quality_images")
        },
        "seeds": list(options.seeds),
        "images": len(images),
        "runs": {},
    }
    if set(options.runs) != set(PARTS):
        results = kept(results, options.output)

    def write():
        markdown = as_markdown(results)
        common.write_results(options.output, "spatial", results, markdown)

    for kind in (*KINDS, SEVEN_MAPS):
        if kind in options.runs:
            rows = []
            if kind == SEVEN_MAPS:
                results["seven_maps"] = rows
            else:
                results["runs"][kind] = rows
            for seed in options.seeds:
                row = measure(kind, seed, images, test_images, options)
                rows.append(row)
                write()
    if "learning rates" in options.runs:
        split = common.held_out_split(min(options.images, 55_000))
        rows = results["learning_rates"] = []
        for kind in ("map", "rows and columns", SEVEN_MAPS):
            for rate in LEARNING_RATES:
                rows.append(tried_rates(kind, rate, split))
        write()
    if "places" in options.runs:
        rows = results["places"] = []
        binary = common.binarized(test_images)
        for kind, transposed, seeds in PLACES:
            for seed in seeds:
                rows.append(
                    places(kind, transposed, seed, images, binary, test_labels)
                )
                write()


def kept(results: dict, directory) -> dict:
    """Returns the results that are there, made with the same options."""
    path = pathlib.Path(directory) / "spatial.json"
    old = json.loads(path.read_text()) if path.exists() else results
    same = results.keys() - {"command", "versions", "machine", "runs"}
    different = {name for name in same if old[name] != results[name]}
    if different or old["versions"] != results["versions"]:
        raise SystemExit(
            "Expected the options and versions of the results that are in "
            f"{path}. Received others: {sorted(different)}. Run all parts, "
            "or write to another `--output`."
        )
    return old


if __name__ == "__main__":
    main()
