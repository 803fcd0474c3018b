"""Vector latents against maps of latents, whole or of rows and columns.

Three posteriors for one decoder, with as many latents each:

    vector            each latent is read off the whole image
    map               each place of the map has a mean and variance of its own
    rows and columns  they are products of those of its row and its column

and, to compare with, the usual convolutional VAE, whose decoder begins with
dense layers. All are trained alike, with every seed, and measured on the
test images. No choice is made by these numbers: learning rate and number of
maps were chosen on train[55000:].
"""

import math
import time

import common
import keras
import numpy as np

import vae_keras

BATCH_SIZE = 125
IMAGE_SHAPE = (28, 28, 1)
LEARNING_RATE = 4e-3
NUM_MAPS = 2
SEEDS = (0, 1, 2)
KINDS = ("vector", "map", "rows and columns", "vector, dense decoder")


def vector_encoder(latent_shape) -> keras.Model:
    """Returns `conv_encoder`, with its latents laid out as a map."""
    encoder = vae_keras.conv_encoder(IMAGE_SHAPE, math.prod(latent_shape))
    reshape = keras.layers.Reshape(latent_shape)
    return keras.Model(encoder.input, [reshape(h) for h in encoder.outputs])


def new_vae(kind: str, seed: int) -> vae_keras.VAE:
    """Returns one of the four models."""
    if kind == "vector, dense decoder":
        latent_dim = 49 * NUM_MAPS
        return vae_keras.VAE(
            vae_keras.conv_encoder(IMAGE_SHAPE, latent_dim),
            vae_keras.conv_decoder(latent_dim, IMAGE_SHAPE),
            seed=seed,
        )
    if kind == "vector":
        encoder = vector_encoder((7, 7, NUM_MAPS))
    else:
        encoder = vae_keras.spatial.spatial_encoder(
            IMAGE_SHAPE, NUM_MAPS, factored=kind == "rows and columns"
        )
    decoder = vae_keras.spatial.spatial_decoder(NUM_MAPS, IMAGE_SHAPE)
    return vae_keras.SpatialVAE(encoder, decoder, seed=seed)


def posterior_numbers(kind: str) -> int:
    """Returns how many numbers per image the encoder gives."""
    sides = 7 + 7 if kind == "rows and columns" else 7 * 7
    return 2 * sides * NUM_MAPS


def measure(kind: str, seed: int, images, test_images, options) -> dict:
    """Trains one model and measures it on held-out images."""
    common.start_anew(seed)
    vae = new_vae(kind, seed)
    start = time.perf_counter()
    history = common.train(
        vae, images, BATCH_SIZE, options.epochs, LEARNING_RATE, seed
    )
    seconds = time.perf_counter() - start
    binary = common.binarized(test_images)
    test = common.evaluated(vae, binary)
    nll = vae_keras.importance_weighted_nll(
        vae,
        binary[: options.nll_images],
        num_samples=options.samples,
        verbose=False,
    )
    real = test_images[: options.quality_images]
    samples = np.asarray(vae.generate(len(real), seed=seed))
    row = {
        "parameters": [vae.encoder.count_params(), vae.decoder.count_params()],
        "seconds": seconds,
        "training": history["loss"][-1],
        "elbo": test["loss"],
        "kl": test["kl_loss"],
        "nll": nll.mean,
        "nll_standard_error": nll.standard_error,
        "active_units": vae_keras.active_units(vae, binary),
        **vae_keras.digits.sample_quality(real, samples)._asdict(),
    }
    print(
        f"{kind}, seed {seed}: {seconds:.0f} s, training "
        f"{row['training']:.2f}, −ELBO {row['elbo']:.2f}, −log p(x) "
        f"{row['nll']:.2f}, active {row['active_units']}, Fréchet "
        f"{row['frechet']:.1f}",
        flush=True,
    )
    return row


def as_markdown(results) -> str:
    rows = [
        [
            kind,
            posterior_numbers(kind),
            f"{runs[0]['parameters'][0] / 1e3:.0f} k",
            f"{runs[0]['parameters'][1] / 1e3:.0f} k",
            common.spread(runs, "elbo"),
            common.spread(runs, "kl"),
            common.spread(runs, "nll"),
            common.spread(runs, "active_units", 0),
            common.spread(runs, "frechet"),
            common.spread(runs, "precision", 2),
            common.spread(runs, "coverage", 2),
        ]
        for kind, runs in results["runs"].items()
    ]
    return (
        "# Three posteriors for one decoder\n\n"
        f"{49 * NUM_MAPS} latents each, {results['epochs']} epochs of "
        f"{results['images']:,} images, binarised anew each epoch, batch "
        f"{BATCH_SIZE}, Adam with a learning rate that falls to zero. Mean "
        f"and, in brackets, range over {len(results['seeds'])} seeds, on test "
        "images binarised once: −ELBO in nats per image, its KL, the bound on "
        f"−log p(x) by {results['samples']:,} samples for each of "
        f"{results['nll_images']:,} images, active units; Fréchet distance, "
        f"precision and coverage of {results['quality_images']:,} samples. "
        "*Numbers* counts what the encoder gives for one image.\n\n"
        + common.table(
            [
                "posterior",
                "numbers",
                "encoder",
                "decoder",
                "−ELBO",
                "KL",
                "−log p(x)",
                "active",
                "Fréchet",
                "precision",
                "coverage",
            ],
            rows,
        )
    )


def main():
    parser = common.options_parser(__doc__, images=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--nll-images", type=int, default=1000)
    parser.add_argument("--quality-images", type=int, default=3000)
    options = parser.parse_args()
    images = vae_keras.load_mnist("train")[0][: options.images]
    test_images, _ = vae_keras.load_mnist("test")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        **{
            name: getattr(options, name)
            for name in ("epochs", "samples", "nll_images", "quality_images")
        },
        "seeds": list(options.seeds),
        "images": len(images),
        "runs": {},
    }
    for kind in KINDS:
        rows = results["runs"][kind] = []
        for seed in options.seeds:
            rows.append(measure(kind, seed, images, test_images, options))
            markdown = as_markdown(results)
            common.write_results(options.output, "spatial", results, markdown)


if __name__ == "__main__":
    main()
