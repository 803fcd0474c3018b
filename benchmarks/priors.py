"""What a learned prior buys: nats and samples, at equal seconds.

Notebook 5's dense VAE, with three priors: N(0, I), a mixture of
Gaussians and a VampPrior that are learned along. Each trains for the same
seconds by the clock, compilation included, on train[:55000] binarised anew
each epoch. A fourth row fits a mixture to the latents of the first model
after its training, as notebook 6 does, and measures the likelihood of the
model that this makes.

*rates*: a learning rate for each prior, chosen by −ELBO on train[55000:] in
shorter runs. *rows*: three seeds with it, measured on test images. Parts that
are not asked for keep their committed values.
"""

import argparse
import json
import pathlib
import time

import common
import keras
import numpy as np
import tensorflow as tf
from likelihood import Deadline
from sklearn.mixture import GaussianMixture

import vae_keras

BATCH_SIZE = 125
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 32
RATES = (1e-3, 2e-3, 4e-3)
NUM_COMPONENTS = 100
FITTED_COMPONENTS, FITTED_IMAGES = 10, 5000  # as notebook 6
NUM_DRAWN = 3000
LOG_2_PI = np.log(2 * np.pi)
PRIORS = {
    "N(0, I)": vae_keras.priors.StandardNormal,
    "learned mixture": lambda: vae_keras.priors.Mixture(NUM_COMPONENTS),
    "VampPrior": lambda: vae_keras.priors.VampPrior(NUM_COMPONENTS),
}
AFTERWARDS = "N(0, I), then a fitted mixture"
QUALITY = ("frechet", "precision", "recall", "density", "coverage")


class Fitted(vae_keras.priors.Prior):
    """The density of a fitted `GaussianMixture`, with full covariances."""

    def __init__(self, mixture: GaussianMixture):
        super().__init__()
        self.mixture = mixture

    def log_prob(self, z):
        m = self.mixture
        root = np.float32(m.precisions_cholesky_)  # Σ⁻¹ = R Rᵀ
        mean = np.einsum("kd,kde->ke", m.means_, root)
        gaps = tf.einsum("nd,kde->nke", z, root) - np.float32(mean)
        log_det = np.log(np.einsum("kdd->kd", root)).sum(axis=1)
        constant = np.log(m.weights_) + log_det - LOG_2_PI * len(root[0]) / 2
        log_prob = np.float32(constant) - tf.reduce_sum(gaps**2, axis=2) / 2
        return tf.reduce_logsumexp(log_prob, axis=1)

    def sample(self, num_samples, seed=None):
        z, _ = self.mixture.sample(num_samples)  # ordered by component
        return np.float32(np.random.default_rng(seed).permutation(z))


def train(prior: str, seed: int, rate: float, seconds: float, images):
    """Returns a model trained for so many seconds, and how it went."""
    common.start_anew(seed)
    start = time.perf_counter()
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM),
        vae_keras.mlp_decoder(LATENT_DIM, IMAGE_SHAPE),
        seed=seed,
        prior=PRIORS[prior](),
    )
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=seed
    )
    vae.compile(keras.optimizers.Adam(rate / 20, beta_2=0.99), **common.FAST)
    # Fifty steps may end some seconds late.
    deadline = Deadline(start + seconds - 1, rate, 0.0)
    vae.fit(dataset, epochs=10**6, callbacks=[deadline], verbose=0)
    return vae, {
        "prior": prior,
        "seed": seed,
        "rate": rate,
        "seconds": time.perf_counter() - start,
        "epochs": int(vae.optimizer.iterations) / len(dataset),
    }


def with_fitted_mixture(vae, images, seed: int):
    """Returns the same networks with a prior that is fitted afterwards."""
    drawn = common.binarized(images[:FITTED_IMAGES], seed)
    z = vae_keras.Sampling(seed=seed)(vae.encode(drawn))
    mixture = GaussianMixture(FITTED_COMPONENTS, random_state=seed)
    mixture.fit(np.float64(z))
    return vae_keras.VAE(
        vae.encoder, vae.decoder, seed=seed, prior=Fitted(mixture)
    )


