"""Test −ELBO at the article's setting, and the price of the fast way: none.

Trains the article's VAE on the 60,000 training images for three seeds, in
the documented fast way and by Keras's plain loop on arrays, and measures
both on the 10,000 test images, which no training saw. Also compares their
training losses epoch by epoch.
"""

import statistics
import time

import common
import keras

import vae_keras

SEEDS = (0, 1, 2)
EPOCHS = 10
TERMS = {
    "loss": "−ELBO",
    "reconstruction_loss": "reconstruction",
    "kl_loss": "KL",
}


def train(way, seed, images, test_images, num_epochs) -> dict:
    """Trains and tests one model; prints a line for each epoch."""
    common.start_anew(seed)
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(
            f"{way}, seed {seed}, epoch {epoch + 1}/{num_epochs}: "
            f"training loss {logs['loss']:.2f}",
            flush=True,
        )
    )
    arguments = {"epochs": num_epochs, "callbacks": [report], "verbose": 0}
    start = time.perf_counter()
    if way == "fast":
        vae = common.article_vae(**common.FAST)
        dataset = vae_keras.image_dataset(images, common.BATCH_SIZE, seed=seed)
        history = vae.fit(dataset, **arguments)
    else:
        vae = common.article_vae()
        history = vae.fit(images, batch_size=common.BATCH_SIZE, **arguments)
    seconds = time.perf_counter() - start
    test = vae.evaluate(
        test_images, batch_size=1000, verbose=0, return_dict=True
    )
    print(
        f"{way}, seed {seed}: test −ELBO {test['loss']:.2f}, {seconds:.0f} s",
        flush=True,
    )
    return {
        "seed": seed,
        "seconds": seconds,
        "test": test,
        "training_loss": history.history["loss"],
    }


def spread(values) -> dict:
    """Returns mean, standard deviation and max − min over the seeds."""
    return {
        "mean": statistics.mean(values),
        "standard_deviation": statistics.stdev(values),
        "max_minus_min": max(values) - min(values),
    }


def compare_curves(runs) -> list[dict]:
    """Returns the mean training losses of both ways, epoch by epoch."""
    curves = {
        way: list(zip(*(run["training_loss"] for run in of_way), strict=True))
        for way, of_way in runs.items()
    }
    return [
        {
            "epoch": epoch,
            "fast": spread(fast),
            "plain": spread(plain),
            "difference": statistics.mean(fast) - statistics.mean(plain),
        }
        for epoch, (fast, plain) in enumerate(
            zip(curves["fast"], curves["plain"], strict=False), start=1
        )
    ]


def as_markdown(results) -> str:
    tests = []
    for way, runs in results["runs"].items():
        tests += [
            [
                f"{way}, seed {run['seed']}",
                *(f"{run['test'][term]:.2f}" for term in TERMS),
                len(run["training_loss"]),
                f"{run['seconds']:.0f}",
            ]
            for run in runs
        ]
    summary = [
        [
            f"{way}, {label}",
            *(f"{terms[term][key]:.2f}" for term in TERMS),
        ]
        for way, terms in results["test"].items()
        for label, key in (
            ("mean", "mean"),
            ("standard deviation", "standard_deviation"),
            ("max − min", "max_minus_min"),
        )
    ]
    curves = [
        [
            row["epoch"],
            f"{row['fast']['mean']:.2f}",
            f"{row['plain']['mean']:.2f}",
            f"{row['difference']:+.2f}",
            f"{row['fast']['max_minus_min']:.2f}",
            f"{row['plain']['max_minus_min']:.2f}",
        ]
        for row in results["curves"]
    ]
    seeds = ", ".join(map(str, results["seeds"]))
    return (
        "# Quality at the article's setting\n\n"
        f"Nats per image. Fast: `image_dataset`, `jit_compile=True`, "
        "`steps_per_execution=50`. Plain: `fit` on arrays with Keras's "
        f"default `compile`. Seeds {seeds}; batch {common.BATCH_SIZE}, Adam "
        f"1e-3, {results['images']:,} training images.\n\n"
        f"## On the {results['test_images']:,} test images\n\n"
        + common.table(["test", *TERMS.values(), "epochs", "seconds"], tests)
        + "\n"
        + common.table(["over seeds", *TERMS.values()], summary)
        + "\n## Training loss, means over the seeds\n\n"
        + common.table(
            [
                "epoch",
                "fast",
                "plain",
                "difference",
                "fast, max − min",
                "plain, max − min",
            ],
            curves,
        )
    )


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--plain-epochs", type=int, help="of the plain loop, if fewer"
    )
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    test_images, _ = vae_keras.load_mnist("test")
    num_epochs = {
        "fast": options.epochs,
        "plain": options.plain_epochs or options.epochs,
    }
    # The two ways alternate, so that their seconds can be compared.
    runs = {way: [] for way in num_epochs}
    for seed in SEEDS:
        for way in num_epochs:
            runs[way].append(
                train(way, seed, images, test_images, num_epochs[way])
            )
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seeds": SEEDS,
        "images": len(images),
        "test_images": len(test_images),
        "batch_size": common.BATCH_SIZE,
        "test": {
            way: {
                term: spread([run["test"][term] for run in runs[way]])
                for term in TERMS
            }
            for way in runs
        },
        "curves": compare_curves(runs),
        "runs": runs,
    }
    common.write_results(
        options.output, "quality", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
