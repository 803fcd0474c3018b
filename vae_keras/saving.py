"""Models that are saved whole, to files that are replaced whole."""

import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
import uuid

import keras


@contextlib.contextmanager
def moved_into_place(path: pathlib.Path):
    """Gives a path to write to, and moves the file into place at the end."""
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(filepath, overwrite: bool):
    """As `moved_into_place`, for what Keras writes.

    Args:
        filepath: a `.keras` or `.weights.h5` file. Anything else (folders,
            sharded weights, remote storage) is left to Keras.
        overwrite: whether an existing file may be replaced without asking;
            if not, Keras asks.

    Yields:
        The path to write to.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    path = pathlib.Path(filepath)
    by_keras = path.suffix not in (".keras", ".h5") or "://" in str(filepath)
    if by_keras or path.is_dir() or (path.exists() and not overwrite):
        yield filepath
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing folder to write {path.name} to. "
            f"Received: {path.parent}. Create it first."
        )
    with moved_into_place(path) as temporary:
        yield temporary


def protect_backups(callbacks) -> None:
    """Makes Keras's `BackupAndRestore` replace its files whole.

    Weights come to it from `save_weights`. But the number of the epoch it
    writes into a file that it has emptied: a kill between the two leaves a
    backup from which no training can start.

    Args:
        callbacks: what `fit` gets: one, a list, a `CallbackList` or `None`.
    """
    for callback in keras.tree.flatten(
        getattr(callbacks, "callbacks", callbacks)
    ):
        is_backup = isinstance(callback, keras.callbacks.BackupAndRestore)
        if is_backup and "://" not in str(callback.backup_dir):
            callback._save_model = functools.partial(_save_whole, callback)


def _save_whole(callback) -> None:
    path = pathlib.Path(callback._training_metadata_path)
    with moved_into_place(path) as temporary:
        if path.exists():  # With `double_checkpoint` it copies this first.
            shutil.copy(path, temporary)
        callback._training_metadata_path = str(temporary)
        try:
            type(callback)._save_model(callback)
        finally:
            callback._training_metadata_path = str(path)


class ExactlySaved(keras.Model):
    """A Keras model that resumes as if it had never been saved and loaded.

    A subclass names its networks, which are arguments of its constructor
    and attributes, in `network_names`.
    """

    network_names: tuple[str, ...] = ()

    def get_config(self) -> dict:
        networks = {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in self.network_names
        }
        return {**super().get_config(), **networks}

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        networks = {
            name: keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
            for name in cls.network_names
        }
        return cls(**{**config, **networks})

    def save(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """As `keras.Model.save`; an existing file is replaced at the end.

        Among several workers all have to call it, and the chief writes.
        """
        with self._replacing(filepath, overwrite) as path:
            super().save(path, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """As `keras.Model.save_weights`; replaces a file only at the end.

        Among several workers all have to call it, and the chief writes.
        """
        many = kwargs.get("max_shard_size") is not None
        with self._replacing(filepath, overwrite, many) as path:
            super().save_weights(path, overwrite=overwrite, **kwargs)

    @contextlib.contextmanager
    def _replacing(self, filepath, overwrite: bool, many: bool = False):
        """Gives the chief `replacing`, other workers a file that is dropped.

        They all have to save, since to read a metric is to add up what the
        workers have counted. None goes on before the file is in place.
        """
        strategy = self.distribute_strategy
        if not strategy.extended.should_checkpoint:
            with tempfile.TemporaryDirectory() as folder:
                yield pathlib.Path(folder, pathlib.Path(filepath).name)
        elif many:  # files, which are left to Keras
            yield filepath
        else:
            with replacing(filepath, overwrite) as path:
                yield path
        strategy.reduce("MEAN", 1.0, axis=None)

    def _random_states(self) -> list[keras.Variable]:
        """The states of all seed generators, the networks' own included."""
        weights = {id(weight) for weight in self.weights}
        return [v for v in self.variables if id(v) not in weights]

    def _own_weights(self) -> list[keras.Variable]:
        """The weights of the model itself, not of its networks."""
        nested = {id(w) for layer in self.layers for w in layer.weights}
        return [w for w in self.weights if id(w) not in nested]

    def save_own_variables(self, store) -> None:
        # Keras does not store random states; without them a resumed
        # training would draw other noise than one that never stopped.
        for i, weight in enumerate(self._own_weights()):
            store[f"weight_{i}"] = keras.ops.convert_to_numpy(weight)
        for i, state in enumerate(self._random_states()):
            store[f"random_state_{i}"] = keras.ops.convert_to_numpy(state)

    def load_own_variables(self, store) -> None:
        for i, weight in enumerate(self._own_weights()):
            weight.assign(store[f"weight_{i}"][()])
        for i, state in enumerate(self._random_states()):
            state.assign(store[f"random_state_{i}"][()])
