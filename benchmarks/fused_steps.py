"""What it costs or saves to run many train steps as one XLA program.

Times the train step of a VAE of dense layers and of one of convolutions,
each with its steps fused (`vae_keras/speed.py`) and one by one, in turns.
`VAE` fuses the first and not the second.
"""

import argparse
import os
import statistics
import time

from common import RESULTS, provenance, table, write_results

BATCH_SIZE = 128
STEPS = 10
IMAGE_SHAPE = (28, 28, 1)


def new_vae(kind: str, is_fused: bool):
    """Returns a VAE whose train function is made, fused or not."""
    import vae_keras

    vae = vae_keras.VAE(
        getattr(vae_keras, f"{kind}_encoder")(IMAGE_SHAPE, 32),
        getattr(vae_keras, f"{kind}_decoder")(32, IMAGE_SHAPE),
    )
    vae.compile("adam", jit_compile=True, steps_per_execution=STEPS)
    # Whatever the layers, the train function is made as it is asked for.
    kept = vae_keras.training.has_convolutions
    vae_keras.training.has_convolutions = lambda model: not is_fused
    vae.make_train_function()
    vae_keras.training.has_convolutions = kept
    return vae


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import vae_keras

    images, _ = vae_keras.load_mnist("train[:1280]")  # STEPS batches
    seconds = {}
    for kind in ("mlp", "conv"):
        ways = {"fused": new_vae(kind, True), "single": new_vae(kind, False)}
        seconds[kind] = {way: [] for way in ways}
        for round_number in range(options.rounds + 1):
            for way, vae in ways.items():
                dataset = vae_keras.image_dataset(images, BATCH_SIZE)
                start = time.perf_counter()
                vae.fit(dataset, verbose=0)
                if round_number:  # not the first, which compiles
                    duration = (time.perf_counter() - start) / STEPS
                    seconds[kind][way].append(duration)
        print(kind, seconds[kind], flush=True)
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "batch_size": BATCH_SIZE,
        "seconds_per_step": seconds,
    }
    rows = []
    for kind, ways in seconds.items():
        ratios = [
            a / b for a, b in zip(ways["fused"], ways["single"], strict=True)
        ]
        rows.append(
            [
                kind,
                *(f"{statistics.median(t) * 1e3:.1f}" for t in ways.values()),
                f"{statistics.median(ratios):.2f}",
            ]
        )
    markdown = (
        "# Steps fused and one by one\n\n"
        f"Milliseconds for a train step on {BATCH_SIZE} images, "
        f"`jit_compile=True`, {STEPS} steps per execution, medians of "
        f"{options.rounds} rounds; the default networks with 32 latents. "
        "`VAE` fuses the steps of dense layers and not those of "
        "convolutions.\n\n"
        + table(["network", "fused", "one by one", "fused ÷ one by one"], rows)
    )
    write_results(options.output, "fused_steps", results, markdown)


if __name__ == "__main__":
    main()
