"""The pictures of a report: picks the figures out of a run's records and lets `evaluation.plots` draw them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from hf_icon2.directions.config import DirectionVectorConfig
from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.storage import write_atomic
from hf_icon2.trainers.monitor import paper_accuracies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = {"before": "before", "after": "after", "system_prompt_ceiling": "with system prompt"}
PAPER = ("paper, Icon² pairs", "paper, hacked rewards")


class Pictures(dict[str, str]):
    """Name of a picture -> its path below the run's folder; `missing` says why there is none."""

    missing: str = ""


def draw_pictures(folder: RunFolder, records: dict[str, Figures], report: Figures) -> Pictures:
    """Draws every picture there are figures for into `pictures/`."""
    pictures = Pictures()
    try:
        from hf_icon2.evaluation import plots
    except ImportError as error:
        pictures.missing = str(error)
        return pictures
    config = DirectionVectorConfig.from_file(folder.path / "tuned")
    drawings: dict[str, Callable[[], Figure]] = {
        "funnel": lambda: plots.funnel(funnel_counts(report)),
        "directions": lambda: plots.direction_evidence(
            records["extract"]["evidence"], config.layers, config.control_layers
        ),
        "consistency": lambda: plots.consistency_histograms(records["filter"]["histogram"]),
    }
    if report["accuracy"]["before"] is not None:
        drawings["accuracy"] = lambda: plots.accuracy_bars(_bars(report["accuracy"]))
    if records["tune"]["trials"]:
        drawings["tuning"] = lambda: plots.tuning_curves(*_tuning(records["tune"]))
    if records["train"]["curve"]:
        drawings["training"] = lambda: plots.training_curves(**_training(records["train"]))
    (folder.path / "pictures").mkdir(exist_ok=True)
    for name, draw in drawings.items():
        png = io.BytesIO()
        draw().savefig(png, format="png", metadata={"Software": None})
        write_atomic(folder.path / "pictures" / f"{name}.png", png.getvalue())
        pictures[name] = f"pictures/{name}.png"
    return pictures


def funnel_counts(report: Figures) -> dict[str, int]:
    """What was left after each step, from sampled rows to pairs trained on."""
    instructions, pairs, training = report["instructions"], report["pairs"], report["training"]
    return {
        "rows sampled": instructions["sampled"],
        "different instructions": instructions["raw"],
        "instructions kept": instructions["kept"],
        "pairs generated": pairs["generated"],
        "pairs kept": pairs["kept"],
        "pairs trained on": training["pairs"],
    }


def _bars(accuracy: Figures) -> dict[str, dict[str, float | None]]:
    groups = {"all": accuracy, **accuracy["behaviours"]}
    return {
        name.replace("_", " "): {label: group[when] for when, label in BARS.items()}
        for name, group in groups.items()
    }


def _tuning(record: Figures) -> tuple[dict[str, dict[str, list[tuple[float, float]]]], ...]:
    """Trials and chosen points: criterion -> layers -> (strength, reward)."""
    trials: dict[str, dict[str, list[tuple[float, float]]]] = {}
    chosen: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for trial in sorted(record["trials"], key=lambda trial: float(trial["strength"])):
        name, label = trial["criterion"], f"layers {', '.join(map(str, trial['layers']))}"
        point = (trial["strength"], trial["reward"])
        trials.setdefault(name, {}).setdefault(label, []).append(point)
        picked = record["strengths"][name]
        if trial["layers"] == picked["layers"] and trial["strength"] in (
            picked["positive"],
            picked["negative"],
        ):
            chosen.setdefault(name, {}).setdefault(label, []).append(point)
    return trials, chosen


def _training(record: Figures) -> Figures:
    """Curves against the share of the examples that the whole training would see."""
    planned = record["planned_steps"]

    def curve(key: str) -> list[tuple[float, float]]:
        return [(row["step"] / planned, row[key]) for row in record["curve"] if key in row]

    shares = [step / 100 for step in range(101)]
    both = [paper_accuracies(share) for share in shares]
    return {
        "train": curve("rewards/accuracies"),
        "held_out": curve("eval_rewards/accuracies"),
        "losses": {"train": curve("loss"), "held-out": curve("eval_loss")},
        "paper": {
            name: list(zip(shares, values, strict=True))
            for name, values in zip(PAPER, zip(*both, strict=True), strict=True)
        },
        "best": None if record["best_step"] is None else record["best_step"] / planned,
    }
