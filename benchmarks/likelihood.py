"""What the models score: −log p(x) of the test digits, with error bars.

Trains on 60,000 images, binarised anew each epoch, and estimates
−log p(x) of the 10,000 test images, binarised once, with 5,000 samples per
image. Training ends with some epochs of the importance-weighted objective.
The training seconds are those on the clock, compilation included. Every
choice (network, learning rates, share of the objectives) was made on
train[55000:]; the test images are read once, at the end.

    python benchmarks/likelihood.py                     all rows, in hours
    python benchmarks/likelihood.py --runs "conv, 15 minutes"
    python benchmarks/likelihood.py --only evaluate     of saved models

Rows that are not run keep their committed values.
"""

import argparse
import json
import os
import pathlib
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from common import RESULTS, provenance, table, write_results

import vae_keras

BATCH_SIZE = 125  # divides 60,000: XLA compiles one shape
IMAGE_SHAPE = (28, 28, 1)
SEED = 0
MODELS = pathlib.Path(__file__).parents[1] / "artifacts" / "likelihood"


class Run(NamedTuple):
    """A network and how long it is trained, in epochs.

    Attributes:
        network: "conv" or "mlp".
        latent_dim: the number of latent dimensions.
        decoder_arguments: what is not the decoder's default.
        learning_rate: the largest. It falls to half of that in the first
            phase and to zero in the second, or to zero in the only one.
        epochs: with the ELBO: the first phase.
        weighted_epochs: with the importance-weighted bound: the second.
        num_samples: of that bound, in training.
    """

    network: str
    latent_dim: int
    decoder_arguments: dict
    learning_rate: float
    epochs: int
    weighted_epochs: int = 0
    num_samples: int = 5


RUNS = {
    "MLP, 5 minutes": Run("mlp", 40, {}, 2e-3, 55),
    "conv, 5 minutes": Run("conv", 40, {}, 4e-3, 25),
    "conv, 15 minutes": Run("conv", 40, {}, 4e-3, 36, 9),
    "larger conv, 60 minutes": Run(
        "conv", 40, {"filters": 48, "num_blocks": 2}, 3e-3, 68, 18
    ),
}

# Dynamic binarisation, 5,000 samples: nats, active units. Burda et al.,
# arXiv:1509.00519, table 1; Kingma et al., arXiv:1606.04934, table 1.
REFERENCES = {
    "VAE, 1 layer, k = 1 (Burda et al.)": (86.76, 19),
    "IWAE, 1 layer, k = 50 (Burda et al.)": (84.78, 25),
    "IWAE, 2 layers, k = 50 (Burda et al.)": (82.90, None),
    "convolutional ResNet VAE (Kingma et al.)": (81.08, None),
}


class IWAE(vae_keras.VAE):
    """A VAE trained with the importance-weighted bound of K samples.

    Reference: Burda et al., ICLR 2016, arXiv:1509.00519.
    """

    num_samples = 1

    def elbo_terms(self, data, training: bool):
        if not training or self.num_samples == 1:
            return super().elbo_terms(data, training)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        z_mean, z_log_var = self.encoder(x, training=True)
        kl = vae_keras.gaussian_kl(z_mean, z_log_var)
        # Each image as often as it gets samples: (batch · K, …).
        x, z_mean, z_log_var = (
            tf.repeat(t, self.num_samples, axis=0)
            for t in (x, z_mean, z_log_var)
        )
        z = self.sampling((z_mean, z_log_var))
        epsilon = (z - z_mean) * tf.exp(-0.5 * z_log_var)
        log_ratio = 0.5 * (tf.square(epsilon) + z_log_var - tf.square(z))
        logits = self.decoder(z, training=True)
        log_weights = tf.reduce_sum(
            log_ratio, axis=1
        ) - self.negative_log_likelihood(x, logits)
        log_weights = tf.reshape(log_weights, (-1, self.num_samples))
        bound = tf.math.log(float(self.num_samples)) - tf.reduce_logsumexp(
            log_weights, axis=1
        )
        return bound - kl, kl  # β = 1: their sum is what is trained


def new_model(run: Run) -> IWAE:
    keras.utils.set_random_seed(SEED)
    encoder = getattr(vae_keras, f"{run.network}_encoder")
    decoder = getattr(vae_keras, f"{run.network}_decoder")
    return IWAE(
        encoder(IMAGE_SHAPE, run.latent_dim),
        decoder(run.latent_dim, IMAGE_SHAPE, **run.decoder_arguments),
        seed=SEED,
    )


