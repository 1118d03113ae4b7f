"""The evidence page: its cells, the arithmetic of its claims, and that it says what its figures file says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS, DOCS = ROOT / "benchmarks", ROOT / "docs"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "evidence").is_dir(),
    reason="benchmarks/ comes with the repository, not with the package",
)


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


COUNTED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from evidence.cells import Cell, measure_all

def measured(folder, name, seconds):
    with (folder / "log").open("a") as log:
        log.write(name + "\\n")
    time.sleep(seconds)
    return {{"value": len(name)}}

def failing(folder):
    raise ValueError("no such thing")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    slow = float(sys.argv[2])
    cells = [
        Cell("first", measured, ("first", 0.0)),
        Cell("second", measured, ("second", slow), ("first",)),
        Cell("third", measured, ("third", 0.0), ("second",)),
    ]
    if "--fail" in sys.argv:
        cells += [Cell("bad", failing), Cell("after bad", measured, ("after bad", 0.0), ("bad",))]
    measure_all(folder, cells, 2)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "counted.py"
    path.write_text(COUNTED.format(benchmarks=str(BENCHMARKS)))
    return path


def command(script: Path, folder: Path, slow: float, *flags: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {
        "args": [sys.executable, str(script), str(folder), str(slow), *flags],
        "stderr": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "text": True,
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
    }


def log_of(folder: Path) -> list[str]:
    return (folder / "log").read_text().split() if (folder / "log").is_file() else []


def test_a_killed_run_measures_again_only_what_was_not_finished(script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells of a run"
    with subprocess.Popen(**command(script, folder, 60.0), start_new_session=True) as running:
        while "second" not in log_of(folder):
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    subprocess.run(**command(script, folder, 0.0), check=True)
    assert log_of(folder) == ["first", "second", "second", "third"]
    found = json.loads((folder / "cells" / "third.json").read_text())
    assert found["cell"] == "third" and found["value"] == 5
    subprocess.run(**command(script, folder, 0.0), check=True)
    assert len(log_of(folder)) == 4


def test_one_failed_cell_does_not_keep_the_others_from_being_measured(script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells of a run"
    ended = subprocess.run(**command(script, folder, 0.0, "--fail"))
    assert ended.returncode != 0
    assert "no such thing" in ended.stderr and "after bad: needs bad" in ended.stderr
    assert log_of(folder) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.1, 0.2, 0.3), "holds"),
        ((-0.1, 0.2, 0.3), "holds in the mean only"),
        ((-0.1, 0.05), "does not hold"),
    ],
)
def test_a_claim_holds_where_every_seed_says_so(values: tuple[float, ...], verdict: str) -> None:
    from evidence.claims import CLAIMS, Finding

    assert Finding(CLAIMS[0], values).verdict == verdict


def test_a_share_of_right_pairs_weighs_every_decisive_pair_alike() -> None:
    """Rounds of 10 decisive pairs, 0.5 right, and 30, 0.9 right: (5 + 27) / 40 = 0.8."""
    from evidence.figures import Evidence

    rounds = [{"decisive": 10, "decisive_right": 0.5}, {"decisive": 30, "decisive_right": 0.9}]
    evidence = Evidence({"studies": {"before": {"0": {}}}, "arms": {"one": {"0": {"rounds": rounds}}}})
    assert evidence.decisive_right("one") == [pytest.approx(0.8)]


def test_a_rank_correlation_counts_pairs_in_order() -> None:
    """1, 3, 2, 4 has 5 of 6 pairs in order and 1 not: 4/6."""
    from evidence.figures import rank_correlation

    assert rank_correlation([1, 3, 2, 4]) == pytest.approx(4 / 6)


def test_the_page_says_what_its_figures_say() -> None:
    from evidence.figures import Evidence
    from evidence.page import text

    written = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert text(Evidence.load(DOCS / "evidence" / "figures.json"), "evidence") == written


def test_failed_claims_stand_in_the_first_paragraph() -> None:
    from evidence.claims import FAILS, findings
    from evidence.figures import Evidence

    found = findings(Evidence.load(DOCS / "evidence" / "figures.json"))
    first = (DOCS / "evidence.md").read_text(encoding="utf-8").split("\n\n")[1]
    assert len(found) > 20
    assert all(one.claim.text in first for one in found if one.verdict == FAILS)
