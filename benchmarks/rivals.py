"""VAE, autoencoder and GAN: how good are samples of one and the same decoder?

All three have the same decoder, the same grey images, as many epochs and
as many tries: each is trained with each learning rate, the one with the
least Fréchet distance on validation images (train[55000:]) is kept, and
trained with every seed. The test images come last. VAE and autoencoder are
sampled in two ways: from N(0, I), and from a mixture of ten Gaussians
fitted to encoded training images; the better on validation images counts
when their learning rate is chosen.

The discriminator of the GAN is the encoder with one output. Its Adam has no
momentum, because each network's loss changes with the other; a row shows
what momentum does, and another the GAN after more epochs. Rows of models
that are not run keep their committed values.
"""

import json
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
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
NUM_ENCODED = 5000
SEEDS = (0, 1, 2)


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
    """Returns one of the three, trained, and the seconds it took."""
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=seed)
    num_steps = epochs * len(dataset)
    model = new_model(name, learning_rate, num_steps, seed, beta_1)
    start = time.perf_counter()
    model.fit(dataset, epochs=epochs, verbose=0)
    return model, time.perf_counter() - start


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


def tried(name: str, images, val_images, options) -> dict:
    """Returns, for each learning rate, distance, model and seconds."""
    tries = {}
    for rate in LEARNING_RATES:
        model, seconds = train(
            name, images, options.epochs, rate, options.seeds[0]
        )
        drawn = samples(model, images, len(val_images), options.seeds[0])
        distance = min(
            vae_keras.digits.sample_quality(val_images, x).frechet
            for x in drawn.values()
        )
        tries[rate] = distance, model, seconds
        print(f"{name}, {rate:g}: Fréchet {distance:.1f}", flush=True)
    return tries


def row(real_images, neighbors: NearestNeighbors, x) -> dict:
    """Measures samples; `nearest` is their distance to a training image."""
    distances, _ = neighbors.kneighbors(x[:1000].reshape(-1, 784))
    return {
        **vae_keras.digits.sample_quality(real_images, x)._asdict(),
        "nearest": float(np.median(distances)),
    }


def as_markdown(results) -> str:
    def cells(rows):
        fields = "precision", "recall", "density", "coverage", "confidence"
        return [
            common.spread(rows, "frechet"),
            *(common.spread(rows, field, 2) for field in fields),
            common.spread(rows, "nearest"),
        ]

    rows = [["real images", "–", "–", *cells([results["real"]])]]
    for name, run in results["runs"].items():
        seconds = f"{np.mean(run['seconds']):.0f}"
        for way, values in run["ways"].items():
            rate = f"{run['learning_rate']:g}"
            rows.append([f"{name}, {way}", rate, seconds, *cells(values)])
    return (
        "# Samples of one decoder\n\n"
        f"`mlp_decoder`, {LATENT_DIM} latents, {results['epochs']} epochs "
        f"of {results['images']:,} grey images unless it says otherwise, "
        f"batch {BATCH_SIZE}. {results['count']:,} samples against as many "
        "test images, by the classifier's features; mean and, in brackets, "
        f"range over {len(results['seeds'])} seeds. *Nearest* is the median "
        "distance, over pixels, of a sample to the nearest training image. "
        "Each model's learning rate is the best of three by the Fréchet "
        "distance on validation images.\n\n"
        + common.table(
            [
                "model, latents from",
                "learning rate",
                "training, s",
                "Fréchet",
                "precision",
                "recall",
                "density",
                "coverage",
                "confidence",
                "nearest",
            ],
            rows,
        )
    )


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--gan-epochs", type=int, default=24, help="of one long training"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
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
        "epochs": options.epochs,
        "images": len(images),
        "count": options.count,
        "seeds": list(options.seeds),
        "real": row(real, neighbors, others),
        "runs": {},
    }
    path = pathlib.Path(options.output) / "rivals.json"
    if path.exists():
        results["runs"] = json.loads(path.read_text())["runs"]
    for name in options.models:
        tries = tried(name, images, val_images, options)
        rate = min(tries, key=lambda rate: tries[rate][0])
        run = {
            "learning_rate": rate,
            "tries": {
                rate: distance for rate, (distance, _, _) in tries.items()
            },
            "seconds": [],
            "ways": {},
        }
        for seed in options.seeds:
            if seed == options.seeds[0]:
                _, model, seconds = tries[rate]
            else:
                model, seconds = train(name, images, options.epochs, rate, seed)
            run["seconds"].append(seconds)
            drawn = samples(model, images, options.count, seed)
            for way, x in drawn.items():
                values = row(real, neighbors, x)
                run["ways"].setdefault(way, []).append(values)
                print(f"{name}, seed {seed}, {way}: {values}", flush=True)
        results["runs"][name] = run
        common.write_results(
            options.output, "rivals", results, as_markdown(results)
        )
    if "GAN" not in options.models:
        return
    rate = results["runs"]["GAN"]["learning_rate"]
    for name, epochs, beta_1 in (
        ("GAN with momentum", options.epochs, 0.5),
        (f"GAN, {options.gan_epochs} epochs", options.gan_epochs, 0.0),
    ):
        model, seconds = train("GAN", images, epochs, rate, SEEDS[0], beta_1)
        x = np.asarray(model.generate(options.count, seed=SEEDS[0]))
        results["runs"][name] = {
            "learning_rate": rate,
            "seconds": [seconds],
            "ways": {"N(0, I)": [row(real, neighbors, x)]},
        }
        common.write_results(
            options.output, "rivals", results, as_markdown(results)
        )


if __name__ == "__main__":
    main()
