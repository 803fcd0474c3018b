"""Trains the classifier of digits, whose weights the package brings along.

The digits of train[:55000] are moved by up to two pixels each time they are
shown, so that it looks at shapes and not at places. The validation
images are watched, and the test images measured once, at the end.
"""

import pathlib
import time

import common
import keras

import vae_keras
from vae_keras._saving import moved_into_place
from vae_keras.digits import build_classifier

BATCH_SIZE = 128
LEARNING_RATE = 3e-3
EPOCHS = 15
WEIGHTS = pathlib.Path(vae_keras.__file__).with_name("digits.weights.h5")


def train_classifier(num_epochs: int, seed: int) -> keras.Model:
    """Trains a classifier; Keras prints a line for each epoch."""
    keras.utils.set_random_seed(seed)
    images, labels = vae_keras.load_mnist("train[:55000]")
    shift = keras.layers.RandomTranslation(
        2 / 28, 2 / 28, fill_mode="constant", seed=seed
    )
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, labels, seed=seed)
    dataset = dataset.map(lambda x, y: (shift(x, training=True), y))
    classifier = build_classifier()
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, num_epochs * len(dataset)
    )
    classifier.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # TensorFlow's own kernels need no compilation.
        jit_compile=False,
    )
    classifier.fit(
        dataset,
        epochs=num_epochs,
        validation_data=vae_keras.load_mnist("train[55000:]"),
        shuffle=False,
        verbose=2,
    )
    return classifier


def main():
    parser = common.options_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default=WEIGHTS, help="a .weights.h5 file")
    options = parser.parse_args()
    start = time.perf_counter()
    classifier = train_classifier(options.epochs, options.seed)
    seconds = time.perf_counter() - start
    kept = build_classifier()  # without the optimizer, twice as large
    kept.set_weights(classifier.get_weights())
    with moved_into_place(options.weights) as path:
        kept.save_weights(path)
    accuracies = {
        split: classifier.evaluate(*vae_keras.load_mnist(split), verbose=0)[1]
        for split in ("train[:55000]", "train[55000:]", "test")
    }
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seed": options.seed,
        "epochs": options.epochs,
        "seconds": seconds,
        "parameters": classifier.count_params(),
        "accuracy": accuracies,
    }
    rows = [[split, f"{value:.2%}"] for split, value in accuracies.items()]
    markdown = (
        "# The classifier of digits\n\n"
        f"{classifier.count_params():,} parameters, {options.epochs} epochs in "
        f"{seconds:.0f} s, seed {options.seed}.\n\n"
        + common.table(["images", "accuracy"], rows)
    )
    common.write_results(options.output, "digits", results, markdown)


if __name__ == "__main__":
    main()
