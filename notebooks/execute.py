"""Executes the notebooks in order, each in a kernel of its own.

    python notebooks/execute.py          writes copies to build/notebooks
    python notebooks/execute.py --store  stores outputs in notebooks/

A failing cell ends the run and is shown with its notebook and its error.
Text on stderr (TensorFlow's start-up log) is not stored.
"""

import pathlib
import subprocess
import sys
import time

import nbclient
import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parent
BUILD = NOTEBOOKS.parent / "build" / "notebooks"


def clean(notebook: nbformat.NotebookNode) -> None:
    """Removes from the outputs what differs from machine to machine."""
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


def write(notebook: nbformat.NotebookNode, path: pathlib.Path) -> None:
    """Writes to a temporary name, then replaces the old file."""
    temporary = path.with_name(f".{path.name}")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def main() -> None:
    """Executes all notebooks, or stops at the first failing cell."""
    folder = NOTEBOOKS if "--store" in sys.argv[1:] else BUILD
    folder.mkdir(parents=True, exist_ok=True)
    start_of_all = time.monotonic()
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(
            notebook,
            timeout=1200,
            kernel_name="python3",
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )
        start = time.monotonic()
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
        write(notebook, folder / path.name)
        seconds = time.monotonic() - start
        print(f"{path.name:40} {seconds:5.0f} s", flush=True)
    seconds = time.monotonic() - start_of_all
    print(f"{'all notebooks':40} {seconds:5.0f} s")


if __name__ == "__main__":
    main()
