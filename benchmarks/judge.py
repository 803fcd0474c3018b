"""Trains the judge and writes the weights that `load_judge` reads.

The digits of train[:55000] are moved by up to two pixels each time they are
shown, so that the judge looks at shapes and not at places. The validation
images are watched, and the test images measured once, at the end.
"""

import argparse
import time

import keras
from common import RESULTS, provenance, table, write_results

import vae_keras
from vae_keras.judge import WEIGHTS, build_judge
from vae_keras.saving import replacing

BATCH_SIZE = 128
LEARNING_RATE = 3e-3
EPOCHS = 15


def train_judge(num_epochs: int, seed: int) -> keras.Model:
    """Trains a judge; Keras prints a line for each epoch."""
    keras.utils.set_random_seed(seed)
    images, labels = vae_keras.load_mnist("train[:55000]")
    shift = keras.layers.RandomTranslation(
        2 / 28, 2 / 28, fill_mode="constant", seed=seed
    )
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, labels, seed=seed)
    dataset = dataset.map(lambda x, y: (shift(x, training=True), y))
    judge = build_judge()
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, num_epochs * len(dataset)
    )
    judge.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # TensorFlow's own kernels need no compilation.
        jit_compile=False,
    )
    judge.fit(
        dataset,
        epochs=num_epochs,
        validation_data=vae_keras.load_mnist("train[55000:]"),
        shuffle=False,
        verbose=2,
    )
    return judge


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default=WEIGHTS, help="a .weights.h5 file")
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    start = time.perf_counter()
    judge = train_judge(options.epochs, options.seed)
    seconds = time.perf_counter() - start
    kept = build_judge()  # without the optimizer, which is twice as large
    kept.set_weights(judge.get_weights())
    with replacing(options.weights, overwrite=True) as path:
        kept.save_weights(path)
    accuracies = {
        split: judge.evaluate(*vae_keras.load_mnist(split), verbose=0)[1]
        for split in ("train[:55000]", "train[55000:]", "test")
    }
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "seed": options.seed,
        "epochs": options.epochs,
        "seconds": seconds,
        "parameters": judge.count_params(),
        "accuracy": accuracies,
    }
    rows = [[split, f"{value:.2%}"] for split, value in accuracies.items()]
    markdown = (
        "# The judge\n\n"
        f"{judge.count_params():,} parameters, {options.epochs} epochs in "
        f"{seconds:.0f} s, seed {options.seed}.\n\n"
        + table(["images", "accuracy"], rows)
    )
    write_results(options.output, "judge", results, markdown)


if __name__ == "__main__":
    main()
