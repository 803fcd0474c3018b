"""What convolutions buy: nats against seconds, and digits recognised.

Five parts; those that are not asked for keep their committed values.

*seconds*: an epoch of the dense and of the convolutional VAE, with XLA and
without, turn by turn. *rates*: a learning rate for the dense VAE of notebook
5, chosen on validation images, and three seeds with it. The convolutional
VAE, of which `spreads.py` trains three seeds, is not tuned: the comparison
favours its rival.
*classifiers*: dense layers and a DCNN, without dropout, with learning rates
chosen in the same way for each. *memory*: the same networks, given 1,000
images with labels drawn at random, which can only be learned by heart; rates
are chosen by the training loss. *long*: each of four networks gets the same
minutes, one seed; −ELBO on the test images is taken a dozen times (the clock
stands still meanwhile).

Pixels are binarised dynamically for training, and once for the test. No
choice is made by test images.
"""

import json
import pathlib
import time

import common
import keras
import numpy as np

import vae_keras

BATCH_SIZE = 128
IMAGE_SHAPE = (28, 28, 1)
SEED = 0
SEEDS = (0, 1, 2)
# Notebook 5's: latents and batches of both VAEs, and their epochs.
SHORT_LATENTS, SHORT_BATCH = 32, 125
SHORT_EPOCHS = {"dense": 16, "conv": 5}
CLASSIFIER_EPOCHS = 5
MEMORY_IMAGES, MEMORY_BATCH, MEMORY_EPOCHS = 1000, 50, 60
# Tried first; the walk goes on while the best is at an end.
RATES = (1e-3, 2e-3, 4e-3)
# Network, latent dimensions, arguments, learning rate, dtype policy.
NETWORKS = {
    "conv": ("conv", 32, {}, 4e-3, "float32"),
    "conv, bfloat16": ("conv", 32, {}, 4e-3, "mixed_bfloat16"),
    "MLP 512-512": ("mlp", 40, {}, 2e-3, "float32"),
    "large conv, bfloat16": (
        "conv",
        32,
        {"filters": 64, "num_blocks": 3},
        2e-3,
        "mixed_bfloat16",
    ),
}


def new_vae(name: str, num_epochs: int, steps_per_epoch: int):
    """Returns one of the networks as a compiled VAE."""
    kind, latent_dim, arguments, learning_rate, policy = NETWORKS[name]
    common.start_anew(SEED)
    keras.config.set_dtype_policy(policy)
    encoder = getattr(vae_keras, f"{kind}_encoder")
    decoder = getattr(vae_keras, f"{kind}_decoder")
    vae = vae_keras.VAE(
        encoder(IMAGE_SHAPE, latent_dim, **arguments),
        decoder(latent_dim, IMAGE_SHAPE, **arguments),
        seed=SEED,
    )
    vae.compile(
        common.falling(learning_rate, num_epochs * steps_per_epoch),
        # XLA for float32, TensorFlow's own kernels for bfloat16.
        jit_compile=policy == "float32",
        steps_per_execution=50,
    )
    return vae


def seconds_of_epoch(name: str, images) -> float:
    """Measures how long an epoch takes, on a part of the images."""
    part = images[: 100 * BATCH_SIZE]
    vae = new_vae(name, 1, 100)
    dataset = vae_keras.image_dataset(part, BATCH_SIZE, binarize="dynamic")
    vae.fit(dataset, verbose=0)
    start = time.perf_counter()
    vae.fit(dataset, epochs=2, verbose=0)
    return (time.perf_counter() - start) / 2 * len(images) / len(part)


