"""`hf-icon2 answer` and `hf-icon2 mt-bench`: prompts in, answers in every format, grades and duels out."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from faulty_server import FaultyServer

from hf_icon2.cli import main
from hf_icon2.evaluation.mt_bench import read_replies
from hf_icon2.judges.answer_files import read_answers
from hf_icon2.prompts import as_messages
from hf_icon2.toy.world import instructions

PROMPTS = [item.text for item in instructions("test")[::30][:3]]
SHORT = ["--max_new_tokens", "6", "--temperature", "0"]


def done(capsys, *argv):
    status = main([str(part) for part in argv])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def refused(capsys, *argv):
    assert main([str(part) for part in argv]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err.rstrip().rpartition("\n")[2]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"uid": f"u{n}", "category": "c", "prompt": text} for n, text in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def turns(tmp_path):
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 81 + n, "category": "math", "turns": [text, "Why?"]} for n, text in enumerate(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "alpaca-eval", "arena-hard", "arena-hard-v0.1"])
def test_every_format_holds_the_same_answers_and_is_read_back(kind, prompts, tmp_path, capsys):
    output = tmp_path / "ours.json"
    said = done(capsys, "answer", "toy", "--prompts", prompts, "--format", kind, "--output", output, *SHORT)
    plain = tmp_path / "plain.jsonl"
    done(capsys, "answer", "toy", "--prompts", prompts, "--output", plain, *SHORT)
    found, expected = read_answers(output), read_answers(plain)
    assert [row.text for row in found] == [row.text for row in expected]
    assert [as_messages(row.prompt)[0]["content"] for row in found] == PROMPTS
    assert len({row.text for row in found}) > 1
    assert re.match(r"wrote 3 answers of \w+ to .*; \d were cut at 6 tokens, 0 are empty\nuse: ", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ours.json",
        "plain.jsonl",
        "questions.jsonl",
    ]


def test_mt_bench_is_answered_graded_and_compared(turns, tmp_path, capsys):
    """The judge gives [[4]] to first turns and [[8]] to second ones, 6 on average, and always prefers our file."""
    output = tmp_path / "ours.jsonl"
    argv = ["--prompts", turns, "--format", "mt-bench", "--output", output, "--max_new_tokens", "6"]
    said = done(capsys, "answer", "toy", *argv)
    assert "wrote 6 answers of ours" in said
    ours = read_replies(output)
    assert list(ours) == [81, 82, 83]
    other = tmp_path / "other.jsonl"
    rows = [
        {"question_id": name, "choices": [{"index": 0, "turns": ["zzz", "zzz"]}]} for name in (81, 82, 83)
    ]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judge(payload):
        text = payload["messages"][-1]["content"]
        if "grade" in text:
            return "[[8]]" if "Why?" in text else "[[4]]"
        return "B" if "zzz" in text.partition("Answer A:")[2].partition("Answer B:")[0] else "A"

    figures = tmp_path / "figures.json"
    with FaultyServer(judge) as server:
        asked = ["--questions", turns, "--endpoint", server.url]
        graded = done(capsys, "mt-bench", output, *asked, "--output", figures)
        duel = done(capsys, "mt-bench", output, other, *asked)
        assert len(server.seen) == 6 + 12
    assert re.search(r"mean grade +6\.000 \[", graded)
    assert re.search(r"turn 2 +8\.000 \[", graded)
    assert "18 requests sent" not in graded
    assert "6 requests sent" in graded
    assert json.loads(figures.read_text())["mean"]["value"] == 6.0
    assert re.search(r"wins, losses, abstained, failed +6, 0, 0, 0", duel)
    assert "warning" in duel  # the other file is one constant answer


def test_wrong_references_are_named_and_can_be_left_out(tmp_path, capsys):
    questions, answers, references = (tmp_path / f"{name}.jsonl" for name in ("q", "a", "r"))
    questions.write_text('{"question_id": 111, "category": "math", "turns": ["Area?"]}\n')
    answers.write_text('{"question_id": 111, "choices": [{"turns": ["3"]}]}\n')
    references.write_text('{"question_id": 111, "choices": [{"turns": ["It is 0."]}]}\n')
    with FaultyServer(lambda payload: "[[5]]") as server:
        argv = [answers, "--questions", questions, "--references", references, "--endpoint", server.url]
        assert "reference answers to 111 are wrong" in done(capsys, "mt-bench", *argv)
        assert "wrong" not in done(capsys, "mt-bench", *argv, "--skip_wrong_references")
        shown = [seen.payload["messages"][-1]["content"] for seen in server.seen]
    assert ["It is 0." in text for text in shown] == [True, False]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_answers(tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    texts = [item.text for item in instructions("test")[:24]]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    output, partial = tmp_path / "ours.jsonl", tmp_path / "ours.jsonl.partial"
    argv = ["answer", "toy", "--prompts", str(path), "--batch_size", "1", "--seed", "3", "--output"]
    child = subprocess.Popen(
        [sys.executable, "-m", "hf_icon2", *argv, str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    while not partial.exists() and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert partial.exists()
    assert not output.exists()
    kept = len(partial.read_text().splitlines()) - 1
    assert 0 < kept < 24
    assert "made with other settings (seed)" in refused(capsys, *argv, output, "--seed", "4")
    done(capsys, *argv, output)
    assert not partial.exists()
    whole = tmp_path / "whole.jsonl"
    done(capsys, *argv, whole)
    assert [row.text for row in read_answers(output)] == [row.text for row in read_answers(whole)]


def test_steered_answers_differ_from_plain_ones(tmp_path, prompts, capsys, tiny_llama_dir, tiny_llama):
    from conftest import build_directions

    folder = tmp_path / "directions"
    build_directions(tiny_llama).save_pretrained(folder)
    argv = ["answer", tiny_llama_dir, "--prompts", prompts, *SHORT, "--output"]
    done(capsys, *argv, tmp_path / "plain.jsonl")
    done(
        capsys,
        *argv,
        tmp_path / "steered.jsonl",
        "--directions",
        folder,
        "--steering",
        '{"honesty": 5}',
    )
    plain, steered = (read_answers(tmp_path / name) for name in ("plain.jsonl", "steered.jsonl"))
    assert [row.text for row in plain] != [row.text for row in steered]


def test_what_cannot_work_is_refused_before_the_model_is_loaded(prompts, turns, tmp_path, capsys):
    output = tmp_path / "ours.jsonl"
    argv = ["answer", "there/is-none", "--output", output, "--prompts"]
    assert "there is no file" in refused(capsys, *argv, tmp_path / "none.jsonl")
    assert "holds single texts" in refused(capsys, *argv, turns, "--format", "alpaca-eval")
    assert "--batch_size 0 is not allowed" in refused(capsys, *argv, prompts, "--batch_size", "0")
    assert "temperature must be 0" in refused(capsys, *argv, prompts, "--temperature", "-1")
    assert "belong together" in refused(capsys, *argv, prompts, "--steering", "{}")
    prompts.write_text(prompts.read_text() * 2)
    assert "the id 'u0' stands twice" in refused(capsys, *argv, prompts)
    output.write_text("")
    assert "exists; delete it" in refused(capsys, *argv, prompts)
    argv = ["mt-bench", output, "--questions", turns]
    assert "one judge is needed" in refused(capsys, *argv)
    assert "gives no grades" in refused(capsys, *argv, "--model", "toy")
    assert "holds no answers" in refused(capsys, *argv, "--endpoint", "http://127.0.0.1:9/v1")


def test_help_loads_no_torch():
    program = (
        "import sys\nfrom hf_icon2.cli import main\n"
        "for command in ('answer', 'mt-bench'):\n"
        "    try:\n        main([command, '--help'])\n    except SystemExit:\n        pass\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
