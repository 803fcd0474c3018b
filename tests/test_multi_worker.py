"""Workers in processes of their own compute what one process computes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests.helpers import PACKAGE_ROOT, ROOT

EXAMPLE = ROOT / "examples" / "multi_worker.py"
# No test waits longer for a process.
PATIENCE = 600
NUMBER = 3  # of workers

CHILD = """
import json
import os

import keras
import numpy as np
import tensorflow as tf

import vae_keras

strategy, index = tf.distribute.get_strategy(), 0
if "TF_CONFIG" in os.environ:
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
images = np.load("images.npy")
report, arrays = {"replicas": strategy.num_replicas_in_sync}, {}
run = {"batch_size": 64, "verbose": 0}


def new_vae(optimizer="adam"):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        encoder = vae_keras.mlp_encoder((28, 28, 1), 2, (32,))
        encoder.layers[2].kernel_regularizer = keras.regularizers.L2(0.1)
        decoder = vae_keras.mlp_decoder(2, (28, 28, 1), (32,))
        vae = vae_keras.VAE(encoder, decoder, seed=1)
        vae.compile(optimizer)
    return vae


# Noise of its own on each worker.
with strategy.scope():
    sampling = vae_keras.Sampling(seed=1)
draw = strategy.run(lambda: sampling((tf.zeros((4, 2)), tf.zeros((4, 2)))))
arrays["draw"] = np.array(strategy.experimental_local_results(draw)[0])

# Fit, evaluate and predict, with callbacks and the noise as it is.
vae = new_vae()
callbacks = [
    vae_keras.callbacks.KLWarmUp(2),
    vae_keras.callbacks.CollapseMonitor(images[:64]),
    vae_keras.callbacks.SampleGrid(images[:4], f"grid_{index}"),
    keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True),
    keras.callbacks.ModelCheckpoint(
        "best.weights.h5", save_best_only=True, save_weights_only=True
    ),
]
report["history"] = vae.fit(
    images, epochs=3, validation_data=images[:129], callbacks=callbacks, **run
).history
report["evaluate"] = [vae.evaluate(images[:129], **run) for _ in range(2)]
arrays["predict"] = vae.predict(images[:129], **run)
vae.save("vae.keras")
vae.save(f"saved_by_{index}.keras")
with strategy.scope():
    loaded = keras.saving.load_model("vae.keras")
arrays["loaded"] = loaded.predict(images[:129], **run)


# A save that fails for one is an error for all, at whatever moment.
def error_of_saving(name):
    try:
        vae.save(name)
    except OSError as error:
        return str(error)


def fail(*args):
    raise OSError("No space left on device")


report["missing"] = error_of_saving("missing/vae.keras")
for layer in (keras.layers.Dense, keras.optimizers.Adam):
    save = layer.save_own_variables
    if index == 0:
        layer.save_own_variables = fail
    report[layer.__name__] = error_of_saving("full.keras")
    layer.save_own_variables = save
report["saved"] = error_of_saving("last.keras")

# The same computation with the noise held fixed.
vae_keras.Sampling.call = lambda self, inputs: inputs[0]
# The last batch has one image: only one worker gets it.
images = images[:129]
cases = {
    "weighted": {
        "x": images,
        "y": np.zeros(129),
        "sample_weight": np.linspace(0, 2, 129, dtype="float32"),
        "batch_size": 64,
        "shuffle": False,
    },
    "image_dataset": {
        "x": vae_keras.image_dataset(images, 64, seed=3),
        "epochs": 2,
    },
}
vae = new_vae(keras.optimizers.SGD(1e-3))
before = vae.get_weights()
for name, case in cases.items():
    vae.set_weights(before)
    report[name] = vae.fit(**case, verbose=0).history
    for i, weights in enumerate(zip(vae.get_weights(), before)):
        arrays[f"{name}_{i}"] = weights[0] - weights[1]

# Shuffled, each image still goes to one worker: no step, and the mean loss
# is that of all.
vae.set_weights(before)
vae.optimizer.learning_rate = 0.0
report["shuffled"] = vae.fit(images, **run).history
np.savez(f"arrays_{index}.npz", **arrays)
with open(f"report_{index}.json", "w") as file:
    json.dump(report, file)
