"""The committed results say what the code says, and the commands run."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import vae_keras
from tests.helpers import PACKAGE_ROOT, ROOT
from vae_keras.spatial import spatial_decoder, spatial_encoder

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
IMAGE_SHAPE = (28, 28, 1)


def result(name, folder=RESULTS):
    return json.loads((folder / f"{name}.json").read_text())


def cells_of(name, row, folder=RESULTS):
    """The cells of the one line of a table that begins with this name."""
    lines = (folder / f"{name}.md").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def parameters(*networks):
    return [network.count_params() for network in networks]


# === What is committed ===


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
    for row in itertools.chain(*runs.values()):
        assert row["seconds"] <= 60 * row["minutes"]
        assert (row["evaluation_samples"], row["test_images"]) == (5000, 10_000)
        error = row["standard_deviation"] / 10_000**0.5
        assert row["standard_error"] == pytest.approx(error)
        assert row["nll"] < row["test_elbo"]
    nll = {name: np.mean([r["nll"] for r in runs[name]]) for name in runs}
    assert nll["conv, 15 minutes"] <= 84.5
    assert nll["larger conv, 55 minutes"] <= 82.9
    assert nll["learned mixture, 60 minutes"] <= 81.5


def test_priors_had_equal_seconds_and_the_best_of_their_rates():
    results = result("priors")
    tried = {}
    for row in results["rates"]:
        tried.setdefault(row["prior"], {})[row["rate"]] = row["val_elbo"]
    for row in results["rows"]:
        assert row["seconds"] == pytest.approx(results["seconds"], rel=0.05)
        rates = tried[row["prior"].split(", then")[0]]
        assert row["rate"] == min(rates, key=rates.get)
        assert row["nll"] < row["elbo"]
    for prior in dict.fromkeys(row["prior"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["prior"] == prior]
        assert [row["seed"] for row in rows] == [0, 1, 2]
        cells = cells_of("priors", prior)
        assert cells[4] == f"{np.mean([row['nll'] for row in rows]):.2f}"
        assert cells[7] == f"{np.mean([r['frechet'] for r in rows]):.1f}"


def test_records_are_medians_of_five_seeds_that_all_get_there():
    best, page = {}, (ROOT / "docs" / "results.md").read_text()
    lines = (RESULTS / "speedrun.md").read_text().splitlines()
    for record in result("speedrun")["records"]:
        goal, rows = record["goal"], record["rows"]
        assert [row["seed"] for row in rows] == list(range(5))
        assert max(row["elbo"] for row in rows) <= goal
        assert record["what"]
        median = np.median([row["seconds"] for row in rows])
        beginning = f"| ≤ {goal} | **{median:.1f}** |"
        assert sum(line.startswith(beginning) for line in lines) == 1
        # Each beats the one before.
        assert median < best.get(goal, (np.inf,))[0]
        best[goal] = median, record["epochs"]
    assert best.keys() == {100, 95, 90}
    assert best[90][0] <= 150
    for goal, (median, epochs) in best.items():
        assert f"| ≤ {goal} | {epochs} | **{median:.1f}** |" in page


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
    for name, run in runs.items():
        assert run["parameters"] == parameters(
            vae_keras.mlp_encoder(IMAGE_SHAPE, int(name), num_classes=10),
            vae_keras.mlp_decoder(int(name), IMAGE_SHAPE, num_classes=10),
        )
        cells = cells_of("conditional", f"{name} latents")
        least = f"{min(run['recognised']):.1%}"
        assert cells[1] == f"{run['elbo']:.1f}"
        assert [cells[3], cells[4].split()[0]] == [f"{means[name]:.1%}", least]
    # What the classifier makes of real digits, derived again.
    images, labels = mnist_test
    classifier = vae_keras.digits.load_classifier()
    right = classifier.predict(images, verbose=0).argmax(axis=1) == labels
    expected = [right[labels == digit].mean() for digit in range(10)]
    assert results["real"] == pytest.approx(expected)
    cells = cells_of("conditional", "real test digits")
    assert cells[3] == f"{np.mean(expected):.1%}"


def test_fewer_bits_cost_what_the_docs_say():
    results = result("quantized")
    assert (results["images"], results["epochs"]) == (10_000, 10)
    text = (ROOT / "docs" / "architecture.md").read_text()
    for kind in ("bfloat16", "int8"):
        more = [run[kind] - run["float32"] for run in results["runs"]]
        _, _, cell = cells_of("quantized", kind)
        assert cell == f"{min(more):+.3f} to {max(more):+.3f}"
        assert cell in text
        assert max(map(abs, more)) < 0.1


def test_spatial_models_are_those_of_the_package():
    """The parameters in the table, derived again."""
    results = result("spatial")
    assert len(results["seeds"]) == 3
    vector = vae_keras.conv_encoder(IMAGE_SHAPE, 98)
    decoder = spatial_decoder(2, IMAGE_SHAPE)
    networks = {
        "vector": (vector, decoder),
        "map": (spatial_encoder(IMAGE_SHAPE, 2, factored=False), decoder),
        "rows and columns": (spatial_encoder(IMAGE_SHAPE, 2), decoder),
        "vector, dense decoder": (
            vector,
            vae_keras.conv_decoder(98, IMAGE_SHAPE),
        ),
    }
    assert results["runs"].keys() == networks.keys()
    for kind, runs in results["runs"].items():
        for row in runs:
            assert row["parameters"] == parameters(*networks[kind])
        mean = np.mean([row["elbo"] for row in runs])
        assert cells_of("spatial", kind)[4].startswith(f"{mean:.1f} ")


def test_discrete_models_had_equal_seconds():
    results = result("discrete")
    rates = {"points": {}, "categorical": {}}
    for row in results["rates"]:
        rates[row["kind"]][row["rate"]] = row["elbo"]
    script = {}
    source = (ROOT / "benchmarks" / "discrete.py").read_text()
    exec(re.search(r"^LEARNING_RATES.*$", source, re.M).group(), script)
    for kind, tries in rates.items():
        # The best, or next to it: see the benchmark's docstring.
        chosen = script["LEARNING_RATES"][kind]
        assert tries[chosen] < min(tries.values()) + 1
        assert chosen not in (min(tries), max(tries))
    for kind in ("points", "categorical", "gaussian"):
        rows = [r for r in results["posteriors"] if r["kind"] == kind]
        assert sorted(row["seed"] for row in rows) == [0, 1, 2]
        seconds = [sum(row["seconds"]) for row in rows]
        assert max(seconds) < 1.4 * results["seconds"]
        for row in rows:
            bound = row["reconstruction"] + row["kl"]
            assert row["elbo"] == pytest.approx(bound)
            assert 0 < row["neighbours"][0] < row["neighbours"][1]
            if kind != "gaussian":
                assert row["uniform_kl"] == pytest.approx(16 * np.log(32))
        mean = np.mean([row["elbo"] for row in rows if row["kl"] > 1])
        assert cells_of("discrete", kind)[5].startswith(f"{mean:.1f} ")


def test_more_codes_cost_more_and_describe_better():
    """In each size of the map, and place by place with less to see."""
    results = result("discrete")
    sides = {tuple(row["places"]) for row in results["sizes"]}
    assert len(sides) == 3
    for side in sides:
        rows = [r for r in results["sizes"] if tuple(r["places"]) == side]
        rows.sort(key=lambda row: row["num_codes"])
        for fewer, more in itertools.pairwise(rows):
            assert fewer["kl"] < more["kl"] < more["uniform"]
            assert fewer["reconstruction"] > more["reconstruction"]
    for row in results["contexts"]:
        assert np.sum(row["places"]) == pytest.approx(row["kl"])
    for seed in (0, 1, 2):
        kl = {
            row["context"]: row["kl"]
            for row in results["contexts"]
            if row["seed"] == seed
        }
        assert kl["both"] < min(kl["vertical"], kl["horizontal"])
        assert max(kl["vertical"], kl["horizontal"]) < kl["none"]


def test_samples_at_the_chosen_temperature_reach_their_goal():
    """Validation digits choose it; the distance is to test digits."""
    rows = result("discrete")["samples"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    by_temperature = list(zip(*(r["temperatures"] for r in rows), strict=True))
    val = [np.mean([t["val_frechet"] for t in ts]) for ts in by_temperature]
    chosen = by_temperature[int(np.argmin(val))]
    mean = np.mean([t["frechet"] for t in chosen])
    assert mean <= 8
    cells = cells_of("discrete", f"{chosen[0]['temperature']:g}")
    assert cells[2].startswith(f"{mean:.1f} ")
    page = (ROOT / "docs" / "results.md").read_text()
    assert f"at temperature {chosen[0]['temperature']:g}" in page
    coverage = np.mean([t["coverage"] for t in chosen])
    elbo = np.mean([row["reconstruction"] + row["kl"] for row in rows])
    assert f"| {elbo:.1f} | {mean:.1f} | {coverage:.2f} |" in page


def test_long_training_is_read_off_its_curves():
    results = result("long_training")
    assert len(results["runs"]) == 4
    for name, run in results["runs"].items():
        seconds, _, held_out = np.transpose(run["curve"])
        assert np.all(np.diff(seconds) > 0)
        assert seconds[-1] <= results["seconds"]
        cells = cells_of("long_training", name)
        assert cells[-1] == f"{held_out.min():.1f}"
        first = seconds[np.argmax(held_out <= 102)]
        assert cells[4] == f"{first:.0f}"


def test_overfitting_is_stopped_by_validation_images_alone():
    results = result("overfitting")
    assert len(results["runs"]) == 8
    for name, row in results["runs"].items():
        cells = cells_of("overfitting", name)
        assert cells[2] == f"{row['test']:.1f}"
    for row in [*results["runs"].values(), *results["widths"]]:
        steps, training, held_out = np.transpose(row["curve"])
        assert steps[-1] == results["steps"]
        assert row["training"] == training[-1]
        # Test images are like validation images, not the same.
        assert abs(row["test_early_stopping"] - held_out.min()) < 5


def test_widths_differ_in_parameters_alone():
    rows = result("overfitting")["widths"]
    widths = sorted({row["width"] for row in rows})
    assert len(widths) >= 3
    for width in widths:
        same = [row for row in rows if row["width"] == width]
        seeds = [row["seed"] for row in same]
        # The widest takes long, and its gap is many times their spread.
        assert seeds == ([0, 1, 2] if width < max(widths) else [0])
        mean = np.mean([row["test"] for row in same])
        cells = cells_of("overfitting", str(width))
        assert cells[1] == f"{same[0]['parameters']:,}"
        assert cells[4].split()[0] == f"{mean:.1f}"


def test_rivals_had_equal_tuning():
    results = result("rivals")
    assert len(results["seeds"]) == 3
    grids = set()
    for name in ("VAE", "AE", "GAN"):
        run = results["runs"][name]
        rates = sorted(run["tries"], key=float)
        grids.add(tuple(rates))
        best = min(run["tries"], key=run["tries"].get)
        assert float(best) == run["learning_rate"]
        assert best not in (rates[0], rates[-1])
        cells = cells_of("rivals", name)
        assert cells[1 + rates.index(best)] == f"{run['tries'][best]:.1f}"
        for way, rows in run["ways"].items():
            mean = np.mean([row["frechet"] for row in rows])
            assert len(rows) == 3
            cells = cells_of("rivals", f"{name}, {way}")
            assert cells[2].startswith(f"{mean:.1f} ")
            for row in rows:
                assert 0 < row["nearest_low"] < row["nearest"]
    assert len(grids) == 1


def test_rivals_took_turns_on_the_clock():
    results = result("rivals")
    seconds = np.array(list(results["epoch_seconds"].values()))
    ratios = np.median(seconds / seconds[0], axis=1)
    for name, ratio in zip(results["epoch_seconds"], ratios, strict=True):
        assert cells_of("rivals", f"{name}, one epoch")[2] == f"{ratio:.2f}"


def test_collapse_is_counted_dimension_by_dimension():
    for row in result("collapse")["runs"]:
        kl = row["kl_per_dimension"]
        assert len(kl) == 32
        assert sum(kl) == pytest.approx(row["kl"], abs=0.01)
        assert kl == sorted(kl, reverse=True)


def test_warm_up_is_judged_by_what_is_minimised(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    collapse = importlib.import_module("collapse")
    rows = result("collapse")["runs"]
    assert [collapse.setting_of(row) for row in rows] == collapse.settings(2)
    for beta in collapse.BETAS_WITH_SEEDS:
        objectives = {
            (row["warm_up"], row["seed"]): (
                # The reconstruction loss, plus β times the KL.
                row["elbo"] - row["kl"] + beta * row["kl"]
            )
            for row in rows
            if row["beta"] == beta and row["hidden_units"] == [512, 512]
        }
        assert len(objectives) == 6
        gaps = [objectives[2, seed] - objectives[0, seed] for seed in range(3)]
        lines = (RESULTS / "collapse.md").read_text().split("Warm-up minus")
        (line,) = (
            line
            for line in lines[1].splitlines()
            if line.startswith(f"| 512-512 | {beta} |")
        )
        shown = float(line.split("|")[3].split()[0])
        assert shown == pytest.approx(np.mean(gaps), abs=0.051)


def test_alarms_are_set_by_validation_images():
    runs = result("anomaly")["runs"]
    assert list(runs) == list("0123456789")
    for digit, row in runs.items():
        cells = cells_of("anomaly", digit)
        for i, score in enumerate(row.values()):
            assert cells[1 + 3 * i] == f"{score['auroc']:.1%}"
            # A twentieth of the usual validation images, by construction.
            assert 0.03 < score["false_alarms"] < 0.06


def test_workers_send_what_the_ring_needs():
    for row in result("scaling")["runs"]:
        if row["workers"] > 1:
            ring = row["bytes_of_a_ring"]
            assert ring <= row["bytes"] < 1.02 * ring


def test_xla_helps_a_lone_worker_with_small_batches():
    lone = result("scaling")["lone"]
    assert lone["turns"] >= 10
    assert lone["runs"][0]["ratio_quartiles"][0] > 1.2
    for row in lone["runs"]:
        low, high = row["ratio_quartiles"]
        assert low <= row["ratio"] <= high
        cells = cells_of("scaling", f"alone, batch {row['batch_size']}")
        assert cells[3] == f"{row['ratio']:.2f}"


# === What the commands do ===


def test_draws_from_a_mixture_come_in_no_order(monkeypatch):
    """scikit-learn returns them component by component."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    rivals = importlib.import_module("rivals")

    class Clusters:
        """A model whose codes are ten clusters, and which shows them."""

        has_encoder = True

        def generate(self, count, seed):
            return np.zeros(count)

        def encode(self, x):
            return x + np.random.default_rng(0).normal(0, 0.01, x.shape)

        def decode(self, z):
            return z

    codes = np.repeat(np.arange(10.0), 30)[:, np.newaxis]
    drawn = rivals.samples(Clusters(), codes, count=1000, seed=0)["mixture"]
    assert len(np.unique(drawn[:100].round())) == 10


