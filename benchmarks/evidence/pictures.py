"""The page's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence.cells import Figures
from evidence.figures import Evidence
from hf_icon2.evaluation.plots import Curve, bars_with_seeds, heat_maps, lines
from hf_icon2.trainers.monitor import PAPER_CURVE, PAPER_STEPS


def draw(evidence: Evidence, arms: Mapping[str, str], folder: Path) -> None:
    """Writes all pictures as PNG files; `arms` are those of Table 1 by their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "strategies": strategies(evidence, arms),
        "reward-accuracy": reward_accuracy(evidence),
        "strengths": strengths(evidence),
        "layers": layers(evidence),
        "stability": stability(evidence),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})


def strategies(evidence: Evidence, arms: Mapping[str, str]) -> Any:
    marks = {"before": fmean(evidence.before()), "positive system prompt": fmean(evidence.before("prompted"))}
    return bars_with_seeds(
        {label: evidence.right(name) for label, name in arms.items()},
        label="held-out answers right",
        marks=marks,
    )


def reward_accuracy(evidence: Evidence) -> Any:
    ours = {
        "Icon², shared noise": "icon2 3H",
        "Icon², independent noise": "icon2-independent 3H",
        "opposite system prompts": "direct-prompting 3H",
    }
    shares = [step / PAPER_STEPS for step, *_ in PAPER_CURVE]
    panels = {
        "the toy, mean of the seeds": {
            label: mean_curve([one["curve"] for one in evidence.arm(name)]) for label, name in ours.items()
        },
        "the paper's runs": {
            "Icon²": list(zip(shares, (row[1] for row in PAPER_CURVE), strict=True)),
            "opposite system prompts": list(zip(shares, (row[2] for row in PAPER_CURVE), strict=True)),
        },
    }
    return lines(panels, x="share of the run", y="train reward accuracy")


def mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> Curve:
    return [(rows[0][0], fmean(y for _, y in rows)) for rows in zip(*curves, strict=True)]


def strengths(evidence: Evidence) -> Any:
    studies = evidence.study("strengths")
    gammas = studies[0]["gammas"]
    panels = {
        name: {
            "chosen side, +": points(gammas, [one["criteria"][name]["positive"] for one in studies]),
            "rejected side, −": points(gammas, [one["criteria"][name]["negative"] for one in studies]),
        }
        for name in studies[0]["criteria"]
    }
    return lines(panels, x="size of the strength", y="mean reward", logarithmic=True)


def points(gammas: Sequence[float], rows: Sequence[Sequence[float]]) -> Curve:
    return [(gamma, fmean(values)) for gamma, *values in zip(gammas, *rows, strict=True)]


def layers(evidence: Evidence) -> Any:
    studies = evidence.study("layers")
    first = next(iter(studies[0]["criteria"].values()))
    windows = list(dict.fromkeys(tuple(row["layers"]) for row in first))
    gammas = list(dict.fromkeys(row["strength"] for row in first))

    def gap(rows: Sequence[Figures], window: tuple[int, ...], gamma: float) -> float:
        row = next(one for one in rows if tuple(one["layers"]) == window and one["strength"] == gamma)
        return float(row["positive"] - row["negative"])

    panels = {
        name: [
            [fmean(gap(one["criteria"][name], window, gamma) for one in studies) for gamma in gammas]
            for window in windows
        ]
        for name in studies[0]["criteria"]
    }
    return heat_maps(
        panels,
        rows=[f"layers {a}, {b}" for a, b in windows],
        columns=[f"±{gamma:g}" for gamma in gammas],
    )


def stability(evidence: Evidence) -> Any:
    studies = evidence.study("stability")
    sizes = [name for name in studies[0]["cosines"] if name.endswith(" given")]

    def mean_cosine(study: Figures, size: str, criterion: str) -> float:
        return fmean(study["cosines"][size][criterion][1:5])

    panels = {
        "cosine with the directions of 800 instructions": {
            criterion: [
                (float(size.split()[0]), fmean(mean_cosine(one, size, criterion) for one in studies))
                for size in sizes
            ]
            for criterion in studies[0]["cosines"][sizes[0]]
        }
    }
    return lines(panels, x="instructions", y="mean cosine, layers 1 to 4", logarithmic=True)
