"""PAD beside DPO on best/worst and SimPO, from the same samples of the bundled student, scored by the same teacher.

    python benchmarks/pad.py

Each seed: the student answers the 800 training prompts 8 times at temperature 1 and top-p 0.95, the 4 most different
answers are kept, and the bundled assistant under the positive system prompt scores them by mean log-probability. All
methods train four epochs on these rows. Every method's settings are chosen by accuracy on the validation prompts with
seed 0; the table is of the 512 test prompts. Results lie in `--output` and are not measured twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import protocol

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

EPOCHS, SAMPLES, KEEP = 4, 8, 4
GRID: dict[str, list[dict[str, Any]]] = {
    "PAD": [
        {"learning_rate": rate, "batch": 16, "student_temperature": t, "teacher_temperature": t}
        for rate, t in ((2e-4, 0.1), (3e-4, 0.1), (4e-4, 0.1), (3e-4, 0.15))
    ],
    "DPO best/worst": [
        {"learning_rate": rate, "batch": batch, "beta": beta}
        for rate, batch, beta in ((1e-4, 16, 0.1), (1e-4, 32, 0.1), (2e-4, 16, 0.5), (3e-4, 32, 0.5))
    ],
    "SimPO best/worst": [
        {"learning_rate": rate, "batch": batch, "beta": beta}
        for rate, batch, beta in ((1e-4, 16, 2.0), (1e-4, 32, 2.0), (1.5e-4, 32, 2.0), (2e-4, 32, 10.0))
    ],
}


def scored_rows(seed: int, folder: Path) -> Any:
    from datasets import load_dataset

    from hf_icon2.criteria import GENERAL
    from hf_icon2.distillation.candidates import sample_candidates
    from hf_icon2.distillation.teacher import score_candidates
    from hf_icon2.steering.decoding import Sampling
    from hf_icon2.toy import instructions, load_assistant, load_student

    path = folder / f"rows-{seed}.jsonl"
    if not path.is_file():
        prompts = [item.text for item in instructions("train")]
        drawn = sample_candidates(
            *load_student(),
            prompts,
            samples=SAMPLES,
            keep=KEEP,
            sampling=Sampling(32, 1.0, 0.95),
            seed=seed,
            show_progress=False,
        )
        scored = score_candidates(
            drawn, *load_assistant(), alpha=1.0, system=GENERAL.positive, show_progress=False
        )
        scored.to_json(path)
    return load_dataset("json", data_files=str(path), split="train")


def best_worst(rows: Any) -> Any:
    from datasets import Dataset

    def pair(row: dict[str, Any]) -> dict[str, Any]:
        order = sorted(range(KEEP), key=row["scores"].__getitem__)
        return {
            "prompt": row["prompt"],
            "chosen": row["responses"][order[-1]],
            "rejected": row["responses"][order[0]],
        }

    return Dataset.from_list([pair(row) for row in rows])


def trained(method: str, rows: Any, seed: int, setting: dict[str, Any]) -> Any:
    from hf_icon2.toy import load_student
    from hf_icon2.trainers.config import Icon2DPOConfig
    from hf_icon2.trainers.dpo import Icon2DPOTrainer
    from hf_icon2.trainers.pad import PADConfig, PADTrainer

    student, tokenizer = load_student()
    own = {name: value for name, value in setting.items() if name != "batch"}
    common = {
        "output_dir": "unused",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "num_train_epochs": EPOCHS,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": setting["batch"],
        "seed": seed,
        **own,
    }
    model = copy.deepcopy(student)
    if method == "PAD":
        trainer: Any = PADTrainer(
            model, args=PADConfig(**common), train_dataset=rows, processing_class=tokenizer
        )
    elif method == "DPO best/worst":
        trainer = Icon2DPOTrainer(
            model,
            args=Icon2DPOConfig(monitor_reward_hacking=False, **common),
            train_dataset=best_worst(rows),
            processing_class=tokenizer,
        )
    else:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        arguments = CPOConfig(
            loss_type="simpo", cpo_alpha=0.0, bf16=False, gradient_checkpointing=False, **common
        )
        trainer = CPOTrainer(
            model, args=arguments, train_dataset=best_worst(rows), processing_class=tokenizer
        )
    trainer.train()
    return trainer.model.eval()


def accuracy(model: Any, split: str, seed: int) -> dict[str, float]:
    from hf_icon2.pipeline.evaluation import sample_answers, truth_shares
    from hf_icon2.recipe import Evaluation
    from hf_icon2.toy import instructions, load_student

    prompts = [item.text for item in instructions(split)]
    answers = sample_answers(model, load_student()[1], prompts, Evaluation(), seed)
    times = len(answers) // len(prompts)
    return truth_shares([prompt for prompt in prompts for _ in range(times)], answers)


class Results(protocol.Kept):
    """Accuracies by method, setting, seed and split."""

    def accuracy(self, method: str, setting: dict[str, Any], seed: int, split: str) -> dict[str, Any]:
        def measure() -> dict[str, Any]:
            began = time.process_time()
            model = trained(method, scored_rows(seed, self.folder), seed, setting)
            return {"train_cpu_s": time.process_time() - began, **accuracy(model, split, seed)}

        return dict(self.of(json.dumps([method, setting, seed, split]), measure))

    def start(self, seed: int) -> dict[str, Any]:
        from hf_icon2.toy import load_student

        return dict(self.of(json.dumps(["start", seed]), lambda: accuracy(load_student()[0], "test", seed)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/pad-benchmark"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = Results(arguments.output)
    chosen = {
        method: max(settings, key=lambda one: results.accuracy(method, one, 0, "validation")["correct"])  # noqa: B023
        for method, settings in GRID.items()
    }
    starts = [results.start(seed)["correct"] for seed in arguments.seeds]
    found = {
        method: [results.accuracy(method, setting, seed, "test") for seed in arguments.seeds]
        for method, setting in chosen.items()
    }
    pad = [one["correct"] for one in found["PAD"]]
    rows = [
        [
            "student before",
            *(f"{value:.3f}" for value in starts),
            f"{statistics.mean(starts):.3f}",
            "",
            "",
            "",
        ]
    ]
    for method, runs in found.items():
        values = [run["correct"] for run in runs]
        ahead = [ours - other for ours, other in zip(pad, values, strict=True)]
        rows.append(
            [
                method,
                *(f"{value:.3f}" for value in values),
                f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}",
                f"{statistics.mean(ahead):+.3f} ({min(ahead):+.3f} to {max(ahead):+.3f})"
                if method != "PAD"
                else "",
                f"{statistics.mean(run['well_formed'] for run in runs):.3f}",
                f"{statistics.mean(run['train_cpu_s'] for run in runs):.0f}",
            ]
        )
    header = [
        "",
        *(f"seed {seed}" for seed in arguments.seeds),
        "mean",
        "PAD ahead, paired",
        "well formed",
        "CPU s",
    ]
    lines = []
    for method, settings in GRID.items():
        tried = ", ".join(
            f"{results.accuracy(method, one, 0, 'validation')['correct']:.3f} {json.dumps(one)}"
            for one in settings
        )
        lines.append(f"- {method}: {tried}")
    protocol.write_section(
        "pad",
        "### PAD on the bundled student\n\n"
        f"{len(arguments.seeds)} seeds, 512 test prompts, equal prompts, samples and teacher scores.\n\n"
        f"{protocol.table(header, rows)}\n\nSettings tried, by accuracy on the validation prompts (seed 0):\n\n"
        + "\n".join(lines),
    )


if __name__ == "__main__":
    main()
