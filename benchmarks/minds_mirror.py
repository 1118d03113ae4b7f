"""What chains of thought and self-evaluation add: the bundled student learns the toy's sums from a teacher that errs.

    python benchmarks/minds_mirror.py

Each run asks the toy's teacher (a rule of known error rate, over real HTTP) about 400 training sums; a tenth of them is
kept for choosing checkpoints. The arms differ in what of its replies is learned: labels only, one or five chains of
thought, with or without self-evaluations. The second stage passes over the questions equally often in all arms, so
that it has as many updates with five chains as with one. Figures are of 200 sums whose terms nobody was trained on,
and of a right, a wrong and an unfinished rationale to each. Runs lie in `--output` and are not made twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import protocol

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

SUMS = 200
ARMS: dict[str, dict[str, Any]] = {
    "labels only": {"chains": 1, "alpha": 1.0, "self_evaluation": False},
    "1 chain": {"chains": 1, "self_evaluation": False},
    "1 chain, self-evaluation": {"chains": 1, "self_evaluation": True},
    "5 chains": {"chains": 5, "self_evaluation": False},
    "5 chains, self-evaluation": {"chains": 5, "self_evaluation": True},
}


def recipe(arm: dict[str, Any], seed: int) -> Any:
    import hf_icon2
    from hf_icon2.distillation.mirror_recipe import MirrorRecipe
    from hf_icon2.settings import read_settings

    bundled = Path(hf_icon2.__file__).parent / "recipes" / "minds-mirror.yaml"
    settings = read_settings(bundled)
    training = {name: value for name, value in arm.items() if name != "chains"}
    settings["teacher"] = {**(settings.get("teacher") or {}), "chains": arm["chains"]}
    settings["training"] = {**settings["training"], **training}
    return MirrorRecipe.from_dict({**settings, "seed": seed})


class Runs(protocol.Kept):
    """Figures by arm and seed; runs in folders beside them."""

    def figures(self, name: str, seed: int) -> dict[str, Any]:
        return dict(self.of(f"{name}, seed {seed}", lambda: self._measured(name, seed)))

    def _measured(self, name: str, seed: int) -> dict[str, Any]:
        from hf_icon2.commands.distill_minds_mirror import distil, held_out_sums
        from hf_icon2.loading import load_model, load_tokenizer
        from hf_icon2.toy import student_path

        if name == "student before":
            settings, path = recipe(ARMS["5 chains, self-evaluation"], seed), student_path()
            figures = held_out_sums(settings, SUMS).figures(load_model(path), load_tokenizer(path))
            return {"accuracy": figures["accuracy"], "verdicts": figures["verdicts"]["balanced_accuracy"]}
        settings = recipe(ARMS[name], seed)
        folder = self.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
        path = str(distil(settings, folder))
        figures = held_out_sums(settings, SUMS).figures(load_model(path), load_tokenizer(path))
        history = json.loads((folder / "history.json").read_text())
        return {
            "accuracy": figures["accuracy"],
            "verdicts": figures["verdicts"]["balanced_accuracy"],
            "rows": [stage["rows"] for stage in history["stages"]],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/minds-mirror-benchmark"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("hf_icon2").setLevel(logging.ERROR)
    runs = Runs(arguments.output)
    rows = [table_row(runs, name, arguments.seeds) for name in ("student before", *ARMS)]
    header = ["", *(f"accuracy, seed {seed}" for seed in arguments.seeds), "mean"]
    header += [*(f"verdicts, seed {seed}" for seed in arguments.seeds), "mean", "rows per stage"]
    protocol.write_section(
        "minds mirror",
        "### Mind's Mirror on the bundled student\n\n"
        f"{len(arguments.seeds)} seeds, 400 training sums, {SUMS} sums held out. Accuracy is of labels, verdicts is "
        "balanced accuracy of correct, wrong and uncertain.\n\n" + protocol.table(header, rows),
    )


def table_row(runs: Runs, name: str, seeds: Sequence[int]) -> list[str]:
    found = [runs.figures(name, seed) for seed in seeds]
    cells = [name]
    for figure in ("accuracy", "verdicts"):
        values = [one[figure] for one in found]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells += [*(f"{value:.3f}" for value in values), f"{statistics.fmean(values):.3f}{spread}"]
    return [*cells, ", ".join(map(str, found[0].get("rows", ())))]


if __name__ == "__main__":
    main()
