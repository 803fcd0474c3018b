"""The committed results say what the code says, and the commands run."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import vae_keras

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem
)
def test_results_say_how_they_were_made(path):
    if path.stem == "spreads":  # a list of losses; its command is its name
        return
    results = json.loads(path.read_text())
    assert results["command"].startswith("python benchmarks/")
    assert (ROOT / results["command"].split()[1]).exists()
    assert {"python", "keras", "tensorflow"} <= results["versions"].keys()
    assert results["machine"]["cores"] > 0
    assert path.with_suffix(".md").exists()


def test_likelihoods_reach_their_targets():
    runs = result("likelihood")["runs"]
    for name, row in runs.items():
        assert row["seconds"] <= 60 * row["minutes"], name
        assert (row["evaluation_samples"], row["test_images"]) == (5000, 10_000)
        error = row["standard_deviation"] / 10_000**0.5
        assert row["standard_error"] == pytest.approx(error)
        assert row["nll"] < row["test_elbo"]
    assert runs["conv, 15 minutes"]["nll"] <= 84.5


def test_likelihood_has_a_quick_look(tmp_path):
    before = {p: p.read_bytes() for p in RESULTS.iterdir()}
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "likelihood.py",
            *("--runs", "conv, 15 minutes", "--share", "0.01"),
            *("--images", "500", "--samples", "10", "--output", tmp_path),
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    row = json.loads((tmp_path / "likelihood.json").read_text())["runs"]
    row = row["conv, 15 minutes"]
    assert np.isfinite(row["losses"] + row["weighted_losses"]).all()
    assert 0 < row["nll"] < row["test_elbo"] < 600
    assert "on 500 test images" in (tmp_path / "likelihood.md").read_text()
    assert before == {p: p.read_bytes() for p in RESULTS.iterdir()}


def test_requested_digits_are_recognised(mnist_test):
    results = result("conditional")
    assert results["per_digit"] == 1000
    runs = results["runs"]
    means = {name: np.mean(run["recognised"]) for name, run in runs.items()}
    assert means["2"] >= 0.99
    assert means["4"] >= 0.97
    # More latents say more, and the prior draws less of what was asked.
    assert means["8"] < means["4"]
    assert runs["8"]["elbo"] < runs["4"]["elbo"] < runs["2"]["elbo"]
    table = (RESULTS / "conditional.md").read_text()
    for name, run in runs.items():
        sizes = {"num_classes": 10}
        encoder = vae_keras.mlp_encoder((28, 28, 1), int(name), **sizes)
        decoder = vae_keras.mlp_decoder(int(name), (28, 28, 1), **sizes)
        parameters = [encoder.count_params(), decoder.count_params()]
        assert run["parameters"] == parameters
        assert f"| {name} latents | {run['elbo']:.1f} | " in table
        assert f"| {means[name]:.1%} | {min(run['recognised']):.1%} " in table
    # What the judge makes of real digits, derived again.
    images, labels = mnist_test
    judge = vae_keras.load_judge()
    right = judge.predict(images, verbose=0).argmax(axis=1) == labels
    expected = [right[labels == digit].mean() for digit in range(10)]
    assert results["real"] == pytest.approx(expected)
    assert f"| real test digits |  |  | {np.mean(expected):.1%} | " in table


def test_conditional_has_a_quick_look(tmp_path):
    before = {p: p.read_bytes() for p in RESULTS.iterdir()}
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "conditional.py",
            *("--images", "1000", "--epochs", "1", "--per-digit", "3"),
            *("--latents", "2", "--output", tmp_path),
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (run,) = json.loads((tmp_path / "conditional.json").read_text())[
        "runs"
    ].values()
    assert np.isfinite([run["training"], run["elbo"]]).all()
    assert len(run["recognised"]) == 10
    assert before == {p: p.read_bytes() for p in RESULTS.iterdir()}


def test_spatial_models_are_those_of_the_package():
    """The parameters in the table, derived again."""
    results = result("spatial")
    assert len(results["seeds"]) == 3
    vae = vae_keras.SpatialVAE((28, 28, 1), 2)
    whole = vae_keras.spatial_encoder((28, 28, 1), 2, factored=False)
    usual = vae_keras.conv_encoder((28, 28, 1), 98)
    expected = {
        "vector": usual,
        "map": whole,
        "rows and columns": vae.encoder,
        "vector, dense decoder": usual,
    }
    for kind, encoder in expected.items():
        for row in results["runs"][kind]:
            parameters = [encoder.count_params(), vae.decoder.count_params()]
            if kind == "vector, dense decoder":
                decoder = vae_keras.conv_decoder(98, (28, 28, 1))
                parameters[1] = decoder.count_params()
            assert row["parameters"] == parameters
    table = (RESULTS / "spatial.md").read_text()
    for kind, runs in results["runs"].items():
        mean = np.mean([row["elbo"] for row in runs])
        (line,) = (x for x in table.splitlines() if x.startswith(f"| {kind} |"))
        assert f"{mean:.1f}" in line
