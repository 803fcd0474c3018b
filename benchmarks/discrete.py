"""The discrete VAE in nats: maps of codes, and what their posterior costs.

All models are trained on train[:55000], binarised anew each epoch. Parts:

    rates        learning rates of both kinds of codes, on train[55000:]
    sizes        rate against distortion: sizes of the map and the codebook
    codebook     a codebook that is learned by its loss, or by moving averages
    points, categorical, gaussian
                 three posteriors after as many seconds of training, with
                 samples: codes that are points, a categorical posterior of
                 the same networks, and the convolutional VAE of notebook 5
    contexts     what a place of the map gains by the rows above it and by
                 its own row
    samples      more codes and more minutes, drawn at several temperatures

A discrete model's seconds are shared: FOR_CODES of them train the codes,
the rest the prior; what compiling takes comes on top. The categorical
posterior q(z|x) is a softmax of the negative distances that the codes
minimise, scaled by a learned number; its gradient is that of a Gumbel-softmax
(Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712)
whose temperature falls.

Learning rates of both kinds of codes were tried with one seed on
train[55000:]; the convolutional VAE keeps that of notebook 5. At the best
rate of the categorical posterior, 0.032, another seed collapsed (KL 0), so
it has the next one, which was 0.8 nats behind. `rates`, `sizes`
and `codebook` are measured on train[55000:], the rest on the test images.

`--runs` runs some parts only and keeps what the results hold of the others.
"""

import json
import math
import os
import pathlib
import time

import common
import keras
import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

import vae_keras
from vae_keras.discrete import (
    CodePrior,
    Quantizer,
    discrete_decoder,
    discrete_encoder,
)

BATCH_SIZE = 125
IMAGE_SHAPE = (28, 28, 1)
SEEDS = (0, 1, 2)
DEPTH, NUM_CODES = 3, 32
LEARNING_RATES, PRIOR_RATE = {"points": 8e-3, "categorical": 1.6e-2}, 6e-3
RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
# Of the seconds of a discrete model, the share that goes to its codes.
FOR_CODES = 0.6
CONTEXTS = ("none", "vertical", "horizontal", "both")
# How often the sides are halved (2: 7 × 7 places, 3: 4 × 4), and codes.
SIZES = ((2, 4), (2, 16), (2, 64), (3, 8), (3, 32), (3, 128), (3, 512))
SIZES += ((4, 512),)
SHORT_EPOCHS = 2
POSTERIORS = ("points", "categorical", "gaussian")
# Training images that samples are compared with, one by one.
NUM_NEIGHBOURS = 20_000
PARTS = ("rates", "sizes", "codebook", *POSTERIORS, "contexts", "samples")
# For samples: epochs of the codes, then of a prior that sees them from so
# many binarisations; its size, batches and rate, tried with one seed on
# train[55000:]; and the temperatures.
LONG = {"num_codes": 128, "epochs": 6, "binarisations": 6, "prior_epochs": 5}
LONG_PRIOR = {"filters": 48, "batch_size": 250, "learning_rate": 8e-3}
TEMPERATURES = (1.0, 0.9, 0.8, 0.7)


class MovingAverages(Quantizer):
    """A codebook that follows the means of what its codes are chosen for."""

    def build(self, input_shape):
        super().build(input_shape)
        self.codebook.trainable = False
        self.counts = self.add_weight(
            shape=(self.num_codes,), initializer="zeros", trainable=False
        )
        self.sums = self.add_weight(
            shape=(self.num_codes, input_shape[-1]),
            initializer="zeros",
            trainable=False,
        )

    def call(self, features, training=False):
        before = tf.identity(self.codebook.value)
        outputs = super().call(features, training)
        if training:
            # A code that was moved begins anew.
            moved = tf.reduce_any(self.codebook.value != before, axis=1)
            kept = tf.where(moved, 0.0, 0.99)
            flat = tf.reshape(features, (-1, features.shape[-1]))
            chosen = tf.one_hot(tf.reshape(outputs[1], (-1,)), self.num_codes)
            chosen = tf.where(moved, 0.0, chosen)
            counts = kept * self.counts + 0.01 * tf.reduce_sum(chosen, axis=0)
            sums = kept[:, None] * self.sums + 0.01 * tf.matmul(
                chosen, flat, transpose_a=True
            )
            self.counts.assign(counts)
            self.sums.assign(sums)
            means = sums / tf.maximum(counts, 1e-6)[:, None]
            has_any = counts[:, None] > 0
            self.codebook.assign(tf.where(has_any, means, self.codebook.value))
        return outputs


