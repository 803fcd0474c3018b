"""How fast importance_weighted_nll is, next to the machine's matrix products.

The decoder of 512-512 units, with the article's two latents and with 50:
its matrix products a second, over what plain products of float32 matrices
reach on the same machine in the same round. Everything else that an
estimate takes (noise, activations, cross-entropy, sums) counts as loss.
"""

import statistics
import time

import common
import tensorflow as tf

import vae_keras
from vae_keras._cpu import keep_freed_memory

IMAGE_SHAPE = (28, 28, 1)
LATENT_DIMS = (2, 50)
# Rows, inner and columns: a large square, and the decoder's last layer.
PRODUCTS = ((2048, 2048, 2048), (5000, common.HIDDEN_UNITS, common.NUM_PIXELS))


def product_rate(rows: int, inner: int, columns: int) -> float:
    """Returns the FLOP/s of products of two float32 matrices."""
    a, b = tf.random.normal((rows, inner)), tf.random.normal((inner, columns))
    multiply = tf.function(tf.linalg.matmul)
    multiply(a, b)
    count = 30
    start = time.perf_counter()
    for _ in range(count):
        product = multiply(a, b)
    product.numpy()
    seconds = time.perf_counter() - start
    return 2 * rows * inner * columns * count / seconds


def main():
    parser = common.options_parser(__doc__, images=500)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    images, _ = vae_keras.load_mnist(f"test[:{options.images}]")
    vaes = {
        latent_dim: vae_keras.VAE(
            vae_keras.mlp_encoder(IMAGE_SHAPE, latent_dim),
            vae_keras.mlp_decoder(latent_dim, IMAGE_SHAPE),
        )
        for latent_dim in LATENT_DIMS
    }
    rounds = []
    for _ in range(options.rounds):
        peak = max(product_rate(*shape) for shape in PRODUCTS)
        measured = {"product_rate": peak, "seconds": {}, "share": {}}
        for latent_dim, vae in vaes.items():
            start = time.perf_counter()
            vae_keras.importance_weighted_nll(
                vae, images, num_samples=options.samples, verbose=False
            )
            seconds = time.perf_counter() - start
            products = (
                2 * common.HIDDEN_UNITS * (latent_dim + common.HIDDEN_UNITS)
            )
            products += 2 * common.HIDDEN_UNITS * common.NUM_PIXELS
            products *= options.samples * options.images
            measured["seconds"][latent_dim] = seconds
            measured["share"][latent_dim] = products / seconds / peak
        rounds.append(measured)
        print(measured, flush=True)

    def median(key, latent_dim):
        return statistics.median(r[key][latent_dim] for r in rounds)

    results = {
        **common.provenance(["tensorflow", "keras"]),
        "images": options.images,
        "samples": options.samples,
        "rounds": rounds,
    }
    peak = statistics.median(r["product_rate"] for r in rounds)
    whole = 10_000 / options.images / 60
    rows = [
        [
            f"{latent_dim}-512-512-784",
            f"{median('share', latent_dim):.0%}",
            f"{median('seconds', latent_dim) * whole:.1f}",
        ]
        for latent_dim in LATENT_DIMS
    ]
    markdown = (
        "# Speed of the likelihood estimate\n\n"
        f"Medians of {options.rounds} rounds with {options.images} images × "
        f"{options.samples:,} samples. Plain float32 matrix products reach "
        f"{peak / 1e9:.0f} GFLOP/s here (median of the better of a square "
        "of 2048 and the decoder's last layer).\n\n"
        + common.table(
            [
                "decoder",
                "its matrix products' rate, of that",
                f"minutes for 10,000 images × {options.samples:,}",
            ],
            rows,
        )
    )
    common.write_results(options.output, "nll_speed", results, markdown)


if __name__ == "__main__":
    main()
