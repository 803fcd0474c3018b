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
    assert runs["larger conv, 55 minutes"]["nll"] <= 82.9


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


def line_of(name, row):
    """The line of a committed table that begins with this row's name."""
    lines = (RESULTS / f"{name}.md").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_long_training_is_read_off_its_curves():
    results = result("long_training")
    assert len(results["runs"]) == 4
    for name, run in results["runs"].items():
        seconds, _, held_out = np.transpose(run["curve"])
        assert np.all(np.diff(seconds) > 0)
        assert seconds[-1] <= results["seconds"]
        cells = line_of("long_training", name)
        assert cells[-1] == f"{held_out.min():.1f}"
        first = seconds[np.argmax(held_out <= 102)]
        assert cells[4] == f"{first:.0f}"


def test_overfitting_is_stopped_by_validation_images_alone():
    results = result("overfitting")
    assert len(results["runs"]) == 8
    for name, row in results["runs"].items():
        steps, training, held_out = np.transpose(row["curve"])
        assert steps[-1] == results["steps"]
        assert row["training"] == training[-1]
        # Test images are like validation images, not the same.
        assert abs(row["test_early_stopping"] - held_out.min()) < 5
        assert line_of("overfitting", name)[2] == f"{row['test']:.1f}"


def test_rivals_had_equal_tuning():
    results = result("rivals")
    assert len(results["seeds"]) == 3
    for name in ("VAE", "AE", "GAN"):
        run = results["runs"][name]
        assert len(run["tries"]) == 3
        best = min(run["tries"], key=run["tries"].get)
        assert float(best) == run["learning_rate"]
        for way, rows in run["ways"].items():
            mean = np.mean([row["frechet"] for row in rows])
            assert len(rows) == 3
            cells = line_of("rivals", f"{name}, {way}")
            assert cells[3].startswith(f"{mean:.1f} ")


def test_collapse_is_counted_dimension_by_dimension():
    for row in result("collapse")["runs"]:
        assert len(row["kl_per_dimension"]) == 32
        assert sum(row["kl_per_dimension"]) == pytest.approx(
            row["kl"], abs=0.01
        )
        assert row["kl_per_dimension"] == sorted(
            row["kl_per_dimension"], reverse=True
        )


def test_scaling_has_a_quick_look(tmp_path):
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "scaling.py",
            *("--workers", "1", "2", "--batch-sizes", "60", "--steps", "3"),
            *("--output", tmp_path),
        ],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    one, two = json.loads((tmp_path / "scaling.json").read_text())["runs"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["all_reduce"] == one["bytes_of_a_ring"] == 0
    assert min(two["step"], two["computing"], two["all_reduce"]) > 0
    # Numbers of float32 that a step exchanges: the parameters of the VAE.
    encoder = vae_keras.mlp_encoder((28, 28, 1), 2)
    decoder = vae_keras.mlp_decoder(2, (28, 28, 1))
    size = 4 * (encoder.count_params() + decoder.count_params())
    assert two["bytes_of_a_ring"] == 2 * size
    if sys.platform == "linux":
        assert two["bytes"] > 0.5 * two["bytes_of_a_ring"]
    assert "| 2, batch 60 |" in (tmp_path / "scaling.md").read_text()


def test_anomalies_are_judged_by_validation_images():
    runs = result("anomaly")["runs"]
    assert list(runs) == list("0123456789")
    for digit, row in runs.items():
        cells = line_of("anomaly", digit)
        for i, score in enumerate(row.values()):
            assert cells[1 + 3 * i] == f"{score['auroc']:.1%}"
            # A twentieth of the usual validation images, by construction.
            assert 0.03 < score["false_alarms"] < 0.06


def test_workers_send_what_the_ring_needs():
    for row in result("scaling")["runs"]:
        if row["workers"] > 1:
            ring = row["bytes_of_a_ring"]
            assert ring <= row["bytes"] < 1.02 * ring