class CategoricalVAE(vae_keras.DiscreteVAE):
    """The same networks and codebook, with a posterior over all codes."""

    def __init__(self, *args, num_steps=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_steps = num_steps
        self.log_scale = self.add_weight(
            shape=(), initializer="zeros", name="log_scale"
        )
        self.step = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="step"
        )
        self.noise = keras.random.SeedGenerator(0)

    def log_q(self, x, training):
        features = self.encoder(x, training=training)
        codebook = self.quantizer.codebook
        distances = (
            tf.reduce_sum(tf.square(features), -1, keepdims=True)
            - 2 * tf.matmul(features, codebook, transpose_b=True)
            + tf.reduce_sum(tf.square(codebook), axis=1)
        )
        return tf.nn.log_softmax(-tf.exp(self.log_scale) * distances)

    def gumbel(self, shape):
        uniform = keras.random.uniform(shape, 1e-7, 1.0, seed=self.noise)
        return -tf.math.log(-tf.math.log(uniform))

    def bound_terms(self, data, training):
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        log_q = self.log_q(x, training)
        noisy = log_q + self.gumbel(tf.shape(log_q))
        codes = tf.argmax(noisy, axis=-1, output_type=tf.int32)
        chosen = tf.one_hot(codes, self.quantizer.num_codes)
        if training:
            self.step.assign_add(1.0)
            temperature = tf.maximum(1 - self.step / self.num_steps, 0.0)
            chosen = tf.nn.softmax(noisy / (0.3 + 0.7 * temperature))
        logits = self.decoder(
            tf.matmul(chosen, self.quantizer.codebook.value), training=training
        )
        nll = self.likelihood.nll(x, logits)
        q = tf.exp(log_q)
        if self.prior is None:
            cross = math.log(self.quantizer.num_codes)
            kl = tf.reduce_sum(q * log_q, axis=(1, 2, 3))
            kl += cross * math.prod(self.latent_shape)
        else:  # log q of the draw, and log p of it: an estimate.
            of_draw = tf.reduce_sum(
                log_q * tf.one_hot(codes, log_q.shape[-1]), axis=(1, 2, 3)
            )
            of_prior = tf.reduce_sum(self.code_nll(codes, labels), axis=(1, 2))
            kl = of_draw + of_prior
        # The KL stands where the codebook's loss stands, and is minimised.
        return nll, kl, kl, codes

    def encode(self, x, labels=None):
        """Draws codes from the posterior."""
        log_q = self.log_q(x, training=False)
        return tf.argmax(log_q + self.gumbel(log_q.shape), -1, tf.int32)


# === Training ===


def new_vae(kind="points", depth=DEPTH, num_codes=NUM_CODES, seed=0, **kwargs):
    """Returns a discrete model; `kind` is its posterior, or its codebook's."""
    common.start_anew(seed)
    quantizer = MovingAverages if kind == "averages" else Quantizer
    model = CategoricalVAE if kind == "categorical" else vae_keras.DiscreteVAE
    return model(
        discrete_encoder(IMAGE_SHAPE, depth=depth),
        discrete_decoder(IMAGE_SHAPE, depth=depth),
        quantizer(num_codes, seed=seed),
        **kwargs,
    )


