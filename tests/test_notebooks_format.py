"""What every notebook keeps to, and that nbval can hold it to its outputs."""

import ast
import re

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

from tests.helpers import ROOT
from tests.nbval_copies import solutions

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n\n".join(cell.source for cell in cells)


def is_ignored(cell):
    return "# NBVAL_IGNORE_OUTPUT" in cell.source.splitlines()


def test_series_is_numbered():
    numbers = [int(path.name[:2]) for path in PATHS]
    assert numbers == list(range(1, 13))


def test_each_figure_has_alt_text(notebook):
    """For those who cannot see it; it is in the cell's metadata."""
    figures = [
        (cell, output)
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    texts = {cell.metadata.get("alt", "") for cell, _ in figures}
    for cell, output in figures:
        assert len(cell.metadata.get("alt", "")) >= 40, cell.source
        assert output.metadata["alt"] == cell.metadata["alt"], cell.source
    assert len(texts) == len({cell.source for cell, _ in figures})


def test_outputs_come_from_one_clean_run(notebook):
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.get("name") != "stderr"
            assert output.output_type != "error"
            assert cell.source.strip()


def test_no_machine_shows(path):
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
    assert not re.search(r"/(hom[e]|roo[t]|User[s]|tm[p])/|[A-Z]:\\\\", text)
    assert not re.search(r" at 0x|\\u001b\[|WARNING", text)
    assert path.stat().st_size < 1_500_000


def test_few_outputs_are_ignored_and_each_is_asserted(notebook):
    cells = code_cells(notebook)
    ignored = [i for i, cell in enumerate(cells) if is_ignored(cell)]
    assert len(ignored) <= 0.4 * len(cells)
    for i in ignored:
        following = cells[i + 1 : i + 4]
        assert any("assert " in cell.source for cell in following), cells[i]


def test_sections(notebook):
    text = prose(notebook)
    assert re.match(r"# \d+\. .+\n\n> .+\.\n", text)
    for part in ("**You will learn**", "**You need**", "**It takes**"):
        assert part in text
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[0] == "Setup"
    assert headings[-3:] == ["Recap", "Exercises", "References"]
    assert len(re.findall(r"^# ", text, re.M)) == 1


def test_links_lead_somewhere(notebook):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose(notebook)):
        assert (FOLDER / link).exists(), link


def test_three_exercises_with_solutions(notebook):
    assert re.findall(r"^\*\*(\d)\.\*\*", prose(notebook), re.M) == list("123")
    assert len(solutions(notebook)) == 3
    for code in solutions(notebook):
        ast.parse(code)


def test_prose_carries_the_code(notebook):
    lines = [
        line
        for cell in code_cells(notebook)
        for line in cell.source.splitlines()
        if line.strip()
    ]
    assert len(prose(notebook).split()) >= 5 * len(lines)
    assert max(len(line) for line in lines) <= 76
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 40


def test_every_sanitizing_rule_is_parsed():
    text = (FOLDER / "nbval_sanitize.cfg").read_text()
    expected = len(re.findall(r"^regex:", text, re.M))
    assert len(get_sanitize_patterns(text)) == expected > 0


def test_no_cell_escapes_comparison(notebook):
    # nbval never compares a cell without a count or without outputs.
    shown = [cell for cell in code_cells(notebook) if cell.outputs]
    compared = [cell for cell in shown if not is_ignored(cell)]
    assert compared
    assert all(cell.execution_count for cell in shown)
