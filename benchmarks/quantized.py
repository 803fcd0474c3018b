"""What fewer bits cost: one model in float32, bfloat16 and int8.

The article's network is trained in float32. Its weights then go into the
same network under the policy mixed_bfloat16, and into a copy that Keras has
quantised, `vae.quantize("int8")`. All are measured on the same test images
with the same noise, so that differences are paired.
"""

import warnings

import common
import keras
import numpy as np

import vae_keras

SEEDS = (0, 1, 2)
KINDS = ("float32", "bfloat16", "int8")


def as_kind(vae, kind: str):
    """Returns a copy of a model that computes with fewer bits."""
    policy = "mixed_bfloat16" if kind == "bfloat16" else "float32"
    keras.config.set_dtype_policy(policy)
    try:
        copy = common.article_vae()
    finally:
        keras.config.set_dtype_policy("float32")
    copy.set_weights(vae.get_weights())
    if kind == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Layers without weights say so.
            copy.quantize("int8")
        copy.compile()
    return copy


def main():
    parser = common.options_parser(__doc__, images=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    train, _ = vae_keras.load_mnist("train")
    test, _ = vae_keras.load_mnist(f"test[:{options.images}]")
    runs = []
    for seed in SEEDS:
        common.start_anew(seed)
        vae = common.article_vae(**common.FAST)
        data = vae_keras.image_dataset(train, common.BATCH_SIZE, seed=seed)
        vae.fit(data, epochs=options.epochs, verbose=0)
        run = {"seed": seed}
        for kind in KINDS:
            run[kind] = common.evaluated(as_kind(vae, kind), test)["loss"]
        runs.append(run)
        print(run, flush=True)
    rows = []
    for kind in KINDS:
        found = np.array([run[kind] for run in runs])
        more = found - [run["float32"] for run in runs]
        rows.append(
            [
                kind,
                f"{found.mean():.2f}",
                f"{more.min():+.3f} to {more.max():+.3f}",
            ]
        )
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "epochs": options.epochs,
        "images": options.images,
        "runs": runs,
    }
    text = "# What fewer bits cost\n\n"
    text += common.table(["weights", "−ELBO", "more than float32"], rows)
    text += (
        f"\n\nNats per image, on {options.images:,} test images, the mean of "
        f"{len(SEEDS)} seeds and the range of the paired differences, after "
        f"{options.epochs} epochs of training in float32 "
        "(784-512-512-2, grey pixels).\n"
    )
    common.write_results(options.output, "quantized", results, text)


if __name__ == "__main__":
    main()
