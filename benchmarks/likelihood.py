"""What the models score: −log p(x) of the test digits, with error bars.

Trains on 60,000 images, binarised anew each epoch, and estimates
−log p(x) of the 10,000 test images, binarised once, with 5,000 samples per
image. Training begins with the ELBO and ends with the importance-weighted
bound of `vae_keras.IWAE`. The training seconds are those on the clock,
compilation included. Every choice (network, learning rates, share of the
objectives) was made on train[55000:]; the test images are read once, at the
end.

    python benchmarks/likelihood.py                     all rows, in hours
    python benchmarks/likelihood.py --runs "conv, 15 minutes" --seeds 0 1 2
    python benchmarks/likelihood.py --only evaluate     of saved models
    python benchmarks/likelihood.py --share 0.01 --samples 50 --output DIR
    python benchmarks/likelihood.py --ablation          tricks, on train[55000:]

The last but one is a quick look: a hundredth of the minutes. Rows that are
not run keep their committed values.
"""

import json
import math
import pathlib
import time
from typing import NamedTuple

import common
import keras
import numpy as np
import tensorflow as tf

import vae_keras

BATCH_SIZE = 125  # divides 60,000: XLA compiles one shape
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 40
MODELS = pathlib.Path(__file__).parents[1] / "artifacts" / "likelihood"
PACKAGES = ["tensorflow", "keras", "numpy"]


class Run(NamedTuple):
    """A network and how long it is trained, by the clock.

    Attributes:
        minutes: of training, compilation included.
        encoder, decoder: what is not the default of these networks.
        policy: the dtype policy.
        learning_rate: the largest. It falls to half of that in the first
            phase and to zero in the second, or to zero in the only one.
        elbo_share: the share of the time for the first phase, with the
            ELBO. In the second it is the importance-weighted bound.
        num_samples: of that bound, in training.
        doubly_reparameterized: whether its gradient is.
        num_components: of the prior, a learned mixture; 0 for N(0, I).
        ema: the momentum of an average of the weights, or `None`.
        shift: by how many pixels images are moved at random.
    """

    minutes: float
    encoder: dict
    decoder: dict
    policy: str
    learning_rate: float
    elbo_share: float
    num_samples: int = 5
    doubly_reparameterized: bool = True
    num_components: int = 0
    ema: float | None = None
    shift: int = 0


SMALL, LARGER = {"filters": 16}, {"filters": 48, "num_blocks": 2}

RUNS = {
    "conv, 15 minutes": Run(15, {}, {}, "float32", 4e-3, 0.55),
    "larger conv, 55 minutes": Run(
        55, LARGER, LARGER, "mixed_bfloat16", 3e-3, 0.5
    ),
    "learned mixture, 60 minutes": Run(
        60, SMALL, LARGER, "mixed_bfloat16", 3e-3, 0.5, num_components=500
    ),
}

# What each trick is worth, alone, after two minutes.
SHORT = Run(2, {}, {}, "float32", 4e-3, 0.55)
ABLATION = {
    "as it is": SHORT,
    "the loss's own gradient": SHORT._replace(doubly_reparameterized=False),
    "the ELBO to the end": SHORT._replace(elbo_share=1.0),
    "20 samples": SHORT._replace(num_samples=20),
    "averaged weights": SHORT._replace(ema=0.999),
    "shifts by a pixel": SHORT._replace(shift=1),
    "learned mixture": SHORT._replace(num_components=500),
}

# Dynamic binarisation, 5,000 samples: nats, active units. Burda et al.,
# arXiv:1509.00519, table 1; Kingma et al., arXiv:1606.04934, table 1; Norouzi
# et al., arXiv:2004.04795, by the table of its repository.
REFERENCES = {
    "VAE, 1 layer, k = 1 (Burda et al.)": (86.76, 19),
    "IWAE, 1 layer, k = 50 (Burda et al.)": (84.78, 25),
    "IWAE, 2 layers, k = 50 (Burda et al.)": (82.90, None),
    "convolutional ResNet VAE (Kingma et al.)": (81.08, None),
    "1 dense layer, VampPrior (Norouzi et al.)": (82.43, None),
    "1 dense layer, exemplar prior (Norouzi et al.)": (82.09, None),
    "2 convolutional layers, exemplar prior (same)": (79.58, None),
}


def new_models(run: Run, seed: int) -> tuple[vae_keras.VAE, vae_keras.IWAE]:
    """Returns the models of both phases, which share their networks."""
    common.start_anew(seed)
    keras.config.set_dtype_policy(run.policy)
    networks = (
        vae_keras.conv_encoder(IMAGE_SHAPE, LATENT_DIM, **run.encoder),
        vae_keras.conv_decoder(LATENT_DIM, IMAGE_SHAPE, **run.decoder),
    )
    # A learned prior belongs to one model: each has its own.
    vae_prior, iwae_prior = (
        vae_keras.priors.Mixture(run.num_components)
        if run.num_components
        else vae_keras.priors.StandardNormal()
        for _ in range(2)
    )
    iwae = vae_keras.IWAE(
        *networks,
        num_samples=run.num_samples,
        doubly_reparameterized=run.doubly_reparameterized,
        seed=seed,
        prior=iwae_prior,
    )
    return vae_keras.VAE(*networks, seed=seed, prior=vae_prior), iwae


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


