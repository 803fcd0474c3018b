"""Trains a VAE on one machine or on many: the script is the same.

Cluster managers set `TF_CONFIG`, which says where all workers are and which
of them this one is. Without it, this machine works alone.

    TF_CONFIG='{"cluster": {"worker": ["host-a:2222", "host-b:2222"]},
                "task": {"type": "worker", "index": 0}}'

`--folder` must be on a disk that all share. If a worker dies, the others end
with an error: start all of them again, and they go on from the last epoch,
which is in `vae.keras`. A finished training is in the same file.
"""

import argparse
import faulthandler
import math
import pathlib

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

import vae_keras


def batches(strategy, split: str, batch_size: int):
    """Returns batches that each worker reads, and their number an epoch."""
    builder = tfds.builder("mnist")
    num_steps = math.ceil(builder.info.splits[split].num_examples / batch_size)
    nothing = tf.data.Dataset.from_tensors(tf.zeros((0, 28, 28, 1)))

    def pixels(example):
        return tf.cast(example["image"], tf.float32) / 255

    def share(context):
        """The batches of one worker, from its part of the examples on disk."""
        num_workers = context.num_input_pipelines
        part = tfds.even_splits(split, num_workers)[context.input_pipeline_id]
        size = context.get_per_replica_batch_size(batch_size)
        from_disk = tfds.ReadConfig(try_autocache=False)
        dataset = builder.as_dataset(part, read_config=from_disk)
        dataset = dataset.shuffle(10_000).batch(size).map(pixels)
        # Parts may differ by an example: the smaller ends with empty batches.
        num_batches = num_steps * context.num_replicas_in_sync // num_workers
        return dataset.concatenate(nothing.repeat()).take(num_batches).repeat()

    return strategy.distribute_datasets_from_function(share), num_steps


def new_vae() -> vae_keras.VAE:
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), latent_dim=10),
        vae_keras.mlp_decoder(10, (28, 28, 1)),
    )
    vae.compile("adam")
    return vae


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default="artifacts/run")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=300)
    options = parser.parse_args()
    # TensorFlow waits for an hour for workers that never come.
    print(f"Waiting for all workers, at most {options.timeout} s", flush=True)
    faulthandler.dump_traceback_later(options.timeout, exit=True)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    faulthandler.cancel_dump_traceback_later()
    vae_keras.load_mnist("test")  # TensorFlow Datasets writes its files, once.
    dataset, num_steps = batches(strategy, options.split, options.batch_size)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "vae.keras"
    with strategy.scope():
        vae = keras.saving.load_model(path) if path.exists() else new_vae()
    # The file has the optimizer in it, which counts its steps. All workers
    # save after each epoch, and the chief replaces the file.
    vae.fit(
        dataset,
        steps_per_epoch=num_steps,
        initial_epoch=int(vae.optimizer.iterations.numpy()) // num_steps,
        epochs=options.epochs,
        callbacks=[keras.callbacks.ModelCheckpoint(path)],
        verbose=2,
    )


if __name__ == "__main__":
    main()
