"""Train the bundled models: `python -m hf_icon2.toy.build --output DIR` writes `assistant/` and `student/`.

Reproducible on one machine; under an hour on two CPU cores. The figures on the cards are measured here, once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_icon2.toy.card import write_card
from hf_icon2.toy.measure import measure_behaviours, measure_skills
from hf_icon2.toy.tokenizer import build_tokenizer
from hf_icon2.toy.training import Disturbance, ModelPlan, set_threads, train
from hf_icon2.toy.world import Split, instructions

PLANS = {
    "assistant": ModelPlan(),
    "student": ModelPlan(hidden=64, layers=4, inner=172, heads=4, steps=1600, cycles=1, seed=1),
}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, tokenizer and generation settings the Hugging Face way."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=48,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(name: str, output: Path, *, steps: int | None = None, save_every: float = 300) -> None:
    """Train and save one bundled model; `describe` measures it.

    Args:
        name: "assistant" or "student".
        output: Folder that receives a folder of this name.
        steps: Optimiser steps per cycle instead of the plan's, for a quick trial.
        save_every: Seconds between checkpoints of the unfinished model.
    """
    plan = PLANS[name] if steps is None else replace(PLANS[name], steps=steps)
    folder, tokenizer, disturbance = output / name, build_tokenizer(), Disturbance()
    began = time.monotonic()
    saver = _periodic_saver(tokenizer, folder, save_every)
    model = train(plan, tokenizer, disturbance=disturbance, on_step=saver)
    save(model, tokenizer, folder)
    figures = {
        "training_seconds": round(time.monotonic() - began),
        "plan": asdict(plan),
        "disturbance": asdict(disturbance),
        "parameters": model.num_parameters(),
    }
    _write_figures(folder, figures)


def describe(name: str, output: Path, *, split: Split = "test") -> None:
    """Measure a built model and write its figures and card.

    Args:
        name: "assistant" or "student".
        output: Folder that holds a folder of this name, written by `build`.
        split: Instructions to measure on; the test set is for final figures only.
    """
    folder = output / name
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    figures = json.loads((folder / "figures.json").read_text())
    asked = instructions(split)
    figures |= {
        "split": split,
        "behaviours": measure_behaviours(model, tokenizer, asked, repeats=1 if split == "test" else 3),
        "skills": measure_skills(model, tokenizer, asked),
    }
    _write_figures(folder, figures)
    write_card(folder, name, figures)


def _write_figures(folder: Path, figures: dict[str, Any]) -> None:
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def _periodic_saver(
    tokenizer: PreTrainedTokenizerFast, folder: Path, every: float
) -> Callable[[LlamaForCausalLM], None]:
    last = time.monotonic()

    def on_step(model: LlamaForCausalLM) -> None:
        nonlocal last
        if time.monotonic() - last > every:
            save(model, tokenizer, folder)
            last = time.monotonic()

    return on_step


def main(argv: list[str] | None = None) -> int:
    """Command line of the build."""
    parser = argparse.ArgumentParser(prog="python -m hf_icon2.toy.build", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder that receives assistant/ and student/"
    )
    parser.add_argument("--only", choices=sorted(PLANS), help="build one of the two models")
    parser.add_argument("--steps", type=int, help="optimiser steps per cycle, for a quick trial")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all this process may use)")
    parser.add_argument(
        "--validation", action="store_true", help="measure on the validation set, not the test set"
    )
    parser.add_argument("--measure-only", action="store_true", help="measure weights that are already there")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    for name in [args.only] if args.only else list(PLANS):
        if not args.measure_only:
            build(name, args.output, steps=args.steps)
        describe(name, args.output, split="validation" if args.validation else "test")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
