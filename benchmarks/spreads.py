"""How much the notebooks' numbers vary from seed to seed.

Trains the models of notebooks 3, 5 and 7 with each seed, and writes the
validation loss after every epoch to `results/spreads.json`. The notebooks
assert their numbers within two or three of these spreads.
"""

import argparse
import json
import pathlib

import common
import keras

import vae_keras

SEEDS = (0, 1, 2)
IMAGE_SHAPE = (28, 28, 1)
RESULT = pathlib.Path(__file__).parent / "results" / "spreads.json"


def notebook_3(optimizer: str, seed: int):
    """Returns model, training data, validation data and epochs."""
    images, _ = vae_keras.load_mnist("train[:55000]")
    val_images, _ = vae_keras.load_mnist("train[55000:]")
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, latent_dim=2),
        vae_keras.mlp_decoder(2, IMAGE_SHAPE),
        seed=seed,
    )
    rule = keras.optimizers.get(
        {"class_name": optimizer, "config": {"learning_rate": 1e-3}}
    )
    vae.compile(rule, **common.FAST)
    return vae, vae_keras.image_dataset(images, 64, seed=seed), val_images, 10


def compile_falling(vae, learning_rate: float, num_steps: int) -> None:
    """Compiles as notebooks 5 and 7 do: the rate falls along a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    vae.compile(keras.optimizers.Adam(schedule, beta_2=0.99), **common.FAST)


def notebook_5(kind: str, seed: int):
    """Returns model, training data, validation data and epochs."""
    images, val_images = common.held_out_split()
    name, epochs, learning_rate = {
        "dense": ("mlp", 12, 2e-3),
        "conv": ("conv", 5, 4e-3),
    }[kind]
    vae = vae_keras.VAE(
        getattr(vae_keras, f"{name}_encoder")(IMAGE_SHAPE, 32),
        getattr(vae_keras, f"{name}_decoder")(32, IMAGE_SHAPE),
        seed=seed,
    )
    dataset = vae_keras.image_dataset(
        images, 125, binarize="dynamic", seed=seed
    )
    compile_falling(vae, learning_rate, epochs * len(dataset))
    return vae, dataset, val_images, epochs


def notebook_7(kind: str, seed: int):
    """Returns model, training data, validation data and epochs."""
    _, dataset, val_images, epochs = notebook_5("conv", seed)
    vae = vae_keras.SpatialVAE(
        vae_keras.spatial.spatial_encoder(
            IMAGE_SHAPE, factored=kind == "rows and columns"
        ),
        vae_keras.spatial.spatial_decoder(2, IMAGE_SHAPE),
        seed=seed,
    )
    compile_falling(vae, 4e-3, epochs * len(dataset))
    return vae, dataset, val_images, epochs


TRAININGS = {
    "Adam": notebook_3,
    "RMSprop": notebook_3,
    "dense": notebook_5,
    "conv": notebook_5,
    "rows and columns": notebook_7,
    "map": notebook_7,
}


def main() -> None:
    """Runs every training and seed; prints each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=list(TRAININGS), choices=TRAININGS
    )
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in parser.parse_args().only:
        results[name] = {}
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            vae, dataset, val_images, epochs = TRAININGS[name](name, seed)
            history = vae.fit(
                dataset,
                epochs=epochs,
                validation_data=(val_images,),
                validation_batch_size=500,
                verbose=0,
            )
            losses = [round(x, 2) for x in history.history["val_loss"]]
            results[name][str(seed)] = losses
            print(name, "seed", seed, *losses, flush=True)
    temporary = RESULT.with_suffix(".tmp")
    RESULT.parent.mkdir(exist_ok=True)
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
