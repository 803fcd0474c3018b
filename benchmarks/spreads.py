"""How much the notebooks' numbers vary from seed to seed.

Trains the model of notebook 3 with each optimizer and each seed, and writes
the validation loss after every epoch to `results/spreads.json`. The notebooks
assert their numbers within two of these spreads.
"""

import json
import pathlib

import keras

import vae_keras

SEEDS = (0, 1, 2)
EPOCHS = 10
RESULT = pathlib.Path(__file__).parent / "results" / "spreads.json"


def validation_losses(optimizer: str, seed: int) -> list[float]:
    """Trains as notebook 3 does; nats per image after each epoch."""
    keras.utils.set_random_seed(seed)
    images, _ = vae_keras.load_mnist("train[:55000]")
    val_images, _ = vae_keras.load_mnist("train[55000:]")
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
        vae_keras.mlp_decoder(2, (28, 28, 1)),
        seed=seed,
    )
    rule = keras.optimizers.get(
        {"class_name": optimizer, "config": {"learning_rate": 1e-3}}
    )
    vae.compile(rule, jit_compile=True, steps_per_execution=50)
    history = vae.fit(
        vae_keras.image_dataset(images, 64, seed=seed),
        epochs=EPOCHS,
        validation_data=vae_keras.image_dataset(val_images, 500, shuffle=False),
        verbose=0,
    )
    return [round(loss, 2) for loss in history.history["val_loss"]]


def main() -> None:
    """Runs every optimizer and seed; prints each as it ends."""
    results = {}
    for optimizer in ("Adam", "RMSprop"):
        for seed in SEEDS:
            losses = validation_losses(optimizer, seed)
            results.setdefault(optimizer, {})[seed] = losses
            print(optimizer, "seed", seed, *losses, flush=True)
    temporary = RESULT.with_suffix(".tmp")
    RESULT.parent.mkdir(exist_ok=True)
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
