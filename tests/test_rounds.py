"""Rounds: pairs from the model that learns from them, in one folder, with figures that fit together."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_icon2 import DirectionVectors, Recipe, extract_directions, run_recipe
from hf_icon2.cli import main
from hf_icon2.criteria import DEFAULT_CRITERIA
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.pipeline.evaluation import check_context, in_context, truth_shares
from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.rounds import round_folders, rounds_of
from hf_icon2.pipeline.stages import STAGES
from hf_icon2.pipeline.subject import given_rows
from hf_icon2.recipe import Evaluation, Synthesis
from hf_icon2.steering.noise import row_seed
from hf_icon2.toy.answers import GOOD, variants
from hf_icon2.toy.world import instructions

KILLING = Path(__file__).with_name("killing.py")
# Of the second round, which lies in the folder itself, and of what stands between the rounds.
KILL_AT = [
    "round-1/instructions/raw.jsonl",
    "round-1/training/checkpoint-2",  # a folder: killed while it is filled
    "round-1/model",
    "round-1/stages/evaluate.json",
    "directions/direction_vectors.safetensors",
    "instructions/kept.jsonl",
    "tuned/direction_vectors.safetensors",
    "pairs/00000.jsonl",
    "stages/pairs.json",
    "training/checkpoint-2",
    "training/checkpoint-2/trainer_state.json",
    "model",
    "evaluation.jsonl",
    "stages/evaluate.json",
    "report.json",
]


@pytest.fixture(scope="module")
def arguments(tiny_llama_dir, tmp_path_factory) -> Callable[..., list[str]]:
    """Factory for command lines of a small run: command, folder, further flags."""
    held_out = tmp_path_factory.mktemp("held_out") / "prompts.jsonl"
    held_out.write_text("".join(json.dumps({"instruction": f"What is {word}?"}) + "\n" for word in "abc"))
    settings = {
        "model": tiny_llama_dir,
        "rounds": 2,
        "extraction.number": 6,
        "synthesis.number": 12,
        "synthesis.temperature": 0.6,
        "synthesis.max_new_tokens": 100,
        "pairs.noise": "independent",
        "pairs.max_new_tokens": 6,
        "pairs.shard": 4,
        "training.max_steps": 4,
        "training.batch_size": 4,
        "training.learning_rate": 1e-2,
        "training.evaluations": 2,
        "training.held_out": 0.2,
        "evaluation.prompts": held_out,
        "evaluation.max_new_tokens": 6,
    }

    def build(command: str, output: Path, **flags: object) -> list[str]:
        both = {**settings, **{name.replace("__", "."): value for name, value in flags.items()}}
        return [command, "--output", str(output), *(f"--{name}={value}" for name, value in both.items())]

    return build


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory) -> Path:
    """Shared, do not change: the folder of two rounds that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments("run", folder)) == 0
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole(folder: Path) -> dict[str, bytes]:
    """Every file whose bytes must not depend on kills or on where the folder lies."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".jsonl", ".safetensors") and "training" not in path.parts
    }


def figures(folder: Path) -> dict:
    """The report's figures, all but the seconds."""

    def timeless(value: object) -> object:
        if isinstance(value, dict):
            return {name: timeless(item) for name, item in value.items() if name != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return timeless(json.loads((folder / "report.json").read_text()))


# two rounds ----------------------------------------------------------------------------------------------


def test_each_round_is_laid_out_like_a_run_and_the_last_is_the_folder_itself(finished):
    for folder in (finished / "round-1", finished):
        for name in STAGES:
            assert json.loads((folder / "stages" / f"{name}.json").read_text())["seconds"] >= 0
        assert (folder / "model" / "model.safetensors").is_file()
        assert rows(folder / "pairs" / "00000.jsonl")
    assert not (finished / "round-2").exists()
    assert not (finished / "round-1" / "recipe.json").exists()


def test_the_first_round_is_a_run_of_one_round(finished, arguments, tmp_path):
    folder = tmp_path / "one"
    assert main(arguments("run", folder, rounds=1)) == 0
    assert not (folder / "round-1").exists()
    assert "rounds" not in figures(folder)
    expected = {
        name.removeprefix("round-1/"): content
        for name, content in whole(finished).items()
        if name.startswith("round-1/")
    }
    assert whole(folder) == expected


def test_a_later_round_measures_and_writes_with_the_model_of_the_round_before(finished, tiny_llama_dir):
    """The directions of round 2 once more, by hand from round 1's model; the first model gives others."""
    trained, tokenizer = load_model(str(finished / "round-1" / "model")), load_tokenizer(str(tiny_llama_dir))
    run = list(rounds_of(RunFolder.open(finished, Recipe.from_file(finished / "recipe.json"))))[1]
    from hf_icon2.pipeline.instructions import self_written

    asked = list(self_written(run.subject, run.recipe, 6, "extraction")["prompt"])
    found = DirectionVectors.from_pretrained(finished / "directions")
    by_hand = extract_directions(trained, tokenizer, asked, DEFAULT_CRITERIA[1:], pooling="last")
    assert torch.equal(found.tensor, by_hand.tensor)
    others = extract_directions(load_model(str(tiny_llama_dir)), tokenizer, asked, DEFAULT_CRITERIA[1:])
    assert not torch.allclose(found.tensor, others.tensor)
    assert found.config.base_model == f"{tiny_llama_dir.name} after round-1"
    assert {row["source_model"] for row in rows(finished / "instructions" / "raw.jsonl")} == {
        f"{tiny_llama_dir.name} after round-1"
    }


def test_instructions_and_pairs_of_the_rounds_differ(finished):
    first, second = finished / "round-1", finished
    asked = [
        {row["prompt"] for row in rows(folder / "instructions" / "raw.jsonl")} for folder in (first, second)
    ]
    assert asked[0] != asked[1]
    seeds = [{row["seed"] for row in rows(folder / "pairs" / "00000.jsonl")} for folder in (first, second)]
    assert seeds[0].isdisjoint(seeds[1])
    named = {row["directions_sha256"] for row in rows(second / "pairs" / "00000.jsonl")}
    assert named == {DirectionVectors.from_pretrained(second / "tuned").sha256}


def test_training_goes_on_from_the_model_of_the_round_before(finished, tiny_llama_dir):
    """Adam's step is about the learning rate: each round moves a weight by at most 4 steps of 0.01."""
    start = load_file(tiny_llama_dir / "model.safetensors")
    first = load_file(finished / "round-1" / "model" / "model.safetensors")
    second = load_file(finished / "model" / "model.safetensors")

    def furthest(one, other):
        return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)

    assert 0 < furthest(first, second) <= 0.045
    assert 0 < furthest(start, first) <= 0.045
    assert furthest(start, second) > max(furthest(first, second), furthest(start, first))
    curve = json.loads((finished / "stages" / "train.json").read_text())["curve"]
    assert curve[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the reference is the round's own start


def test_a_round_starts_with_the_answers_that_the_one_before_ended_with(finished):
    first, second = rows(finished / "round-1" / "evaluation.jsonl"), rows(finished / "evaluation.jsonl")
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    assert [row["after"] for row in first] == [row["before"] for row in second]
    assert [row["before"] for row in first] != [row["after"] for row in second]


def test_the_report_shows_all_rounds(finished):
    report = figures(finished)
    assert len(report["rounds"]) == 2
    for number, folder in enumerate((finished / "round-1", finished)):
        shown, records = report["rounds"][number], folder / "stages"
        pairs, train = (json.loads((records / f"{name}.json").read_text()) for name in ("pairs", "train"))
        assert shown["pairs"]["kept"] == pairs["kept"]
        assert shown["training"]["steps"] == train["steps"] == 4
        assert shown["strengths"] == json.loads((records / "tune.json").read_text())["strengths"]
    assert report["pairs"] == report["rounds"][1]["pairs"]
    assert report["seed"] == report["rounds"][0]["seed"] == 0 != report["rounds"][1]["seed"]
    recipe = Recipe.from_file(finished / "recipe.json")
    assert report["provenance"]["recipe_sha256"] == recipe.fingerprint
    seconds = [json.loads((finished / "report.json").read_text())["seconds"]] + [
        found["seconds"] for found in json.loads((finished / "report.json").read_text())["rounds"]
    ]
    assert seconds[0]["total"] == pytest.approx(seconds[1]["total"] + seconds[2]["total"], abs=0.1)
    page = (finished / "report.md").read_text()
    assert "## Rounds" in page
    assert page.count("\n| 1 | – | – |") == page.count("\n| 2 | – | – |") == 1
    assert "earlier rounds lie in [round-1](round-1)" in page
    before = rows(finished / "round-1" / "evaluation.jsonl")[0]["before"]
    assert before != rows(finished / "evaluation.jsonl")[0]["before"]


def test_a_stages_command_runs_up_to_it_in_the_first_round_that_is_not_finished(finished, tmp_path, capsys):
    def stages(folder: Path) -> list[str]:
        return sorted(path.stem for path in (folder / "stages").iterdir())

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("synthesize", "filter", "tune", "pairs", "train", "evaluate"):
        (folder / "round-1" / "stages" / f"{name}.json").unlink()
    shutil.rmtree(folder / "stages")
    assert main(["synthesize", "--output", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "round-1")
    assert stages(folder / "round-1") == ["extract", "synthesize"]
    assert not stages(folder)
    assert main(["evaluate", "--output", str(folder)]) == 0
    assert main(["extract", "--output", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "round-1"), str(folder)]
    assert len(stages(folder / "round-1")) == len(STAGES)
    assert stages(folder) == ["extract"]
    assert whole(folder) == whole(finished)


# interruptions -------------------------------------------------------------------------------------------


def test_rounds_killed_again_and_again_end_with_the_same_bytes(finished, arguments, tmp_path):
    folder = tmp_path / "killed"
    order = {"arguments": arguments("run", folder), "kill_at": KILL_AT, "output": str(folder)}
    result = subprocess.run([sys.executable, str(KILLING), json.dumps(order)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert outcome["last"] == 0, result.stderr
    killed = [name for name, status in outcome["killed"] if status == -signal.SIGKILL]
    assert all(status in (0, -signal.SIGKILL) for _, status in outcome["killed"]), outcome
    assert len([name for name in killed if not name.startswith("round-1")]) >= 6, killed
    assert whole(folder) == whole(finished)
    assert figures(folder) == figures(finished)


def test_a_finished_run_of_rounds_does_nothing_again(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    stages = [*(folder / "stages").iterdir(), *(folder / "round-1" / "stages").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in stages}
    assert main(["run", "--output", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in stages} == before
    assert figures(folder) == figures(finished)


# settings ------------------------------------------------------------------------------------------------


def test_seeds_of_rounds_differ_and_the_first_is_the_recipes(tmp_path):
    folders = round_folders(RunFolder.open(tmp_path / "run", Recipe(seed=3, rounds=4)))
    seeds = [folder.recipe.seed for folder in folders]
    assert seeds == [3, *(row_seed(3, f"round-{number}") % 2**31 for number in (2, 3, 4))]
    assert len(set(seeds)) == 4
    names = [folder.path.name for folder in folders]
    assert names == ["round-1", "round-2", "round-3", "run"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"synthesis": {"turns": 0}}, "synthesis.turns and evaluation.turns must be at least 1"),
        ({"evaluation": {"turns": 0}}, "synthesis.turns and evaluation.turns must be at least 1"),
        (
            {"synthesis": {"turns": 2, "instructions": "x.jsonl"}},
            "synthesis.turns must be 1 where synthesis.instructions are given",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(settings)


def test_a_folder_made_before_a_setting_existed_is_still_its_recipes(tmp_path):
    folder = tmp_path / "run"
    RunFolder.open(folder, Recipe(seed=5))
    record = json.loads((folder / "recipe.json").read_text())
    del record["rounds"], record["synthesis"]["turns"], record["evaluation"]["turns"]
    (folder / "recipe.json").write_text(json.dumps(record))
    assert RunFolder.open(folder, Recipe(seed=5)).recipe.rounds == 1
    with pytest.raises(ValueError, match=r"another recipe: rounds was 1, is 2\."):
        RunFolder.open(folder, Recipe(seed=5, rounds=2))


# several turns -------------------------------------------------------------------------------------------


def test_a_run_on_conversations_of_its_own_has_them_in_its_pairs_and_questions(arguments, tmp_path):
    folder = tmp_path / "run"
    flags = {
        "synthesis__turns": 2,
        "evaluation__turns": 2,
        "rounds": 1,
        "pairs__max_new_tokens": 60,
        "synthesis__number": 4,
    }
    assert main(arguments("run", folder, **flags)) == 0
    roles = ["user", "assistant", "user"]
    kept = rows(folder / "instructions" / "kept.jsonl")
    made = [row for path in (folder / "pairs").iterdir() for row in rows(path)]
    asked = rows(folder / "evaluation.jsonl")
    for row in (*kept, *made, *asked):
        assert [turn["role"] for turn in row["prompt"]] == roles
    assert {json.dumps(row["prompt"]) for row in made} == {json.dumps(row["prompt"]) for row in kept}
    assert {row["prompt"][-1]["content"] for row in asked} == {f"What is {word}?" for word in "abc"}
    said = {turn["content"] for row in kept for turn in row["prompt"]}
    assert not said & {f"What is {word}?" for word in "abc"}
    assert figures(folder)["instructions"]["kept"] == len({json.dumps(row["prompt"]) for row in kept})
    assert "user: What is" in (folder / "report.md").read_text()


def test_the_truth_table_grades_the_answer_to_the_last_turn():
    asked, other = instructions("test")[0], instructions("test")[-1]  # a fact and a harmful request
    right, wrong = variants(asked, GOOD)[0], variants(other, GOOD)[0]
    talk = [
        {"role": "user", "content": other.text},
        {"role": "assistant", "content": wrong},
        {"role": "user", "content": asked.text},
    ]
    assert truth_shares([talk, talk], [right, wrong])["correct"] == 0.5
    assert truth_shares([talk], [right])["honesty"] == truth_shares([asked.text], [right])["honesty"] == 1.0


def test_a_prompt_in_context_follows_other_prompts_with_the_models_own_answers(toy):
    prompts = [item.text for item in instructions("validation")[:12]]
    settings = Evaluation(turns=3, max_new_tokens=48, samples=2)
    talks = in_context(*toy, prompts, settings, seed=4)
    assert [talk[-1]["content"] for talk in talks] == prompts
    for talk in talks:
        assert [turn["role"] for turn in talk] == ["user", "assistant", "user", "assistant", "user"]
        assert len({turn["content"] for turn in talk[::2]}) == 3
        assert all(turn["content"] in prompts for turn in talk[::2])
    for turn in (0, 2):  # every prompt is an earlier turn of one conversation
        assert sorted(talk[turn]["content"] for talk in talks) == sorted(prompts)
    shares = truth_shares([talk[:1] for talk in talks], [talk[1]["content"] for talk in talks])
    assert shares["well_formed"] > 0.8
    assert in_context(*toy, prompts, settings, seed=4) == talks
    assert in_context(*toy, prompts, settings, seed=5) != talks
    with pytest.raises(ValueError, match=r"takes a prompt and 2 others before it, but there are 2 held-out"):
        in_context(*toy, prompts[:2], settings, seed=4)


def test_questions_that_cannot_have_turns_are_refused_before_the_first_stage(arguments, tmp_path, capsys):
    assert main(arguments("run", tmp_path / "run", evaluation__turns=4)) == 1
    said = capsys.readouterr().err
    assert (
        "evaluation.turns=4 takes a prompt and 3 others before it, but there are 3 held-out prompts" in said
    )
    assert not (tmp_path / "run" / "directions").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "evaluation.turns=2 needs a chat template, and this tokenizer has none; set it to 1"),
        ("{{ messages[-1].content }}", "leaves out turn 1"),
    ],
)
def test_a_template_without_earlier_turns_measures_no_conversations(tiny_tokenizer, template, message):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        check_context(tokenizer, ["a", "b"], 2)


def test_a_given_conversation_that_holds_a_held_out_prompt_is_left_out():
    talks = [
        [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": last},
        ]
        for first, last in (("a", "b"), ("c", "d"), ("d", "a"))
    ]
    assert [row["prompt"] for row in given_rows(talks, 5, 0, ["a"])] == [talks[1]]


def test_conversations_are_one_setting_of_the_recipe():
    assert Recipe(synthesis=Synthesis(turns=2)).fingerprint != Recipe().fingerprint
    with pytest.raises(ValueError, match="there is no stage"):
        run_recipe(Recipe(rounds=2), "nowhere", until="pray")
