"""What it costs to share a step among workers: computing and all-reduce.

One, two and three processes on this machine train the article's network at
the same global batch: the same mathematics, each process with its part of
the images. Measured in all of them at once are

    step         one step of `fit`
    computing    the same step of a model of its own, on as many images,
                 without the others
    all-reduce   the sum over workers of as many numbers as there are
                 gradients, and nothing else

What is left of the step is waiting, and the exchange of metrics. Bytes are
those that the loopback interface has counted (Linux only), beside what the
ring algorithm needs: 2 (N - 1) times the size of the gradients, all N
workers together. XLA is off, as it must be under a strategy.

A lone worker may use XLA, and then it is a stronger rival. `--lone` measures
how much: two models, one compiled the documented way and one without XLA,
take turns, and the ratio of their times is taken within each turn. These
times are processor time of all threads, not time on the clock, so that other
work on the machine hardly counts. The committed results keep their other
rows.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

import common

WARM_UP = 5  # steps
TURNS, STEPS_A_TURN = 11, 50


# === A worker ===


def measure(batch_size: int, num_steps: int) -> dict:
    """Returns milliseconds and bytes of one step, as this worker sees them."""
    import tensorflow as tf

    import vae_keras

    alone = tf.distribute.get_strategy()
    together = alone
    if "TF_CONFIG" in os.environ:
        together = tf.distribute.MultiWorkerMirroredStrategy()
    num_workers = together.num_replicas_in_sync
    images, _ = vae_keras.load_mnist("train")

    def timed(function):
        """Milliseconds and bytes of one step; all workers start together."""
        function(WARM_UP)
        together.reduce("MEAN", 1.0, axis=None)
        start, before = time.perf_counter(), loopback_bytes()
        function(num_steps)
        seconds, moved = time.perf_counter() - start, loopback_bytes() - before
        return 1e3 * seconds / num_steps, moved / num_steps

    def training(strategy, size):
        with strategy.scope():
            vae = common.article_vae(jit_compile=False)
        dataset = vae_keras.image_dataset(images, size, seed=0).repeat()
        return lambda steps: vae.fit(dataset, steps_per_epoch=steps, verbose=0)

    vae = common.article_vae()
    gradients = [tf.zeros(w.shape) for w in vae.trainable_weights]

    @tf.function
    def all_reduce():
        def sum_of(values):
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

        return together.run(sum_of, args=(gradients,))

    def exchange(steps):
        for _ in range(steps):
            all_reduce()

    step, moved = timed(training(together, batch_size))
    computing, _ = timed(training(alone, batch_size // num_workers))
    all_reducing, _ = timed(exchange) if num_workers > 1 else (0.0, 0.0)
    size = sum(4 * gradient.shape.num_elements() for gradient in gradients)
    return {
        "workers": num_workers,
        "batch_size": batch_size,
        "step": step,
        "computing": computing,
        "all_reduce": all_reducing,
        "bytes": moved,
        "bytes_of_a_ring": 2 * (num_workers - 1) * size,
    }


def measure_lone(batch_size: int, turns: int) -> dict:
    """Returns processor milliseconds of a step, without XLA and with."""
    import vae_keras

    images, _ = vae_keras.load_mnist("train")
    dataset = vae_keras.image_dataset(images, batch_size, seed=0).repeat()
    ways = {"without_xla": {"jit_compile": False}, "with_xla": common.FAST}
    models = {way: common.article_vae(**x) for way, x in ways.items()}
    times = {way: [] for way in ways}
    for turn in range(turns + 1):
        order = list(ways) if turn % 2 else list(reversed(ways))
        for way in order:
            start = time.process_time()
            models[way].fit(dataset, steps_per_epoch=STEPS_A_TURN, verbose=0)
            seconds = time.process_time() - start
            if turn:  # The first compiles.
                times[way].append(1e3 * seconds / STEPS_A_TURN)
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "batch_size": batch_size,
        **{way: statistics.median(values) for way, values in times.items()},
        "ratio": middle,
        "ratio_quartiles": [low, high],
    }


def measured_lone(batch_sizes, turns: int) -> dict:
    """Returns what XLA saves a lone worker, and how it was measured."""
    return {
        "command": common.provenance([])["command"],
        "threads": int(
            os.environ.get("TF_NUM_INTRAOP_THREADS", common.num_cores())
        ),
        "turns": turns,
        "steps_a_turn": STEPS_A_TURN,
        "runs": [measure_lone(size, turns) for size in batch_sizes],
    }


def loopback_bytes() -> int:
    """Returns how much the loopback interface has carried so far."""
    counters = pathlib.Path("/proc/net/dev")
    if not counters.exists():
        return 0
    (line,) = (x for x in counters.read_text().splitlines() if " lo:" in x)
    return int(line.split()[1])


# === All workers ===


def measured(num_workers: int, batch_size: int, num_steps: int) -> dict:
    """Starts the workers, and returns what the first has measured."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(num_workers):
            free = stack.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    arguments = ["--measure", batch_size, "--steps", num_steps]
    command = [sys.executable, __file__, *map(str, arguments)]
    processes = []
    for index in range(num_workers):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        environment = {**os.environ, "TF_CONFIG": config}
        if num_workers == 1:
            del environment["TF_CONFIG"]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("A worker has failed: see what it says above.")
    return json.loads(outputs[0].splitlines()[-1])


