"""Freed memory is kept, as the kernel sees it, unless somebody objects."""

import ctypes
import importlib.util
import os
import platform

import pytest
import tensorflow as tf

from tests.helpers import run_python
from vae_keras import _cpu

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="asks nothing of other libraries"
)

# Counts the page faults of each epoch of 40 steps.
FAULTS = """
import resource, sys
import keras, numpy as np, vae_keras

class Faults(keras.callbacks.Callback):
    def count(self):
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.count()
    def on_epoch_end(self, epoch, logs=None):
        print("faults", (self.count() - self.start) // 40)

vae = vae_keras.VAE(
    vae_keras.mlp_encoder((28, 28, 1), 2), vae_keras.mlp_decoder(2, (28, 28, 1))
)
vae.compile("adam", jit_compile=True, steps_per_execution=int(sys.argv[1]))
images = np.zeros((40 * 64, 28, 28, 1), "float32")
vae.fit(images, batch_size=64, epochs=3, verbose=0, callbacks=[Faults()])
"""


@needs_glibc
@pytest.mark.slow
@pytest.mark.parametrize("steps_per_execution", [1, 50])
def test_freed_memory_is_kept_after_the_compiler_has_run(
    steps_per_execution, monkeypatch
):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    lines = run_python(FAULTS, steps_per_execution).splitlines()
    faults = [int(x.split()[1]) for x in lines if x.startswith("faults")]
    # Without: some thousands a step, for this model of 1.3 M parameters.
    assert faults[-1] < 200


@needs_glibc
@pytest.mark.parametrize("objection", ["none", "a GPU", "the user"])
def test_the_c_library_is_left_alone_where_somebody_objects(
    monkeypatch, objection
):
    asked = []

    class CLibrary:
        def __init__(self, name):
            assert name is None

        def mallopt(self, parameter, value):
            asked.append(parameter)

    def list_devices(device_type=None):
        devices = {"CPU": ["CPU:0"], "GPU": ["GPU:0"] * (objection == "a GPU")}
        return devices.get(device_type, devices["CPU"] + devices["GPU"])

    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ctypes, "CDLL", CLibrary)
    monkeypatch.setattr(tf.config, "list_logical_devices", list_devices)
    if objection == "the user":
        monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    # A module of its own, since the answer is found once for each process.
    spec = importlib.util.spec_from_file_location("cpu", _cpu.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for _ in range(2):
        module.keep_freed_memory()
    # The thresholds of mmap and of trim, at each call.
    assert sorted(asked) == ([-3, -3, -1, -1] if objection == "none" else [])
