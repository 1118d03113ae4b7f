"""From cells to the one file that the page is written from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import protocol

from evidence import lab
from evidence.cells import Figures
from hf_icon2.evaluation.length_control import length_controlled
from hf_icon2.evaluation.preferences import raw_win_rate
from hf_icon2.storage import write_atomic

STUDIES = ("prepared", "before", "stability", "strengths", "layers", "routing")


def collect(folder: Path) -> Figures:
    """All cells of a folder: studies and arms by seed, arms with their win rates over the model as it was."""
    found: Figures = {"machine": protocol.machine(), "studies": {name: {} for name in STUDIES}, "arms": {}}
    for path in sorted((folder / "cells").glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        name, _, seed = figures.pop("cell").rpartition("/seed ")
        if name in STUDIES:
            found["studies"][name][seed] = figures
        else:
            home = folder / f"seed {seed}"
            figures["win rate"] = win_rates(home / f"{name}.jsonl", home / "before.jsonl")
            found["arms"].setdefault(name, {})[seed] = figures
    return rounded(found)


def win_rates(after: Path, before: Path) -> Figures:
    """Raw and length-controlled, by the truth table, with intervals that resample prompts."""
    ours, theirs = (lab.load_rows(path) for path in (after, before))
    prompts = [prompt for prompt in lab.held_out() for _ in range(len(ours) // len(lab.held_out()))]
    scores = zip(lab.truth(prompts, ours), lab.truth(prompts, theirs), strict=True)
    preferences = [0.5 + 0.5 * ((mine > other) - (mine < other)) for mine, other in scores]
    raw = raw_win_rate(preferences, prompts=prompts)
    controlled = length_controlled(preferences, [*map(len, ours)], [*map(len, theirs)])
    return {
        "raw": [raw.value, raw.low, raw.high],
        "length-controlled": [controlled.value, controlled.low, controlled.high],
        "characters": [fmean(map(len, ours)), fmean(map(len, theirs))],
        "same answer": [1 - len({*answers}) / len(answers) for answers in (ours, theirs)],
    }


def rounded(value: Any) -> Any:
    """Five digits after the point are plenty, and keep the file readable."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(item) for item in value]
    return value


def save(figures: Figures, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(figures, indent=1) + "\n")