def fit(vae, dataset, epochs: int, start: float, end: float) -> list[float]:
    """Trains with a learning rate that rises briefly, then falls."""
    num_steps = epochs * len(dataset)
    warmup = num_steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        start / 10,
        num_steps - warmup,
        alpha=end / start,
        warmup_target=start,
        warmup_steps=warmup,
    )
    vae.compile(
        keras.optimizers.Adam(schedule, beta_2=0.99),
        jit_compile=True,
        steps_per_execution=50,
    )
    return vae.fit(dataset, epochs=epochs, verbose=2).history["loss"]


def train(name: str, images) -> None:
    """Trains one row, and saves the model and what its training was."""
    run = RUNS[name]
    vae = new_model(run)
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=SEED
    )
    rate = run.learning_rate
    middle = rate / 2 if run.weighted_epochs else 0.0
    record = {**run._asdict(), "seed": SEED, "images": len(images)}
    start = time.perf_counter()
    record["losses"] = fit(vae, dataset, run.epochs, rate, middle)
    if run.weighted_epochs:
        vae.num_samples = run.num_samples
        weighted = fit(vae, dataset, run.weighted_epochs, middle, 0.0)
        record["weighted_losses"] = weighted
    record["seconds"] = time.perf_counter() - start
    networks = (vae.encoder, vae.decoder)
    record["parameters"] = [n.count_params() for n in networks]
    MODELS.mkdir(parents=True, exist_ok=True)
    vae_keras.VAE(*networks).save(MODELS / f"{name}.keras")
    (MODELS / f"{name}.json").write_text(json.dumps(record))


def evaluate(name: str, images, num_samples: int) -> dict:
    """Measures a saved model, and returns the row with its training."""
    vae = keras.saving.load_model(MODELS / f"{name}.keras")
    vae.compile()
    logs = vae.evaluate(images, batch_size=500, verbose=0, return_dict=True)
    start = time.perf_counter()
    estimate = vae_keras.importance_weighted_nll(vae, images, num_samples)
    return {
        **json.loads((MODELS / f"{name}.json").read_text()),
        "test_elbo": logs["loss"],
        "nll": estimate.mean,
        "standard_error": estimate.standard_error,
        "evaluation_samples": num_samples,
        "test_images": len(images),
        "active_units": vae_keras.active_units(vae, images),
        "evaluation_seconds": time.perf_counter() - start,
    }


def as_markdown(results) -> str:
    rows = [
        [name, "–", "–", "–", "–", f"{nats:.2f}", units or "–"]
        for name, (nats, units) in REFERENCES.items()
    ]
    for name, row in results["runs"].items():
        epochs = f"{row['epochs']}"
        if row["weighted_epochs"]:
            epochs += f" + {row['weighted_epochs']} (k = {row['num_samples']})"
        rows.append(
            [
                f"**{name}**",
                f"{sum(row['parameters']) / 1e6:.1f} M",
                epochs,
                f"{row['seconds']:.0f}",
                f"{row['test_elbo']:.2f}",
                f"**{row['nll']:.2f}** ± {row['standard_error']:.2f}",
                f"{row['active_units']} of {row['latent_dim']}",
            ]
        )
    return (
        "# Negative log-likelihood\n\n"
        "Nats per image on the 10,000 test images, lower is better: −log "
        "p(x) by importance weighting with 5,000 samples per image, ± its "
        "standard error over images; beside it −ELBO. Pixels are binarised "
        "anew each epoch in training, and once for the test. Adam, "
        f"beta_2 0.99, batch {BATCH_SIZE}, a learning rate that falls along "
        f"a cosine, seed {SEED}, all 60,000 training images. *Epochs* "
        "counts those with the ELBO, + those with the importance-weighted "
        "bound of k samples. Burda et al. trained for 3,280 epochs.\n\n"
        + table(
            [
                "model",
                "parameters",
                "epochs",
                "training, s",
                "−ELBO",
                "−log p(x)",
                "active units",
            ],
            rows,
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--only", choices=("train", "evaluate"))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument(
        "--images", type=int, default=60_000, help="fewer for a quick look"
    )
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    test_images = vae_keras.load_mnist("test")[0][: options.images]
    draw = np.random.default_rng(SEED).random(test_images.shape)
    test_images = (draw < test_images).astype("float32")
    path = pathlib.Path(options.output) / "likelihood.json"
    rows = json.loads(path.read_text())["runs"] if path.exists() else {}
    for name in options.runs:
        if options.only != "evaluate":
            train(name, images)
        if options.only != "train":
            rows[name] = evaluate(name, test_images, options.samples)
            results = {
                **provenance(["tensorflow", "keras", "numpy"]),
                "runs": {name: rows[name] for name in RUNS if name in rows},
            }
            markdown = as_markdown(results)
            write_results(options.output, "likelihood", results, markdown)


if __name__ == "__main__":
    main()
