"""Files of answers for official tools: their keys, their counts, read back, and scored by the real alpaca_eval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_icon2.evaluation.writers import markdown_counts, write_alpaca_eval, write_arena_hard, write_mt_bench
from hf_icon2.judges.answer_files import matched, read_answers

PROMPTS = ["What is the capital of France?", "Sort a list.\nIn Python.", "Say «ça va» \u2028 twice."]
ANSWERS = ["Paris.", "# Sorting\n\n1. Call **sorted**.\n```\n- no item\n```\n", "ça va, ça va"]


def test_alpaca_eval_answers_are_one_list_of_its_four_keys(tmp_path):
    path = write_alpaca_eval(
        tmp_path / "outputs.json", PROMPTS, ANSWERS, generator="ours", datasets=["a", "b", "c"]
    )
    rows = json.loads(path.read_text())
    assert [list(row) for row in rows] == [["instruction", "output", "generator", "dataset"]] * 3
    assert [row["output"] for row in rows] == ANSWERS
    assert {row["generator"] for row in rows} == {"ours"}
    assert [row.text for row in read_answers(path)] == ANSWERS
    assert [row.prompt for row in read_answers(path)] == PROMPTS


def test_arena_hard_2_answers_have_the_shape_of_its_own_files(tmp_path):
    """The keys and their nesting are those of data/arena-hard-v2.0/model_answer/sky-t1-32b.jsonl."""
    path = write_arena_hard(
        tmp_path / "ours.jsonl",
        ["u1", "u2", "u3"],
        PROMPTS,
        ANSWERS,
        model="ours",
        token_lengths=[2, 14, 6],
        written_at=1745605748.5,
    )
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert rows[1] == {
        "uid": "u2",
        "ans_id": rows[1]["ans_id"],
        "model": "ours",
        "messages": [
            {"role": "user", "content": PROMPTS[1]},
            {"role": "assistant", "content": {"answer": ANSWERS[1]}},
        ],
        "tstamp": 1745605748.5,
        "metadata": {
            "token_len": 14,
            "header_count": {"h1": 1, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
            "list_count": {"ordered": 1, "unordered": 0},
            "bold_count": {"**": 1, "__": 0},
        },
    }
    assert [len(row["ans_id"]) for row in rows] == [22] * 3
    assert len({row["ans_id"] for row in rows}) == 3


def test_arena_hard_01_answers_have_the_shape_of_its_own_files(tmp_path):
    """The keys of data/arena-hard-v0.1/model_answer/gpt-4-0613.jsonl, and the later `conv_metadata`."""
    path = write_arena_hard(
        tmp_path / "ours.jsonl",
        ["q1"],
        PROMPTS[:1],
        ANSWERS[:1],
        model="ours",
        token_lengths=[2],
        version="v0.1",
    )
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(row)[:5] == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert row["choices"] == [{"index": 0, "turns": [{"content": "Paris.", "token_len": 2}]}]
    assert row["conv_metadata"]["token_len"] == 2


@pytest.mark.parametrize("version", ["v2.0", "v0.1"])
def test_arena_hard_answers_are_read_by_our_judges_too(version, tmp_path):
    names = ["u1", "u2", "u3"]
    paths = [
        write_arena_hard(
            tmp_path / f"{model}.jsonl",
            names,
            PROMPTS,
            texts,
            model=model,
            token_lengths=[1] * 3,
            version=version,
        )
        for model, texts in (("one", ANSWERS), ("other", ANSWERS[::-1]))
    ]
    rows = matched(*map(read_answers, paths)).rows
    assert [row.name for row in rows] == names
    assert [row.first for row in rows] == ANSWERS
    assert [row.second for row in rows] == ANSWERS[::-1]


def test_mt_bench_answers_have_the_shape_of_fastchats_files(tmp_path):
    path = write_mt_bench(
        tmp_path / "ours.jsonl", [81, 82], [["a", "b"], ["c", "d"]], model="ours", written_at=1.0
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[1] == {
        "question_id": 82,
        "answer_id": rows[1]["answer_id"],
        "model_id": "ours",
        "choices": [{"index": 0, "turns": ["c", "d"]}],
        "tstamp": 1.0,
    }


def test_the_same_answers_make_the_same_file_at_the_same_time(tmp_path):
    texts = [
        write_mt_bench(tmp_path / name, [1], [["a", "b"]], model="m", written_at=0.0).read_bytes()
        for name in ("one", "two")
    ]
    assert texts[0] == texts[1]


def test_markdown_is_counted_outside_of_code():
    """By hand: two headers (the third has no space), three ordered and two unordered items, two bold runs."""
    text = (
        "# One\n### Three\n#no\n1. a\n 2. b\n10. c\n- d\n  * e\n**bold** and __bold__ and ** open\n"
        "```python\n# comment\n- item\n**x**\n```\n"
    )
    counts = markdown_counts(text)
    assert counts["header_count"] == {"h1": 1, "h2": 0, "h3": 1, "h4": 0, "h5": 0, "h6": 0}
    assert counts["list_count"] == {"ordered": 3, "unordered": 2}
    assert counts["bold_count"] == {"**": 1, "__": 1}


def test_what_could_not_be_scored_is_not_written(tmp_path):
    path = tmp_path / "answers.json"
    with pytest.raises(ValueError, match="1 answers and 2 instructions"):
        write_alpaca_eval(path, ["a", "b"], ["c"], generator="ours")
    with pytest.raises(ValueError, match="there are no answers"):
        write_alpaca_eval(path, [], [], generator="ours")
    with pytest.raises(ValueError, match="'u' is answered twice"):
        write_arena_hard(path, ["u", "u"], ["a", "b"], ["c", "d"], model="m", token_lengths=[1, 1])
    with pytest.raises(ValueError, match="allowed: 'v2.0' and 'v0.1'"):
        write_arena_hard(path, ["u"], ["a"], ["c"], model="m", token_lengths=[1], version="3")
    assert list(tmp_path.iterdir()) == []


OFFICIAL = """
import json, sys
from alpaca_eval import evaluate