def trained_codes(kind, images, epochs, learning_rate=None, **sizes):
    """Returns a model without a prior, trained, and its seconds."""
    num_steps = epochs * (len(images) // BATCH_SIZE)
    own = {"num_steps": num_steps} if kind == "categorical" else {}
    vae = new_vae(kind, **sizes, **own)
    start = time.perf_counter()
    learning_rate = learning_rate or LEARNING_RATES.get(kind, 8e-3)
    seed = sizes.get("seed", 0)
    common.train(vae, images, BATCH_SIZE, epochs, learning_rate, seed)
    return vae, time.perf_counter() - start


def codes_of(vae, images, seed=0):
    """Returns the codes of images that are binarised first."""
    parts = np.array_split(common.binarized(images, seed), 20)
    return np.concatenate([vae.encode(x) for x in parts])


def trained_prior(
    vae,
    codes,
    epochs,
    seed=0,
    context="both",
    filters=32,
    batch_size=BATCH_SIZE,
    learning_rate=PRIOR_RATE,
):
    """Returns a prior of codes, and the seconds of its training."""
    common.start_anew(seed)
    prior = CodePrior(
        vae.latent_shape,
        vae.quantizer.num_codes,
        context=context,
        filters=filters,
    )
    num_steps = epochs * (len(codes) // batch_size)
    prior.compile(common.falling(learning_rate, num_steps), **common.FAST)
    start = time.perf_counter()
    prior.fit(codes, batch_size=batch_size, epochs=epochs, verbose=0)
    return prior, time.perf_counter() - start


def with_prior(vae, prior):
    """Returns a model of the same parts that has the prior."""
    again = vae.with_prior(prior)
    if isinstance(vae, CategoricalVAE):
        again.log_scale.assign(vae.log_scale.value)
    return again


def epochs_in(seconds: float, model, x, **arguments) -> int:
    """Returns how many epochs of `x` fit in, by timing a part of them."""
    part = x[: 100 * BATCH_SIZE]
    model.compile("adam", **common.FAST)
    data = {"x": part, "batch_size": BATCH_SIZE}
    if arguments:
        data = {"x": vae_keras.image_dataset(part, BATCH_SIZE, **arguments)}
    model.fit(**data, verbose=0)  # compiles
    start = time.perf_counter()
    model.fit(**data, epochs=2, verbose=0)
    spent = (time.perf_counter() - start) / 2 * len(x) / len(part)
    return max(1, round(seconds / spent))


# === Parts ===


def tried(kind: str, learning_rate: float, split) -> dict:
    """Trains codes briefly; the uniform prior's −ELBO on validation images."""
    images, val_binary = split
    vae, _ = trained_codes(kind, images, 2, learning_rate)
    logs = common.evaluated(vae, val_binary)
    row = {
        "kind": kind,
        "rate": learning_rate,
        "elbo": logs["reconstruction_loss"] + logs["kl_loss"],
    }
    print(row, flush=True)
    return row


def sized(depth: int, num_codes: int, split) -> dict:
    """Trains one size briefly; both terms on validation images."""
    images, val_binary = split
    sizes = {"depth": depth, "num_codes": num_codes}
    vae, _ = trained_codes("points", images, SHORT_EPOCHS, **sizes)
    prior, _ = trained_prior(vae, codes_of(vae, images), SHORT_EPOCHS)
    logs = common.evaluated(with_prior(vae, prior), val_binary)
    row = {
        "places": list(vae.latent_shape),
        "num_codes": num_codes,
        "reconstruction": logs["reconstruction_loss"],
        "uniform": math.prod(vae.latent_shape) * math.log(num_codes),
        "kl": logs["kl_loss"],
        "perplexity": logs["perplexity"],
    }
    print(row, flush=True)
    return row


def learned_codebook(kind: str, seed: int, split) -> dict:
    """Trains codes briefly, by one way to learn the codebook."""
    images, val_binary = split
    vae, seconds = trained_codes(kind, images, SHORT_EPOCHS, seed=seed)
    logs = common.evaluated(vae, val_binary)
    row = {
        "kind": kind,
        "seed": seed,
        "seconds": seconds,
        "reconstruction": logs["reconstruction_loss"],
        "perplexity": logs["perplexity"],
    }
    print(row, flush=True)
    return row


def trained(kind: str, seed: int, images, seconds: float):
    """Returns a model after so many seconds, and their parts."""
    if kind == "gaussian":
        common.start_anew(seed)
        vae = vae_keras.VAE(
            vae_keras.conv_encoder(IMAGE_SHAPE, 32),
            vae_keras.conv_decoder(32, IMAGE_SHAPE),
            seed=seed,
        )
        clone = keras.models.clone_model(vae)
        epochs = epochs_in(seconds, clone, images, binarize="dynamic")
        start = time.perf_counter()
        common.train(vae, images, BATCH_SIZE, epochs, 4e-3, seed)
        return vae, [time.perf_counter() - start], [epochs]
    own = {"num_steps": 1000} if kind == "categorical" else {}
    first = FOR_CODES * seconds
    epochs = epochs_in(first, new_vae(kind, **own), images, binarize="dynamic")
    vae, spent = trained_codes(kind, images, epochs, seed=seed)
    codes = np.concatenate(
        [codes_of(vae, images, i) for i in (2 * seed, 2 * seed + 1)]
    )
    prior_epochs = epochs_in(
        seconds - first, CodePrior(vae.latent_shape, NUM_CODES), codes
    )
    prior, more = trained_prior(vae, codes, prior_epochs, seed)
    return with_prior(vae, prior), [spent, more], [epochs, prior_epochs]


def neighbours(samples, images) -> list[float]:
    """The 1 % quantile and the median of distances to the nearest image."""
    search = NearestNeighbors(n_neighbors=1)
    search.fit(images.reshape(len(images), -1))
    distances, _ = search.kneighbors(samples.reshape(len(samples), -1))
    return np.quantile(distances, [0.01, 0.5]).tolist()


def measure(kind: str, seed: int, images, test_images, options) -> dict:
    """Trains one model and measures it on the test images."""
    vae, seconds, epochs = trained(kind, seed, images, options.seconds)
    binary = common.binarized(test_images)
    logs = common.evaluated(vae, binary)
    real = test_images[: options.quality_images]
    samples = np.asarray(vae.generate(len(real), seed=seed))
    some = images[:NUM_NEIGHBOURS]
    row = {
        "kind": kind,
        "seed": seed,
        "seconds": seconds,
        "epochs": epochs,
        "reconstruction": logs["reconstruction_loss"],
        "kl": logs["kl_loss"],
        "elbo": logs["reconstruction_loss"] + logs["kl_loss"],
        "neighbours": neighbours(samples, some),
        **vae_keras.digits.sample_quality(real, samples)._asdict(),
    }
    if kind != "gaussian":
        row["uniform_kl"] = math.prod(vae.latent_shape) * math.log(NUM_CODES)
        row["places"] = vae_keras.kl_per_dimension(vae, binary).tolist()
        row["perplexity"] = logs["perplexity"]
    print(row, flush=True)
    return row


def contexts(seed: int, images, test_images, options) -> list[dict]:
    """Trains priors that see more and less, of the codes of one model."""
    binary = common.binarized(test_images)
    vae, _ = trained_codes("points", images, SHORT_EPOCHS, seed=seed)
    codes, rows = codes_of(vae, images, seed), []
    for context in CONTEXTS:
        prior, _ = trained_prior(vae, codes, SHORT_EPOCHS, seed, context)
        again = with_prior(vae, prior)
        places = vae_keras.kl_per_dimension(again, binary)
        real = test_images[: options.quality_images]
        samples = np.asarray(again.generate(len(real), seed=seed))
        quality = vae_keras.digits.sample_quality(real, samples)
        rows.append(
            {
                "context": context,
                "seed": seed,
                "kl": float(places.sum()),
                "places": places.tolist(),
                "frechet": quality.frechet,
            }
        )
        print(rows[-1], flush=True)
    return rows


def drawn(seed: int, images, val_images, test_images, options) -> dict:
    """Trains more codes for longer; samples at several temperatures.

    The distances to validation images choose the temperature.
    """
    start = time.perf_counter()
    vae, _ = trained_codes(
        "points",
        images,
        LONG["epochs"],
        seed=seed,
        num_codes=LONG["num_codes"],
    )
    first = LONG["binarisations"] * seed
    codes = [
        codes_of(vae, images, first + i) for i in range(LONG["binarisations"])
    ]
    prior, _ = trained_prior(
        vae, np.concatenate(codes), LONG["prior_epochs"], seed, **LONG_PRIOR
    )
    seconds = time.perf_counter() - start
    binary = common.binarized(test_images)
    logs = common.evaluated(with_prior(vae, prior), binary)
    real = test_images[: options.quality_images]
    copies = np.asarray(vae.decode(vae.encode(binary[-len(real) :])))
    quality = vae_keras.digits.sample_quality
    temperatures = []
    for temperature in TEMPERATURES:
        codes = prior.sample(len(real), temperature=temperature, seed=seed)
        samples = np.asarray(vae.decode(codes))
        temperatures.append(
            {
                "temperature": temperature,
                "val_frechet": quality(
                    val_images[: len(real)], samples
                ).frechet,
                **quality(real, samples)._asdict(),
                "neighbours": neighbours(samples, images[:NUM_NEIGHBOURS]),
            }
        )
        print(temperatures[-1], flush=True)
    return {
        "seed": seed,
        "seconds": seconds,
        "cores": common.num_cores(),
        **LONG,
        "prior": LONG_PRIOR,
        "reconstruction": logs["reconstruction_loss"],
        "kl": logs["kl_loss"],
        "frechet_of_copies": quality(real, copies).frechet,
        "temperatures": temperatures,
    }


# === Tables ===


def of(rows, **chosen) -> list[dict]:
    """Returns the rows that have these values."""
    return [
        row
        for row in rows
        if all(row[name] == value for name, value in chosen.items())
    ]


def rates_as_markdown(results) -> str:
    rows = []
    for kind in POSTERIORS[:2]:
        found = {r["rate"]: r["elbo"] for r in of(results["rates"], kind=kind)}
        losses = [f"{found[r]:.1f}" if r in found else "–" for r in RATES]
        rows.append([f"{kind}, rates", *losses])
    return (
        "## Learning rates\n\n"
        "Reconstruction loss and KL from the uniform prior on train[55000:], "
        f"after two epochs of codes, seed {SEEDS[0]}.\n\n"
        + common.table(["posterior", *(f"{rate:g}" for rate in RATES)], rows)
    )


def sizes_as_markdown(results) -> str:
    rows = [
        [
            " × ".join(map(str, row["places"])),
            row["num_codes"],
            f"{row['perplexity']:.0f}",
            f"{row['reconstruction']:.1f}",
            f"{row['uniform']:.1f}",
            f"{row['kl']:.1f}",
            f"{row['reconstruction'] + row['kl']:.1f}",
        ]
        for row in results["sizes"]
    ]
    return (
        "## Rate against distortion\n\n"
        f"{SHORT_EPOCHS} epochs for the codes and as many for the prior, seed "
        f"{SEEDS[0]}, on train[55000:]. *Distortion*: −log p(x|z(x)). *Rate*: "
        "−log p(z(x)), under a uniform prior and under the learned one.\n\n"
        + common.table(
            [
                "places",
                "codes",
                "in use",
                "distortion",
                "rate, uniform",
                "rate",
                "−ELBO",
            ],
            rows,
        )
    )


def codebook_as_markdown(results) -> str:
    kinds = {"points": "its loss", "averages": "moving averages"}
    rows = [
        [
            text,
            common.spread(of(results["codebook"], kind=kind), "reconstruction"),
            common.spread(of(results["codebook"], kind=kind), "perplexity", 0),
        ]
        for kind, text in kinds.items()
        if of(results["codebook"], kind=kind)
    ]
    gap = paired(results["codebook"], "averages", "points", "reconstruction")
    return (
        "## How the codebook is learned\n\n"
        f"−log p(x|z(x)) on train[55000:] after {SHORT_EPOCHS} epochs, and "
        "codes in use: mean and, in brackets, range over "
        f"{len(SEEDS)} seeds. Moving averages minus the loss, seed by seed: "
        f"{gap}.\n\n"
        + common.table(["codebook learned by", "distortion", "in use"], rows)
    )


def of_use(rows) -> list[dict]:
    """Returns the rows of posteriors that carry at least a nat."""
    return [row for row in rows if row["kl"] > 1]


def paired(rows, kind, other, field) -> str:
    """Returns the mean difference over seeds, ± its standard error."""
    values = {
        name: {row["seed"]: row[field] for row in of(rows, kind=name)}
        for name in (kind, other)
    }
    gaps = [
        value - values[other][seed]
        for seed, value in values[kind].items()
        if seed in values[other]
    ]
    if len(gaps) < 2:
        return "one run at most"
    error = np.std(gaps, ddof=1) / len(gaps) ** 0.5
    return f"{np.mean(gaps):+.1f} ± {error:.1f}"


def posteriors_as_markdown(results) -> str:
    # A run that has collapsed tells nothing of its posterior.
    rows, table = of_use(results["posteriors"]), []
    for kind in POSTERIORS:
        runs = of(rows, kind=kind)
        if not runs:
            continue
        near = [
            f"{np.mean([r['neighbours'][i] for r in runs]):.2f}" for i in (0, 1)
        ]
        every = of(results["posteriors"], kind=kind)
        table.append(
            [
                kind,
                f"{len(every) - len(runs)} of {len(every)}",
                f"{np.mean([sum(r['seconds']) for r in runs]):.0f}",
                *(
                    common.spread(runs, field)
                    for field in ("reconstruction", "kl", "elbo", "frechet")
                ),
                *(
                    common.spread(runs, field, 2)
                    for field in ("precision", "recall", "density", "coverage")
                ),
                *near,
            ]
        )
    if "real" in results:
        (real,) = results["real"]
        table.append(
            ["other real digits", *["–"] * 5, f"{real['frechet']:.1f}"]
            + [
                f"{real[field]:.2f}"
                for field in ("precision", "recall", "density", "coverage")
            ]
            + [f"{distance:.2f}" for distance in real["neighbours"]]
        )
    text = (
        "## Three posteriors, as many seconds\n\n"
        f"{results['seconds']:.0f} seconds of training on "
        f"{results['cores_used']} core(s), for codes and prior together, "
        f"{NUM_CODES} codes at {-(-28 // 2**DEPTH)} × {-(-28 // 2**DEPTH)} "
        "places. Mean and, in brackets, range over the "
        "seeds that did not collapse to a KL of 0, on test images binarised "
        "once, in nats per image; samples: "
        f"{results['quality_images']:,} against as many test images. Last, "
        "the distance from a sample to the nearest of "
        f"{NUM_NEIGHBOURS:,} training images: its 1 % quantile and its "
        "median.\n\n"
        + common.table(
            [
                "posterior",
                "collapsed",
                "seconds",
                "−log p(x\\|z)",
                "KL",
                "−ELBO",
                "Fréchet",
                "precision",
                "recall",
                "density",
                "coverage",
                "nearest, 1 %",
                "median",
            ],
            table,
        )
    )
    if len(table) > 2:
        text += (
            "\nPoints minus categorical, seed by seed: −ELBO "
            f"{paired(rows, 'points', 'categorical', 'elbo')}, Fréchet "
            f"{paired(rows, 'points', 'categorical', 'frechet')}.\n"
        )
    return text


def contexts_as_markdown(results) -> str:
    rows = results["contexts"]
    table = [
        [
            context,
            common.spread(of(rows, context=context), "kl"),
            common.spread(of(rows, context=context), "frechet"),
        ]
        for context in CONTEXTS
        if of(rows, context=context)
    ]
    return (
        "## What a place is told by\n\n"
        f"Codes and each prior trained for {SHORT_EPOCHS} epochs; nats of a "
        "map on the test images, and the Fréchet distance of samples: mean "
        "and, in brackets, range over the seeds.\n\n"
        + common.table(["context", "−log p(z)", "Fréchet"], table)
    )


def chosen_temperature(rows) -> float:
    """The temperature with the least mean distance to validation images."""
    distances = np.array(
        [[t["val_frechet"] for t in row["temperatures"]] for row in rows]
    )
    return TEMPERATURES[int(distances.mean(axis=0).argmin())]


def samples_as_markdown(results) -> str:
    rows = results["samples"]
    fields = ("frechet", "precision", "recall", "density", "coverage")
    table = []
    for i, temperature in enumerate(TEMPERATURES):
        runs = [row["temperatures"][i] for row in rows]
        val = f"{np.mean([run['val_frechet'] for run in runs]):.1f}"
        near = np.mean([run["neighbours"] for run in runs], axis=0)
        table.append(
            [f"{temperature:g}", val]
            + [common.spread(runs, f, 1 + (f != fields[0])) for f in fields]
            + [f"{distance:.2f}" for distance in near]
        )
    if "real" in results:
        (real,) = results["real"]
        table.append(
            ["other real digits", "–", f"{real['frechet']:.1f}"]
            + [f"{real[field]:.2f}" for field in fields[1:]]
            + [f"{distance:.2f}" for distance in real["neighbours"]]
        )
    first = rows[0]
    return (
        "## Samples at a temperature\n\n"
        f"{first['num_codes']} codes at 4 × 4 places, trained for "
        f"{first['epochs']} epochs; a prior of {first['prior']['filters']} "
        f"filters, {first['prior_epochs']} epochs on the codes of "
        f"{first['binarisations']} binarisations of each image; "
        f"{np.mean([row['seconds'] for row in rows]):.0f} s of training, "
        f"encoding included, on {first['cores']} core(s), "
        f"{len(rows)} seeds. −ELBO "
        f"{np.mean([row['reconstruction'] + row['kl'] for row in rows]):.1f}, "
        "Fréchet distance of the reconstructions of other test images "
        f"{np.mean([row['frechet_of_copies'] for row in rows]):.1f}. Logits of "
        "the prior are divided by the temperature. The first distance is to "
        "validation images and chooses the temperature: "
        f"**{chosen_temperature(rows):g}**. The rest as in the table of "
        "posteriors.\n\n"
        + common.table(
            [
                "temperature",
                "validation",
                "Fréchet",
                *fields[1:],
                "nearest, 1 %",
                "median",
            ],
            table,
        )
    )


def as_markdown(results) -> str:
    parts = ["# Maps of codes, in nats\n"]
    for name, text in (
        ("rates", rates_as_markdown),
        ("sizes", sizes_as_markdown),
        ("codebook", codebook_as_markdown),
        ("posteriors", posteriors_as_markdown),
        ("contexts", contexts_as_markdown),
        ("samples", samples_as_markdown),
    ):
        if results.get(name):
            parts.append(text(results))
    return "\n".join(parts)


# === Running ===


def main():
    parser = common.options_parser(__doc__, images=55_000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--quality-images", type=int, default=3000)
    parser.add_argument("--runs", nargs="+", choices=PARTS, default=PARTS)
    kinds = POSTERIORS[:2]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    options = parser.parse_args()
    images, val_binary = common.held_out_split(options.images)
    test_images, _ = vae_keras.load_mnist("test")
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "seconds": options.seconds,
        "quality_images": options.quality_images,
        "images": len(images),
        "cores_used": int(
            os.environ.get("TF_NUM_INTRAOP_THREADS", common.num_cores())
        ),
    }

    def add(part, row, **key):
        """Adds a row, in place of an older one, to the file as it is now."""
        path = pathlib.Path(options.output) / "discrete.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        rows = old.get(part, [])
        rows = [r for r in rows if any(r[k] != v for k, v in key.items())]
        # Without a key all older rows go.
        old |= {**results, part: [*(rows if key else []), row]}
        common.write_results(options.output, "discrete", old, as_markdown(old))

    split = images, val_binary
    for kind in options.kinds if "rates" in options.runs else ():
        for rate in RATES:
            add("rates", tried(kind, rate, split), kind=kind, rate=rate)
    for size in SIZES if "sizes" in options.runs else ():
        row = sized(*size, split)
        add("sizes", row, places=row["places"], num_codes=size[1])
    for seed in options.seeds:
        for kind in (
            ("points", "averages") if "codebook" in options.runs else ()
        ):
            row = learned_codebook(kind, seed, split)
            add("codebook", row, kind=kind, seed=seed)
    for seed in options.seeds:
        for kind in POSTERIORS:
            if kind in options.runs:
                row = measure(kind, seed, images, test_images, options)
                add("posteriors", row, kind=kind, seed=seed)
        if "contexts" in options.runs:
            for row in contexts(seed, images, test_images, options):
                key = {name: row[name] for name in ("context", "seed")}
                add("contexts", row, **key)
        if "samples" in options.runs:
            val_images, _ = vae_keras.load_mnist("train[55000:]")
            row = drawn(seed, images, val_images, test_images, options)
            add("samples", row, seed=seed)
    if "points" in options.runs:
        # What any other digits would have.
        size = options.quality_images
        real, other = test_images[:size], test_images[-size:]
        add(
            "real",
            {
                "neighbours": neighbours(other, images[:NUM_NEIGHBOURS]),
                **vae_keras.digits.sample_quality(real, other)._asdict(),
            },
        )


if __name__ == "__main__":
    main()
