"""Kills a training at random moments, again and again: what is lost?

A training with Keras's `BackupAndRestore` and `ModelCheckpoint` is killed
(SIGKILL) after a random time and started again, until it has been killed
so often. Each start loads the checkpoint that the last one left, says in
which epoch it goes on, and then which epochs it has finished. At most the
epoch at work may be lost, and every checkpoint has to load.
"""

import argparse
import collections
import multiprocessing
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import RESULTS, provenance, table, write_results

import vae_keras

IMAGE_SHAPE = (28, 28, 1)
SEED = 0


def train(folder: pathlib.Path, messages) -> None:
    """Goes on with the training in `folder`, and tells of each epoch."""
    import keras

    checkpoint = folder / "vae.keras"
    if checkpoint.exists():
        keras.saving.load_model(checkpoint)
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder(IMAGE_SHAPE, 2, (64,)),
        vae_keras.mlp_decoder(2, IMAGE_SHAPE, (64,)),
        seed=SEED,
    )
    vae.compile("adam", jit_compile=False)
    tell = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: messages.send(("begins", epoch)),
        on_epoch_end=lambda epoch, logs: messages.send(("ends", epoch)),
    )
    images = np.random.default_rng(SEED).random((500, *IMAGE_SHAPE))
    vae.fit(
        images.astype("float32"),
        batch_size=50,
        epochs=10**6,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup"),
            keras.callbacks.ModelCheckpoint(checkpoint),
            tell,  # an epoch has ended when all of it is on disk
        ],
    )


def killed(context, folder: pathlib.Path, seconds: float) -> list:
    """Starts the training, kills it after so long; returns its messages."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(folder, sender))
    process.start()
    sender.close()
    told = []
    try:
        told.append(receiver.recv())  # It is under way: now the clock runs.
        process.join(seconds)
    except EOFError:
        pass  # It ended by itself, and has said why.
    process.kill()
    process.join()
    while receiver.poll():
        try:
            told.append(receiver.recv())
        except EOFError:
            break
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--output", default=RESULTS, help="a directory")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    # A server that has imported everything makes each start quick.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vae_keras"])
    lost, failed, finished = collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kill in range(options.kills):
            told = killed(context, pathlib.Path(folder), rng.uniform(0, 2))
            begun = [epoch for what, epoch in told if what == "begins"]
            ended = [epoch for what, epoch in told if what == "ends"]
            failed += not begun
            if begun and kill > 0:
                # What was done before, and has to be done again.
                lost[finished - begun[0]] += 1
            finished = max([finished, *(epoch + 1 for epoch in ended)])
            if (kill + 1) % 10 == 0:
                print(f"{kill + 1} kills, {finished} epochs", flush=True)
    results = {
        **provenance(["tensorflow", "keras", "numpy"]),
        "kills": options.kills,
        "failed_starts": failed,
        "epochs": finished,
        "lost": {str(count): times for count, times in sorted(lost.items())},
    }
    rows = [
        ["kills", options.kills],
        ["starts that failed", failed],
        ["epochs finished", finished],
        *(
            [f"finished epochs lost: {count}", times]
            for count, times in sorted(lost.items())
        ),
    ]
    markdown = (
        "# Kills at random moments\n\n"
        "A training with `BackupAndRestore` and `ModelCheckpoint`, killed "
        f"up to two seconds after its first epoch began, seed {SEED}. Each "
        "start loads the last checkpoint. A negative number of lost epochs "
        "means that the backup was on disk before the kill, and the word of "
        "it was not out yet.\n\n" + table(["", "count"], rows)
    )
    write_results(options.output, "kills", results, markdown)


if __name__ == "__main__":
    main()
