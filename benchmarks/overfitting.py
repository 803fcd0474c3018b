"""How a VAE overfits, what helps, and which half of it is to blame.

The dense VAE is trained for the same number of *steps* on 55,000, 6,000
and 600 images, with remedies on the 6,000. Twenty times in a training,
−ELBO is taken on training images and on held-out ones (train[55000:]); the
latter choose where early stopping would have stopped. Test images come
last: −ELBO at the end, where early stopping stopped, and at the end once
more with an encoder that was fitted again, to the test images. What that
brings back was lost by the encoder; what stays, by the decoder.
"""

import pathlib
import tempfile

import common
import keras

import vae_keras

BATCH_SIZE = 100  # divides every number of images
IMAGE_SHAPE = (28, 28, 1)
LATENT_DIM = 32
LEARNING_RATE = 1e-3
SEED = 0
# Images, binarised anew each epoch, dropout, the decoder's layers.
RUNS = {
    "55,000 images": (55_000, False, 0.0, (512, 512)),
    "55,000, dynamic": (55_000, True, 0.0, (512, 512)),
    "6,000 images": (6000, False, 0.0, (512, 512)),
    "6,000, dynamic": (6000, True, 0.0, (512, 512)),
    "6,000, dropout": (6000, False, 0.2, (512, 512)),
    "6,000, smaller decoder": (6000, False, 0.0, (64, 64)),
    "600 images": (600, False, 0.0, (512, 512)),
    "600, dynamic": (600, True, 0.0, (512, 512)),
}


def with_dropout(network: keras.Model, rate: float) -> keras.Model:
    """Returns the network with dropout behind each hidden dense layer."""

    def copy(layer):
        if isinstance(layer, keras.layers.Dense) and layer.units == 512:
            dropout = keras.layers.Dropout(rate)
            return keras.Sequential([layer, dropout], name=layer.name)
        return layer

    return keras.models.clone_model(network, clone_function=copy)


def new_vae(dropout: float, decoder_units) -> vae_keras.VAE:
    vae = common.dense_vae(LATENT_DIM, decoder_units, seed=SEED)
    if dropout:
        networks = (vae.encoder, vae.decoder)
        networks = (with_dropout(network, dropout) for network in networks)
        vae = vae_keras.VAE(*networks, seed=SEED)
    return vae


class Curve(keras.callbacks.Callback):
    """Measures −ELBO on training and held-out images; keeps the best."""

    def __init__(self, images, val_images, path):
        super().__init__()
        self.images, self.val_images, self.path = images, val_images, path
        self.rows, self.lowest = [], float("inf")

    def on_epoch_end(self, epoch, logs=None):
        steps = int(self.model.optimizer.iterations)
        values = [
            common.evaluated(self.model, x)["loss"]
            for x in (self.images, self.val_images)
        ]
        self.rows.append([steps, *values])
        if values[1] < self.lowest:
            self.lowest = values[1]
            self.model.save_weights(self.path)


def refitted(vae, images, num_steps: int) -> float:
    """Fits the encoder to images, the decoder being fixed; returns −ELBO."""
    vae.decoder.trainable = False
    vae.compile(keras.optimizers.Adam(LEARNING_RATE), **common.FAST)
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=SEED).repeat()
    vae.fit(dataset, steps_per_epoch=num_steps, verbose=0)
    return common.evaluated(vae, images)["loss"]


def measure(name: str, images, val_images, test_images, steps: int) -> dict:
    """Trains one model, and says what it has learned and what it lost."""
    num_images, dynamic, dropout, decoder_units = RUNS[name]
    images = images[:num_images]
    fixed = common.binarized(images, seed=1)
    dataset = vae_keras.image_dataset(
        images if dynamic else fixed,
        BATCH_SIZE,
        binarize="dynamic" if dynamic else None,
        seed=SEED,
    ).repeat()
    vae = new_vae(dropout, decoder_units)
    vae.compile(keras.optimizers.Adam(LEARNING_RATE), **common.FAST)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "best.weights.h5"
        curve = Curve(fixed[:5000], val_images, path)
        vae.fit(
            dataset,
            epochs=20,
            steps_per_epoch=steps // 20,
            callbacks=[curve],
            verbose=0,
        )
        last = vae.get_weights()
        vae.load_weights(path)
        stopped = common.evaluated(vae, test_images)["loss"]
        vae.set_weights(last)
    row = {
        "curve": curve.rows,
        "training": curve.rows[-1][1],
        "test": common.evaluated(vae, test_images)["loss"],
        "test_early_stopping": stopped,
        "test_refitted": refitted(vae, test_images, steps // 4),
    }
    numbers = ", ".join(f"{k} {v:.1f}" for k, v in row.items() if k != "curve")
    print(f"{name}: {numbers}", flush=True)
    return row


def as_markdown(results) -> str:
    rows = [
        [
            name,
            *(
                f"{row[key]:.1f}"
                for key in (
                    "training",
                    "test",
                    "test_early_stopping",
                    "test_refitted",
                )
            ),
        ]
        for name, row in results["runs"].items()
    ]
    return (
        "# Overfitting\n\n"
        f"−ELBO in nats per image after {results['steps']:,} steps of "
        f"{BATCH_SIZE} images (Adam, {LEARNING_RATE:g}, seed {SEED}; the "
        f"dense VAE with {LATENT_DIM} latents), on training images and on "
        f"{results['test_images']:,} test images. Pixels are binarised once, "
        "or anew each epoch where it says *dynamic*. *Stopped early*: at the "
        "lowest value on validation images. *Encoder fitted again*: to the "
        "test images, with the decoder of the end.\n\n"
        + common.table(
            [
                "run",
                "training",
                "test",
                "stopped early",
                "encoder fitted again",
            ],
            rows,
        )
    )


def main():
    parser = common.options_parser(__doc__)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    options = parser.parse_args()
    images, val_images = common.held_out_split()
    test_images = common.binarized(vae_keras.load_mnist("test")[0])
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "steps": options.steps,
        "seed": SEED,
        "test_images": len(test_images),
        "runs": {},
    }
    for name in options.runs:
        results["runs"][name] = measure(
            name, images, val_images, test_images, options.steps
        )
        markdown = as_markdown(results)
        common.write_results(options.output, "overfitting", results, markdown)


if __name__ == "__main__":
    main()
