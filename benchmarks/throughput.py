"""Training throughput at the article's setting, beside PyTorch and JAX.

Each contender lives in a process of its own and trains one epoch when it
is told to, over a pipe; in between it waits for the pipe and costs no CPU
time. Epochs alternate: epoch 1 of all contenders, epoch 2 of all, and so
on. What slows the machine down for a while then slows all of them down,
and the ratios, taken within each round, stay what they are.

All train the same network on the same 60,000 grey images: 784-512-512-2
and back, ReLU, cross-entropy from logits summed over pixels plus KL, mean
over the batch of 64, Adam with learning rate 1e-3. Every image is used
once an epoch in a new order, except that JAX's scan, which needs batches
of one size, drops the 32 images of the last one (and is counted so).

With `--options` the contenders are the documented way and that way with one
thing changed: freed memory not kept, no XLA, or 50 steps fused into one XLA
program, which Keras's loop of compiled steps is compared with.
"""

import argparse
import gzip
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from common import (
    BATCH_SIZE,
    FAST,
    HIDDEN_UNITS,
    LATENT_DIM,
    LEARNING_RATE,
    NUM_PIXELS,
    RESULTS,
    article_vae,
    provenance,
    table,
    write_results,
)

SEED = 0
MNIST = pathlib.Path(__file__).parents[1] / "vae_keras" / "mnist"
PRODUCT_SIZE = 2048
EPOCHS_OF_WHOLE_RUN = 10

# (inputs, outputs) of each dense layer.
LAYERS = [
    (NUM_PIXELS, HIDDEN_UNITS),
    (HIDDEN_UNITS, HIDDEN_UNITS),
    (HIDDEN_UNITS, 2 * LATENT_DIM),
    (LATENT_DIM, HIDDEN_UNITS),
    (HIDDEN_UNITS, HIDDEN_UNITS),
    (HIDDEN_UNITS, NUM_PIXELS),
]
# Per image: one product forward, one for the gradient of the weights and,
# except in the first layer, one for the gradient of the inputs.
FLOP_PER_IMAGE = 2 * (
    3 * sum(inputs * outputs for inputs, outputs in LAYERS)
    - NUM_PIXELS * HIDDEN_UNITS
)


# === The contenders, each in a process of its own ===


class Turns:
    """A contender's end of the pipe: it works only when it is its turn."""

    def __init__(self, product):
        self.product = product
        self.idle_seconds = self.idle_cpu_seconds = 0.0
        # What a framework prints must not get between the replies.
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.reply(ready=True)

    def reply(self, **values):
        print(json.dumps(values), file=self.replies, flush=True)

    def wait(self):
        """Returns when an epoch is asked for, and starts the clock."""
        while True:
            start, cpu_start = time.perf_counter(), time.process_time()
            request = sys.stdin.readline().strip()
            self.idle_seconds += time.perf_counter() - start
            self.idle_cpu_seconds += time.process_time() - cpu_start
            if request == "product":
                self.reply(gflops=product_rate(self.product))
                continue
            if not request:
                sys.exit()
            self.start = time.perf_counter()
            self.cpu_start = time.process_time()
            return

    def done(self, loss, num_images):
        """Tells how long the epoch took."""
        self.reply(
            seconds=time.perf_counter() - self.start,
            cpu_seconds=time.process_time() - self.cpu_start,
            loss=float(loss),
            num_images=num_images,
            idle_cpu_share=self.idle_cpu_seconds / self.idle_seconds,
        )


