"""The examples run as their readers run them: on files in a folder, offline, only smaller."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_icon2 import DirectionVectors
from hf_icon2.directions.extraction import fingerprint

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run_example(monkeypatch, capsys):
    """Runs an example's `main` with the given command line and returns what it printed."""

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_is_at_most_80_lines_long(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_directions_come_from_any_instruction_file_and_any_model_folder(
    run_example, data_dir, tiny_llama_dir, tmp_path
):
    source = data_dir / "self_instruct" / "seed_tasks.jsonl"
    arguments = ("--limit", 24, "--batch-size", 8, "--output", tmp_path / "directions")
    printed = run_example("extract_any", tiny_llama_dir, source, *arguments)

    directions = DirectionVectors.from_pretrained(tmp_path / "directions")
    assert directions.names == ("general", "honesty", "harmlessness", "helpfulness")
    assert directions.tensor.shape == (4, 4, 64)
    assert directions.config.instructions["number"] == 24
    instructions = [
        json.loads(line)["instruction"] for line in source.read_text(encoding="utf-8").splitlines()
    ]
    assert directions.config.instructions["fingerprint"] == fingerprint(instructions[:24])
    for name in directions.names:
        rows = [line.split() for line in printed.splitlines() if line.startswith(f"{name} ")]
        evidence = directions.config.evidence[name]
        columns = [evidence[key] for key in ("held_out_accuracy", "random_accuracy", "split_half_cosine")]
        expected = [[f"{value:.2f}" for value in values] for values in zip(*columns, strict=True)]
        assert [row[2:5] for row in rows[:4]] == expected
        assert len(rows) == 5  # four layers, and the cosines with the other criteria


def test_an_instruction_file_without_a_known_column_is_refused_with_its_columns(
    run_example, tiny_llama_dir, tmp_path
):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"task": f"Say {word}."}) + "\n" for word in ("one", "two", "three")))
    with pytest.raises(SystemExit, match=r"has the columns \['task'\]; choose one with --column"):
        run_example("extract_any", tiny_llama_dir, path)
    printed = run_example(
        "extract_any", tiny_llama_dir, path, "--column", "task", "--output", tmp_path / "out"
    )
    assert "3 instructions" in printed


def test_the_share_of_happy_words_follows_the_strength(run_example, data_dir):
    printed = run_example("stories_happy_sad", data_dir / "stories260k", "--continuations", 100)
    rows = [line.split() for line in printed.splitlines()[1:]]
    share = {float(row[0]): float(row[1]) for row in rows}
    assert sorted(share) == [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
    # 100 stories are few: neighbours may change places by chance, twice the strength may not
    assert share[-2.0] < share[-0.5] < share[0.5] < share[2.0]
    assert share[-1.0] < share[0.0] < share[1.0]
    assert share[2.0] - share[-2.0] > 0.4


def test_the_training_script_runs_under_accelerate_launch(tiny_llama_dir, tmp_path):
    pairs = [
        {
            "prompt": [{"role": "user", "content": f"What is number {index}?"}],
            "chosen": [{"role": "assistant", "content": f"It is {index}."}],
            "rejected": [{"role": "assistant", "content": "No idea."}],
        }
        for index in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    flags = {
        "model_name_or_path": tiny_llama_dir,
        "dataset_name": tmp_path / "pairs.jsonl",
        "output_dir": tmp_path / "out",
        "eval_split": 0.25,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command = [*launch, EXAMPLES / "train_icon2_dpo.py"]
    command += [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"saved to {tmp_path / 'out'}" in done.stdout
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: nothing learnt yet
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "teacher", "method"),
    [
        ("train_pad", False, "preference-aligned distillation"),
        ("train_pad", True, "preference-aligned distillation"),
        ("train_cyclealign", False, "(CycleAlign)"),
        ("train_minds_mirror", False, "(Mind's Mirror)"),
    ],
)
def test_the_distillation_scripts_take_scores_or_a_teacher(
    run_example, tiny_llama_dir, tmp_path, name, teacher, method
):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is number {index}?"}],
            "responses": [
                [{"role": "assistant", "content": f"{index} {word}"}] for word in ("a", "bc", "def")
            ],
            "label": str(index),
            "rationale": f"It is called {index}.",
        }
        | ({} if teacher else {"scores": [0.1, -0.2, 0.3]})
        for index in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model_name_or_path": tiny_llama_dir,
        "dataset_name": tmp_path / "rows.jsonl",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        **({"teacher": tiny_llama_dir} if teacher else {}),
    }
    printed = run_example(name, *(text for key, value in flags.items() for text in (f"--{key}", value)))
    assert f"saved to {tmp_path / 'out'}" in printed
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert method in (tmp_path / "out" / "README.md").read_text()


def test_the_distilled_student_answers_better(run_example, tmp_path):
    printed = run_example(
        "distil_a_student", "--prompts", 160, "--epochs", 3, "--output", tmp_path / "student"
    )
    before, after = (float(line.split()[-1]) for line in printed.splitlines() if ": 0." in line)
    assert after > before + 0.05
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_every_way_to_steer_gives_the_same_answer(run_example):
    printed = run_example("steer_and_generate")
    answer = dict((line[:18].strip(), line[19:]) for line in printed.splitlines())
    plain, steered, per_row = answer["plain"], answer["generate"], answer["per row (+, -, 0)"].split(" | ")
    assert answer["custom_generate"] == steered == per_row[0]
    assert answer["with steer(...)"] == per_row[1]
    assert plain == per_row[2]
    assert per_row[0] != per_row[1]