def fit(model, run: Run, dataset, end: float, rates) -> list[float]:
    """Trains until the clock shows `end`; returns the loss of each epoch."""
    largest, last = rates
    average = {} if run.ema is None else {"ema_momentum": run.ema}
    # With several samples per image, and so large arrays, and for bfloat16
    # TensorFlow's own convolutions are faster than XLA's.
    is_iwae = isinstance(model, vae_keras.IWAE)
    model.compile(
        keras.optimizers.Adam(
            largest / 20, beta_2=0.99, use_ema=bool(average), **average
        ),
        jit_compile=run.policy == "float32" and not is_iwae,
        steps_per_execution=50,
    )
    deadline = Deadline(end, largest, last)
    # More epochs than there is time for.
    history = model.fit(dataset, epochs=10**6, callbacks=[deadline], verbose=2)
    return history.history["loss"]


def moved(images, pixels: int):
    """Returns images moved by up to so many pixels, each its own way."""
    ways = tf.random.uniform(
        (len(images), 2), -pixels, pixels + 1, dtype=tf.int32
    )
    padding = [[0, 0], [pixels] * 2, [pixels] * 2, [0, 0]]
    padded = tf.pad(images, padding)
    rows = ways[:, :1] + pixels + tf.range(IMAGE_SHAPE[0])
    columns = ways[:, 1:] + pixels + tf.range(IMAGE_SHAPE[1])
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    padded = tf.transpose(padded, (0, 2, 1, 3))
    cut = tf.gather(padded, columns, axis=1, batch_dims=1)
    return tf.transpose(cut, (0, 2, 1, 3))


def train(run: Run, seed: int, images, share: float) -> tuple:
    """Trains one row; returns the model and what its training was."""
    start = time.perf_counter()
    vae, iwae = new_models(run, seed)
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=seed
    )
    num_steps = len(dataset)
    if run.shift:
        dataset = dataset.map(lambda x: moved(x, run.shift))
    rate = run.learning_rate
    middle = rate / 2 if run.elbo_share < 1 else 0.0
    record = {
        **run._asdict(),
        **common.provenance(PACKAGES),
        "seed": seed,
        "images": len(images),
    }
    # A group of fifty steps may end some seconds late.
    seconds = share * 60 * run.minutes - 5
    end = start + run.elbo_share * seconds
    record["losses"] = fit(vae, run, dataset, end, (rate, middle))
    record["epochs"] = int(vae.optimizer.iterations) / num_steps
    if run.elbo_share < 1:
        iwae.prior.set_weights(vae.prior.get_weights())
        weighted = fit(iwae, run, dataset, start + seconds, (middle, 0.0))
        record["weighted_losses"] = weighted
        record["weighted_epochs"] = int(iwae.optimizer.iterations) / num_steps
        vae.prior.set_weights(iwae.prior.get_weights())
    record["seconds"] = time.perf_counter() - start
    networks = (vae.encoder, vae.decoder)
    record["parameters"] = [n.count_params() for n in networks]
    return vae, record


def measure(vae, images, num_samples: int) -> dict:
    """Returns −ELBO and −log p(x) of images, binarised."""
    start = time.perf_counter()
    vae.compile()
    logs = common.evaluated(vae, images)
    estimate = vae_keras.importance_weighted_nll(
        vae, images, num_samples=num_samples
    )
    return {
        "test_elbo": logs["loss"],
        "nll": estimate.mean,
        "standard_error": estimate.standard_error,
        "standard_deviation": float(estimate.per_image.std(ddof=1)),
        "evaluation_samples": num_samples,
        "test_images": len(images),
        "active_units": vae_keras.active_units(vae, images),
        "evaluation_seconds": time.perf_counter() - start,
    }


def run_row(name: str, seed: int, images, test_images, options, models):
    """Trains a row's model, or measures it, or both; returns the row."""
    saved = models / f"{name}, seed {seed}.keras"
    record = saved.with_suffix(".json")
    if options.only != "evaluate":
        vae, row = train(RUNS[name], seed, images, options.share)
        models.mkdir(parents=True, exist_ok=True)
        vae.save(saved)
        record.write_text(json.dumps(row))
    if options.only == "train":
        return None
    vae = keras.saving.load_model(saved)
    row = json.loads(record.read_text())
    return {**row, **measure(vae, test_images, options.samples)}


def run_ablation(images, options) -> list[dict]:
    """Returns each trick's −log p(x) of 1,000 validation images."""
    val_images = common.binarized(images[-5000:])[:1000]
    rows = []
    for seed in options.seeds:
        for name, run in ABLATION.items():
            vae, row = train(run, seed, images[:-5000], options.share)
            row |= measure(vae, val_images, options.samples)
            rows.append({"name": name, **row})
            print(f"{name}, seed {seed}: {row['nll']:.2f}", flush=True)
    return rows


