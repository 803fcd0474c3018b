"""What an autoencoder lacks: notebook 2's, and a VAE, asked to draw.

Both have the article's layers, 2 latents, Adam at 1e-3 and five epochs, for
three seeds. Each draws from N(0, I), and from the normal distribution with
the mean and covariance of its own codes (a VAE's means) of the training
images. The classifier's features of the draws are compared with those of
validation images, train[55000:]; no test image is read.
"""

import common
import keras
import numpy as np

import vae_keras
from vae_keras import baselines, digits

SEEDS = (0, 1, 2)
IMAGE_SHAPE = (28, 28, 1)
NUM_DRAWS = 3000


def build(name: str, seed: int) -> keras.Model:
    common.start_anew(seed)
    encoder = vae_keras.mlp_encoder(IMAGE_SHAPE, common.LATENT_DIM)
    decoder = vae_keras.mlp_decoder(common.LATENT_DIM, IMAGE_SHAPE)
    if name == "AE":
        return baselines.Autoencoder(encoder, decoder)
    return vae_keras.VAE(encoder, decoder, seed=seed)


def draws(model, codes, seed: int) -> dict:
    """Returns pictures decoded from each of two distributions."""
    rng = np.random.default_rng(seed)
    shape = (NUM_DRAWS, codes.shape[1])
    latents = {
        "N(0, I)": rng.normal(size=shape),
        "fitted normal": rng.multivariate_normal(
            codes.mean(axis=0), np.cov(codes.T), NUM_DRAWS
        ),
    }
    return {
        name: np.asarray(model.decode(z.astype("float32")))
        for name, z in latents.items()
    }


def measure(name: str, seed: int, epochs: int, images, val) -> dict:
    """Trains a model, copies the validation images, and draws."""
    val_images, val_labels = val
    model = build(name, seed)
    model.compile(keras.optimizers.Adam(common.LEARNING_RATE), **common.FAST)
    dataset = vae_keras.image_dataset(images, common.BATCH_SIZE, seed=seed)
    model.fit(dataset, epochs=epochs, verbose=0)
    classifier = digits.load_classifier()
    copies = model.predict(val_images, batch_size=500, verbose=0)
    read = classifier.predict(copies, batch_size=500, verbose=0).argmax(1)
    codes = model.encoder.predict(images, batch_size=500, verbose=0)
    codes = keras.tree.flatten(codes)[0]
    row = {
        **common.evaluated(model, val_images),
        "kept": float((read == val_labels).mean()),
        "deviation_of_codes": codes.std(axis=0).tolist(),
        "draws": {
            source: digits.sample_quality(
                val_images[:NUM_DRAWS], pictures
            )._asdict()
            for source, pictures in draws(model, codes, seed).items()
        },
    }
    print(name, "seed", seed, row, flush=True)
    return row


def as_markdown(results) -> str:
    rows = []
    for name, runs in results["runs"].items():
        for source in runs[0]["draws"]:
            drawn = [run["draws"][source] for run in runs]
            rows.append(
                [
                    f"{name}, {source}",
                    common.spread(runs, "reconstruction_loss"),
                    common.spread(runs, "kept", 2),
                    common.spread(drawn, "frechet", 0),
                    common.spread(drawn, "coverage", 2),
                    common.spread(drawn, "evenness", 2),
                ]
            )
    return (
        "# An autoencoder and a VAE draw\n\n"
        f"The article's layers, 2 latents, {results['epochs']} epochs of "
        "55,000 grey images, batch 64, Adam 1e-3 for both; mean and, in "
        "brackets, range over 3 seeds. *Kept* is the share of 5,000 "
        "validation digits whose copy the classifier reads as the same "
        f"digit. {NUM_DRAWS:,} draws against as many validation images.\n\n"
        + common.table(
            [
                "model, latents from",
                "reconstruction, nats",
                "kept",
                "Fréchet",
                "coverage",
                "evenness",
            ],
            rows,
        )
    )


def main() -> None:
    """Trains every model with each seed, and writes the table."""
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    options = parser.parse_args()
    images, _ = vae_keras.load_mnist(f"train[:{options.images}]")
    val = vae_keras.load_mnist("train[55000:]")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "epochs": options.epochs,
        "images": options.images,
        "seeds": list(options.seeds),
        "runs": {
            name: [
                measure(name, seed, options.epochs, images, val)
                for seed in options.seeds
            ]
            for name in ("AE", "VAE")
        },
    }
    common.write_results(
        options.output, "autoencoder", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