def measure(vae, test_images, grey_images, num_samples: int) -> dict:
    """Measures −ELBO, the likelihood and samples on test images."""
    vae.compile()
    logs = common.evaluated(vae, test_images)
    few = test_images[: len(test_images) // 10]
    estimate = vae_keras.importance_weighted_nll(
        vae, few, num_samples=num_samples
    )
    real = grey_images[:NUM_DRAWN]
    drawn = np.asarray(vae.generate(NUM_DRAWN, seed=0))
    quality = vae_keras.digits.sample_quality(real, drawn)
    return {
        "elbo": logs["loss"],
        "kl": logs["kl_loss"],
        "nll": estimate.mean,
        "nll_standard_error": estimate.standard_error,
        "nll_images": len(few),
        "nll_samples": num_samples,
        "active_units": vae_keras.active_units(vae, test_images),
        **{name: getattr(quality, name) for name in QUALITY},
    }


def run_rates(options, images) -> list[dict]:
    """Returns the validation −ELBO of each prior with each rate."""
    val_images = common.binarized(vae_keras.load_mnist("train[55000:]")[0])
    rows = []
    for prior in PRIORS:
        for rate in RATES:
            vae, row = train(prior, 0, rate, 0.6 * options.seconds, images)
            row["val_elbo"] = common.evaluated(vae, val_images)["loss"]
            rows.append(row)
            print(row, flush=True)
    return rows


def best_rates(rates) -> dict:
    """Returns the rate of the best −ELBO for each prior."""
    of_prior = {p: [r for r in rates if r["prior"] == p] for p in PRIORS}
    return {
        prior: min(rows, key=lambda row: row["val_elbo"])["rate"]
        for prior, rows in of_prior.items()
    }


def run_rows(options, images, rates) -> list[dict]:
    """Returns the seeds of each prior, and of the mixture afterwards."""
    grey_images = vae_keras.load_mnist("test")[0][: options.images]
    measured = common.binarized(grey_images), grey_images, options.samples
    rows = []
    for seed in range(options.seeds):
        for prior, rate in best_rates(rates).items():
            vae, row = train(prior, seed, rate, options.seconds, images)
            rows.append({**row, **measure(vae, *measured)})
            print(rows[-1], flush=True)
            if prior == "N(0, I)":
                after = with_fitted_mixture(vae, images, seed)
                row = {**row, "prior": AFTERWARDS}
                rows.append({**row, **measure(after, *measured)})
                print(rows[-1], flush=True)
    return rows


def differences(rows, prior: str, field: str) -> tuple[float, float]:
    """Returns how a prior differs from N(0, I), and its standard error.

    The seeds are paired.
    """
    ours, theirs = (
        np.array([row[field] for row in rows if row["prior"] == name])
        for name in (prior, "N(0, I)")
    )
    gaps = ours - theirs
    return float(gaps.mean()), float(gaps.std(ddof=1) / len(gaps) ** 0.5)


def as_markdown(results) -> str:
    rows, first = results["rows"], results["rows"][0]
    seeds = sorted({row["seed"] for row in rows})
    table = []
    for prior in dict.fromkeys(row["prior"] for row in rows):
        of_prior = [row for row in rows if row["prior"] == prior]
        means = {
            key: np.mean([row[key] for row in of_prior])
            for key in ("epochs", "elbo", "kl", "nll", "active_units", *QUALITY)
        }
        gap = "–"
        if prior != "N(0, I)":
            gap = "{:+.2f} ± {:.2f}".format(*differences(rows, prior, "nll"))
        table.append(
            [
                prior,
                f"{means['epochs']:.1f}",
                f"{means['elbo']:.2f}",
                f"{means['kl']:.2f}",
                f"{means['nll']:.2f}",
                gap,
                f"{means['active_units']:.0f}",
                f"{means['frechet']:.1f}",
                *(f"{means[key]:.2f}" for key in QUALITY[1:]),
            ]
        )
    tried = [
        [f"{row['prior']}, {row['rate']:g}", f"{row['val_elbo']:.2f}"]
        for row in results["rates"]
    ]
    return (
        "# Priors that are learned\n\n"
        "Notebook 5's dense VAE with "
        f"{LATENT_DIM} latents, {results['seconds']:.0f} s of training each "
        f"(compilation included), means over seeds {', '.join(map(str, seeds))}"
        f"; learned priors have {NUM_COMPONENTS} components. Nats per test "
        "image, pixels binarised; −log p(x) by importance weighting of the "
        f"first {first['nll_images']:,} images with {first['nll_samples']:,} "
        "samples each; its difference from N(0, I) is paired by seed, ± its "
        f"standard error. Samples: {NUM_DRAWN:,} against as many test "
        "digits, in features of the classifier.\n\n"
        + common.table(
            [
                "prior",
                "epochs",
                "−ELBO",
                "KL",
                "−log p(x)",
                "difference",
                "active units",
                "Fréchet",
                *QUALITY[1:],
            ],
            table,
        )
        + "\n## Learning rates\n\nBy −ELBO on train[55000:] after "
        f"{0.6 * results['seconds']:.0f} s, one seed.\n\n"
        + common.table(["prior, learning rate", "−ELBO"], tried)
    )


def main():
    parser = common.options_parser(__doc__, images=10_000)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("rates", "rows"),
        default=["rates", "rows"],
    )
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="two or more")
    options: argparse.Namespace = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a standard error needs two or more")
    images, _ = vae_keras.load_mnist("train[:55000]")
    path = pathlib.Path(options.output) / "priors.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= common.provenance(["tensorflow", "keras", "scikit-learn"])
    results["seconds"] = options.seconds
    if "rates" in options.parts:
        results["rates"] = run_rates(options, images)
    if "rows" in options.parts:
        results["rows"] = run_rows(options, images, results["rates"])
    if {"rates", "rows"} <= set(results):
        common.write_results(
            options.output, "priors", results, as_markdown(results)
        )


if __name__ == "__main__":
    main()
