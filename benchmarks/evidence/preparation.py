"""What all arms of a seed share: tuned directions, and the answers of the model as it is."""

from __future__ import annotations

from pathlib import Path

from evidence import lab
from evidence.cells import Figures
from hf_icon2.criteria import GENERAL
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.noise import row_seed


def home(folder: Path, seed: int) -> Path:
    return folder / f"seed {seed}"


def prepare(folder: Path, seed: int) -> Figures:
    """Directions of all four criteria, tuned twice: with their own layers, and at the middle third."""
    model, tokenizer = lab.assistant()
    extraction, tuning = lab.Meter(), lab.Meter()
    with extraction():
        written = lab.self_written(model, tokenizer, 256, row_seed(seed, "extraction"))
        directions = lab.measured_directions(model, tokenizer, written)
    prompts = lab.raw_instructions(model, tokenizer, "self-written", seed)
    with tuning():
        found = lab.tuned(model, tokenizer, directions, prompts, seed)
    middle = lab.tuned(model, tokenizer, directions, prompts, seed, layers=[lab.MIDDLE])
    found.save_pretrained(home(folder, seed) / "tuned")
    middle.save_pretrained(home(folder, seed) / "middle")
    return {
        "strengths": {"tuned": described(found), "middle": described(middle)},
        "extraction_cpu": extraction.cpu,
        "tuning_cpu": tuning.cpu,
    }


def described(directions: DirectionVectors) -> Figures:
    return {
        name: {
            "layers": list(directions.config.control_layers[name]),
            "positive": directions.config.strengths[name].positive,
            "negative": directions.config.strengths[name].negative,
        }
        for name in directions.names
    }


def before(folder: Path, seed: int) -> Figures:
    """The model as it is, and under the general criterion's positive system prompt."""
    model, tokenizer = lab.assistant()
    prompts = lab.held_out()
    found = {
        "before": lab.answers_of(model, tokenizer, prompts, seed),
        "prompted": lab.answers_of(model, tokenizer, prompts, seed, system=GENERAL.positive),
        "two turns": lab.two_turn_answers(model, tokenizer, seed),
    }
    for name, answers in found.items():
        lab.save_rows(home(folder, seed) / f"{name}.jsonl", answers)
    return {name: lab.shares(prompts, answers) for name, answers in found.items()}