# === Quick looks: less of everything, and the committed results stay ===


@pytest.fixture
def quick_look(tmp_path):
    """Runs a script with its results in a folder, and returns the JSON."""
    before = {path: path.read_bytes() for path in RESULTS.iterdir()}

    def run(name, *arguments):
        subprocess.run(
            [
                sys.executable,
                BENCHMARKS / f"{name}.py",
                *arguments,
                *("--output", tmp_path),
            ],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
            timeout=600,
        )
        return result(name, tmp_path)

    yield run
    assert before == {path: path.read_bytes() for path in RESULTS.iterdir()}


@pytest.mark.slow
def test_likelihood_has_a_quick_look(quick_look):
    name, size = "conv, 15 minutes", "--share 0.01 --images 500 --samples 10"
    results = quick_look("likelihood", "--runs", name, *size.split())
    (row,) = results["runs"][name]
    assert np.isfinite(row["losses"] + row["weighted_losses"]).all()
    assert 0 < row["nll"] < row["test_elbo"] < 600
    assert row["test_images"] == 500


@pytest.mark.slow
def test_priors_have_a_quick_look(quick_look, tmp_path):
    size = "--seconds 2 --samples 3 --images 1000 --seeds 2"
    results = quick_look("priors", *size.split())
    assert np.isfinite([row["nll"] for row in results["rows"]]).all()
    assert cells_of("priors", "VampPrior", tmp_path)


