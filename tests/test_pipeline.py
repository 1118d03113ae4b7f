"""Runs: all stages on a tiny random model, taking up after every kind of interruption, and what refusals say."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from killing import killed_at

from hf_icon2 import Recipe, run_recipe
from hf_icon2.cli import main
from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.stages import STAGES
from hf_icon2.pipeline.subject import given_rows, read_instructions
from hf_icon2.pipeline.training import split_by_instruction
from hf_icon2.trainers.checkpoints import resumable_checkpoint

# In the order in which a run writes them: a kill at each lands in every stage, and in the midst of the long ones.
KILL_AT = [
    "recipe.json",
    "directions/direction_vectors.safetensors",
    "stages/extract.json",
    "instructions/raw.jsonl",
    "stages/synthesize.json",
    "instructions/kept.jsonl",
    "stages/filter.json",
    "tuned/direction_vectors.safetensors",
    "stages/tune.json",
    "pairs/00000.jsonl",
    "stages/pairs.json",
    "training/checkpoint-2",  # a folder: killed while it is filled
    "training/checkpoint-2/trainer_state.json",
    "training/checkpoint-4/optimizer.pt",
    "training/checkpoint-6",
    "training/checkpoint-6/trainer_state.json",
    "model",
    "stages/train.json",
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
        "extraction.number": 6,
        "extraction.pooling": "last",
        "synthesis.number": 12,
        "synthesis.temperature": 0.6,
        "synthesis.max_new_tokens": 100,
        "pairs.per_instruction": 2,
        "pairs.noise": "independent",
        "pairs.max_new_tokens": 6,
        "pairs.shard": 4,
        "training.max_steps": 6,
        "training.batch_size": 4,
        "training.learning_rate": 1e-3,
        "training.evaluations": 3,
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
    """Shared, do not change: the folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments("run", folder)) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Callable[..., Path]:
    """Factory for a copy of the finished run without some of its files."""

    def build(*without: str) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        for name in without:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return folder

    return build


def figures(folder: Path) -> dict:
    """The report's figures, all but the seconds."""
    report = json.loads((folder / "report.json").read_text())
    return {name: value for name, value in report.items() if name != "seconds"}


def training_record(folder: Path) -> dict:
    record = json.loads((folder / "stages" / "train.json").read_text())
    return {name: value for name, value in record.items() if name != "seconds"}


def assert_same_result(folder: Path, expected: Path) -> None:
    assert figures(folder) == figures(expected)
    assert training_record(folder) == training_record(expected)
    for name in (
        "evaluation.jsonl",
        "instructions/kept.jsonl",
        "pairs/00001.jsonl",
        "model/model.safetensors",
    ):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hf_icon2", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


# a whole run ---------------------------------------------------------------------------------------------


def test_a_run_leaves_a_record_of_every_stage_and_a_report(finished):
    for name in STAGES:
        assert json.loads((finished / "stages" / f"{name}.json").read_text())["seconds"] >= 0
    assert "no truth table" in (finished / "report.md").read_text()
    assert (finished / "pictures" / "training.png").is_file()
    assert figures(finished)["pairs"]["generated"] == 2 * sum(
        figures(finished)["instructions"]["per_criterion"].values()
    )


