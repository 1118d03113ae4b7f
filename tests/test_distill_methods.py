"""`hf-icon2 distill --method`: each method has its own flags and recipe; CycleAlign on the bundled student, offline."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from hf_icon2.cli import main
from hf_icon2.commands import distill_cyclealign
from hf_icon2.commands.distill import METHODS
from hf_icon2.commands.endpoints import chat_client
from hf_icon2.distillation.cycle_recipe import CycleRecipe, Ranker
from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.settings import read_settings, sections
from hf_icon2.storage import read_json

RECIPES = Path(__file__).parent.parent / "hf_icon2" / "recipes"


def flags_of(kind):
    """The flags that a recipe's fields become."""
    inner = sections(kind)
    own = {f"--{name}" for name in kind.__dataclass_fields__ if name not in inner}
    return own | {f"--{name}.{item}" for name, part in inner.items() for item in part.__dataclass_fields__}


@pytest.mark.parametrize("given", [[], *(["--method", name] for name in METHODS)])
def test_help_shows_the_flags_of_one_method_only(given, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["distill", *given, "--help"])
    assert ended.value.code == 0
    shown = set(re.findall(r"(?<=^  )--[\w.]+", capsys.readouterr().out, re.MULTILINE))
    name = given[1] if given else "pad"
    kind = import_module(f"hf_icon2.commands.distill_{name.replace('-', '_')}").RECIPE
    assert shown == flags_of(kind) | {"--method", "--output", "--config"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "cyclealign", "--scoring.alpha", "0.5"],
        ["--method=cyclealign", "--rounds", "2"],
        ["--cycles", "2"],
        ["--method", "none"],
        ["--method"],
    ],
)
def test_a_flag_of_another_method_is_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--output", str(tmp_path / "run"), *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert re.search("unrecognized arguments|invalid choice: 'none'|expected one argument", said)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_method_is_left_alone(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(json.dumps(CycleRecipe().to_dict()))
    assert main(["distill", "--output", str(tmp_path)]) == 1
    assert "go on with its own --method (pad, cyclealign, minds-mirror)" in capsys.readouterr().err
    assert main(["distill", "--output", str(tmp_path), "--config", str(RECIPES / "pad.yaml")]) == 1
    assert "is the recipe of another command or method" in capsys.readouterr().err
    assert read_json(tmp_path / "recipe.json") == CycleRecipe().to_dict()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cycles", "0"], "cycles must be at least 1"),
        (["--sampling.keep", "9"], "sampling.keep must be 2 to sampling.samples"),
        (
            ["--sampling.temperatures", "0.5,-1"],
            "sampling.temperatures must be 1 to sampling.samples numbers",
        ),
        (["--ranker.kind", "neither"], "ranker.kind must be listwise or pairwise"),
        (["--ranker.kind", "pairwise"], "must be listwise for the toy's black box"),
        (["--ranker.budget_cost", "1"], "ranker.budget_cost needs ranker.price_input"),
        (["--ranker.price_input", "1"], "go together"),
        (["--ranker.budget_requests", "-1"], "must be 0 or more"),
        (["--training.loss_type", "dpo"], "training.loss_type must be listmle or pro or rrhf"),
        (["--training.sft_weight", "-1"], "training.sft_weight must be 0 or more"),
        (
            ["--training.loss_type", "rrhf", "--training.student_temperature", "2"],
            "training.student_temperature must be 1 for rrhf",
        ),
        (["--student", "x"], "prompts are needed for a student that is not the toy"),
        (["--student", "x", "--prompts", "y"], "ranker.endpoint or ranker.endpoint_model is needed"),
        (["--ranker.demonstrations", "/no/such.jsonl"], "there is no file /no/such.jsonl of demonstrations"),
        (["--ranker.endpoint", "http://me:key@127.0.0.1:1/v1"], "the bare address"),
    ],
)
def test_settings_that_make_no_sense_are_a_sentence(flags, message, tmp_path, capsys):
    assert main(["distill", "--method", "cyclealign", "--output", str(tmp_path / "run"), *flags]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_bundled_recipe_is_a_recipe_and_every_setting_says_what_it_is():
    recipe = CycleRecipe.from_dict(read_settings(RECIPES / "cyclealign.yaml"))
    assert CycleRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for kind in (CycleRecipe, *sections(CycleRecipe).values()):
        assert all(item.metadata.get("help") for item in kind.__dataclass_fields__.values() if item.metadata)


def test_a_black_box_that_compares_pairs_is_asked_as_the_recipe_says(tmp_path):
    settings = Ranker(endpoint="http://127.0.0.1:1/v1", kind="pairwise", reply_tokens=7, budget_requests=0)
    chat = chat_client(settings, settings.endpoint, tmp_path / "cache.sqlite")
    judge = distill_cyclealign._ranker(settings, chat, 0)
    assert isinstance(judge, PairwiseJudge)
    ranking = judge.rank(["q"], [["a", "b"]])[0]
    assert ranking.stopped
    assert "the budget of 0 requests is spent" in ranking.reason


def test_the_bundled_student_learns_from_the_bundled_black_box_in_one_command(tmp_path, capsys):
    flags = {"number": 8, "cycles": 1, "sampling.samples": 5, "ranker.budget_requests": 10}
    command = ["distill", "--method", "cyclealign", "--output", str(tmp_path)]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "the black box stopped: the budget of 10 requests is spent" in said
    assert "the same call goes on" in said
    assert main(["distill", "--method", "cyclealign", "--output", str(tmp_path), "--seed", "1"]) == 1
    assert "another recipe (see seed)" in capsys.readouterr().err
    again = ["--ranker.budget_requests", "100"]  # may change in a run that has begun
    assert main(["distill", "--method", "cyclealign", "--output", str(tmp_path), *again]) == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"the student is in {tmp_path}/cycle-1/model; right in all behaviours: 0\.\d+ before, 0\.\d+ after",
        said,
    )
    assert read_json(tmp_path / "recipe.json")["ranker"]["budget_requests"] == 100
    assert read_json(tmp_path / "history.json")["ended"] == "all 1 cycles are done"
