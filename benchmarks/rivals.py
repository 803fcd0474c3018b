"""VAE, autoencoder and GAN: how good are samples of one and the same decoder?

All three have the same decoder, the same grey images, as many epochs and
as many tries: each is trained with each learning rate, the one with the
least Fréchet distance on validation images (train[55000:]) is kept, and
trained with every seed. A best rate at the edge of the grid is refused:
LEARNING_RATES are to be widened then, for all. The test images come last.
VAE and autoencoder are sampled in two ways: from N(0, I), and from a
mixture of ten Gaussians fitted to encoded training images; the better on
validation images counts when their learning rate is chosen.

The discriminator of the GAN is the encoder with one output. Its Adam has no
momentum, because each network's loss changes with the other; a row shows
what momentum does, and another the GAN after more epochs. Distances that
have been tried before, and rows of models that are not run, keep their
committed values (among them those of an earlier run of the GAN, which show
what rounding alone does to it); `--models` without a name runs none.

Seconds are those of one epoch, the three models taking turns, so that what
slows the machine slows all three. Only the ratios within a round count.
"""

import json
import os
import pathlib
import time

import common
import keras
import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import shuffle

import vae_keras

BATCH_SIZE = 125
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 32
MODELS = ("VAE", "AE", "GAN")
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
NUM_ENCODED = 5000
SEEDS = (0, 1, 2)
ROUNDS = 5  # of epochs that are timed


def new_model(name: str, learning_rate, num_steps: int, seed, beta_1=0.0):
    """Returns one of the three, compiled."""
    common.start_anew(seed)
    decoder = vae_keras.mlp_decoder(LATENT_DIM, IMAGE_SHAPE)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.99)
    if name == "GAN":
        discriminator = vae_keras.mlp_encoder(IMAGE_SHAPE, latent_dim=1)
        model = vae_keras.baselines.GAN(decoder, discriminator, seed=seed)
        optimizer = keras.optimizers.Adam(schedule, beta_1=beta_1)
    elif name == "VAE":
        encoder = vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM)
        model = vae_keras.VAE(encoder, decoder, seed=seed)
    else:
        encoder = vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM)
        model = vae_keras.baselines.Autoencoder(encoder, decoder)
    model.compile(optimizer, **common.FAST)
    return model


def train(name: str, images, epochs: int, learning_rate, seed, beta_1=0.0):
    """Returns one of the three, trained."""
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=seed)
    num_steps = epochs * len(dataset)
    model = new_model(name, learning_rate, num_steps, seed, beta_1)
    model.fit(dataset, epochs=epochs, verbose=0)
    return model


def epoch_seconds(images) -> dict:
    """Returns seconds of an epoch, for each model and round."""
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=0)
    models = {}
    for name in MODELS:
        models[name] = new_model(name, 1e-3, 10**6, seed=0)
        models[name].fit(dataset, verbose=0)  # compiles
    seconds = {name: [] for name in MODELS}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(dataset, verbose=0)
            seconds[name].append(time.perf_counter() - start)
    print(seconds, flush=True)
    return seconds


def latents(model, images, seed):
    """Returns a latent for each image: codes, or draws from q(z|x)."""
    if isinstance(model, vae_keras.VAE):
        return vae_keras.Sampling(seed)(model.encode(images))
    return model.encode(images)


def samples(model, images, count: int, seed: int) -> dict:
    """Returns samples from N(0, I) and, with an encoder, from a mixture."""
    drawn = {"N(0, I)": model.generate(count, seed=seed)}
    if model.has_encoder:
        z = np.float64(latents(model, images[:NUM_ENCODED], seed))
        mixture = GaussianMixture(10, random_state=seed).fit(z)
        z, _ = mixture.sample(count)  # ordered by component
        drawn["mixture"] = model.decode(shuffle(z, random_state=seed))
    return {way: np.asarray(x) for way, x in drawn.items()}


def tried(name: str, rate, images, val_images, options) -> float:
    """Returns the better samplers' distance to validation images."""
    seed = options.seeds[0]
    model = train(name, images, options.epochs, rate, seed)
    drawn = samples(model, images, len(val_images), seed)
    distance = min(
        vae_keras.digits.sample_quality(val_images, x).frechet
        for x in drawn.values()
    )
    print(f"{name}, {rate:g}: Fréchet {distance:.1f}", flush=True)
    return distance


def best_rate(tries: dict) -> float:
    """Returns the rate of the least distance, which has two neighbours."""
    rates = sorted(tries, key=float)
    best = min(tries, key=tries.get)
    if best in (rates[0], rates[-1]):
        raise SystemExit(
            f"The best learning rate, {best}, is at the edge of the grid. "
            f"Widen LEARNING_RATES. Tried: {tries}."
        )
    return float(best)


def row(real_images, neighbors: NearestNeighbors, x) -> dict:
    """Measures samples, and their distances to the nearest training image.

    A median cannot notice that a few samples are copies; the distance that
    one in a hundred does not reach, `nearest_low`, would.
    """
    distances, _ = neighbors.kneighbors(x.reshape(-1, 784))
    return {
        **vae_keras.digits.sample_quality(real_images, x)._asdict(),
        "nearest": float(np.median(distances)),
        "nearest_low": float(np.quantile(distances, 0.01)),
    }


