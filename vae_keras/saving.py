"""Files that are replaced whole or not at all."""

import contextlib
import os
import pathlib
import uuid


@contextlib.contextmanager
def replacing(filepath, overwrite: bool):
    """Gives a path to write to, and moves the file into place at the end.

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
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
