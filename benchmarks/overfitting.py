"""How a VAE overfits, what helps, and which half of it is to blame.

The dense VAE is trained for the same number of *steps* on 55,000, 6,000
and 600 images, with remedies on the 6,000. Twenty times in a training run,
−ELBO is taken on training images and on held-out ones (train[55000:]); the
latter choose where early stopping would have stopped. Test images come
last: −ELBO at the end, where early stopping stopped, and at the end once
more with an encoder that was fitted again, to the test images. What that
brings back was lost by the encoder; what stays, by the decoder.

That varies the number of images. Then the number of parameters varies: the
6,000 images again, fixed, with hidden layers of several widths in both
networks, and every seed (the widest, with the first seed, is the run that is
there already). Runs that are not asked for keep their committed
values.
"""

import json
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
SEEDS = (0, 1, 2)
WIDTHS = (32, 128, 512)
# What `trained` returns.
KEYS = ("curve", "training", "test", "test_early_stopping")
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
    """Returns the dense VAE, perhaps with dropout or another decoder."""
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


def trained(vae, images, fixed, val_images, test_images, steps, seed=SEED):
    """Trains a model, and measures it throughout and at the end.

    Args:
        images: what it is trained on: `fixed`, or grey images that are
            binarised anew each epoch.
        fixed: the same images, binarised once, to measure with.
    """
    dataset = vae_keras.image_dataset(
        images,
        BATCH_SIZE,
        binarize=None if images is fixed else "dynamic",
        seed=seed,
    ).repeat()
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
    return {
        "curve": curve.rows,
        "training": curve.rows[-1][1],
        "test": common.evaluated(vae, test_images)["loss"],
        "test_early_stopping": stopped,
    }


def measure(name: str, images, val_images, test_images, steps: int) -> dict:
    """Trains one model, and says what it has learned and what it lost."""
    num_images, dynamic, dropout, decoder_units = RUNS[name]
    images = images[:num_images]
    fixed = common.binarized(images, seed=1)
    vae = new_vae(dropout, decoder_units)
    row = trained(
        vae, images if dynamic else fixed, fixed, val_images, test_images, steps
    )
    row["test_refitted"] = refitted(vae, test_images, steps // 4)
    _print(name, row)
    return row


def measure_width(
    width: int, seed: int, runs, images, val_images, test_images, steps: int
) -> dict:
    """Trains networks of one width on the 6,000 images, binarised once."""
    fixed = common.binarized(images[:6000], seed=1)
    common.start_anew(seed)
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, LATENT_DIM, (width, width)),
        vae_keras.mlp_decoder(LATENT_DIM, IMAGE_SHAPE, (width, width)),
        seed=seed,
    )
    if (width, seed) == (512, SEED) and "6,000 images" in runs:
        row = {k: v for k, v in runs["6,000 images"].items() if k in KEYS}
    else:
        row = trained(vae, fixed, fixed, val_images, test_images, steps, seed)
    parameters = vae.count_params()
    row = {"width": width, "seed": seed, "parameters": parameters, **row}
    _print(f"width {width}, seed {seed}", row)
    return row


def _print(name: str, row: dict) -> None:
    numbers = (f"{key} {value}" for key, value in row.items() if key != "curve")
    print(f"{name}: {', '.join(numbers)}", flush=True)


def as_markdown(results) -> str:
    columns = KEYS[1:]
    rows = [
        [name, *(f"{row[key]:.1f}" for key in (*columns, "test_refitted"))]
        for name, row in results["runs"].items()
    ]
    widths = {}
    for row in results["widths"]:
        widths.setdefault(row["width"], []).append(row)
    width_rows = [
        [
            width,
            f"{same[0]['parameters']:,}",
            len(same),
            *(common.spread(same, key) for key in columns),
        ]
        for width, same in widths.items()
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
        + "\nThe 6,000 images again, with hidden layers of several widths in "
        "encoder and decoder: means and, in brackets, ranges over seeds.\n\n"
        + common.table(
            [
                "width",
                "parameters",
                "seeds",
                "training",
                "test",
                "stopped early",
            ],
            width_rows,
        )
    )


def main():
    parser = common.options_parser(__doc__)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=RUNS)
    parser.add_argument("--widths", nargs="*", type=int, default=WIDTHS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    options = parser.parse_args()
    images, val_images = common.held_out_split()
    test_images = common.binarized(vae_keras.load_mnist("test")[0])
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "steps": options.steps,
        "seed": SEED,
        "test_images": len(test_images),
        "runs": {},
        "widths": [],
    }
    path = pathlib.Path(options.output) / "overfitting.json"
    if path.exists():
        old = json.loads(path.read_text())
        if old["steps"] == options.steps:
            results["runs"] = old["runs"]
            results["widths"] = old.get("widths", [])
    data = val_images, test_images, options.steps

    def write():
        markdown = as_markdown(results)
        common.write_results(options.output, "overfitting", results, markdown)

    for name in options.runs:
        results["runs"][name] = measure(name, images, *data)
        write()
    for width in options.widths:
        for seed in options.seeds:
            results["widths"] = [
                row
                for row in results["widths"]
                if (row["width"], row["seed"]) != (width, seed)
            ]
            row = measure_width(width, seed, results["runs"], images, *data)
            results["widths"].append(row)
            write()


if __name__ == "__main__":
    main()
