"""Atomic saving, and exact resuming."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid

import keras
import tensorflow as tf


@contextlib.contextmanager
def moved_into_place(path: pathlib.Path):
    """Gives a path to write to, and moves the file into place at the end."""
    path = pathlib.Path(os.path.realpath(path))  # A link stays a link.
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing folder to write {path.name} to. "
            f"Received: {path.parent}. Create it first."
        )
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(model, filepath, overwrite: bool, is_one: bool = True):
    """As `moved_into_place`, for what Keras writes of a model.

    Of several workers the chief gets a path to write to, and the others one
    that is lost: all have to save, since to read a metric is to add up what
    the workers have counted. None goes on before the file is in place, and
    all of them hear of an error. Folders, shards and remote storage are left
    to Keras.
    """
    path, strategy = pathlib.Path(str(filepath)), model.distribute_strategy
    is_one = is_one and isinstance(filepath, (str, os.PathLike))
    is_one = is_one and path.suffix in (".keras", ".h5")
    is_one = is_one and "://" not in str(filepath) and not path.is_dir()
    share_failed = tf.constant(1.0)
    try:
        if not strategy.extended.should_checkpoint:
            with tempfile.TemporaryDirectory() as folder:
                yield pathlib.Path(folder, path.name)
        elif is_one and (overwrite or not path.exists()):
            with moved_into_place(path) as temporary:
                yield temporary
        else:
            yield filepath
        share_failed = tf.constant(0.0)
    finally:
        share_failed = strategy.reduce("MEAN", share_failed, axis=None)
    if share_failed > 0:
        raise OSError(
            f"Expected all workers to save {path.name}. Received: an error "
            "from another worker. Its own message says what to do."
        )


def save_states(model, store) -> None:
    """Writes what Keras does not store: own weights, and random states."""
    for key, variable in _states(model).items():
        store[key] = keras.ops.convert_to_numpy(variable)


def load_states(model, store) -> None:
    """Reads them. As in Keras, states that the file lacks stay as they are."""
    states = _states(model)
    values = {key: store[key][()] for key in store.keys()}  # noqa: SIM118
    for key, variable in states.items():
        is_missing = key.startswith("weight") and key not in values
        shape = tuple(values.get(key, variable).shape)
        if (values and is_missing) or shape != tuple(variable.shape):
            raise ValueError(
                f"Expected weights of a {type(model).__name__}, among them "
                f"{variable.path} {tuple(variable.shape)}. Received: "
                f"{'none' if is_missing else f'shape {shape}'}. Load them "
                "into the model that they were saved from."
            )
    for key in values.keys() & states.keys():
        states[key].assign(values[key])


def _states(model) -> dict[str, keras.Variable]:
    """Weights of the model itself, and the random states of all layers."""
    nested = {id(w) for layer in model.layers for w in layer.weights}
    own = [w for w in model.weights if id(w) not in nested]
    found = {f"weight_{i}": weight for i, weight in enumerate(own)}
    seen = nested | {id(weight) for weight in own}
    # By layer, so that one that gets another state moves no other's.
    for i, layer in enumerate([*model.layers, model]):
        states = [v for v in layer.variables if id(v) not in seen]
        seen |= {id(state) for state in states}
        found |= {f"random_{i}_{j}": v for j, v in enumerate(states)}
    return found
