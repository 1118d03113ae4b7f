"""What the quickstart reaches: the whole road on the bundled model, several seeds, by its truth table.

Runs that already lie in the folder are taken as they are, interrupted ones are taken up.
"""

import argparse
import json
import statistics
from pathlib import Path

from protocol import table, write_section

from hf_icon2.pipeline.run import run_recipe
from hf_icon2.recipe import Recipe, read_settings

RECIPE = Path(__file__).parents[1] / "hf_icon2" / "recipes" / "quickstart.yaml"


def report_of(seed: int, folder: Path) -> dict:
    recipe = Recipe.from_dict(read_settings(RECIPE) | {"seed": seed})
    run_recipe(recipe, folder / f"seed{seed}")
    return json.loads((folder / f"seed{seed}" / "report.json").read_text())


def row(name: str, values: list[float], digits: int = 3) -> list[str]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"
    return [name, *(f"{value:.{digits}f}" for value in values), mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    reports = [report_of(seed, arguments.output) for seed in arguments.seeds]
    accuracies = [report["accuracy"] for report in reports]
    rows = [
        row(f"accuracy {when.replace('_', ' ')}", [found[when] for found in accuracies])
        for when in ("before", "after", "system_prompt_ceiling")
    ]
    for name in ("honesty", "harmlessness", "helpfulness", "well_formed"):
        for when in ("before", "after"):
            rows.append(row(f"{name} {when}", [found["behaviours"][name][when] for found in accuracies]))
    rows.append(row("decisive pairs right", [report["pairs"]["decisive_right"] for report in reports]))
    rows.append(row("pairs kept", [report["pairs"]["kept"] for report in reports], 0))
    rows.append(row("seconds in all", [report["seconds"]["total"] for report in reports], 0))
    header = ["", *(f"seed {seed}" for seed in arguments.seeds), "mean ± standard deviation"]
    text = (
        f"### Quickstart\n\n{accuracies[0]['prompts']} held-out prompts, {accuracies[0]['answers']} sampled answers "
        f"per seed. Only tuning sees the truth table, on at most 100 instructions.\n\n{table(header, rows)}"
    )
    write_section("quickstart", text)


if __name__ == "__main__":
    main()