def last_loss(run: dict) -> float:
    """Returns the training loss at the end, of the last phase there was."""
    return run.get("weighted_losses", run["losses"])[-1]


def as_markdown(results) -> str:
    rows = [
        [name, "–", "–", "–", "–", "–", "–", f"{nats:.2f}", units or "–"]
        for name, (nats, units) in REFERENCES.items()
    ]
    for name, runs in results["runs"].items():
        row = runs[0]
        mean = {
            key: np.mean([run[key] for run in runs])
            for key in ("seconds", "test_elbo", "nll", "standard_error")
        }
        epochs = f"{row['epochs']:.0f}"
        if "weighted_epochs" in row:
            epochs += (
                f" + {row['weighted_epochs']:.0f} (k = {row['num_samples']})"
            )
        rows.append(
            [
                f"**{name}**",
                f"{sum(row['parameters']) / 1e6:.1f} M",
                len(runs),
                epochs,
                f"{mean['seconds']:.0f}",
                f"{np.mean([last_loss(run) for run in runs]):.2f}",
                f"{mean['test_elbo']:.2f}",
                f"**{mean['nll']:.2f}** ± {mean['standard_error']:.2f}",
                f"{row['active_units']} of {LATENT_DIM}",
            ]
        )
    last = row  # All rows are measured alike.
    return (
        "# Negative log-likelihood\n\n"
        f"Nats per image on {last['test_images']:,} test images, lower is "
        "better: −log p(x) by importance weighting with "
        f"{last['evaluation_samples']:,} samples per image, ± its "
        "standard error over images; beside it −ELBO. Pixels are binarised "
        "anew each epoch in training, and once for the test. Adam, "
        f"beta_2 0.99, batch {BATCH_SIZE}, a learning rate that falls along "
        f"a cosine, {last['images']:,} training images. *Epochs* "
        "counts those with the ELBO, + those with the importance-weighted "
        "bound of k samples, and *training loss* is the last of these, on "
        "the training images. Burda et al. trained for 3,280 epochs.\n\n"
        + common.table(
            [
                "model",
                "parameters",
                "seeds",
                "epochs",
                "training, s",
                "training loss",
                "−ELBO",
                "−log p(x)",
                "active units",
            ],
            rows,
        )
    )


def ablation_as_markdown(rows) -> str:
    """A table of tricks, and how each differs from none, paired by seed."""
    seeds = sorted({row["seed"] for row in rows})
    nll = {(row["name"], row["seed"]): row["nll"] for row in rows}
    table = []
    for name in ABLATION:
        gaps = np.array(
            [nll[name, seed] - nll["as it is", seed] for seed in seeds]
        )
        error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
        mean = np.mean([nll[name, seed] for seed in seeds])
        gap = f"{gaps.mean():+.2f} ± {error:.2f}" if gaps.any() else "–"
        table.append([name, f"{mean:.2f}", gap])
    first = rows[0]
    return (
        "\n## What a trick is worth\n\n"
        f"Each alone, after {first['seconds']:.0f} s on train[:55000]: "
        f"−log p(x) of {first['test_images']:,} images of train[55000:] with "
        f"{first['evaluation_samples']:,} samples, means over "
        f"{len(seeds)} seeds, and the differences from the first row, paired "
        "by seed, ± their standard errors. *As it is*: the convolutional "
        "networks' defaults, the ELBO for 55 % of the time, then the bound "
        "of 5 samples with doubly reparameterised gradients.\n\n"
        + common.table(["trick", "−log p(x)", "difference"], table)
    )


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", choices=("train", "evaluate"))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the training minutes"
    )
    parser.add_argument(
        "--ablation", action="store_true", help="measure tricks, not rows"
    )
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][-options.images :]
    # Drawn before they are cut: the same pixels in a quick look.
    test_images = common.binarized(vae_keras.load_mnist("test")[0])[
        : options.images
    ]
    path = pathlib.Path(options.output) / "likelihood.json"
    models = (
        MODELS if options.output == common.RESULTS else path.parent / "models"
    )
    results = {"runs": {}}
    if path.exists():
        results |= json.loads(path.read_text())

    def write():
        """Keeps what there is: the next row takes its time."""
        results.update(common.provenance(PACKAGES))
        rows = results["runs"]
        results["runs"] = {name: rows[name] for name in RUNS if name in rows}
        markdown = (
            as_markdown(results) if rows else "# Negative log-likelihood\n"
        )
        if "ablation" in results:
            markdown += ablation_as_markdown(results["ablation"])
        common.write_results(options.output, "likelihood", results, markdown)

    if options.ablation:
        results["ablation"] = run_ablation(images, options)
        write()
        return
    for name in options.runs:
        for seed in options.seeds:
            row = run_row(name, seed, images, test_images, options, models)
            if row is None:
                continue
            others = results["runs"].get(name, [])
            kept = [other for other in others if other["seed"] != seed]
            runs = sorted([*kept, row], key=lambda run: run["seed"])
            results["runs"][name] = runs
            write()


if __name__ == "__main__":
    main()
