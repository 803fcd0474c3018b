"""Two replicas compute what one computes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import vae_keras

ROOT = pathlib.Path(vae_keras.__file__).parents[1]

CHILD = """
import json

import keras
import numpy as np
import tensorflow as tf

import vae_keras

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one = tf.distribute.get_strategy()
assert two.num_replicas_in_sync == 2
images = np.load("images.npy")
labels = np.arange(len(images)) % 10
report = {}


def new_vae(strategy, optimizer=None, kind="usual", **kwargs):
    keras.utils.set_random_seed(0)
    num_classes = 10 if kind == "conditional" else None
    with strategy.scope():
        encoder = vae_keras.mlp_encoder(
            (28, 28, 1), 2, (32,), num_classes=num_classes
        )
        encoder.layers[-3].kernel_regularizer = keras.regularizers.L2(0.1)
        decoder = vae_keras.mlp_decoder(
            2, (28, 28, 1), (32,), num_classes=num_classes
        )
        if kind == "conditional":
            vae = vae_keras.ConditionalVAE(encoder, decoder, 10, seed=1)
        elif kind == "gaussian":
            likelihood = vae_keras.Gaussian(1.0)
            vae = vae_keras.VAE(
                encoder, decoder, seed=1, likelihood=likelihood
            )
        else:
            vae = vae_keras.VAE(encoder, decoder, seed=1)
        vae.compile(optimizer or keras.optimizers.SGD(1e-3), **kwargs)
    return vae


def error_of(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# Noise of its own on each replica: what two halves of a batch draw.
draws = two.run(
    lambda sampling: sampling((tf.zeros((4, 2)), tf.zeros((4, 2)))),
    args=(new_vae(two).sampling,),
)
draws = two.experimental_local_results(draws)
report["draws"] = [draw.numpy().tolist() for draw in draws]

# Fit, evaluate and predict with the noise as it is.
vae = new_vae(two, "adam")
run = {"batch_size": 64, "verbose": 0}
history = vae.fit(
    images, epochs=3, validation_data=images[:129], **run
).history
report["history"] = history
report["evaluate"] = [vae.evaluate(images[:129], **run) for _ in range(2)]
report["predict"] = vae.predict(images[:129], **run).shape
report["jit"] = error_of(lambda: new_vae(two, jit_compile=True))
report["steps"] = error_of(lambda: new_vae(two, steps_per_execution=5))
grid = vae_keras.SampleGrid(images[:4], "grid")
vae.fit(images[:64], callbacks=[grid], **run)
vae.save("two.keras")
single = new_vae(one, jit_compile=True)
single.save("jit.keras")


def load_in_scope():
    with two.scope():
        loaded = keras.saving.load_model("jit.keras")
    loaded.fit(images[:64], **run)


report["load"] = error_of(load_in_scope)
loaded = keras.saving.load_model("two.keras")
report["load_two"] = np.abs(
    loaded.predict(images[:129], **run) - vae.predict(images[:129], **run)
).max().item()

# The same computation on one and on two, with the noise held fixed.
vae_keras.Sampling.call = lambda self, inputs: inputs[0]
weight = np.linspace(0, 2, 129, dtype="float32")
for name, fit_kwargs in {
    "one_step": {"x": images[:64]},
    "odd_first_batch": {"x": images[:33]},
    "odd_last_batch": {"x": images[:97]},
    "short_last_batch": {"x": images[:129]},
    "weighted": {
        "x": images[:129],
        "y": np.zeros(129),
        "sample_weight": weight,
    },
    "gaussian": {"x": images[:97]},
    "conditional": {"x": images[:97], "y": labels[:97]},
}.items():
    results = []
    for strategy in (one, two):
        vae = new_vae(strategy, kind=name, jit_compile=False)
        before = vae.get_weights()
        history = vae.fit(**fit_kwargs, shuffle=False, **run).history
        metrics = vae.evaluate(**fit_kwargs, **run)
        steps = [a - b for a, b in zip(vae.get_weights(), before)]
        results.append((steps, history, metrics))
    (steps, history, metrics), (steps_two, history_two, metrics_two) = results
    report[name] = {
        "moved": max(np.abs(s).max().item() for s in steps),
        "differ": max(
            np.abs(a - b).max().item() for a, b in zip(steps, steps_two)
        ),
        "history": [history, history_two],
        "metrics": [metrics, metrics_two],
    }
json.dump(report, open("report.json", "w"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def report(mnist_test, folder):
    np.save(folder / "images.npy", mnist_test[0][:256])
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return json.loads((folder / "report.json").read_text())


def test_fit_evaluate_predict(report):
    loss = report["history"]["loss"]
    assert np.all(np.isfinite(loss))
    assert loss[-1] < loss[0]
    assert report["history"]["val_loss"][-1] == pytest.approx(
        report["evaluate"][0][0], rel=1e-6
    )
    assert report["evaluate"][0] == report["evaluate"][1]
    assert report["predict"] == [129, 28, 28, 1]


def test_a_picture_is_written(report, folder):
    assert os.listdir(folder / "grid") == ["epoch-0001.png"]


def test_replicas_draw_noise_of_their_own(report):
    first, second = map(np.array, report["draws"])
    assert first.shape == second.shape == (4, 2)
    assert not np.any(first == second)


@pytest.mark.parametrize(
    "name",
    [
        "one_step",
        "odd_first_batch",
        "odd_last_batch",
        "short_last_batch",
        "weighted",
        "gaussian",
        "conditional",
    ],
)
def test_two_replicas_step_as_one(report, name):
    """Also where a replica's share of the last batch is empty."""
    result = report[name]
    assert result["moved"] > 1e-3
    assert result["differ"] < 1e-5
    one, two = result["history"]
    for metric, values in one.items():
        assert two[metric] == pytest.approx(values, rel=1e-5)
    one, two = result["metrics"]
    assert two == pytest.approx(one, rel=1e-5)


def test_jit_compile_is_refused(report):
    assert report["jit"].startswith("ValueError: Expected `jit_compile`")
    assert "Received: jit_compile=True. Remove" in report["jit"]
    assert "`steps_per_execution` to be 1" in report["steps"]


def test_models_load_on_either_side(report):
    assert report["load_two"] < 1e-6
    assert report["load"] is None
