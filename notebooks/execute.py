"""Executes one notebook, without comparing its outputs.

    python notebooks/execute.py notebooks/03_training.ipynb

It runs in build/series, where it finds what earlier notebooks saved, and
the executed copy goes to build/notebooks. A failing cell ends it and is
shown with its error. Text on stderr (TensorFlow's log) is not stored.
"""

import pathlib
import subprocess
import sys

import nbclient
import nbformat

BUILD = pathlib.Path(__file__).resolve().parents[1] / "build"


def clean(notebook: nbformat.NotebookNode) -> None:
    """Removes from the outputs what differs from machine to machine.

    A figure gets the alt text that its cell's metadata has under "alt".
    """
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.metadata["alt"] = cell.metadata.get("alt", "")


def main(path: pathlib.Path) -> None:
    """Executes the notebook, or stops at its first failing cell."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={
            "metadata": {"path": str(BUILD / "series" / "notebooks")}
        },
    )
    try:
        # What a kernel says about its own start is not news.
        client.execute(stderr=subprocess.DEVNULL)
    except (
        nbclient.exceptions.CellExecutionError,
        nbclient.exceptions.CellTimeoutError,
        nbclient.exceptions.DeadKernelError,
    ) as error:
        sys.exit(f"{path.name} failed in this cell:\n\n{error}")
    clean(notebook)
    target = BUILD / "notebooks" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
