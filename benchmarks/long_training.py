"""How long training takes, and what shortens it at equal quality.

The dense VAE of notebook 5, trained in four ways for the same time on the
clock. Held-out −ELBO (of train[55000:]) is taken after every epoch, while
the clock stands still; the learning rate is constant, so that every value
is one at which training might have stopped. Compilation counts.
"""

import common
import keras
import tensorflow as tf

import vae_keras

LATENT_DIM = 32
SEED = 0
MARKS = (105, 102, 100)  # nats
FAST_WITHOUT_XLA = {**common.FAST, "jit_compile": False}


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
    "fast": (fast_dataset, 125, 1e-3, "float32", common.FAST),
    "fast, batch 500": (fast_dataset, 500, 2e-3, "float32", common.FAST),
    "fast, batch 500, bfloat16": (
        fast_dataset,
        500,
        2e-3,
        "mixed_bfloat16",
        FAST_WITHOUT_XLA,
    ),
}


def train(name: str, images, val_images, seconds: float) -> dict:
    """Trains in one way; returns rows of seconds, training, held-out."""
    make_dataset, batch_size, learning_rate, policy, arguments = WAYS[name]
    keras.config.set_dtype_policy(policy)
    vae = common.dense_vae(LATENT_DIM, seed=SEED)
    vae.compile(keras.optimizers.Adam(learning_rate), **arguments)
    dataset = make_dataset(images, batch_size)
    curve = []

    def measure(epoch, spent, logs):
        if spent > seconds:
            vae.stop_training = True
        else:
            val_loss = common.evaluated(vae, val_images)["loss"]
            curve.append([spent, logs["loss"], val_loss])

    vae.fit(dataset, epochs=10**6, callbacks=[common.clock(measure)], verbose=0)
    print(f"{name}: {len(curve)} epochs, {curve[-1]}", flush=True)
    return {"batch_size": batch_size, "curve": curve}


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
        + common.table(
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
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    images, val_images = common.held_out_split(options.images)
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seconds": options.seconds,
        "images": len(images),
        "seed": SEED,
        "runs": {
            name: train(name, images, val_images, options.seconds)
            for name in WAYS
        },
    }
    markdown = as_markdown(results)
    common.write_results(options.output, "long_training", results, markdown)


if __name__ == "__main__":
    main()
