"""The report a person reads: Markdown from a run's figures, pictures and answers."""

from __future__ import annotations

from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.pipeline.markdown import figure, table
from hf_icon2.pipeline.pictures import Pictures
from hf_icon2.pipeline.report_answers import answers_before_and_after


def render_page(folder: RunFolder, records: dict[str, Figures], report: Figures, pictures: Pictures) -> str:
    """The text of `report.md`."""
    sections = [
        f"# Icon² on `{report['model']}`, seed {report['seed']}",
        _headline(report),
        *(f"> **Warning.** {text}" for text in report["warnings"]),
        *([f"*No pictures: {pictures.missing}*"] if pictures.missing else []),
        _picture(pictures, "accuracy", "Accuracy on the held-out prompts"),
        _accuracy_table(report["accuracy"]),
        *_rounds(report),
        "## What the data went through",
        _picture(pictures, "funnel", "What was left after each step"),
        _pairs_table(report),
        _dropped(records["synthesize"]["dropped"], report["pairs"]["flags"]),
        "## Directions",
        _DIRECTIONS,
        _picture(pictures, "directions", "Held-out accuracy of the directions per layer"),
        _picture(pictures, "consistency", "Consistency of the instructions per criterion"),
        "## Strengths",
        _tuning_sentence(records["tune"]),
        _picture(pictures, "tuning", "Mean reward against strength"),
        _strengths_table(report["strengths"]),
        "## Training",
        _training_sentence(report["training"]),
        _picture(pictures, "training", "Reward accuracy and loss during training"),
        *answers_before_and_after(folder, report),
        "## What to do next",
        _next_steps(folder),
        "## Time and provenance",
        _provenance(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_DIRECTIONS = (
    "How often the sign of a direction tells the two sides of a contrast apart, on instructions it was not fitted "
    "on; 0.5 is chance, and a random direction shows how far from it chance can stray. Consistency is the cosine "
    "between an instruction's state and the unit direction, over all layers: it decides which criteria an "
    "instruction serves and which instructions are kept."
)


def _headline(report: Figures) -> str:
    accuracy, rewards = report["accuracy"], report["rewards"]
    if accuracy["before"] is not None:
        text = (
            f"**From {accuracy['before']:.3f} to {accuracy['after']:.3f}** of the answers right on "
            f"{accuracy['prompts']} held-out prompts ({accuracy['answers']} answers)"
        )
        ceiling = accuracy["system_prompt_ceiling"]
        text += (
            f"; under the positive system prompt, the ceiling, {ceiling:.3f}." if ceiling is not None else "."
        )
        right, which = report["pairs"]["decisive_right"], " of the last round" if "rounds" in report else ""
        known = (
            f"none of the pairs{which} differ in the truth table."
            if right is None
            else (
                f"of the pairs{which} that the truth table grades differently, the chosen one is better in {right:.1%}."
            )
        )
        return f"{text} No label was used to filter or to train; {known}"
    if rewards:
        return (
            f"**Mean reward from {rewards['before']:.3f} to {rewards['after']:.3f}** on the held-out prompts. There is "
            "no truth table for this model, so accuracies are null."
        )
    return (
        "There is no truth table for this model and no reward model in the recipe (`tuning.reward`), so how much "
        "better it became is not known, and accuracies are null. Give `evaluation.prompts` and look at the answers "
        "before and after, or give a reward model."
    )


def _accuracy_table(accuracy: Figures) -> str:
    if accuracy["before"] is None:
        return ""
    groups = {"all": accuracy, **accuracy["behaviours"]}
    rows = [
        [
            name.replace("_", " "),
            *(figure(group[when]) for when in ("before", "after", "system_prompt_ceiling")),
        ]
        for name, group in groups.items()
    ]
    note = (
        ""
        if "well_formed" not in groups
        else (
            "\n\nAn answer is right if every behaviour that applies to its prompt is; *well formed* says whether the "
            "grammar held."
        )
    )
    return table(["", "before", "after", "with system prompt"], rows) + note


def _rounds(report: Figures) -> list[str]:
    """What each of several rounds did; nothing for one."""
    if "rounds" not in report:
        return []
    head = [
        "round",
        "before",
        "after",
        "instructions",
        "pairs",
        "decisive and right",
        "DPO steps",
        "strengths",
    ]
    last = len(report["rounds"])
    earlier = ", ".join(f"[round-{number}](round-{number})" for number in range(1, last))
    return [
        "## Rounds",
        "Each round measured directions on, and took instructions and pairs from, the model of the round before, and "
        f"trained on from it. What follows is of round {last}, in this folder; earlier rounds lie in {earlier}.",
        table(head, [_round(number, found) for number, found in enumerate(report["rounds"], start=1)]),
    ]


def _round(number: int, found: Figures) -> list[str]:
    measured = found["accuracy"] if found["accuracy"]["before"] is not None else found["rewards"] or {}
    strengths = [
        f"{name} {figure(side['positive'])} / {figure(side['negative'])} at {', '.join(map(str, side['layers']))}"
        for name, side in found["strengths"].items()
    ]
    return [
        str(number),
        *(figure(measured.get(when)) for when in ("before", "after")),
        str(found["instructions"]["kept"]),
        str(found["pairs"]["kept"]),
        figure(found["pairs"]["decisive_right"]),
        str(found["training"]["steps"]),
        "; ".join(strengths),
    ]


def _pairs_table(report: Figures) -> str:
    instructions, pairs = report["instructions"], report["pairs"]
    rows = [
        [name, str(instructions["per_criterion"].get(name, 0)), str(found["kept"]), figure(found["decisive"]),
         figure(found["decisive_right"])]
        for name, found in pairs["per_criterion"].items()
    ]  # fmt: skip
    rows.append(["all", str(instructions["kept"]), str(pairs["kept"]), "", figure(pairs["decisive_right"])])
    return table(["criterion", "instructions", "pairs kept", "decisive", "decisive and right"], rows)


def _dropped(samples: dict[str, int], flags: dict[str, int]) -> str:
    parts = []
    for what, counts in (("Sampled rows dropped", samples), ("Flags of the pairs", flags)):
        if counts:
            listed = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
            parts.append(f"{what}: {listed}.")
    return " ".join(parts)


def _tuning_sentence(record: Figures) -> str:
    bound = "*Maximum* is where the 95th percentile of the per-token KL to the plain model reaches its limit."
    if not record["trials"]:
        return f"No reward was given: the strengths are half and minus a quarter of the maximum. {bound}"
    return (
        f"Layers and strengths were chosen by the mean reward over {record['instructions_seen']} instructions, the "
        f"only place where the reward was used. Strengths are in units of the mean residual norm. {bound}"
    )


def _strengths_table(strengths: dict[str, Figures]) -> str:
    rows = [
        [
            name,
            ", ".join(map(str, found["layers"])),
            *(figure(found[side]) for side in ("positive", "negative", "maximum")),
        ]
        for name, found in strengths.items()
    ]
    return table(["criterion", "layers", "chosen side", "rejected side", "maximum"], rows)


def _training_sentence(training: Figures) -> str:
    steps, planned, best = training["steps"], training["planned_steps"], training["best_step"]
    early = f", stopped early out of {planned}" if steps < planned else ""
    kept = f"; the model of step {best}, the best on held-out pairs, was kept" if best is not None else ""
    return (
        f"DPO on {training['pairs']} pairs, {training['held_out_pairs']} held out: {steps} steps of "
        f"{training['pairs_per_step']} pairs{early}{kept}. The grey curves are the paper's runs: far above the "
        "dashed one, towards the dotted one, pairs are told apart by style alone. Before the first step both sides "
        "of every pair have the same reward, which counts as wrong."
    )


def _next_steps(folder: RunFolder) -> str:
    path = folder.path
    return f"""```sh
# ask the trained model
python -c "from transformers import pipeline; ask = pipeline('text-generation', '{path}/model'); \\
print(ask([{{'role': 'user', 'content': input()}}], max_new_tokens=64)[0]['generated_text'][-1]['content'])"

# the same with another seed, or with one setting changed, in a folder of its own
hf-icon2 run --config {path}/recipe.json --seed {folder.recipe.seed + 1} --output {path}-seed{folder.recipe.seed + 1}
hf-icon2 run --config {path}/recipe.json --pairs.noise independent --output {path}-independent

# a model of yours
hf-icon2 run --model <id or path> --evaluation.prompts <prompts.jsonl> --output <folder>

# publish the model with its card
hf upload <owner/name> {path}/model
```
The folder also holds the [instructions](instructions), the [pairs](pairs), the tuned directions ([tuned](tuned))
and the trained [model](model). Figures for programs are in [report.json](report.json)."""


def _provenance(report: Figures) -> str:
    provenance, seconds = report["provenance"], report["seconds"]
    times = table(["stage", "seconds"], [[name, f"{value:.1f}"] for name, value in seconds.items()])
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    return (
        f"{times}\n\nA stage that was interrupted and taken up again counts from where it was taken up.\n\n"
        f"Recipe [recipe.json](recipe.json) (SHA-256 `{provenance['recipe_sha256'][:16]}`), directions "
        f"`{provenance['directions_sha256'][:16]}`. Versions: {versions}.\n\n"
        "Method: [Icon²](https://huggingface.co/papers/2509.05605); response pooling, shared sampling noise and the "
        "KL bound are additions of this software."
    )


def _picture(pictures: Pictures, name: str, text: str) -> str:
    return f"![{text}]({pictures[name]})" if name in pictures else ""