def run_long(name: str, images, test_images, seconds: float) -> dict:
    """Trains one network for so many seconds; prints a line for each test."""
    num_epochs = max(1, int(seconds / seconds_of_epoch(name, images)))
    dataset = vae_keras.image_dataset(
        images, BATCH_SIZE, binarize="dynamic", seed=SEED
    )
    vae = new_vae(name, num_epochs, len(dataset))
    curve = []

    def measure(epoch, spent, logs):
        left = num_epochs - 1 - epoch
        if left % max(1, num_epochs // 12):
            return
        test = common.evaluated(vae, test_images)
        curve.append(
            {
                "seconds": spent,
                "training": logs["loss"],
                "test": test["loss"],
                "kl": test["kl_loss"],
            }
        )
        print(
            f"{name}: epoch {epoch + 1}/{num_epochs}, {spent:.0f} s, "
            f"training {logs['loss']:.2f}, test {test['loss']:.2f}",
            flush=True,
        )

    vae.fit(
        dataset, epochs=num_epochs, callbacks=[common.clock(measure)], verbose=0
    )
    return {
        "parameters": [vae.encoder.count_params(), vae.decoder.count_params()],
        "epochs": num_epochs,
        "curve": curve,
    }


def at(curve, seconds: float) -> str:
    """Returns the test value of the last epoch that ended by then."""
    values = [row["test"] for row in curve if row["seconds"] <= seconds]
    return f"{values[-1]:.1f}" if values else "–"


# === Part "seconds" ===


def short_vae(kind: str, seed: int) -> vae_keras.VAE:
    """Returns notebook 5's dense or convolutional VAE."""
    name = {"dense": "mlp", "conv": "conv"}[kind]
    common.start_anew(seed)
    return vae_keras.VAE(
        getattr(vae_keras, f"{name}_encoder")(IMAGE_SHAPE, SHORT_LATENTS),
        getattr(vae_keras, f"{name}_decoder")(SHORT_LATENTS, IMAGE_SHAPE),
        seed=seed,
    )


def seconds_turn_by_turn(images, rounds: int = 5) -> dict:
    """Times 100 steps of each contender in each round, after one more."""
    part = images[: 100 * SHORT_BATCH]
    dataset = vae_keras.image_dataset(part, SHORT_BATCH, binarize="dynamic")
    vaes = {}
    for kind in SHORT_EPOCHS:
        for xla in (True, False):
            name = f"{kind}, {'XLA' if xla else 'without XLA'}"
            vaes[name] = vae = short_vae(kind, SEED)
            vae.compile("adam", jit_compile=xla, steps_per_execution=50)
            vae.fit(dataset, verbose=0)
    times = {name: [] for name in vaes}
    for _ in range(rounds):
        for name, vae in vaes.items():
            start = time.perf_counter()
            vae.fit(dataset, verbose=0)
            spent = time.perf_counter() - start
            times[name].append(spent * len(images) / len(part))
    print({name: np.round(t, 2).tolist() for name, t in times.items()})
    return times


# === Parts "rates", "classifiers" and "memory" ===


def walk(score) -> tuple[dict, float]:
    """Tries learning rates, on and on while the best is at an end.

    Args:
        score: a function of the rate; lower is better.

    Returns:
        The scores by rate, and the best rate.
    """
    tries = {}
    for rate in RATES:
        tries[rate] = score(rate)
    while True:
        best, ends = min(tries, key=tries.get), (min(tries), max(tries))
        if best not in ends:
            return dict(sorted(tries.items())), best
        rate = best / 2 if best == ends[0] else best * 2
        tries[rate] = score(rate)


def train_short(kind: str, seed: int, rate: float, images):
    """Trains one of the VAEs of the short comparison."""
    vae = short_vae(kind, seed)
    dataset = vae_keras.image_dataset(
        images, SHORT_BATCH, binarize="dynamic", seed=seed
    )
    epochs = SHORT_EPOCHS[kind]
    schedule = keras.optimizers.schedules.CosineDecay(
        rate, epochs * len(dataset)
    )
    vae.compile(keras.optimizers.Adam(schedule, beta_2=0.99), **common.FAST)
    vae.fit(dataset, epochs=epochs, verbose=0)
    return vae


def dense_rates(images, val_images) -> dict:
    """Chooses the dense VAE's learning rate; then trains it with each seed."""

    def ending(rate, seed=SEED):
        vae = train_short("dense", seed, rate, images)
        loss = common.evaluated(vae, val_images)["loss"]
        print(f"dense, rate {rate:g}, seed {seed}: {loss:.2f}", flush=True)
        return loss

    tries, rate = walk(ending)
    return {
        "epochs": SHORT_EPOCHS["dense"],
        "tries": tries,
        "learning_rate": rate,
        "seeds": SEEDS,
        "ends": [tries[rate], *(ending(rate, seed) for seed in SEEDS[1:])],
    }


def dense_classifier(hidden_units) -> keras.Model:
    layers = [keras.Input(IMAGE_SHAPE), keras.layers.Flatten()]
    for units in hidden_units:
        layers.append(keras.layers.Dense(units, activation="relu"))
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def small_dcnn() -> keras.Model:
    """Returns the package's classifier, smaller and without dropout."""
    model = vae_keras.digits.build_classifier((4, 8, 16))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model


CLASSIFIERS = {
    "dense, 512-512": lambda: dense_classifier((512, 512)),
    "DCNN, 4-8-16": small_dcnn,
    "dense, 14": lambda: dense_classifier((14,)),
}


def train_classifier(
    name: str,
    seed: int,
    rate: float,
    images,
    labels,
    epochs: int = CLASSIFIER_EPOCHS,
    batch_size: int = SHORT_BATCH,
):
    """Trains one of the classifiers."""
    common.start_anew(seed)
    model = CLASSIFIERS[name]()
    num_steps = epochs * -(-len(images) // batch_size)
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(rate, num_steps)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=20,
    )
    model.fit(
        images,
        labels,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
    )
    return model


def classifiers(train, validation, test) -> dict:
    """Chooses the rates, then trains each seed; counts errors pairwise."""
    results, wrong = {"seeds": SEEDS, "epochs": CLASSIFIER_EPOCHS}, {}
    for name in CLASSIFIERS:
        trained = {}

        def score(rate, name=name, trained=trained):
            trained[rate] = train_classifier(name, SEED, rate, *train)
            loss = common.evaluated(trained[rate], *validation)["loss"]
            print(f"{name}, rate {rate:g}: {loss:.4f}", flush=True)
            return loss

        tries, rate = walk(score)
        models = [trained[rate]]
        models += [train_classifier(name, s, rate, *train) for s in SEEDS[1:]]
        wrong[name] = np.array(
            [
                m.predict(test[0], batch_size=500, verbose=0).argmax(axis=1)
                != test[1]
                for m in models
            ]
        )
        results[name] = {
            "parameters": models[0].count_params(),
            "tries": tries,
            "learning_rate": rate,
            "errors": wrong[name].mean(axis=1).tolist(),
        }
        print(name, results[name], flush=True)
    dcnn = wrong["DCNN, 4-8-16"]
    for name, rows in wrong.items():
        if rows is not dcnn:
            results[name]["only_it_is_wrong"] = (rows & ~dcnn).sum(1).tolist()
            results[name]["only_dcnn_is_wrong"] = (dcnn & ~rows).sum(1).tolist()
    return results


def memory(images) -> dict:
    """Counts the random labels that each network learns by heart."""
    images = images[:MEMORY_IMAGES]
    labels = np.random.default_rng(SEED).integers(0, 10, len(images))
    results = {"seeds": SEEDS, "epochs": MEMORY_EPOCHS, "images": len(images)}
    for name in CLASSIFIERS:
        known = {}

        def score(rate, seed=SEED, name=name, known=known):
            model = train_classifier(
                name, seed, rate, images, labels, MEMORY_EPOCHS, MEMORY_BATCH
            )
            logs = common.evaluated(model, images, labels)
            known[rate, seed] = logs["accuracy"]
            print(f"{name}, rate {rate:g}, seed {seed}: {logs}", flush=True)
            return logs["loss"]

        tries, rate = walk(score)
        for seed in SEEDS[1:]:
            score(rate, seed)
        results[name] = {
            "tries": tries,
            "learning_rate": rate,
            "known": [known[rate, seed] for seed in SEEDS],
        }
    return results


# === Results ===


def mean_and_error(values, digits: int = 2, factor: float = 1) -> str:
    """Returns the mean of a few seeds and its standard error."""
    values = np.array(values) * factor
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def seconds_as_markdown(times) -> str:
    names, first = list(times), np.array(times["dense, XLA"])
    rows = [
        [
            name,
            f"{np.median(times[name]):.2f}",
            f"{np.median(np.array(times[name]) / first):.2f}",
        ]
        for name in names
    ]
    return (
        "## Seconds of an epoch\n\n"
        f"55,000 images, batch {SHORT_BATCH}, {SHORT_LATENTS} latents; "
        f"medians of {len(first)} rounds in which the contenders take turns, "
        "and medians of the ratios within a round.\n\n"
        + common.table(["VAE", "seconds", "÷ dense, XLA"], rows)
    )


def tries_in_words(tries) -> str:
    return ", ".join(f"{float(rate):g}: {x:.4g}" for rate, x in tries.items())


def rates_as_markdown(part) -> str:
    rows = [
        [f"{float(rate):g}", f"{loss:.2f}"]
        for rate, loss in part["tries"].items()
    ]
    return (
        "## The dense VAE's learning rate\n\n"
        "−ELBO in nats per image on the 5,000 validation images, after "
        f"{part['epochs']} epochs of notebook 5's dense VAE, seed 0. The "
        "convolutional VAE keeps 0.004.\n\n"
        + common.table(["rate", "validation"], rows)
        + f"\nWith {part['learning_rate']:g}, three seeds end at "
        + ", ".join(f"{loss:.2f}" for loss in part["ends"])
        + ". Those of the convolutional VAE are in `spreads.json`.\n"
    )


def classifiers_as_markdown(part) -> str:
    rows = []
    for name in CLASSIFIERS:
        run = part[name]
        pairs = zip(
            run.get("only_it_is_wrong", ()),
            run.get("only_dcnn_is_wrong", ()),
            strict=True,
        )
        rows.append(
            [
                name,
                f"{run['parameters']:,}",
                tries_in_words(run["tries"]),
                mean_and_error(run["errors"], factor=100),
                ", ".join(f"{a} / {b}" for a, b in pairs) or "–",
            ]
        )
    return (
        "## Classifiers of digits\n\n"
        f"{part['epochs']} epochs of 55,000 images, no dropout, a rate that "
        "falls to zero. Rates were chosen by the cross-entropy of the "
        "validation images with seed 0. Errors are those on the 10,000 test "
        "images, in per cent, ± the standard error over three seeds. Last: "
        "images that only this network gets wrong / that only the DCNN does, "
        "seed by seed.\n\n"
        + common.table(
            ["network", "parameters", "rate: validation", "errors", "pairs"],
            rows,
        )
    )


def long_as_markdown(results) -> str:
    marks = [results["seconds"] * part for part in (0.1, 0.25, 0.5, 0.75)]
    rows = [
        [
            name,
            " + ".join(f"{n / 1e6:.2f} M" for n in run["parameters"]),
            run["epochs"],
            *(at(run["curve"], mark) for mark in marks),
            f"**{run['curve'][-1]['test']:.2f}**",
            f"{run['curve'][-1]['seconds']:.0f}",
            f"{run['curve'][-1]['training']:.2f}",
        ]
        for name, run in results["runs"].items()
    ]
    return (
        "## The same minutes, one seed\n\n"
        "−ELBO in nats per image on the 10,000 test images, binarised once; "
        f"{results['images']:,} training images, binarised anew each epoch; "
        f"batch {BATCH_SIZE}, Adam with a learning rate that falls to zero, "
        f"seed {SEED}. Before the last epoch the learning rate is still "
        "high: such values would fall further if the training were meant to "
        "end there.\n\n"
        + common.table(
            [
                "network",
                "parameters",
                "epochs",
                *(f"{mark:.0f} s" for mark in marks),
                "end",
                "seconds",
                "training, end",
            ],
            rows,
        )
    )


def memory_as_markdown(part) -> str:
    rows = [
        [
            name,
            tries_in_words(part[name]["tries"]),
            mean_and_error(part[name]["known"], 1, 100),
        ]
        for name in CLASSIFIERS
    ]
    return (
        "## Random labels\n\n"
        f"{part['images']:,} images with labels drawn at random, "
        f"{part['epochs']} epochs, batch {MEMORY_BATCH}, no dropout, a rate "
        "that falls to zero, chosen by the training loss with seed 0. Per "
        "cent of these labels that are known at the end, ± the standard "
        "error over three seeds.\n\n"
        + common.table(["network", "rate: training loss", "known"], rows)
    )


def as_markdown(results) -> str:
    parts = []
    for name, in_words in (
        ("epoch_seconds", seconds_as_markdown),
        ("rates", rates_as_markdown),
        ("classifiers", classifiers_as_markdown),
        ("memory", memory_as_markdown),
    ):
        if name in results:
            parts.append(in_words(results[name]))
    if "runs" in results:
        parts.append(long_as_markdown(results))
    return "# Nats against seconds\n\n" + "\n".join(parts)


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS
    )
    parts = ("seconds", "rates", "classifiers", "memory", "long")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    options = parser.parse_args()
    results = common.provenance(["tensorflow", "keras", "numpy"])
    train = [x[: options.images] for x in vae_keras.load_mnist("train[:55000]")]
    images, val_images = common.held_out_split(options.images)
    grey_test, test_labels = vae_keras.load_mnist("test")
    test_images = common.binarized(grey_test)
    if "seconds" in options.parts:
        results["epoch_seconds"] = seconds_turn_by_turn(images)
    if "rates" in options.parts:
        results["rates"] = dense_rates(images, val_images)
    if "classifiers" in options.parts:
        validation = vae_keras.load_mnist("train[55000:]")
        test = grey_test, test_labels
        results["classifiers"] = classifiers(train, validation, test)
    if "memory" in options.parts:
        results["memory"] = memory(train[0])
    if "long" in options.parts:
        images = vae_keras.load_mnist("train")[0][: options.images]
        results["seconds"], results["images"] = options.seconds, len(images)
        results["runs"] = {
            name: run_long(name, images, test_images, options.seconds)
            for name in options.networks
        }
    path = pathlib.Path(options.output) / "convolution.json"
    if path.exists():
        results = json.loads(path.read_text()) | results
    common.write_results(
        options.output, "convolution", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
