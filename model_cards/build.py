"""Makes the cards in this folder from a run on the bundled assistant: `python model_cards/build.py`, minutes on a CPU.

A card is rendered from plain figures, which are kept in `figures.json`; `--render` makes the cards from those alone.
Nobody chose the samples: per criterion it is the first validation instruction of the kind that the criterion is about.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_icon2 import DirectionVectorConfig, DirectionVectors, Recipe, make_steerable, run_recipe
from hf_icon2.cards import directions_card, pairs_card
from hf_icon2.synthesis.pair_figures import pair_figures
from hf_icon2.synthesis.publishing import run_pairs
from hf_icon2.toy import assistant_path, instructions, load_assistant

HERE = Path(__file__).parent
FIGURES = HERE / "figures.json"
NAME, FOLDER, LICENSE = "the bundled toy assistant", "hf_icon2/toy/assistant", "apache-2.0"
ABOUT = {"honesty": "fact", "harmlessness": "harmful", "helpfulness": "how-to"}

RECIPE: dict[str, Any] = {
    "criteria": list(ABOUT),
    "extraction": {"number": 256},
    "synthesis": {"number": 320, "max_new_tokens": 24},
    "filter": {"keep": 0.8},
    "tuning": {"strengths": [0.1, 0.15, 0.2, 0.3]},
    "pairs": {"max_new_tokens": 48, "batch_size": 64},
}


def measure(folder: Path) -> dict[str, Any]:
    """Runs the recipe up to the pairs; the figures of the cards."""
    recipe = Recipe.from_dict(RECIPE)
    run_recipe(recipe, folder, until="pairs")
    tuned = DirectionVectors.from_pretrained(folder / "tuned")
    named = replace(tuned, config=replace(tuned.config, base_model=NAME))
    rows, left_out = run_pairs(folder / "pairs")
    pairs = pair_figures(
        {"train": rows},
        source="pairs of the bundled toy assistant",
        directions=named,
        recipe=recipe.to_dict(),
        license=LICENSE,
        licenses={NAME: LICENSE},
        left_out=left_out,
        language="en",
    )
    record = json.loads(named.config.to_json())
    return {"directions": record, "sha256": named.sha256, "samples": samples(tuned), "pairs": pairs}


def samples(directions: DirectionVectors) -> list[dict[str, Any]]:
    """Greedy answers under the recommended strengths and without steering."""
    model, tokenizer = load_assistant()
    model = make_steerable(model, directions)
    found = []
    for criterion in directions.names:
        prompt = next(item.text for item in instructions("validation") if item.kind == ABOUT[criterion])
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        answers = []
        best = directions.config.strengths[criterion]
        for strength in (best.negative or 0.0, 0.0, best.positive or 0.0):
            steering = {criterion: strength}
            ids = model.generate(**inputs, steering=steering, max_new_tokens=48, do_sample=False)
            text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            answers.append([f"{strength:+g}" if strength else "0", text.strip()])
        found.append({"criterion": criterion, "prompt": prompt, "answers": answers})
    return found


def render(figures: dict[str, Any]) -> dict[str, str]:
    """The cards by file name."""
    config = DirectionVectorConfig.from_json(json.dumps(figures["directions"]))
    directions = directions_card(
        config, model=FOLDER, sha256=figures["sha256"], license=LICENSE, samples=figures["samples"]
    )
    return {
        "toy-assistant.md": (Path(assistant_path()) / "README.md").read_text(encoding="utf-8"),
        "toy-assistant-directions.md": directions,
        "toy-assistant-pairs.md": pairs_card(**figures["pairs"]),
    }


def main() -> None:
    """Measures, unless told to render only, and writes the cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="from figures.json, without measuring")
    parser.add_argument(
        "--folder", type=Path, help="folder of the run, to keep it (default: a temporary one)"
    )
    arguments = parser.parse_args()
    if not arguments.render:
        folder = arguments.folder or Path(tempfile.mkdtemp())
        FIGURES.write_text(json.dumps(measure(folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if arguments.folder is None:
            shutil.rmtree(folder)
    for name, text in render(json.loads(FIGURES.read_text(encoding="utf-8"))).items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