def as_markdown(results) -> str:
    def cells(rows):
        fields = "precision", "recall", "density", "coverage", "confidence"
        low = all("nearest_low" in row for row in rows)
        return [
            common.spread(rows, "frechet"),
            *(common.spread(rows, field, 2) for field in fields),
            common.spread(rows, "nearest"),
            common.spread(rows, "nearest_low") if low else "–",
        ]

    rows = [["real images", "–", *cells([results["real"]])]]
    tries, timed = [], []
    for name, run in results["runs"].items():
        for way, values in run.get("ways", {}).items():
            rate = f"{run['learning_rate']:g}"
            rows.append([f"{name}, {way}", rate, *cells(values)])
        if "tries" in run:
            distances = run["tries"].values()
            tries.append([name, *(f"{d2:.1f}" for d2 in distances)])
    rates = [f"{rate:g}" for rate in LEARNING_RATES]
    seconds = results["epoch_seconds"]
    for name, values in seconds.items():
        ratios = np.divide(values, seconds["VAE"])
        timed.append(
            [
                f"{name}, one epoch",
                f"{np.median(values):.1f}",
                f"{np.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    return (
        "# Samples of one decoder\n\n"
        f"`mlp_decoder`, {LATENT_DIM} latents, {results['epochs']} epochs "
        f"of {results['images']:,} grey images unless it says otherwise, "
        f"batch {BATCH_SIZE}. {results['count']:,} samples against as many "
        "test images, by the classifier's features; mean and, in brackets, "
        f"range over {len(results['seeds'])} seeds. *Nearest* is the "
        "distance, over pixels, of a sample to the nearest training image: "
        "the median and the 1 % quantile of all samples, which come in no "
        "order. *Real images* are other test images. *GAN, earlier run*: the "
        "same settings and seeds with two threads and an earlier state of "
        "the package, which round differently.\n\n"
        + common.table(
            [
                "model, latents from",
                "learning rate",
                "Fréchet",
                "precision",
                "recall",
                "density",
                "coverage",
                "confidence",
                "nearest, median",
                "nearest, 1 %",
            ],
            rows,
        )
        + "\nFréchet distance to validation images by learning rate, seed "
        f"{results['seeds'][0]}; of VAE and AE that of the better of the two "
        "ways to sample. The least decides.\n\n"
        + common.table(["model", *rates], tries)
        + f"\nSeconds of an epoch, the models taking turns in {ROUNDS} "
        f"rounds, with {results['threads']} thread(s): the median, then the "
        "median and the range of the ratios within a round. Other programs "
        "may have run meanwhile.\n\n"
        + common.table(["model", "seconds", "of the VAE's", "range"], timed)
    )


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--gan-epochs", type=int, default=24, help="of one long training"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    options = parser.parse_args()
    images = vae_keras.load_mnist("train[:55000]")[0][: options.images]
    val_images, _ = vae_keras.load_mnist("train[55000:]")
    test_images, _ = vae_keras.load_mnist("test")
    real, others = test_images[: 2 * options.count].reshape(
        2, options.count, *IMAGE_SHAPE
    )
    neighbors = NearestNeighbors(n_neighbors=1)
    neighbors.fit(images.reshape(-1, 784))
    results = {
        **common.provenance(["tensorflow", "keras", "numpy", "scikit-learn"]),
        "threads": int(
            os.environ.get("TF_NUM_INTRAOP_THREADS", common.num_cores())
        ),
        "epochs": options.epochs,
        "images": len(images),
        "count": options.count,
        "seeds": list(options.seeds),
        "real": row(real, neighbors, others),
        "epoch_seconds": epoch_seconds(images),
        "runs": {},
    }
    path = pathlib.Path(options.output) / "rivals.json"
    if path.exists():
        results["runs"] = json.loads(path.read_text())["runs"]
    runs = results["runs"]

    def write():
        common.write_results(
            options.output, "rivals", results, as_markdown(results)
        )

    for name in options.models:
        tries = runs.setdefault(name, {}).setdefault("tries", {})
        for rate in LEARNING_RATES:
            if str(rate) not in tries:
                tries[str(rate)] = tried(
                    name, rate, images, val_images, options
                )
                write()
    rates = {name: best_rate(runs[name]["tries"]) for name in options.models}
    write()
    for name, rate in rates.items():
        ways = {}
        for seed in options.seeds:
            model = train(name, images, options.epochs, rate, seed)
            for way, x in samples(model, images, options.count, seed).items():
                values = row(real, neighbors, x)
                ways.setdefault(way, []).append(values)
                print(f"{name}, seed {seed}, {way}: {values}", flush=True)
        tries = runs[name]["tries"]
        runs[name] = {"learning_rate": rate, "tries": tries, "ways": ways}
        write()
    if "GAN" not in options.models:
        return
    rate = rates["GAN"]
    for name, epochs, beta_1 in (
        ("GAN with momentum", options.epochs, 0.5),
        (f"GAN, {options.gan_epochs} epochs", options.gan_epochs, 0.0),
    ):
        if runs.get(name, {}).get("learning_rate") == rate:
            continue
        model = train("GAN", images, epochs, rate, SEEDS[0], beta_1)
        x = np.asarray(model.generate(options.count, seed=SEEDS[0]))
        ways = {"N(0, I)": [row(real, neighbors, x)]}
        runs[name] = {"learning_rate": rate, "ways": ways}
        write()


if __name__ == "__main__":
    main()