@pytest.mark.slow
def test_speedrun_has_a_quick_look_that_is_no_record(tmp_path):
    size = "--goals 100 --seeds 1 --images 1280 --output"
    printed = subprocess.run(
        [sys.executable, BENCHMARKS / "speedrun.py", *size.split(), tmp_path],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
    ).stdout
    row = json.loads(printed.splitlines()[0].removeprefix("≤ 100: "))
    assert 100 < row["elbo"] < 600
    assert row["seconds"] > 0
    assert "no record" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_conditional_has_a_quick_look(quick_look):
    size = "--images 1000 --epochs 1 --per-digit 3 --latents 2"
    (run,) = quick_look("conditional", *size.split())["runs"].values()
    assert np.isfinite([run["training"], run["elbo"]]).all()
    assert len(run["recognised"]) == 10


@pytest.mark.slow
def test_scaling_has_a_quick_look(quick_look, tmp_path):
    size = "--workers 1 2 --batch-sizes 60 --steps 3 --turns 2"
    one, two = quick_look("scaling", *size.split())["runs"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["all_reduce"] == one["bytes_of_a_ring"] == 0
    assert min(two["step"], two["computing"], two["all_reduce"]) > 0
    # Numbers of float32 that a step exchanges: the parameters of the VAE.
    encoder = vae_keras.mlp_encoder(IMAGE_SHAPE, 2)
    numbers = sum(parameters(encoder, vae_keras.mlp_decoder(2, IMAGE_SHAPE)))
    assert two["bytes_of_a_ring"] == 2 * 4 * numbers
    if sys.platform == "linux":
        assert two["bytes"] > 0.5 * two["bytes_of_a_ring"]
    assert cells_of("scaling", "2, batch 60", tmp_path)
    assert cells_of("scaling", "alone, batch 60", tmp_path)