def product_rate(product) -> float:
    """Returns the GFLOP/s of `product`, the median of five after one."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT_SIZE**3 / statistics.median(seconds[1:]) / 1e9


def random_matrix():
    import numpy as np

    generator = np.random.default_rng(SEED)
    return generator.standard_normal((PRODUCT_SIZE,) * 2, "float32")


def read_images(num_images):
    """The training images for the peers, without importing TensorFlow."""
    import numpy as np

    packed = (MNIST / "train-images-idx3-ubyte.gz").read_bytes()
    raw = gzip.decompress(packed)
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, NUM_PIXELS)
    return pixels[:num_images].astype("float32") / 255


def run_keras(num_images, num_epochs, way):
    import keras
    import tensorflow as tf

    import vae_keras

    keras.utils.set_random_seed(SEED)
    images = vae_keras.load_mnist()[0][:num_images]
    matrix = tf.constant(random_matrix())
    turns = Turns(lambda: tf.matmul(matrix, matrix).numpy())
    one_by_one = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: turns.wait(),
        on_epoch_end=lambda epoch, logs: turns.done(logs["loss"], len(images)),
    )
    arguments = {"epochs": num_epochs, "callbacks": [one_by_one], "verbose": 0}
    if way == "plain":
        article_vae().fit(images, batch_size=BATCH_SIZE, **arguments)
        return
    if way == "freed memory":
        vae_keras._training.keep_freed_memory = lambda: None
    vae = article_vae(**{**FAST, "jit_compile": way != "no XLA"})
    if way == "fused":
        vae.optimizer.build(vae.trainable_variables)
        vae.train_function = fused_steps(vae)
    dataset = vae_keras.image_dataset(images, BATCH_SIZE, seed=SEED)
    vae.fit(dataset, **arguments)


def fused_steps(vae):
    """Returns a train function that is one XLA program of many steps."""
    import tensorflow as tf

    import vae_keras

    @tf.function(jit_compile=True, autograph=False)
    def run(batches):
        def step(i):
            vae.train_step(batches[i])
            return i + 1

        tf.while_loop(lambda i: i < batches.shape[0], step, [0])
        return vae.get_metrics_result()

    def train_function(iterator):
        vae_keras._training.keep_freed_memory()
        batches = list(itertools.islice(iterator, FAST["steps_per_execution"]))
        if not batches:
            raise StopIteration
        return run(tf.stack(batches))

    return train_function


def run_torch(num_images, num_epochs, compiled=False):
    import torch
    from torch import nn
    from torch.nn import functional

    class TorchVAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Linear(NUM_PIXELS, HIDDEN_UNITS),
                nn.ReLU(),
                nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS),
                nn.ReLU(),
                nn.Linear(HIDDEN_UNITS, 2 * LATENT_DIM),
            )
            self.decoder = nn.Sequential(
                nn.Linear(LATENT_DIM, HIDDEN_UNITS),
                nn.ReLU(),
                nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS),
                nn.ReLU(),
                nn.Linear(HIDDEN_UNITS, NUM_PIXELS),
            )
            # Begin as Keras's layers do, to compare the losses.
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            z_mean, z_log_var = self.encoder(x).chunk(2, dim=1)
            epsilon = torch.randn_like(z_mean)
            z = z_mean + torch.exp(0.5 * z_log_var) * epsilon
            return self.decoder(z), z_mean, z_log_var

    def loss_function(logits, x, z_mean, z_log_var):
        reconstruction = functional.binary_cross_entropy_with_logits(
            logits, x, reduction="sum"
        )
        kl = 0.5 * (z_mean**2 + z_log_var.exp() - 1 - z_log_var).sum()
        return (reconstruction + kl) / len(x)

    torch.manual_seed(SEED)
    images = torch.from_numpy(read_images(num_images))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images),
        batch_size=BATCH_SIZE,
        shuffle=True,
    )
    vae = TorchVAE()

    def loss_of(x):
        logits, z_mean, z_log_var = vae(x)
        return loss_function(logits, x, z_mean, z_log_var)

    if compiled:
        loss_of = torch.compile(loss_of)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE)
    matrix = torch.from_numpy(random_matrix())
    turns = Turns(lambda: matrix @ matrix)
    for _ in range(num_epochs):
        turns.wait()
        total = 0.0
        for (x,) in loader:
            loss = loss_of(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        turns.done(total / len(images), len(images))


def run_jax(num_images, num_epochs):
    import functools

    import jax
    import jax.numpy as jnp

    def dense(key, inputs, outputs):
        limit = (6 / (inputs + outputs)) ** 0.5
        shape = (inputs, outputs)
        kernel = jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        return kernel, jnp.zeros(outputs)

    def mlp(layers, h):
        for kernel, bias in layers[:-1]:
            h = jax.nn.relu(h @ kernel + bias)
        kernel, bias = layers[-1]
        return h @ kernel + bias

    def loss_function(parameters, x, key):
        z_mean, z_log_var = jnp.split(mlp(parameters[:3], x), 2, axis=1)
        epsilon = jax.random.normal(key, z_mean.shape)
        z = z_mean + jnp.exp(0.5 * z_log_var) * epsilon
        logits = mlp(parameters[3:], z)
        reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits)
        kl = 0.5 * jnp.sum(z_mean**2 + jnp.exp(z_log_var) - 1 - z_log_var)
        return (reconstruction + kl) / len(x)

    def train_step(images, state, batch):
        parameters, first, second, count = state
        rows, key = batch
        loss, gradients = jax.value_and_grad(loss_function)(
            parameters, images[rows], key
        )
        count += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(
            lambda v, g: 0.999 * v + 0.001 * g**2, second, gradients
        )
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        parameters = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7),
            parameters,
            first,
            second,
        )
        return (parameters, first, second, count), loss

    num_batches = num_images // BATCH_SIZE

    @functools.partial(jax.jit, donate_argnums=0)
    def train_epoch(state, images, key):
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, num_images)
        order = order[: num_batches * BATCH_SIZE]
        rows = order.reshape(num_batches, BATCH_SIZE)
        keys = jax.random.split(noise_key, num_batches)
        step = functools.partial(train_step, images)
        state, losses = jax.lax.scan(step, state, (rows, keys))
        return state, losses.mean()

    key, *layer_keys = jax.random.split(jax.random.key(SEED), 7)
    parameters = [
        dense(layer_key, *layer)
        for layer_key, layer in zip(layer_keys, LAYERS, strict=True)
    ]
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in "mv")
    state = parameters, first, second, jnp.zeros(())
    images = jnp.asarray(read_images(num_images))
    matrix = jnp.asarray(random_matrix())
    multiply = jax.jit(jnp.matmul)
    turns = Turns(lambda: multiply(matrix, matrix).block_until_ready())
    for _ in range(num_epochs):
        turns.wait()
        key, epoch_key = jax.random.split(key)
        state, loss = train_epoch(state, images, epoch_key)
        jax.block_until_ready(state)
        turns.done(loss, num_batches * BATCH_SIZE)


def run_numpy(num_images, num_epochs):
    """Trains nothing: NumPy only multiplies matrices here."""
    matrix = random_matrix()
    Turns(lambda: matrix @ matrix).wait()


def run_whole(num_images, num_epochs):
    """From images to a trained and saved model, as a reader's script."""
    import keras

    import vae_keras

    keras.utils.set_random_seed(SEED)
    images, _ = vae_keras.load_mnist()
    vae = article_vae(**FAST)
    dataset = vae_keras.image_dataset(images[:num_images], BATCH_SIZE)
    vae.fit(dataset, epochs=num_epochs, verbose=0)
    with tempfile.TemporaryDirectory() as directory:
        vae.save(pathlib.Path(directory) / "vae.keras")