def as_markdown(results) -> str:
    rows = []
    for row in results["runs"]:
        rest = row["step"] - row["computing"] - row["all_reduce"]
        rows.append(
            [
                f"{row['workers']}, batch {row['batch_size']}",
                *(f"{row[x]:.1f}" for x in ("step", "computing", "all_reduce")),
                f"{rest:.1f}",
                f"{1e3 * row['batch_size'] / row['step']:,.0f}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['bytes_of_a_ring'] / 1e6:.1f}",
            ]
        )
    return (
        "# One step, shared among workers\n\n"
        "The article's network (784-512-512-2 and back) at one global batch, "
        "by workers that are processes on one machine and share its cores. "
        f"Milliseconds a step, over {results['steps']} steps; *rest* is what "
        "is left of a step after computing and all-reduce. Megabytes a step "
        "over the loopback interface, all workers together: counted, and as "
        "the ring algorithm needs for the gradients alone.\n\n"
        + common.table(
            [
                "workers",
                "step",
                "computing",
                "all-reduce",
                "rest",
                "images/s",
                "MB",
                "MB of a ring",
            ],
            rows,
        )
        + lone_as_markdown(results["lone"])
    )


def lone_as_markdown(lone) -> str:
    rows = []
    for row in lone["runs"]:
        low, high = row["ratio_quartiles"]
        rows.append(
            [
                f"alone, batch {row['batch_size']}",
                f"{row['without_xla']:.1f}",
                f"{row['with_xla']:.1f}",
                f"{row['ratio']:.2f}",
                f"{low:.2f} to {high:.2f}",
            ]
        )
    return (
        "\nThe rows above are without XLA. A lone worker may use it: the same "
        "network compiled the documented way (XLA, fifty steps at a time) and "
        f"without XLA, in {lone['turns']} turns of {lone['steps_a_turn']} "
        f"steps each, with {lone['threads']} thread(s). Medians of "
        "milliseconds a step, of processor time and not on the clock, since "
        "the machine had other work; the ratio is the median of the turns' "
        "ratios, with quartiles.\n\n"
        + common.table(
            ["", "without XLA", "documented way", "ratio", "quartiles"], rows
        )
        + f"\nThese rows by `{lone['command']}`.\n"
    )


def main():
    parser = common.options_parser(__doc__)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[60, 960])
    parser.add_argument(
        "--steps", type=int, default=200, help="fewer for a quick look"
    )
    parser.add_argument(
        "--turns", type=int, default=TURNS, help="of a lone worker's two ways"
    )
    parser.add_argument(
        "--lone",
        action="store_true",
        help="only these turns: other rows stay as they are",
    )
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps)))
        return
    if options.lone:
        path = pathlib.Path(options.output) / "scaling.json"
        results = json.loads(path.read_text())
        results["lone"] = measured_lone(options.batch_sizes, options.turns)
        common.write_results(
            options.output, "scaling", results, as_markdown(results)
        )
        return
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
        "steps": options.steps,
        "runs": [
            measured(num_workers, batch_size, options.steps)
            for batch_size in options.batch_sizes
            for num_workers in options.workers
        ],
        "lone": measured_lone(options.batch_sizes, options.turns),
    }
    common.write_results(
        options.output, "scaling", results, as_markdown(results)
    )


if __name__ == "__main__":
    main()
