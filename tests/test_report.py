"""The report of a finished run, from records in the shape that the stages leave."""

import json
import math
import sys

import pytest

from hf_icon2 import Recipe
from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.pictures import Pictures
from hf_icon2.pipeline.report import report_figures, write_report
from hf_icon2.pipeline.report_page import render_page
from hf_icon2.pipeline.stages import STAGES
from hf_icon2.toy.answers import GOOD, Behaviours, variants
from hf_icon2.toy.world import instructions

CRITERIA = ("honesty", "harmlessness", "helpfulness")
PICTURES = ("accuracy", "consistency", "directions", "funnel", "training", "tuning")


def bump(x: float, centre: float, width: float) -> float:
    return math.exp(-(((x - centre) / width) ** 2))


def evidence(layers: int) -> dict[str, object]:
    held_out = [round(0.6 + 0.35 * bump(layer, layers / 2, 2), 3) for layer in range(layers)]
    return {"held_out_accuracy": held_out, "random_accuracy": [0.5, 0.53, 0.46, 0.51] * (layers // 4)}


def histogram(centre: float) -> dict[str, list[float]]:
    edges = [round(-0.3 + 0.04 * index, 2) for index in range(21)]
    counts = [round(90 * bump(edge, centre, 0.12)) for edge in edges[:-1]]
    return {
        "edges": edges,
        "counts": counts,
        "routed": [count if edge > 0.1 else 0 for edge, count in zip(edges, counts, strict=False)],
    }


def trials(name: str, best: float) -> list[dict[str, object]]:
    return [
        {
            "criterion": name,
            "layers": layers,
            "strength": strength,
            "reward": round(0.4 + lift * bump(strength, best, 0.3) - 0.3 * (strength < 0), 4),
            "right": math.nan if strength > 0 else 0.95,
        }
        for layers, lift in (([1, 2], 0.4), ([2, 3], 0.3))
        for strength in (0.05, 0.1, 0.2, 0.3, 0.4, -0.05, -0.1, -0.2, -0.3, -0.4)
    ]


def shares(before: float, after: float, ceiling: float) -> dict[str, float]:
    return {"before": before, "after": after, "system_prompt_ceiling": ceiling}


def curve(steps: int) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(6, steps + 1, 6):
        part = step / steps
        accuracy, loss = round(0.5 + 0.4 * math.sqrt(part), 3), round(0.69 - 0.3 * part, 3)
        rows.append({"step": step, "loss": loss, "rewards/accuracies": accuracy, "rewards/margins": part})
        if step % 30 == 0:
            rows.append({"step": step, "eval_loss": loss + 0.05, "eval_rewards/accuracies": accuracy - 0.06})
    return rows


def records() -> dict[str, dict[str, object]]:
    """What the stages of a run on the bundled model record."""
    pairs = {"kept": 950, "decisive": 700, "decisive_right": 0.93}
    return {
        "extract": {"instructions": 256, "evidence": {name: evidence(4) for name in CRITERIA}},
        "synthesize": {"raw": 812, "unique": 600, "dropped": {"duplicate": 180, "excluded": 32}},
        "filter": {
            "raw": 600,
            "kept": 570,
            "per_criterion": dict.fromkeys(CRITERIA, 360),
            "histogram": {name: histogram(0.1 * place) for place, name in enumerate(CRITERIA)},
        },
        "tune": {
            "strengths": {
                name: {"layers": [1, 2], "positive": 0.2, "negative": -0.2, "maximum": 0.61}
                for name in CRITERIA
            },
            "instructions_seen": 100,
            "trials": [trial for name in CRITERIA for trial in trials(name, 0.2)],
        },
        "pairs": {
            "warnings": [],
            "generated": 6480,
            "kept": 2850,
            "flags": {"identical": 3600, "degenerate_rejected": 30},
            "per_criterion": dict.fromkeys(CRITERIA, pairs),
            "decisive_right": 0.93,
        },
        "train": {
            "pairs": 2570,
            "held_out_pairs": 280,
            "steps": 270,
            "planned_steps": 320,
            "pairs_per_step": 32,
            "curve": curve(270),
            "best_step": 180,
        },
        "evaluate": {
            "accuracy": {
                **shares(0.412, 0.831, 0.884),
                "behaviours": {name: shares(0.6, 0.9, 0.95) for name in (*CRITERIA, "well_formed")},
                "prompts": 512,
                "answers": 1024,
            },
            "rewards": shares(0.4, 0.8, 0.9),
        },
    }


@pytest.fixture
def finished_run(tmp_path, tiny_llama, random_directions):
    """Factory: a folder as a finished run leaves it, with some records changed or taken away."""

    def build(model: str = "toy", **changes: dict[str, object] | None) -> RunFolder:
        folder = RunFolder.open(tmp_path / "run", Recipe(model=model))
        random_directions(tiny_llama, names=CRITERIA).save_pretrained(folder.path / "tuned")
        for place, (name, record) in enumerate(records().items()):
            changed = changes.get(name, {})
            if changed is not None:
                folder.finish(name, {**record, **changed, "seconds": 10.5 + place})
        return folder

    return build


def figures(folder: RunFolder) -> dict:
    return report_figures(folder, {name: folder.figures(name) for name in STAGES})


def page(folder: RunFolder) -> str:
    """The page without pictures, which take most of the time."""
    found = {name: folder.figures(name) for name in STAGES}
    return render_page(folder, found, report_figures(folder, found), Pictures())


def write_answers(folder: RunFolder) -> list[str]:
    """Held-out prompts of which 3 are fixed, 2 broken, 1 right both times."""
    asked = instructions("test")[:6]
    prompts = [item.text for item in asked]
    right, wrong = (
        [variants(item, how)[0] for item in asked] for how in (GOOD, Behaviours(False, False, False))
    )
    before, after = wrong[:3] + right[3:], right[:3] + wrong[3:5] + right[5:]
    folder.write_rows(
        "evaluation.jsonl",
        [{"prompt": p, "before": b, "after": a} for p, b, a in zip(prompts, before, after, strict=True)],
    )
    return prompts


def test_report_json_holds_the_promised_objects(finished_run):
    report = figures(finished_run())
    assert report["accuracy"]["before"], report["accuracy"]["after"] == (0.412, 0.831)
    assert report["accuracy"]["system_prompt_ceiling"] == 0.884
    for name in CRITERIA:
        assert report["accuracy"]["behaviours"][name] == shares(0.6, 0.9, 0.95)
    assert report["pairs"]["generated"] == 6480
    assert report["pairs"]["kept"] == 2850
    assert report["pairs"]["decisive_right"] == 0.93
    assert set(report["pairs"]["per_criterion"]) == set(CRITERIA)
    assert report["instructions"]["raw"] == 600
    assert report["instructions"]["kept"] == 570
    assert report["instructions"]["per_criterion"] == dict.fromkeys(CRITERIA, 360)
    assert report["strengths"]["honesty"]["positive"] == 0.2
    assert report["seconds"]["extract"] == 10.5
    assert report["seconds"]["total"] == sum(10.5 + place for place in range(7))
    assert report["seed"] == 0


def test_the_page_opens_with_what_was_reached(finished_run):
    text = page(finished_run())
    assert "**From 0.412 to 0.831** of the answers right on 512 held-out prompts" in text
    assert "the ceiling, 0.884" in text
    assert "the chosen one is better in 93.0%" in text


def test_a_report_has_its_pictures_and_is_the_same_byte_for_byte_when_written_again(finished_run):
    folder = finished_run()
    write_answers(folder)
    text = write_report(folder).read_text(encoding="utf-8")
    for name in PICTURES:
        assert f"](pictures/{name}.png)" in text
        assert (folder.path / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder.path / "report.json").read_text()) == figures(folder)

    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    first = content()
    write_report(folder)
    assert content() == first


def test_without_a_truth_table_objects_hold_null_and_the_page_says_so(finished_run):
    no_truth = {"kept": 950, "decisive": None, "decisive_right": None}
    folder = finished_run(
        "some/model",
        evaluate={"accuracy": None, "rewards": None},
        tune={"trials": []},
        pairs={"decisive_right": None, "per_criterion": dict.fromkeys(CRITERIA, no_truth)},
    )
    text, report = page(folder), figures(folder)
    assert report["accuracy"]["behaviours"]["honesty"] == dict.fromkeys(
        report["accuracy"]["behaviours"]["honesty"]
    )
    assert report["accuracy"]["before"] is None
    assert report["pairs"]["decisive_right"] is None
    assert "There is no truth table for this model" in text
    assert "accuracies are null" in text
    assert "accuracy.png" not in text
    assert "No reward was given: the strengths are half and minus a quarter of the maximum" in text


def test_a_reward_model_gives_mean_rewards_in_place_of_accuracy(finished_run):
    rewards = {"before": 0.25, "after": 1.5}
    text = page(finished_run("some/model", evaluate={"accuracy": None, "rewards": rewards}))
    assert "**Mean reward from 0.250 to 1.500**" in text


def test_nothing_to_measure_is_null_and_not_nan(finished_run):
    measured = records()["evaluate"]["accuracy"]
    behaviours = {**measured["behaviours"], "honesty": shares(math.nan, 0.9, 0.95)}  # no answer it applies to
    folder = finished_run(evaluate={"accuracy": {**measured, "behaviours": behaviours}})
    assert figures(folder)["accuracy"]["behaviours"]["honesty"]["before"] is None
    assert "| honesty | – | 0.9 | 0.95 |" in page(folder)


def test_warnings_of_the_stages_are_on_the_page(finished_run):
    text = page(finished_run(pairs={"warnings": ["The chosen side's strength breaks the text: 30%."]}))
    assert "> **Warning.** The chosen side's strength breaks the text: 30%." in text


def test_answers_are_counted_by_outcome_and_broken_ones_are_shown(finished_run):
    folder = finished_run()
    prompts = write_answers(folder)
    text = page(folder)
    assert "Of 6 answers: 3 fixed, 2 broken, 0 still wrong, 1 still right." in text
    assert text.count("| broken |") == 2
    assert text.count("| fixed |") == 3
    assert all(prompt in text for prompt in prompts)


def test_text_of_a_model_cannot_break_the_table_or_the_page(finished_run):
    folder = finished_run("some/model")
    row = {"prompt": "a | b\n\n# c", "before": "<script>x</script>", "after": "word " * 200}
    folder.write_rows("evaluation.jsonl", [row])
    text = page(folder)
    line = next(line for line in text.splitlines() if "script" in line)
    assert line.startswith("|  | a \\| b # c | &lt;script&gt;x&lt;/script&gt; | word ")
    assert "…" in line


def test_without_matplotlib_the_report_is_written_and_names_the_extra(finished_run, monkeypatch):
    monkeypatch.delitem(sys.modules, "hf_icon2.evaluation.plots", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an uninstalled library looks like to import
    import hf_icon2.evaluation

    monkeypatch.delattr(hf_icon2.evaluation, "plots", raising=False)
    folder = finished_run()
    text = write_report(folder).read_text(encoding="utf-8")
    assert "*No pictures: pictures need matplotlib; run: pip install 'hf_icon2[report]'*" in text
    assert "**From 0.412 to 0.831**" in text
    assert (folder.path / "report.json").is_file()
    assert not (folder.path / "pictures").exists()


def test_an_unfinished_run_is_refused_with_what_is_missing(finished_run):
    folder = finished_run(train=None, evaluate=None)
    with pytest.raises(ValueError, match=r"not finished, missing: train, evaluate; go on with `hf-icon2 run"):
        write_report(folder)
