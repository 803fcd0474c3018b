"""What the benchmarks share: the article's setting, and how results are kept.

Nothing here imports a framework at the top: a peer's process must hold
that peer alone. The scripts import this module before TensorFlow.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time

# TensorFlow's start-up notes are not news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
LATENT_DIM = 2
HIDDEN_UNITS = 512
NUM_PIXELS = 784
# How README and notebooks compile.
FAST = {"jit_compile": True, "steps_per_execution": 50}

RESULTS = pathlib.Path(__file__).parent / "results"


# === Models ===


def article_vae(**compile_arguments):
    """Returns the article's VAE, compiled."""
    import keras

    import vae_keras

    image_shape, hidden_units = (28, 28, 1), (HIDDEN_UNITS, HIDDEN_UNITS)
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(image_shape, LATENT_DIM, hidden_units),
        vae_keras.mlp_decoder(LATENT_DIM, image_shape, hidden_units),
    )
    vae.compile(keras.optimizers.Adam(LEARNING_RATE), **compile_arguments)
    return vae


def dense_vae(latent_dim, hidden_units=(512, 512), seed=0, **arguments):
    """Returns a VAE of dense layers for digits, seeded throughout."""
    import vae_keras

    start_anew(seed)
    return vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), latent_dim),
        vae_keras.mlp_decoder(latent_dim, (28, 28, 1), hidden_units),
        seed=seed,
        **arguments,
    )


def start_anew(seed: int) -> None:
    """Forgets earlier models and seeds all that is random."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)


# === Data ===


def held_out_split(num_images: int | None = None):
    """Returns grey training images, and validation images, binarised."""
    import vae_keras

    images, _ = vae_keras.load_mnist("train[:55000]")
    val_images, _ = vae_keras.load_mnist("train[55000:]")
    return images[:num_images], binarized(val_images)


def binarized(images, seed=0):
    """Returns pixels drawn once from Bernoulli(x), as float32."""
    import numpy as np

    draw = np.random.default_rng(seed).random(images.shape)
    return (draw < images).astype("float32")


# === Training and measuring ===


def falling(learning_rate: float, num_steps: int):
    """Returns Adam with a rate that rises shortly, then falls to zero."""
    import keras

    warmup = num_steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10,
        num_steps - warmup,
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    return keras.optimizers.Adam(schedule, beta_2=0.99)


def train(
    vae, images, batch_size, epochs, learning_rate, seed=0, callbacks=()
) -> dict:
    """Trains the fast way, on pixels binarised anew each epoch."""
    import vae_keras

    dataset = vae_keras.image_dataset(
        images, batch_size, binarize="dynamic", seed=seed
    )
    vae.compile(falling(learning_rate, epochs * len(dataset)), **FAST)
    return vae.fit(
        dataset, epochs=epochs, callbacks=list(callbacks), verbose=0
    ).history


def evaluated(vae, *data) -> dict:
    """Returns the metrics of a model on data that fit into memory."""
    return vae.evaluate(*data, batch_size=500, verbose=0, return_dict=True)


def clock(after_epoch):
    """Returns a callback that calls `after_epoch(epoch, seconds, logs)`.

    The seconds are those of training: the clock stands still meanwhile.
    """
    import keras

    start = spent = 0.0

    def on_epoch_begin(epoch, logs):
        nonlocal start
        start = time.perf_counter()

    def on_epoch_end(epoch, logs):
        nonlocal spent
        spent += time.perf_counter() - start
        after_epoch(epoch, spent, logs)

    return keras.callbacks.LambdaCallback(on_epoch_begin, on_epoch_end)


# === Results ===


def options_parser(doc: str, images: int | None = None):
    """Returns a parser of the options that many benchmarks share."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--output", default=RESULTS, help="a directory")
    if images:
        parser.add_argument(
            "--images", type=int, default=images, help="fewer for a quick look"
        )
    return parser


def spread(rows, field: str, digits: int = 1) -> str:
    """Returns a field's mean and, of several rows, its range."""
    values = [row[field] for row in rows]
    mean = f"{sum(values) / len(values):.{digits}f}"
    width = f"{max(values) - min(values):.{digits}f}"
    return f"{mean} ({width})" if len(values) > 1 else mean


def provenance(packages) -> dict:
    """Returns how, with what and on what machine results were made."""
    script = pathlib.Path(sys.argv[0]).name
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "command": shlex.join(
            ["python", f"benchmarks/{script}", *sys.argv[1:]]
        ),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "cpu": _cpu_name(),
            "cores": num_cores(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_name() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def table(header, rows) -> str:
    """Returns a Markdown table: first column left, numbers right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    lines = [" | ".join(map(str, row)) for row in (header, rule, *rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def write_results(directory, name: str, results: dict, markdown: str) -> None:
    """Writes `name`.json and `name`.md, each whole or not at all."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    machine = results["machine"]
    markdown += (
        f"\nMade by `{results['command']}` on {machine['cores']} core(s) of "
        f"{machine['cpu']} ({machine['system']}), with {versions}.\n"
    )
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for suffix, text in (
        ("json", json.dumps(results, indent=2) + "\n"),
        ("md", markdown),
    ):
        path = directory / f"{name}.{suffix}"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    print("\n" + markdown, flush=True)