WORKERS = {
    "vae_keras": lambda *sizes: run_keras(*sizes, way="documented"),
    "keras_plain": lambda *sizes: run_keras(*sizes, way="plain"),
    "freed": lambda *sizes: run_keras(*sizes, way="freed memory"),
    "no_xla": lambda *sizes: run_keras(*sizes, way="no XLA"),
    "fused": lambda *sizes: run_keras(*sizes, way="fused"),
    "torch": run_torch,
    "torch_compiled": lambda *sizes: run_torch(*sizes, compiled=True),
    "jax": run_jax,
    "numpy": run_numpy,
    "whole": run_whole,
}
CONTENDERS = {
    "vae_keras": "vae_keras, the documented way",
    "keras_plain": "the same VAE, `fit` on arrays, default `compile`",
    "torch": "PyTorch, eager, `DataLoader`",
    "torch_compiled": "PyTorch, `torch.compile`, `DataLoader`",
    "jax": "JAX, a jitted `lax.scan` over the epoch",
}
OPTIONS = {
    "vae_keras": "vae_keras, the documented way",
    "fused": "50 steps fused into one XLA program",
    "freed": "freed memory not kept",
    "no_xla": "without XLA",
}
# What each process's matrix product is called.
PRODUCTS = {
    "vae_keras": "tensorflow",
    "jax": "jax",
    "torch": "torch",
    "numpy": "numpy",
}


