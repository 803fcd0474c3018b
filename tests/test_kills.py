"""A training that is killed five times; `benchmarks/kills.py` does it 200."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import PACKAGE_ROOT, ROOT

COMMITTED = ROOT / "benchmarks" / "results" / "kills.json"


def check(results, kills):
    assert results["kills"] == kills
    assert results["failed_starts"] == 0
    assert results["epochs"] > 0
    # No epoch that was finished had to be trained again: at most the epoch
    # at work is lost.
    assert max(map(int, results["lost"])) <= 0
    assert sum(results["lost"].values()) == kills - 1


@pytest.mark.slow
def test_five_kills(tmp_path):
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "kills.py",
            *("--kills", "5", "--output", tmp_path),
        ],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        timeout=600,
    )
    check(json.loads((tmp_path / "kills.json").read_text()), 5)


def test_two_hundred_kills():
    check(json.loads(COMMITTED.read_text()), 200)