board, annotations = evaluate(
    model_outputs=sys.argv[1], reference_outputs=sys.argv[2], annotators_config=sys.argv[3],
    fn_metric="get_winrate", sort_by="win_rate", precomputed_leaderboard=None, is_return_instead_of_print=True,
    output_path=None, annotation_kwargs={}, is_randomize_output_order=False, caching_path=None,
)
print(json.dumps({"names": list(board.index), **board.iloc[0][["win_rate", "n_total", "avg_length"]].to_dict()}))
"""
FIRST_SEAT_WINS = """
first_seat:
  prompt_template: "{folder}/prompt.txt"
  fn_completions: "test_completions"
  completions_kwargs: {{value: "Output (a)"}}
  completion_parser_kwargs:
    outputs_to_match: {{1: 'Output \\(a\\)', 2: 'Output \\(b\\)'}}
  batch_size: 1
"""
PROMPT = "<|im_start|>user\n{instruction}\nOutput (a): {output_1}\nOutput (b): {output_2}<|im_end|>\n"


@pytest.mark.slow
def test_the_real_alpaca_eval_scores_our_files(tmp_path):
    """Its stub decoder always prefers the reference, shown first; one of three answers equals the reference's,
    which is a tie: 100 * 0.5 / 3. Lengths are 6, 49 and 12 characters."""
    python = os.environ.get("HF_ICON2_ALPACA_EVAL_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import alpaca_eval"], capture_output=True, check=False).returncode:
        pytest.skip(
            "alpaca_eval is not installed; set HF_ICON2_ALPACA_EVAL_PYTHON to the Python of an environment with it"
        )
    ours = write_alpaca_eval(tmp_path / "ours.json", PROMPTS, ANSWERS, generator="ours")
    reference = write_alpaca_eval(
        tmp_path / "reference.json", PROMPTS, [ANSWERS[0], "x", "y"], generator="baseline"
    )
    folder = tmp_path / "first_seat"
    folder.mkdir()
    (folder / "prompt.txt").write_text(PROMPT)
    (folder / "configs.yaml").write_text(FIRST_SEAT_WINS.format(folder=folder))
    done = subprocess.run(
        [python, "-c", OFFICIAL, str(ours), str(reference), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["names"] == ["ours"]
    assert found["n_total"] == 3
    assert found["win_rate"] == pytest.approx(100 * 0.5 / 3, abs=1e-9)
    assert found["avg_length"] == 22


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    write_mt_bench(path, [1], [["a", "b"]], model="m", written_at=0.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write_mt_bench(path, [1], [["\ud800", "b"]], model="m")
    assert path.read_bytes() == before
    assert [item.name for item in Path(tmp_path).iterdir()] == ["answers.jsonl"]
