"""Copies the notebooks for nbval, with the exercises' solutions as cells.

    python tests/nbval_copies.py

The copies go to build/nbval, so that no test changes the notebooks or the
figures in the repository. A solution has no stored output to be compared
with, but it has to run.
"""

import pathlib
import re
import shutil

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


def main() -> None:
    """Writes fresh copies to build/nbval."""
    target = ROOT / "build" / "nbval"
    shutil.rmtree(target, ignore_errors=True)
    for folder in ("notebooks", "figures", "artifacts"):
        (target / folder).mkdir(parents=True)
    # What notebooks quote from the benchmarks, and the script that they start.
    for folder in ("benchmarks/results", "examples"):
        shutil.copytree(ROOT / folder, target / folder)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells += [
            nbformat.v4.new_code_cell(code) for code in solutions(notebook)
        ]
        nbformat.write(notebook, target / "notebooks" / path.name)


if __name__ == "__main__":
    main()
