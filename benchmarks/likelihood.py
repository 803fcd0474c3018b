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
    python benchmarks/likelihood.py --share 0.01 --samples 50 --output DIR

The last is a quick look: a hundredth of the minutes. Rows that are not run
keep their committed values.
"""

import json
import math
import pathlib
import time
from typing import NamedTuple

import common
import keras
import tensorflow as tf

import vae_keras

BATCH_SIZE = 125  # divides 60,000: XLA compiles one shape
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 40
SEED = 0
MODELS = pathlib.Path(__file__).parents[1] / "artifacts" / "likelihood"
PACKAGES = ["tensorflow", "keras", "numpy"]


class Run(NamedTuple):
    """A network and how long it is trained, by the clock.

    Attributes:
        minutes: of training, compilation included.
        sizes: what is not the default of encoder and decoder.
        policy: the dtype policy.
        learning_rate: the largest. It falls to half of that in the first
            phase and to zero in the second, or to zero in the only one.
        elbo_share: the share of the time for the first phase, with the
            ELBO. In the second it is the importance-weighted bound.
        num_samples: of that bound, in training.
    """

    minutes: float
    sizes: dict
    policy: str
    learning_rate: float
    elbo_share: float
    num_samples: int = 5


RUNS = {
    "conv, 15 minutes": Run(15, {}, "float32", 4e-3, 0.55),
    "larger conv, 55 minutes": Run(
        55, {"filters": 48, "num_blocks": 2}, "mixed_bfloat16", 3e-3, 0.5
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
    keras.config.set_dtype_policy(run.policy)
    return IWAE(
        vae_keras.conv_encoder(IMAGE_SHAPE, LATENT_DIM, **run.sizes),
        vae_keras.conv_decoder(LATENT_DIM, IMAGE_SHAPE, **run.sizes),
        seed=SEED,
    )


class Deadline(keras.callbacks.Callback):
    """Ends training on time, with a learning rate that knows the clock.

    It rises during the first twentieth of the time, then falls along a
    cosine.

    Args:
        end: when to stop, a value of `time.perf_counter()`.
        largest: the learning rate after the rise.
        last: the learning rate at the end.
    """

    def __init__(self, end: float, largest: float, last: float):
        super().__init__()
        self.start, self.end = time.perf_counter(), end
        self.largest, self.last = largest, last

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        share = 1.0  # Also where the end had passed before the start.
        if now >= self.end:
            self.model.stop_training = True
        else:
            share = (now - self.start) / (self.end - self.start)
        fall = 0.5 * (1 - math.cos(math.pi * share))
        rate = self.largest + (self.last - self.largest) * fall
        self.model.optimizer.learning_rate = rate * min(1, 20 * share + 0.05)


def fit(vae, dataset, end: float, largest: float, last: float) -> list[float]:
    """Trains until the clock shows `end`; returns the loss of each epoch."""
    # With several samples per image, and so large arrays, and for bfloat16
    # TensorFlow's own convolutions are faster than XLA's.
    is_float32 = keras.config.dtype_policy().name == "float32"
    vae.compile(
        keras.optimizers.Adam(largest / 20, beta_2=0.99),
        jit_compile=is_float32 and vae.num_samples == 1,
        steps_per_execution=50,
    )
    deadline = Deadline(end, largest, last)
    # More epochs than there is time for.
    history = vae.fit(dataset, epochs=10**6, callbacks=[deadline], verbose=2)
    return history.history["loss"]


def train(name: str, images, share: float, models: pathlib.Path) -> None:
    """Trains one row, and saves the model and what its training was."""
    run = RUNS[name]
    vae = new_model(run)
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=SEED
    )
    rate = run.learning_rate
    middle = rate / 2 if run.elbo_share < 1 else 0.0
    record = {
        **run._asdict(),
        **common.provenance(PACKAGES),
        "seed": SEED,
        "images": len(images),
    }
    start = time.perf_counter()
    # A group of fifty steps may end some seconds late.
    seconds = share * 60 * run.minutes - 5
    end = start + run.elbo_share * seconds
    record["losses"] = fit(vae, dataset, end, rate, middle)
    record["epochs"] = int(vae.optimizer.iterations) / len(dataset)
    if run.elbo_share < 1:
        vae.num_samples = run.num_samples
        weighted = fit(vae, dataset, start + seconds, middle, 0.0)
        record["weighted_losses"] = weighted
        record["weighted_epochs"] = int(vae.optimizer.iterations) / len(dataset)
    record["seconds"] = time.perf_counter() - start
    networks = (vae.encoder, vae.decoder)
    record["parameters"] = [n.count_params() for n in networks]
    models.mkdir(parents=True, exist_ok=True)
    vae_keras.VAE(*networks).save(models / f"{name}.keras")
    (models / f"{name}.json").write_text(json.dumps(record))


def evaluate(name: str, images, num_samples: int, models) -> dict:
    """Measures a saved model, and returns the row with its training."""
    vae = keras.saving.load_model(models / f"{name}.keras")
    vae.compile()
    logs = common.evaluated(vae, images)
    start = time.perf_counter()
    estimate = vae_keras.importance_weighted_nll(
        vae, images, num_samples=num_samples
    )
    return {
        **json.loads((models / f"{name}.json").read_text()),
        "test_elbo": logs["loss"],
        "nll": estimate.mean,
        "standard_error": estimate.standard_error,
        "standard_deviation": float(estimate.per_image.std(ddof=1)),
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
        epochs = f"{row['epochs']:.0f}"
        if "weighted_epochs" in row:
            epochs += (
                f" + {row['weighted_epochs']:.0f} (k = {row['num_samples']})"
            )
        rows.append(
            [
                f"**{name}**",
                f"{sum(row['parameters']) / 1e6:.1f} M",
                epochs,
                f"{row['seconds']:.0f}",
                f"{row['test_elbo']:.2f}",
                f"**{row['nll']:.2f}** ± {row['standard_error']:.2f}",
                f"{row['active_units']} of {LATENT_DIM}",
            ]
        )
    last = row  # all rows are measured alike
    return (
        "# Negative log-likelihood\n\n"
        f"Nats per image on {last['test_images']:,} test images, lower is "
        "better: −log p(x) by importance weighting with "
        f"{last['evaluation_samples']:,} samples per image, ± its "
        "standard error over images; beside it −ELBO. Pixels are binarised "
        "anew each epoch in training, and once for the test. Adam, "
        f"beta_2 0.99, batch {BATCH_SIZE}, a learning rate that falls along "
        f"a cosine, seed {SEED}, {last['images']:,} training images. *Epochs* "
        "counts those with the ELBO, + those with the importance-weighted "
        "bound of k samples. Burda et al. trained for 3,280 epochs.\n\n"
        + common.table(
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
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--only", choices=("train", "evaluate"))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the training minutes"
    )
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    # Drawn before they are cut: the same pixels in a quick look.
    test_images = common.binarized(vae_keras.load_mnist("test")[0])[
        : options.images
    ]
    path = pathlib.Path(options.output) / "likelihood.json"
    models = (
        MODELS if options.output == common.RESULTS else path.parent / "models"
    )
    rows = json.loads(path.read_text())["runs"] if path.exists() else {}
    for name in options.runs:
        if options.only != "evaluate":
            train(name, images, options.share, models)
        if options.only != "train":
            samples = options.samples
            rows[name] = evaluate(name, test_images, samples, models)
            results = {
                **common.provenance(PACKAGES),
                "runs": {name: rows[name] for name in RUNS if name in rows},
            }
            markdown = as_markdown(results)
            common.write_results(
                options.output, "likelihood", results, markdown
            )


if __name__ == "__main__":
    main()
