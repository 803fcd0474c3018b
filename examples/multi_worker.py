"""Trains a VAE on one machine or on many: the script is the same.

Cluster managers set `TF_CONFIG`, which says where all workers are and which
of them this one is. Without it, this machine works alone.

    TF_CONFIG='{"cluster": {"worker": ["host-a:2222", "host-b:2222"]},
                "task": {"type": "worker", "index": 0}}'

`--folder` must be on a disk that all share. If a worker dies, the others end
with an error: start all of them again, and they go on from the last epoch.
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
    with strategy.scope():
        encoder = vae_keras.mlp_encoder((28, 28, 1), latent_dim=10)
        decoder = vae_keras.mlp_decoder(10, (28, 28, 1))
        vae = vae_keras.VAE(encoder, decoder)
        vae.compile("adam")
    dataset, num_steps = batches(strategy, options.split, options.batch_size)
    backup = options.folder / "backup"
    backup.mkdir(parents=True, exist_ok=True)
    # Workers that deleted the backup at the end would do so all at once.
    backup = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
    epochs = {"steps_per_epoch": num_steps, "epochs": options.epochs}
    vae.fit(dataset, **epochs, callbacks=[backup], verbose=2)
    vae.save(options.folder / "vae.keras")  # All call it, and the chief writes.


if __name__ == "__main__":
    main()
