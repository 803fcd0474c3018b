"""Kills a training at random moments, again and again: what is lost?

A training that saves its model after each epoch, with Keras's
`ModelCheckpoint`, is killed (SIGKILL) after a random time and started again,
until it has been killed so often. Each start loads the file that the last
one left, says in which epoch it goes on, and then which epochs it has
finished. At most the epoch at work may be lost, and every file has to load.
"""

import collections
import multiprocessing
import pathlib
import tempfile

import common
import numpy as np

import vae_keras

BATCH_SIZE = 50
IMAGE_SHAPE = (28, 28, 1)
NUM_IMAGES = 500
SEED = 0


def train(folder: pathlib.Path, messages) -> None:
    """Goes on with the training in `folder`, and tells of each epoch."""
    import keras

    path = folder / "vae.keras"
    if path.exists():
        vae = keras.saving.load_model(path)
    else:
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
    images = np.random.default_rng(SEED).random((NUM_IMAGES, *IMAGE_SHAPE))
    vae.fit(
        images.astype("float32"),
        batch_size=BATCH_SIZE,
        initial_epoch=int(vae.optimizer.iterations) * BATCH_SIZE // NUM_IMAGES,
        epochs=10**6,
        verbose=0,
        # An epoch has ended when all of it is on disk.
        callbacks=[keras.callbacks.ModelCheckpoint(path), tell],
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
    parser = common.options_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    # A server that has imported everything makes each start quick.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vae_keras"])
    lost, failed, finished = collections.Counter(), 0, 0
    longest = 2.0  # seconds
    with tempfile.TemporaryDirectory() as folder:
        for kill in range(options.kills):
            seconds = rng.uniform(0, longest)
            told = killed(context, pathlib.Path(folder), seconds)
            begun = [epoch for what, epoch in told if what == "begins"]
            ended = [epoch for what, epoch in told if what == "ends"]
            failed += not begun
            if begun and kill > 0:
                # What was done before, and has to be done again.
                lost[finished - begun[0]] += 1
            finished = max([finished, *(epoch + 1 for epoch in ended)])
            if finished == 0:
                longest *= 1.5  # This machine takes longer for an epoch.
            if (kill + 1) % 10 == 0:
                print(f"{kill + 1} kills, {finished} epochs", flush=True)
    results = {
        **common.provenance(["tensorflow", "keras", "numpy"]),
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
        "A training that saves its model after each epoch with "
        f"`ModelCheckpoint`, killed up to {longest:.0f} seconds after its "
        f"first epoch began, seed {SEED}. Each start loads that file. A "
        "negative number of lost epochs means that the file was in place "
        "before the kill, and the word of it was not out yet.\n\n"
        + common.table(["", "count"], rows)
    )
    common.write_results(options.output, "kills", results, markdown)


if __name__ == "__main__":
    main()
