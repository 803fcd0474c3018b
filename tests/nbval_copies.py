"""Copies a notebook for nbval, with the exercises' solutions as cells.

    python tests/nbval_copies.py notebooks/03_training.ipynb

The copy goes to build/series, so that no test changes the notebooks or the
figures in the repository. A solution has no stored output to be compared
with, but it has to run.
"""

import pathlib
import re
import sys

import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.S)


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns the code of the folded solutions, in order."""
    return [
        code
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for code in SOLUTION.findall(cell.source)
    ]


def main(path: pathlib.Path) -> None:
    """Writes a fresh copy to build/series/notebooks."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [
        nbformat.v4.new_code_cell(code, metadata={"tags": ["solution"]})
        for code in solutions(notebook)
    ]
    target = ROOT / "build" / "series" / "notebooks" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