# === The conductor ===


class Process:
    """The parent's end of the pipe."""

    def __init__(self, name, num_images, num_epochs):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                *(sys.executable, __file__, "--worker", name),
                *("--images", str(num_images), "--epochs", str(num_epochs)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.receive()

    def receive(self) -> dict:
        reply = self.process.stdout.readline()
        if not reply:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} failed:\n{self.errors.read()}")
        return json.loads(reply)

    def ask(self, request) -> dict:
        print(request, file=self.process.stdin, flush=True)
        return self.receive()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def alternate(names, num_images, num_epochs) -> tuple[dict, dict]:
    """Returns each contender's timed epochs, and rates of products."""
    epochs = {name: [] for name in names if name != "numpy"}
    rates = {PRODUCTS[name]: [] for name in names if name in PRODUCTS}
    processes = {}
    try:
        for name in names:
            print(f"starting {name}", flush=True)
            processes[name] = Process(name, num_images, 1 + num_epochs)
        for i in range(1 + num_epochs):
            for name, process in processes.items():
                if name in PRODUCTS:
                    rate = process.ask("product")["gflops"]
                    rates[PRODUCTS[name]].append(rate)
                if name in epochs:
                    epochs[name].append(process.ask("epoch"))
                    report(i, name, epochs[name][-1])
    finally:
        for process in processes.values():
            process.close()
    return epochs, rates


def report(i, name, epoch):
    print(
        f"epoch {i + 1}{'' if i else ' (warm-up)'}: {name} "
        f"{epoch['seconds']:.2f} s, {speed(epoch):.0f} images/s, "
        f"loss {epoch['loss']:.2f}",
        flush=True,
    )


def speed(epoch) -> float:
    """Returns images per second."""
    return epoch["num_images"] / epoch["seconds"]


def summarise(epochs, rates) -> dict:
    """Returns medians over the timed epochs, and of ratios within rounds."""
    product_gflops = {k: statistics.median(v) for k, v in rates.items()}
    best = max(product_gflops.values())
    ours = [speed(epoch) for epoch in epochs["vae_keras"][1:]]
    contenders = {}
    for name, (_, *timed) in epochs.items():
        speeds = [speed(epoch) for epoch in timed]
        gflops = statistics.median(speeds) * FLOP_PER_IMAGE / 1e9
        cpu_shares = [e["cpu_seconds"] / e["seconds"] for e in timed]
        contenders[name] = {
            "images_per_second": statistics.median(speeds),
            "images_per_second_range": [min(speeds), max(speeds)],
            "gflops": gflops,
            "share_of_product_rate": gflops / best,
            "vae_keras_is_faster_by": statistics.median(
                a / b for a, b in zip(ours, speeds, strict=True)
            ),
            "cores_busy": statistics.median(cpu_shares),
            "idle_cpu_share": timed[-1]["idle_cpu_share"],
            "last_loss": timed[-1]["loss"],
        }
    return {"product_gflops": product_gflops, "contenders": contenders}


