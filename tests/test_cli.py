"""The `hf-icon2` command: help, recipes and flags, exit codes. What the commands do is in test_pipeline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_icon2 import Recipe, __version__
from hf_icon2.cli import COMMANDS, _parser, _recipe, main
from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.settings import sections


def recipe_of(*argv: str) -> Recipe:
    """The recipe that a command line stands for."""
    return _recipe(_parser().parse_args(["run", *argv]))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a failing command says; checks that it fails with 1 and without a traceback."""
    assert main(list(argv)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err


def exits(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and text of a command that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_every_setting(capsys, command):
    code, text = exits(capsys, command, "--help")
    assert code == 0
    for section, kind in sections(Recipe).items():
        for name in kind.__dataclass_fields__:
            assert f"--{section}.{name}" in text
    assert "--output" in text
    assert "folder of the run; made, or taken up" in text


def test_help_lists_the_commands_and_what_they_do(capsys):
    code, text = exits(capsys, "--help")
    assert code == 0
    assert all(command in text and purpose in text for command, purpose in COMMANDS.items())


def test_the_module_and_the_command_are_the_same_program():
    result = subprocess.run([sys.executable, "-m", "hf_icon2", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, __version__)


def test_without_anything_a_new_folder_gets_the_quickstart(tmp_path):
    recipe = recipe_of("--output", str(tmp_path / "run"))
    assert recipe.model == "toy"
    assert recipe.synthesis.max_new_tokens != Recipe().synthesis.max_new_tokens


def test_flags_change_the_quickstart_setting_by_setting(tmp_path):
    plain = recipe_of("--output", str(tmp_path / "run"))
    changed = recipe_of("--output", str(tmp_path / "run"), "--training.beta", "0.3")
    assert changed.training.beta == 0.3
    assert changed.training.learning_rate == plain.training.learning_rate
    assert changed.pairs == plain.pairs


def test_another_model_starts_from_the_defaults(tmp_path):
    recipe = recipe_of("--output", str(tmp_path / "run"), "--model", "some/model")
    assert recipe == Recipe(model="some/model")


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text("model: some/model\npairs: {noise: independent, shard: 7}\ntraining:\n")
    flags = ("--pairs.shard", "9", "--training.beta", "0.3")
    recipe = recipe_of("--output", str(tmp_path / "run"), "--config", str(config), *flags)
    assert (recipe.model, recipe.pairs.noise, recipe.pairs.shard) == ("some/model", "independent", 9)
    assert recipe.training.beta == 0.3
    assert recipe.filter == Recipe().filter


def test_flags_are_read_as_their_setting_is_typed(tmp_path):
    recipe = recipe_of(
        *("--output", str(tmp_path), "--criteria", "honesty,helpfulness", "--tuning.strengths", "0.1,0.2"),
        *("--synthesis.near_duplicates", "false", "--evaluation.prompts", "held_out.jsonl"),
    )
    assert [criterion.name for criterion in recipe.criteria] == ["honesty", "helpfulness"]
    assert recipe.tuning.strengths == (0.1, 0.2)
    assert recipe.synthesis.near_duplicates is False
    assert recipe.evaluation.prompts == "held_out.jsonl"


def test_a_folder_alone_is_taken_up_with_its_own_recipe(tmp_path):
    made = Recipe(model="some/model", seed=7)
    RunFolder.open(tmp_path / "run", made)
    assert recipe_of("--output", str(tmp_path / "run")) == made


def test_a_flag_that_the_folder_was_not_made_with_is_refused_by_name(capsys, tmp_path):
    RunFolder.open(tmp_path / "run", Recipe(model="some/model", seed=7))
    said = refused(capsys, "run", "--output", str(tmp_path / "run"), "--training.beta", "0.3")
    assert "was made with another recipe: training.beta was None, is 0.3. Choose another folder" in said
    assert "seed" not in said


def test_a_folder_with_other_files_is_refused_and_left_alone(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    said = refused(capsys, "run", "--output", str(tmp_path))
    assert "holds files but no recipe.json, so it is not a run; choose an empty folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unknown_setting_in_the_file_is_named(capsys, tmp_path):
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps({"pairs": {"nois": "shared"}}))
    said = refused(capsys, "pairs", "--output", str(tmp_path / "run"), "--config", str(config))
    assert "unknown settings ['pairs.nois']; known: pairs.strategy, pairs.samples" in said


def test_an_unknown_flag_and_a_wrong_value_end_with_usage(capsys, tmp_path):
    code, text = exits(capsys, "run", "--output", str(tmp_path), "--pairs.nois", "shared")
    assert code == 2
    assert "unrecognized arguments: --pairs.nois" in text
    code, text = exits(capsys, "run", "--output", str(tmp_path), "--synthesis.near_duplicates", "perhaps")
    assert code == 2
    assert "expected true or false, got 'perhaps'" in text


def test_a_missing_recipe_is_named(capsys, tmp_path):
    said = refused(capsys, "run", "--output", str(tmp_path / "run"), "--config", str(tmp_path / "none.yaml"))
    assert said == f"error: there is no recipe {tmp_path / 'none.yaml'}\n"
    assert not (tmp_path / "run").exists()


def test_a_missing_model_is_a_sentence(capsys, tmp_path):
    missing = tmp_path / "no-model-here"
    said = refused(capsys, "extract", "--output", str(tmp_path / "run"), "--model", str(missing))
    assert str(missing) in said


def test_training_without_trl_is_refused_before_any_work(tmp_path):
    code = (
        "import sys; sys.modules['trl'] = None  # what an uninstalled library looks like to import\n"
        "from hf_icon2.cli import main\n"
        f"sys.exit(main(['run', '--output', {str(tmp_path / 'run')!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr
    assert result.stderr.strip().endswith(
        "error: training needs trl, which is missing; run: pip install 'hf_icon2[train]'"
    )
    assert not (tmp_path / "run").exists()


def test_the_output_must_be_given(capsys):
    code, text = exits(capsys, "run")
    assert code == 2
    assert "--output" in text


def test_a_folder_that_cannot_be_written_is_a_sentence(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "run", "--output", str(tmp_path / "file" / "run"))
    assert "Not a directory" in said


def test_paths_of_the_recipe_and_the_output_are_independent(tmp_path):
    folder = Path(tmp_path / "deep" / "er" / "run")
    RunFolder.open(folder, Recipe())
    assert (folder / "recipe.json").is_file()