"""


def free_addresses(number):
    """Addresses on this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Workers:
    """Processes, one for each address, that can be started again."""

    def __init__(self, arguments, folder, number):
        self.arguments, self.folder = arguments, folder
        self.addresses = free_addresses(number)
        self.processes = {}

    def start(self, *indices):
        for index in indices:
            task = {"type": "worker", "index": index}
            cluster = {"worker": self.addresses}
            config = json.dumps({"cluster": cluster, "task": task})
            with open(self.log(index), "a") as log:
                self.processes[index] = subprocess.Popen(
                    [sys.executable, *self.arguments],
                    cwd=self.folder,
                    env={**environment(), "TF_CONFIG": config},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def log(self, index):
        return self.folder / f"log_{index}.txt"

    def output(self, index):
        return self.log(index).read_text()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            process.kill()
            process.wait()


def environment():
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    environment.pop("TF_CONFIG", None)
    return environment


def run(arguments, folder, **variables):
    """The output of one process that works alone."""
    child = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


# === The same mathematics ===


@pytest.fixture(scope="module")
def results(mnist_test, tmp_path_factory):
    """The folder, and reports and arrays of all workers, by their number."""
    found = {}
    for number in (1, NUMBER):
        folder = tmp_path_factory.mktemp("workers")
        np.save(folder / "images.npy", mnist_test[0][:256])
        if number == 1:
            run(["-c", CHILD], folder)
        else:
            with Workers(["-c", CHILD], folder, number) as workers:
                workers.start(*range(number))
                for index, process in workers.processes.items():
                    code = process.wait(PATIENCE)
                    assert code == 0, workers.output(index)
        reports = [
            json.loads((folder / f"report_{i}.json").read_text())
            for i in range(number)
        ]
        arrays = [
            dict(np.load(folder / f"arrays_{i}.npz")) for i in range(number)
        ]
        found[number] = folder, reports, arrays
    return found


@pytest.mark.slow
def test_fit_evaluate_predict(results):
    folder, reports, arrays = results[NUMBER]
    report = reports[0]
    assert report["replicas"] == NUMBER
    history = report["history"]
    assert history["loss"][-1] < history["loss"][0]
    assert history["beta"] == [0, 0.5, 1]
    assert report["evaluate"][0] == report["evaluate"][1]
    assert report["evaluate"][0][0] == pytest.approx(
        min(history["val_loss"]), rel=1e-5
    )
    # One process predicts the same, in the same order.
    alone = keras.saving.load_model(folder / "vae.keras")
    images = np.load(folder / "images.npy")[:129]
    expected = alone.predict(images, verbose=0)
    for name in ("predict", "loaded"):
        np.testing.assert_allclose(arrays[0][name], expected, atol=1e-6)
    # All workers know the same, but draw noise of their own.
    for i in range(1, NUMBER):
        for name, values in arrays[i].items():
            if name == "draw":
                assert not np.any(values == arrays[i - 1]["draw"])
            else:
                np.testing.assert_array_equal(values, arrays[0][name])
        for name, values in reports[i].items():
            assert values == report[name] or name in ERRORS, name


ERRORS = ("missing", "Dense", "Adam")


@pytest.mark.slow
def test_only_the_chief_writes(results):
    folder = results[NUMBER][0]
    assert (folder / "best.weights.h5").exists()
    saved = [path.name for path in folder.glob("saved_by_*")]
    assert saved == ["saved_by_0.keras"]
    pictures = folder.glob("grid_*/*")
    assert [path.parent.name for path in pictures] == ["grid_0"] * 3
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_save_that_fails_is_an_error_for_all(results):
    """None waits for ever, and afterwards all go on."""
    for index, report in enumerate(results[NUMBER][1]):
        for name in ERRORS:
            mine = "missing" if name == "missing" else "No space left"
            words = mine if index == 0 else "another worker"
            assert words in report[name], (index, name)
        assert report["saved"] is None
    folder = results[NUMBER][0]
    assert not (folder / "full.keras").exists()
    assert keras.saving.load_model(folder / "last.keras")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weighted", "image_dataset"])
def test_workers_step_as_one(results, name):
    """Also where a worker's share of the last batch is empty."""
    (_, (alone,), (alone_arrays,)), (_, (report, *_), (arrays, *_)) = (
        results.values()
    )
    steps = [key for key in arrays if key.startswith(f"{name}_")]
    assert max(np.abs(alone_arrays[key]).max() for key in steps) > 1e-3
    for key in steps:
        np.testing.assert_allclose(
            arrays[key], alone_arrays[key], rtol=0, atol=1e-5
        )
    for metric, values in alone[name].items():
        assert report[name][metric] == pytest.approx(values, rel=1e-5)


@pytest.mark.slow
def test_shuffling_loses_no_image(results):
    losses = [results[n][1][0]["shuffled"]["loss"] for n in (1, NUMBER)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# === The example, and faults ===

ARGUMENTS = [EXAMPLE, "--folder", ".", "--split", "test[:193]"]


@pytest.mark.slow
def test_the_example_alone(tmp_path):
    output = run([*ARGUMENTS, "--epochs", "2"], tmp_path)
    assert "Epoch 2/2\n3/3" in output
    vae = keras.saving.load_model(tmp_path / "vae.keras")
    assert int(vae.optimizer.iterations) == 2 * 3


@pytest.mark.slow
def test_a_killed_worker_comes_back(tmp_path):
    """Whoever has ended with an error is started again, as clusters do."""
    path = tmp_path / "vae.keras"
    killed = False
    arguments = [*ARGUMENTS, "--epochs", "12"]
    with Workers(arguments, tmp_path, 2) as workers:
        workers.start(0, 1)
        deadline = time.monotonic() + PATIENCE
        while any(p.poll() != 0 for p in workers.processes.values()):
            assert time.monotonic() < deadline, workers.output(0)
            time.sleep(0.1)
            if not killed and path.exists():
                workers.processes[1].kill()
                killed = True
            for index, process in workers.processes.items():
                if process.poll() not in (None, 0):
                    assert killed, workers.output(index)
                    workers.start(index)
        outputs = [workers.output(index) for index in (0, 1)]
    for output in outputs:
        assert output.count("Waiting for all workers") >= 2
        # The first epoch is trained once, those after the file go on.
        assert output.count("Epoch 1/12\n") == 1
        assert output.count("Epoch 12/12\n") == 1
    vae = keras.saving.load_model(path)
    assert int(vae.optimizer.iterations) == 12 * 3


@pytest.mark.slow
def test_a_worker_that_never_comes(tmp_path):
    with Workers([*ARGUMENTS, "--timeout", "5"], tmp_path, 2) as workers:
        workers.start(0)
        assert workers.processes[0].wait(PATIENCE) == 1
        output = workers.output(0)
    assert "Waiting for all workers, at most 5 s" in output
    assert "Timeout (0:00:05)!" in output
    assert not (tmp_path / "vae.keras").exists()


# === More data than memory ===

MEMORY = f"""
import sys

import keras
import psutil
import tensorflow as tf

import vae_keras

sys.path.insert(0, {str(EXAMPLE.parent)!r})
import multi_worker

vae = vae_keras.VAE(
    vae_keras.mlp_encoder((28, 28, 1), 2, (8,)),
    vae_keras.mlp_decoder(2, (28, 28, 1), (8,)),
)
vae.compile("adam")
strategy, held = tf.distribute.get_strategy(), []
look = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: held.append(
        psutil.Process().memory_info().rss
    )
)
for split in ("train[:12000]", "train+train"):
    dataset, num_steps = multi_worker.batches(strategy, split, 500)
    vae.fit(dataset, steps_per_epoch=num_steps, verbose=0, callbacks=[look])
    print(max(held))
"""


@pytest.mark.slow
@pytest.mark.alone
def test_memory_is_flat(mnist_test, tmp_path):
    """Images of 376 MB, 94 MB as bytes, go by in 60 MB at most."""
    # Where each thread has freed memory of its own, that grows for a while.
    few_arenas = {"MALLOC_ARENA_MAX": "2"}
    few, many = map(int, run(["-c", MEMORY], tmp_path, **few_arenas).split())
    assert many - few < 60e6


@pytest.mark.parametrize("number", [1, 3, 4])
def test_workers_share_the_examples_on_disk(mnist_test, number, monkeypatch):
    """Each example goes to one worker, and all make as many steps."""
    import tensorflow as tf

    monkeypatch.syspath_prepend(EXAMPLE.parent)
    import multi_worker

    class Strategy:
        def distribute_datasets_from_function(self, share):
            contexts = [
                tf.distribute.InputContext(number, i, number)
                for i in range(number)
            ]
            return [share(context) for context in contexts]

    datasets, num_steps = multi_worker.batches(Strategy(), "test[:97]", 12)
    assert num_steps == 9
    parts = [list(dataset.take(num_steps)) for dataset in datasets]
    assert max(len(batch) for part in parts for batch in part) == 12 // number
    images = np.concatenate([batch for part in parts for batch in part])
    expected = mnist_test[0][:97]
    assert sorted(x.tobytes() for x in images) == sorted(
        x.tobytes() for x in expected
    )