def as_markdown(results) -> str:
    num_timed = results["timed_epochs"]
    rows = []
    for name, row in results["contenders"].items():
        low, high = row["images_per_second_range"]
        rows.append(
            [
                {**CONTENDERS, **OPTIONS}[name],
                f"{row['images_per_second']:,.0f}",
                f"{low:,.0f} to {high:,.0f}",
                f"{row['gflops']:.0f}",
                f"{row['share_of_product_rate']:.0%}",
                f"{row['vae_keras_is_faster_by']:.2f}",
                f"{row['last_loss']:.2f}",
            ]
        )
    header = [
        "contender",
        "images/s",
        "range",
        "GFLOP/s",
        "of the product rate",
        "vae_keras ÷ this",
        f"loss in epoch {num_timed + 1}",
    ]
    products = ", ".join(
        f"{name} {rate:.0f}" for name, rate in results["product_gflops"].items()
    )
    idle = max(r["idle_cpu_share"] for r in results["contenders"].values())
    whole = results.get("whole_run")
    title = "Training throughput" if whole else "What makes a step fast"
    markdown = (
        f"# {title}\n\n"
        + table(header, rows)
        + f"\nMedians of {num_timed} timed epochs that alternate between the "
        "contenders, after one epoch of warm-up; the ratios are medians of "
        "the ratios within a round. Losses are training losses in nats per "
        f"image, seed {results['seed']} everywhere. An image costs "
        f"{results['flop_per_image'] / 1e6:.2f} MFLOP in matrix products, "
        "forward and backward. Rate of a float32 product of "
        f"{PRODUCT_SIZE}³ in the same rounds, in GFLOP/s: {products}; the "
        "shares are of the fastest. While it waited, no contender used more "
        f"than {idle:.1%} of a core.\n"
    )
    if whole:
        markdown += (
            "\nFrom starting Python to a trained and saved model "
            f"({whole['epochs']} epochs, import, data and compilation "
            f"included): {whole['seconds']:.1f} s.\n"
        )
    return markdown


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs")
    parser.add_argument(
        "--images", type=int, default=60_000, help="fewer for a quick look"
    )
    parser.add_argument("--output", default=RESULTS, help="a directory")
    parser.add_argument(
        "--options", action="store_true", help="compare ways of vae_keras"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.worker:
        WORKERS[options.worker](options.images, options.epochs)
        return
    if options.options:
        # All groups of steps alike, as the fused way wants them.
        group = BATCH_SIZE * FAST["steps_per_execution"]
        options.images -= options.images % group
    peers = () if options.options else ("torch", "jax")
    for peer in peers:
        if importlib.util.find_spec(peer) is None:
            parser.error(f"{peer} is missing: pip install 'vae_keras[peers]'")

    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load_before is not None and load_before > 0.5:
        print(
            f"The load is {load_before:.1f} before anything has started: "
            "other work disturbs the contenders, and PyTorch most of all.",
            flush=True,
        )
    names = OPTIONS if options.options else {**CONTENDERS, **PRODUCTS}
    epochs, rates = alternate(names, options.images, options.epochs)
    whole_run = {}
    if not options.options:
        print("whole run, from starting Python to a saved model", flush=True)
        start = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, __file__, "--worker", "whole"),
                *("--images", str(options.images)),
                *("--epochs", str(EPOCHS_OF_WHOLE_RUN)),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
        whole_run = {"epochs": EPOCHS_OF_WHOLE_RUN, "seconds": seconds}
    results = {
        **provenance(["tensorflow", "keras", *peers, "numpy"]),
        "seed": SEED,
        "images": options.images,
        "batch_size": BATCH_SIZE,
        "timed_epochs": options.epochs,
        "load_before": load_before,
        "flop_per_image": FLOP_PER_IMAGE,
        **summarise(epochs, rates),
        **({"whole_run": whole_run} if whole_run else {}),
        "epochs": epochs,
        "product_gflops_by_round": rates,
    }
    name = "step_options" if options.options else "throughput"
    write_results(options.output, name, results, as_markdown(results))


if __name__ == "__main__":
    main()
