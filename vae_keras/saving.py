"""Files that are replaced whole or not at all."""

import contextlib
import os
import pathlib
import uuid


@contextlib.contextmanager
def replacing(filepath, overwrite: bool):
    """Gives a path to write to, and moves the file into place at the end."""
    path = pathlib.Path(filepath)
    # Keras itself asks before it overwrites, and writes to remote storage.
    if (path.exists() and not overwrite) or "://" in str(filepath):
        yield filepath
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