def test_a_finished_run_is_taken_up_with_the_folder_alone_and_does_nothing_again(finished, copied, capsys):
    folder = copied()
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    assert main(["run", "--output", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()} == before
    assert capsys.readouterr().out.strip() == str(folder / "report.md")
    assert_same_result(folder, finished)


def test_a_command_runs_up_to_its_stage_and_the_next_one_goes_on(finished, copied):
    later = ["stages/pairs.json", "stages/train.json", "stages/evaluate.json", "pairs", "model", "training"]
    folder = copied(*later, "evaluation.jsonl", "report.json")
    assert main(["pairs", "--output", str(folder)]) == 0
    assert (folder / "stages" / "pairs.json").is_file()
    assert not (folder / "stages" / "train.json").exists()
    assert main(["run", "--output", str(folder)]) == 0
    assert_same_result(folder, finished)


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no stage 'pray'; stages are extract, synthesize, filter"):
        run_recipe(Recipe(), tmp_path / "run", until="pray")


# interruptions -------------------------------------------------------------------------------------------


def test_a_run_killed_again_and_again_ends_with_the_same_figures(finished, arguments, tmp_path):
    folder = tmp_path / "killed"
    statuses = killed_at(arguments("run", folder), KILL_AT, folder)
    assert {*statuses.values()} <= {0, -signal.SIGKILL}, statuses
    killed = [name for name, status in statuses.items() if status == -signal.SIGKILL]
    assert len(killed) >= len(KILL_AT) - 4, killed  # a later file may be there before the kill arrives
    assert_same_result(folder, finished)


def test_ctrl_c_exits_130_with_a_sentence_and_the_run_goes_on(finished, arguments, tmp_path):
    folder = tmp_path / "run"
    process = start(arguments("run", folder))
    wait_for(folder / "stages" / "extract.json", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"interrupted; finished work is in {folder}, the same command goes on" in said
    assert "Traceback" not in said
    assert main(["run", "--output", str(folder)]) == 0
    assert_same_result(folder, finished)


def test_training_killed_after_its_last_checkpoint_ends_with_the_same_model(finished, copied):
    folder = copied("stages/train.json", "stages/evaluate.json", "model", "report.json")
    assert main(["run", "--output", str(folder)]) == 0
    assert_same_result(folder, finished)


def test_an_early_stop_is_the_same_after_a_kill(copied):
    folder = copied("stages/train.json", "stages/evaluate.json", "model", "training")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["training"].update(
        learning_rate=0.3, max_steps=20, evaluations=20
    )  # soon makes held-out loss worse
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert main(["train", "--output", str(folder)]) == 0
    record, weights = training_record(folder), (folder / "model" / "model.safetensors").read_bytes()
    assert record["steps"] < record["planned_steps"]
    (folder / "stages" / "train.json").unlink()
    shutil.rmtree(folder / "model")
    assert main(["train", "--output", str(folder)]) == 0
    assert training_record(folder) == record
    assert (folder / "model" / "model.safetensors").read_bytes() == weights


def test_the_checkpoint_to_go_on_from_is_whole_and_has_steps_left(tmp_path):
    def checkpoint(step: int, text: str, without: str = "") -> Path:
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        for name in (
            "model.safetensors",
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
            "trainer_state.json",
        ):
            (path / name).write_text(text)
        if without:
            (path / without).unlink()
        return path

    def state(stopped: bool) -> str:
        return json.dumps(
            {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": stopped}}}}
        )

    assert resumable_checkpoint(tmp_path) is None
    good = checkpoint(8, state(False))
    checkpoint(9, state(False), without="model.safetensors")  # its deletion was cut short
    checkpoint(10, state(False)[:40])
    checkpoint(11, state(False), without="trainer_state.json")
    checkpoint(12, state(True))
    assert resumable_checkpoint(tmp_path) == str(good)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


def test_a_checkpoint_of_several_weight_files_needs_all_of_them(tmp_path):
    path = tmp_path / "checkpoint-8"
    path.mkdir()
    control = {"TrainerControl": {"args": {"should_training_stop": False}}}
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (path / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": control}))
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        "model-1.safetensors",
        "model-2.safetensors",
    ):
        (path / name).touch()
    assert resumable_checkpoint(tmp_path) == str(path)
    (path / "model-2.safetensors").unlink()
    assert resumable_checkpoint(tmp_path) is None


def test_a_second_process_in_the_same_folder_is_refused(arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    process = start(arguments("run", folder))
    try:
        wait_for(folder / ".lock", process)
        time.sleep(0.1)  # the lock is taken just after its file is made
        assert main(["run", "--output", str(folder)]) == 1
    finally:
        process.kill()
        process.communicate()
    assert (
        f"another process works in {folder}; wait until it ends, or choose another" in capsys.readouterr().err
    )


# refusals ------------------------------------------------------------------------------------------------


def test_another_recipe_is_refused_with_what_differs(copied, capsys):
    folder = copied()
    assert main(["run", "--output", str(folder), "--pairs.noise", "shared", "--seed", "1"]) == 1
    said = capsys.readouterr().err
    assert (
        "was made with another recipe: pairs.noise was 'independent', is 'shared'; seed was 0, is 1." in said
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("direction_vectors.safetensors", "is truncated or not a safetensors file"),
        ("direction_vector_config.json", "direction_vector_config.json"),
    ],
)
def test_truncated_directions_in_a_run_are_named(copied, capsys, name, message):
    folder = copied("stages/pairs.json", "pairs")
    damaged = folder / "tuned" / name
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert main(["pairs", "--output", str(folder)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert str(folder / "tuned") in said
    assert not (folder / "pairs").exists()


def test_a_base_model_is_told_which_settings_it_needs(arguments, base_model, tmp_path, capsys):
    assert main(arguments("run", tmp_path / "run", model=base_model)) == 1
    said = capsys.readouterr().err
    assert (
        f"{base_model} has no chat template, so it cannot be asked for instructions of its own; set " in said
    )
    assert "extraction.instructions and synthesis.instructions to a JSONL file or Hub dataset" in said


def test_a_base_model_aligns_on_given_instructions(arguments, base_model, tmp_path):
    given = tmp_path / "given.jsonl"
    given.write_text("".join(json.dumps({"instruction": f"Name {word}"}) + "\n" for word in "abcdefghij"))
    flags = {"extraction__instructions": given, "synthesis__instructions": given}
    assert main(arguments("run", tmp_path / "run", model=base_model, **flags)) == 0
    row = json.loads((tmp_path / "run" / "pairs" / "00000.jsonl").read_text().splitlines()[0])
    assert isinstance(row["chosen"], str)
    assert figures(tmp_path / "run")["instructions"]["raw"] == 10


@pytest.fixture(scope="module")
def base_model(tiny_llama_dir, tmp_path_factory) -> Path:
    """Folder of the tiny model with a tokenizer that has no chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tiny_llama_dir, folder, ignore=shutil.ignore_patterns("chat_template*", "tokenizer*"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def test_strengths_that_break_the_text_are_reported_in_the_log_and_the_report(copied, caplog):
    folder = copied(
        "stages/pairs.json", "stages/train.json", "stages/evaluate.json", "pairs", "model", "training"
    )
    record = folder / "tuned" / "direction_vector_config.json"
    config = json.loads(record.read_text())
    for strengths in config["strengths"].values():
        strengths.update(positive=0.01, negative=-80.0, maximum=None)
    record.write_text(json.dumps(config))
    with caplog.at_level("WARNING"):
        main(["pairs", "--output", str(folder)])
    text = "The rejected side's strength breaks the text: "
    assert text in caplog.text
    assert "Lower that strength, or tune the directions." in caplog.text


def test_instructions_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.jsonl with instructions"):
        read_instructions(str(tmp_path / "none.jsonl"), "instruction")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": ""}, "holds no instruction in column 'instruction'"),
        ({"text": "hi"}, "has no column"),
    ],
)
def test_an_empty_instruction_set_is_a_sentence(tmp_path, row, message):
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        read_instructions(str(path), "instruction")


def test_given_instructions_lose_repetitions_and_held_out_prompts():
    rows = given_rows(["a", "b", "a", "c"], 10, 0, ["c"])
    assert sorted(row["prompt"] for row in rows) == ["a", "b"]
    assert len(given_rows(["a", "b", "c"], 2, 0, [])) == 2
    with pytest.raises(ValueError, match="all of 1 instructions are held-out prompts; give others"):
        given_rows(["a"], 3, 0, ["a"])


# a full disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Factory for a real file system of so many kilobytes; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()

    def build(kilobytes: int) -> Path:
        option = "remount,size" if os.path.ismount(place) else "size"
        command = ["mount", "-t", "tmpfs", "-o", f"{option}={kilobytes}k", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a small file system here")
        return place

    yield build
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_in_training_is_a_sentence_and_nothing_is_lost(finished, copied, small_disk, capsys):
    source = copied(
        "stages/train.json", "stages/evaluate.json", "model", "training", "report.json", "pictures"
    )
    folder = small_disk(2000) / "run"
    shutil.copytree(source, folder)
    assert main(["run", "--output", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert f"finished work is in {folder}, the same command goes on" in said
    assert "Traceback" not in said
    small_disk(100_000)
    assert main(["run", "--output", str(folder)]) == 0
    assert_same_result(folder, finished)


def test_a_file_that_cannot_be_written_is_a_sentence_and_leaves_no_debris(copied):
    folder = copied("stages/synthesize.json", "instructions/raw.jsonl")
    code = (
        "import resource, sys\n"
        "from hf_icon2.cli import main\n"
        "import torch, datasets, transformers\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # bytes: what a quota does\n"
        f"sys.exit(main(['synthesize', '--output', {str(folder)!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr
    assert "error: [Errno 27] File too large" in result.stderr
    assert "the same command goes on" in result.stderr
    assert sorted(path.name for path in (folder / "instructions").iterdir()) == ["kept.jsonl"]


# parts ---------------------------------------------------------------------------------------------------


def test_pairs_of_one_instruction_stay_on_one_side_of_the_split():
    def row(prompt: int, draw: int) -> dict:
        return {"prompt": [{"role": "user", "content": f"question {prompt}"}], "id": f"{prompt}/{draw}"}

    pairs = Dataset.from_list([row(prompt, draw) for prompt in range(200) for draw in range(3)])
    train, held_out = split_by_instruction(pairs, 0.2, seed=0)
    sides = [{name.partition("/")[0] for name in side["id"]} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held_out) == 600
    assert 0.1 < len(held_out) / 600 < 0.3  # 200 draws at 0.2: standard error 0.03
    assert split_by_instruction(pairs, 0.2, seed=1)[1]["id"] != held_out["id"]
    assert len(split_by_instruction(pairs, 0.0, seed=0)[1]) == 0


def test_rows_of_a_folder_survive_as_they_were(tmp_path):
    folder = RunFolder.open(tmp_path / "run", Recipe())
    rows = [{"text": "ü | \n “x”", "number": 1.5}, {"text": "", "number": -2.0}]
    folder.write_rows("deep/rows.jsonl", rows)
    assert list(folder.read_rows("deep/rows.jsonl")) == rows


def test_a_folder_whose_first_file_was_cut_short_can_be_begun_again(tmp_path):
    (tmp_path / ".recipe.json.abc123").write_text("{")
    assert RunFolder.open(tmp_path, Recipe()).figures("extract") is None
