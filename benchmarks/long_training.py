"""How long training takes, and what shortens it at equal quality.

The dense VAE of notebook 5, trained in four ways for the same time on the
clock. Held-out −ELBO (of train[55000:]) is taken after every epoch, while
the clock stands still; the learning rate is constant, so that every value
is one at which training might have stopped. Compilation counts.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from common import (
    FAST,
    RESULTS,
    binarized,
    dense_vae,
    provenance,
    table,
    write_results,
)

import vae_keras

LATENT_DIM = 32
SEED = 0
MARKS = (105, 102, 100)  # nats
FAST_WITHOUT_XLA = {**FAST, "jit_compile": False}


def plain_dataset(images, batch_size: int) -> tf.data.Dataset:
    """Returns the pipeline that most people would write first."""

    def binarize(x):
        return tf.cast(tf.random.uniform(tf.shape(x)) < x, tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices(images)
    dataset = dataset.shuffle(len(images)).map(binarize)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def fast_dataset(images, batch_size: int) -> tf.data.Dataset:
    return vae_keras.image_dataset(
        images, batch_size, binarize="dynamic", seed=SEED
    )


# Pipeline, batch size, learning rate, dtype policy, arguments of compile.
WAYS = {
    "plain pipeline and compile": (plain_dataset, 125, 1e-3, "float32", {}),
    "fast": (fast_dataset, 125, 1e-3, "float32", FAST),
    "fast, batch 500": (fast_dataset, 500, 2e-3, "float32", FAST),
    "fast, batch 500, bfloat16": (
        fast_dataset,
        500,
        2e-3,
        "mixed_bfloat16",
        FAST_WITHOUT_XLA,
    ),
}


class Clock(keras.callbacks.Callback):
    """Measures held-out −ELBO after each epoch, and stops in time."""

    def __init__(self, images, seconds: float):
        super().__init__()
        self.images, self.seconds = images, seconds
        self.spent, self.curve = 0.0, []

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.spent += time.perf_counter() - self.start
        val = self.model.evaluate(
            self.images, batch_size=500, verbose=0, return_dict=True
        )["loss"]
        if self.spent <= self.seconds:
            self.curve.append([self.spent, logs["loss"], val])
        else:
            self.model.stop_training = True
        self.start = time.perf_counter()


def train(name: str, images, val_images, seconds: float) -> dict:
    """Trains in one way; returns rows of seconds, training, held-out."""
    make_dataset, batch_size, learning_rate, policy, arguments = WAYS[name]
    keras.config.set_dtype_policy(policy)
    vae = dense_vae(LATENT_DIM, seed=SEED)
    vae.compile(keras.optimizers.Adam(learning_rate), **arguments)
    clock = Clock(val_images, seconds)
    dataset = make_dataset(images, batch_size)
    vae.fit(dataset, epochs=10**6, callbacks=[clock], verbose=0)
    print(f"{name}: {len(clock.curve)} epochs, {clock.curve[-1]}", flush=True)
    return {"batch_size": batch_size, "curve": clock.curve}


def seconds_to(curve, nats: float) -> float | None:
    """Returns when held-out −ELBO first was that low, if ever."""
    return next((row[0] for row in curve if row[2] <= nats), None)


def as_markdown(results) -> str:
    rows = []
    for name, run in results["runs"].items():
        curve = run["curve"]
        times = [seconds_to(curve, mark) for mark in MARKS]
        rows.append(
            [
                name,
                len(curve),
                f"{results['images'] * len(curve) / curve[-1][0]:,.0f}",
                *("–" if t is None else f"{t:.0f}" for t in times),
                f"{min(row[2] for row in curve):.1f}",
            ]
        )
    return (
        "# Long training\n\n"
        f"The dense VAE with {LATENT_DIM} latents, {results['images']:,} "
        "images binarised anew each epoch, Adam with a constant learning "
        f"rate, seed {SEED}, {results['seconds']:.0f} s each, compilation "
        "included. Held-out −ELBO on 5,000 validation images, in nats per "
        "image; then the seconds until it first was that low.\n\n"
        + table(
            [
                "way",
                "epochs",
                "images/s",
                *(f"s to {mark} nats" for mark in MARKS),
                "lowest",
            ],
            rows,
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument(
        "--images", type=int, default=55_000, help="fewer for a quick look"
    )
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    images = vae_keras.load_mnist("train[:55000]")[0][: options.images]
    val_images = binarized(vae_keras.load_mnist("train[55000:]")[0])
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "seconds": options.seconds,
        "images": len(images),
        "seed": SEED,
        "runs": {
            name: train(name, images, val_images, options.seconds)
            for name in WAYS
        },
    }
    markdown = as_markdown(results)
    write_results(options.output, "long_training", results, markdown)


if __name__ == "__main__":
    main()
