"""README and docs keep their word: code runs, links and numbers hold."""

import json
import pathlib
import re
import statistics

import keras
import pytest

from tests.helpers import PACKAGE_ROOT, ROOT

README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {
    f"docs/{path.name}": path.read_text()
    for path in (ROOT / "docs").glob("*.md")
}
MEASURED = PAGES["docs/results.md"]
RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def cells(line):
    return [cell.strip(" *") for cell in line.strip("| ").split("|")]


@pytest.mark.slow
def test_example_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert keras.saving.load_model("vae.keras").latent_shape == (10,)
    assert pathlib.Path("samples.png").stat().st_size > 1000


def anchors(text):
    """Of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[name]):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_alternative_text(name):
    for text in re.findall(r"!\[(.*?)\]", PAGES[name], re.S):
        assert len(text.split()) > 5


def test_readme_is_short():
    """Read in three minutes: 650 words of prose, and its code."""
    prose = re.sub(r"```.*?```|\]\(.*?\)", "", README, flags=re.S)
    assert len(re.findall(r"\b[^\W_][\w'’.-]*", prose)) <= 700


def test_readme_leads_to_every_notebook():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name})" in README


def test_error_texts_of_the_table_are_those_of_the_code():
    code = "\n".join(
        path.read_text() for path in (PACKAGE_ROOT / "vae_keras").rglob("*.py")
    )
    # Line breaks inside string literals do not show in messages.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    for text in (
        "These look like bytes: divide by 255",
        "rescale from [-1, 1]",
        "Add the axis of channels",
        "in `compile`",
        "for both",
    ):
        assert text in PAGES["docs/troubleshooting.md"]
        assert text in code


def test_quality_is_what_the_benchmark_measured():
    mean = result("quality")["test"]["fast"]["loss"]["mean"]
    assert mean <= 144.5
    for page in (README, MEASURED):
        assert f"{mean:.1f}" in page


def test_throughput_is_what_the_benchmark_measured():
    table = (RESULTS / "throughput.md").read_text()
    rows = [line.split(" | ") for line in table.splitlines() if "%" in line]
    rows = [row for row in rows if len(row) == 7]
    assert len(rows) == 5
    for _, images_per_second, _, _, _, ratio, _ in rows:
        assert images_per_second in MEASURED
        assert ratio in MEASURED or ratio == "1.00"
    (first, *_), (_, eager), (_, scan) = (
        [row[i] for i in (1, 5)] for row in (rows[0], rows[2], rows[4])
    )
    for number in (first, eager, scan):
        assert number in README


def test_convolution_is_what_the_benchmark_measured():
    runs = result("convolution")["runs"]
    table = (RESULTS / "convolution.md").read_text().splitlines()
    assert runs["conv"]["curve"][-1]["test"] <= 90.0
    for name, run in runs.items():
        (measured,) = (cells(x) for x in table if x.startswith(f"| {name} |"))
        _, _, epochs, _, early, middle, _, _, seconds, _ = measured
        expected = [
            name,
            f"{sum(run['parameters']) / 1e6:.1f} M",
            epochs,
            early,
            middle,
            f"{run['curve'][-1]['test']:.1f}",
            seconds,
        ]
        assert expected in [cells(line) for line in MEASURED.splitlines()]


def test_likelihood_is_what_the_benchmark_measured():
    rows = [cells(line) for line in MEASURED.splitlines()]
    nlls = {}
    for name, runs in result("likelihood")["runs"].items():
        (row,) = (row for row in rows if row[0] == name)
        mean, error = (
            sum(run[key] for run in runs) / len(runs)
            for key in ("nll", "standard_error")
        )
        nlls[name] = f"{mean:.2f} ± {error:.2f}"
        assert row[-2] == nlls[name]
        assert row[-1].startswith(f"{runs[0]['active_units']} ")
        if name.startswith("learned"):
            assert f"{runs[0]['weighted_losses'][-1]:.2f} nats" in MEASURED
    # README has the quickest and the best.
    assert nlls["conv, 15 minutes"] in README
    assert min(nlls.values()) in README


def test_priors_are_what_the_benchmark_measured():
    rows = [cells(line) for line in MEASURED.splitlines()]
    measured = result("priors")["rows"]
    for prior in {row["prior"] for row in measured}:
        runs = [row for row in measured if row["prior"] == prior]
        expected = [
            f"{sum(run[key] for run in runs) / len(runs):.{digits}f}"
            for key, digits in (
                ("elbo", 2),
                ("nll", 2),
                ("frechet", 1),
                ("coverage", 2),
            )
        ]
        assert expected in [row[1:] for row in rows]


def test_codes_are_what_the_benchmark_measured():
    results = result("discrete")
    rows = [cells(line) for line in MEASURED.splitlines()]
    names = ("`DiscreteVAE`", "the same networks with a cat", "`VAE`, conv")
    for name, kind in zip(
        names, ("points", "categorical", "gaussian"), strict=True
    ):
        (row,) = (row for row in rows if row[0].startswith(name))
        runs = [r for r in results["posteriors"] if r["kind"] == kind]
        kept = [run for run in runs if run["kl"] > 1]
        mean = {
            field: statistics.mean(run[field] for run in kept)
            for field in ("elbo", "frechet", "coverage")
        }
        assert row[1:] == [
            f"{len(kept)} of {len(runs)}",
            f"{mean['elbo']:.1f}",
            f"{mean['frechet']:.1f}",
            f"{mean['coverage']:.2f}",
        ]
    (real,) = results["real"]
    assert [f"{real['frechet']:.1f}", f"{real['coverage']:.2f}"] == next(
        row[3:] for row in rows if row[0] == "other real digits"
    )


def test_requested_digits_are_what_the_benchmark_measured():
    results = result("conditional")
    shares = [
        f"{statistics.mean(run['recognised']):.1%} with {latent_dim}"
        for latent_dim, run in results["runs"].items()
    ]
    shares[0] += " latents"
    assert f"{shares[0]}, {shares[1]} and {shares[2]}," in MEASURED
    real = f"{statistics.mean(results['real']):.1%}"
    assert f"of the real test digits {real}." in MEASURED


def test_classifier_is_as_good_as_measured():
    accuracy = result("digits")["accuracy"]["test"]
    assert (
        f"({accuracy:.1%} of the 10,000 test digits right"
        in PAGES["docs/architecture.md"]
    )
