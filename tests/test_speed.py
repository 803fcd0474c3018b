"""What makes training fast stays in force, seen in what the kernel counts."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

import vae_keras

ROOT = pathlib.Path(vae_keras.__file__).parents[1]

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


def faults_per_step(steps_per_execution):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_")
    }
    child = subprocess.run(
        [sys.executable, "-c", FAULTS, str(steps_per_execution)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [x for x in child.stdout.splitlines() if x.startswith("faults")]
    return [int(line.split()[1]) for line in lines]


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="asks nothing of other libraries"
)
@pytest.mark.parametrize("steps_per_execution", [1, 50])
def test_freed_memory_is_kept_after_the_compiler_has_run(steps_per_execution):
    # Without: some thousands a step, for this model of 1.3 M parameters.
    assert faults_per_step(steps_per_execution)[-1] < 200


def test_the_user_has_the_last_word(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert vae_keras.speed._glibc.__wrapped__() is None
