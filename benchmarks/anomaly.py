"""Anomaly detection: one digit is left out of training; is it noticed?

For each digit, a dense VAE learns from the nine others. Then every test
image is scored by −ELBO and by a bound on −log p(x): does the digit that
was left out get higher scores? The area under the ROC curve (AUROC) is the
chance that one of its images scores higher than an image of the others:
50 % is guessing. The threshold that raises an alarm is a quantile of the
scores of validation images (train[55000:]) of the nine digits.
"""

import common
import numpy as np
from sklearn.metrics import roc_auc_score

import vae_keras

BATCH_SIZE = 125
LATENT_DIM = 32
QUANTILE = 0.95
SCORES = {"−ELBO": 1, "−log p(x), 100 samples": 100}


def scores(vae, images, num_samples: int) -> np.ndarray:
    """Returns a score for each image: high is odd. One sample is −ELBO."""
    return vae_keras.importance_weighted_nll(
        vae, images, num_samples=num_samples, verbose=False
    ).per_image


def measure(digit: int, training, val, test, epochs: int) -> dict:
    """Trains without one digit, and looks for it among the test images."""
    images, labels = training
    val_images, val_labels = val
    test_images, test_labels = test
    vae = common.dense_vae(LATENT_DIM)
    others = images[labels != digit]
    others = others[: len(others) // BATCH_SIZE * BATCH_SIZE]
    common.train(vae, others, BATCH_SIZE, epochs, learning_rate=2e-3)
    is_odd = test_labels == digit
    row = {}
    for name, num_samples in SCORES.items():
        found = scores(vae, test_images, num_samples)
        usual = scores(vae, val_images[val_labels != digit], num_samples)
        alarm = found > np.quantile(usual, QUANTILE)
        row[name] = {
            "auroc": float(roc_auc_score(is_odd, found)),
            "found": float(alarm[is_odd].mean()),
            "false_alarms": float(alarm[~is_odd].mean()),
        }
    print(digit, row, flush=True)
    return row


def as_markdown(results) -> str:
    runs = results["runs"]
    rows = [
        [
            digit,
            *(
                f"{row[name][key]:.1%}"
                for name in SCORES
                for key in ("auroc", "found", "false_alarms")
            ),
        ]
        for digit, row in runs.items()
    ]
    header = ["digit left out"]
    for name in SCORES:
        header += [f"AUROC, {name}", "found", "false alarms"]
    return (
        "# Anomaly detection: one digit left out\n\n"
        f"A dense VAE with {LATENT_DIM} latents, {results['epochs']} epochs "
        "of the nine other digits, pixels binarised. *Found* is the share of "
        "the digit's test images above a threshold that "
        f"{1 - QUANTILE:.0%} of the others' validation images exceed; *false "
        "alarms* the share of the others' test images above it.\n\n"
        + common.table(header, rows)
    )


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--digits", nargs="+", type=int, default=range(10))
    options = parser.parse_args()
    images, labels = vae_keras.load_mnist("train[:55000]")
    val_images, val_labels = vae_keras.load_mnist("train[55000:]")
    test_images, test_labels = vae_keras.load_mnist("test")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy", "scikit-learn"]),
        "epochs": options.epochs,
        "runs": {
            str(digit): measure(
                digit,
                (images[: options.images], labels[: options.images]),
                (common.binarized(val_images), val_labels),
                (common.binarized(test_images), test_labels),
                options.epochs,
            )
            for digit in options.digits
        },
    }
    common.write_results(
        options.output, "anomaly", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
