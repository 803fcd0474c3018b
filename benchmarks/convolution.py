"""Nats against seconds: the convolutional VAE, dense layers, a larger one.

Each network gets the same time on the clock. How many epochs fit is
measured first; then it is trained with a learning rate that falls to zero
over these epochs, and −ELBO on the 10,000 test images is taken a dozen times
(the clock stands still meanwhile). Pixels are binarised dynamically for
training, and once for the test. No choice is made by these numbers.
"""

import time

import common
import keras

import vae_keras

BATCH_SIZE = 128
IMAGE_SHAPE = (28, 28, 1)
SEED = 0
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


def train(name: str, images, test_images, seconds: float) -> dict:
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


def as_markdown(results) -> str:
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
        "# Nats against seconds\n\n"
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


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS
    )
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    test_images = common.binarized(vae_keras.load_mnist("test")[0])
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seconds": options.seconds,
        "images": len(images),
        "runs": {
            name: train(name, images, test_images, options.seconds)
            for name in options.networks
        },
    }
    common.write_results(
        options.output, "convolution", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
