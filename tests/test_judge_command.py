"""`hf-icon2 judge`: two files in, a win rate and the verdicts out, over real HTTP and real files."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faulty_server import FaultyServer, completion
from transformers import LlamaConfig, LlamaForSequenceClassification

from hf_icon2 import RewardModel
from hf_icon2.cli import main
from hf_icon2.evaluation.win_rate import win_rate
from hf_icon2.judges.answer_files import matched, read_answers
from hf_icon2.judges.verdicts import Comparison
from hf_icon2.toy.answers import Behaviours, answer
from hf_icon2.toy.world import instructions

SHOWN = re.compile(
    r"Question:\n(.*)\n\nAnswer A:\n(.*)\n\nAnswer B:\n(.*)\n\nReply with the letter", re.DOTALL
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shown(payload):
    """Question, answer A and answer B of a request."""
    return SHOWN.search(payload["messages"][-1]["content"]).groups()


def longer(payload):
    _, first, second = shown(payload)
    return "Answer A is better." if len(first) > len(second) else "I prefer B."


@pytest.fixture
def sides(tmp_path):
    """Six prompts: the first side's answers are longer three times, shorter twice, and equal once."""
    first = ["long one", "long two", "long three", "a", "b", "same"]
    second = ["x", "y", "z", "longer one", "longer two", "same"]
    paths = [
        write(
            tmp_path / f"{name}.jsonl",
            [{"prompt": f"question {n}", "answer": text} for n, text in enumerate(texts)],
        )
        for name, texts in (("first", first), ("second", second))
    ]
    return [str(path) for path in paths]


def judged(capsys, *argv):
    """What a command prints; checks that it succeeds."""
    status = main(["judge", *argv])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def refused(capsys, *argv):
    assert main(["judge", *argv]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.rstrip().rpartition("\n")[2].startswith("error: ")
    return said.err


def test_help_loads_no_torch():
    program = (
        "import sys\nfrom hf_icon2.cli import main\n"
        "try:\n    main(['judge', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--endpoint_model" in done.stdout


def test_an_endpoint_judges_two_files_and_a_rerun_asks_nothing(sides, tmp_path, capsys):
    """Three wins, two losses, one tie of six: (3 + 1/2)/6."""
    output = tmp_path / "verdicts.jsonl"
    with FaultyServer(longer) as server:
        argv = [
            *sides,
            "--endpoint",
            server.url,
            "--output",
            str(output),
            "--cache",
            str(tmp_path / "cache.db"),
        ]
        said = judged(capsys, *argv)
        assert len(server.seen) == 10
        assert judged(capsys, *argv).splitlines()[:9] == said.splitlines()[:9]
        assert len(server.seen) == 10
    assert "6 pairs" in said
    assert "win rate of the first side            0.583 [" in said
    assert "wins, losses, abstained, failed       3, 2, 1, 0" in said
    assert "flip rate                             0.000" in said
    assert "decided for the longer answer         1.000" in said
    assert "10 requests sent" in said
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["winner"] for row in rows] == ["first"] * 3 + ["second"] * 2 + [None]
    assert rows[0] == {
        "id": "question 0",
        "prompt": "question 0",
        "first": "long one",
        "second": "x",
        "winner": "first",
        "forward": 1.0,
        "backward": 1.0,
        "reason": None,
    }


def test_two_columns_of_one_file_are_compared(tmp_path, capsys):
    rows = [{"prompt": f"q{n}", "before": "x", "after": "better" if n else ""} for n in range(4)]
    path = str(write(tmp_path / "evaluation.jsonl", rows))
    with FaultyServer(longer) as server:
        said = judged(
            capsys, path, path, "--answer_a", "after", "--answer_b", "before", "--endpoint", server.url
        )
    assert "wins, losses, abstained, failed       3, 1, 0, 0" in said
    assert "no length-controlled win rate: 4 prompts have a verdict; length control needs 5 or more" in said
    assert "warning: 75% of the first side's answers are one and the same" in said


def test_log_probabilities_give_a_mean_probability(sides, capsys):
    """The judge finds A better with 0.8 (of 0.9 of mass) where it is longer, with 0.2 where it is not."""

    def answer_with(payload):
        assert (payload["max_tokens"], payload["logprobs"]) == (1, True)
        _, first, second = shown(payload)
        sure, other = (-0.32850, -1.71480) if len(first) > len(second) else (-1.71480, -0.32850)
        return completion("A", alternatives={"A": sure, "B": other, "The": -2.3026})

    with FaultyServer(answer_with) as server:
        said = judged(capsys, *sides, "--endpoint", server.url, "--read", "logprobs")
    assert "wins, losses, abstained, failed       3, 2, 1, 0" in said
    mean = (3 * 0.8 + 2 * 0.2 + 0.5) / 6
    assert f"mean probability to win               {mean:.3f} [" in said


def test_log_probabilities_that_are_not_there_are_a_sentence(sides, capsys):
    with FaultyServer(lambda _: "A") as server:
        said = refused(capsys, *sides, "--endpoint", server.url, "--read", "logprobs")
    assert "no log-probabilities" in said
    assert "read='text'" in said


def test_a_judge_of_seats_is_found_out(sides, capsys):
    with FaultyServer(lambda _: "[[A]]") as server:
        said = judged(capsys, *sides, "--endpoint", server.url)
    assert "win rate of the first side            0.500 [" in said
    assert "flip rate                             1.000 [" in said  # of the five that are asked
    assert "position bias (first seat, minus 1/2) 0.500 [" in said


def test_replies_without_a_verdict_are_counted_and_left_out(sides, capsys):
    def sometimes(payload):
        return "Both are good." if "question 0" in shown(payload)[0] else longer(payload)

    with FaultyServer(sometimes) as server:
        said = judged(capsys, *sides, "--endpoint", server.url)
    assert "wins, losses, abstained, failed       2, 2, 1, 1" in said
    assert "win rate of the first side            0.500 [" in said
    assert "1 without a verdict: the reply names neither A nor B as the better: 'Both are good.'" in said
    with FaultyServer(lambda _: "Who knows?") as server:
        assert "no pair has a verdict: the reply names" in refused(capsys, *sides, "--endpoint", server.url)


def test_a_budget_ends_it_with_a_sentence_and_the_same_command_goes_on(sides, tmp_path, capsys):
    with FaultyServer(longer) as server:
        argv = [*sides, "--endpoint", server.url, "--cache", str(tmp_path / "cache.db"), "--concurrency", "1"]
        said = judged(capsys, *argv, "--budget_requests", "4")
        assert "wins, losses, abstained, failed       2, 0, 1, 3" in said
        assert "stopped early: the budget of 4 requests is spent" in said
        assert "the same command goes on" in said
        assert "3, 2, 1, 0" in judged(capsys, *argv, "--budget_requests", "20")
        assert len(server.seen) == 10


def test_an_endpoint_that_does_not_serve_chat_is_a_sentence(sides, capsys):
    with FaultyServer(longer) as server:
        said = refused(capsys, *sides, "--endpoint", server.url.replace("/v1", "/v2"))
    assert "no pair has a verdict: the endpoint answers with status 404" in said


def test_costs_are_counted_with_prices(sides, capsys):
    """Ten requests of 100 prompt and 10 reply tokens at $2 and $10 per million: 10 (200 + 100) / 1e6 = $0.003."""

    def priced(payload):
        return completion(longer(payload), prompt_tokens=100, completion_tokens=10)

    with FaultyServer(priced) as server:
        said = judged(capsys, *sides, "--endpoint", server.url, "--price_input", "2", "--price_output", "10")
        assert "$0.0030" in said
        assert "give both" in refused(capsys, *sides, "--endpoint", server.url, "--price_input", "2")


def test_the_bundled_model_judges_without_a_server(tmp_path, capsys):
    rng = random.Random(0)
    asked = [item for item in instructions("test")[:24]]
    good = write(
        tmp_path / "good.jsonl",
        [{"prompt": item.text, "answer": answer(item, Behaviours(), rng)} for item in asked],
    )
    bad = write(
        tmp_path / "bad.jsonl",
        [
            {"prompt": item.text, "answer": answer(item, Behaviours(False, False, False), rng)}
            for item in asked
        ],
    )
    said = judged(capsys, str(good), str(bad), "--model", "toy")
    rate = float(re.search(r"win rate of the first side +(\S+)", said)[1])
    assert rate > 0.8
    assert re.search(
        r"^length-controlled win rate 0\.\d+ \[.*\], without the difficulty of instructions", said, re.M
    )
    assert "requests" not in said


def test_a_reward_model_judges_two_files(sides, tmp_path, tiny_tokenizer, capsys):
    """Its own rewards, one by one, say who wins; orders cannot differ."""
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    config.update({"num_labels": 1, "pad_token_id": 0, "initializer_range": 0.5})
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    said = judged(capsys, *sides, "--reward", str(tmp_path))
    model = RewardModel.from_pretrained(str(tmp_path))
    rows = [[json.loads(line) for line in Path(side).read_text().splitlines()] for side in sides]
    first, second = (model([row["prompt"] for row in side], [row["answer"] for row in side]) for side in rows)
    wins = sum(one > other for one, other in zip(first[:5], second[:5], strict=True))
    assert f"wins, losses, abstained, failed       {wins}, {5 - wins}, 1, 0" in said
    assert "flip rate                             0.000" in said


def test_the_answers_are_never_overwritten(sides, capsys):
    before = [Path(path).read_bytes() for path in sides]
    for path in sides:
        assert "would replace the answers in it" in refused(
            capsys, *sides, "--model", "toy", "--output", path
        )
    assert [Path(path).read_bytes() for path in sides] == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "one judge is needed, given: none"),
        (["--model", "toy", "--reward", "x"], "given: --reward and --model"),
        (["--model", "toy", "--cache", "c.db"], "--cache is for --endpoint; leave it out with --model"),
        (["--model", "toy", "--read", "text"], "--read is for --endpoint"),
        (["--model", "toy", "--output", "no/such/folder/v.jsonl"], "in a folder that exists"),
        (["--endpoint", "ftp://x"], "the endpoint is no address"),
        (["--endpoint", "http://127.0.0.1:1/v1", "--budget_cost", "1"], "needs prices"),
        (
            ["--model", "toy", "--answer_a", "text"],
            "row 1 of .*first.jsonl cannot be used: it has no answer .text.",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(flags, said, sides, capsys):
    assert re.search(said, refused(capsys, *sides, *flags))


ROWS = {
    "ours": {"prompt": "q", "answer": "text"},
    "alpaca_eval": {"dataset": "koala", "instruction": "q", "output": "text", "generator": "m"},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "text"}]},
    "trl": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "text"}],
    },
    "response": {"question": "q", "response": "text"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_files_are_read_in_the_usual_layouts(kind, tmp_path):
    plain = read_answers(write(tmp_path / "plain.jsonl", [ROWS["ours"]]))
    (match,) = matched(plain, read_answers(write(tmp_path / "rows.jsonl", [ROWS[kind]]))).rows
    assert (match.name, match.first, match.second) == ("q", "text", "text")
    as_list = tmp_path / "rows.json"
    as_list.write_text(json.dumps([ROWS[kind]], indent=2))
    assert matched(plain, read_answers(as_list)).rows == [match]


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"prompt": "q", "answer": "a"}\n{"prompt": "r", "answer": "b"}\n',
        '\ufeff[{"prompt": "q", "answer": "a"},\n {"prompt": "r", "answer": "b"}]',
        '{"prompt": "q", "answer": "a"}\n\n  \n{"prompt": "r", "answer": "b"}\r\n\n',
    ],
)
def test_what_editors_leave_in_files_is_no_obstacle(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    assert [row.text for row in read_answers(path)] == ["a", "b"]


def test_an_alpaca_input_is_part_of_the_prompt(tmp_path):
    rows = [{"instruction": "Sum up.", "input": text, "output": "o"} for text in ("one", "two")]
    found = read_answers(write(tmp_path / "rows.jsonl", rows))
    assert [item.prompt for item in found] == ["Sum up.\n\none", "Sum up.\n\ntwo"]


def files(tmp_path, first, second):
    return read_answers(write(tmp_path / "1.jsonl", first)), read_answers(write(tmp_path / "2.jsonl", second))


def row(prompt, answer_, **more):
    return {"prompt": prompt, "answer": answer_, **more}


def test_rows_are_joined_by_id_where_all_have_one_else_by_prompt(tmp_path):
    same = files(
        tmp_path, [row("q", "a", id=1), row("q", "b", id=2)], [row("q", "c", id=2), row("q", "d", id="1")]
    )
    assert [(item.first, item.second) for item in matched(*same).rows] == [("a", "d"), ("b", "c")]
    mixed = files(tmp_path, [row("q", "a", id=1), row("r", "b")], [row("r", "c", id=1), row("s", "d")])
    found = matched(*mixed)
    assert [(item.name, item.first, item.second) for item in found.rows] == [("r", "b", "c")]
    assert (found.only_first, found.only_second) == (1, 1)


def test_answers_to_the_same_prompt_are_joined_in_their_order(tmp_path):
    found = matched(
        *files(tmp_path, [row("q", "a"), row("r", "b"), row("q", "c")], [row("q", "d"), row("q", "e")])
    )
    assert [(item.first, item.second) for item in found.rows] == [("a", "d"), ("c", "e")]
    assert (found.only_first, found.only_second) == (1, 0)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            [row("q", "a", id=1), row("r", "b", id=1)],
            [row("q", "c", id=1)],
            "the id '1' stands twice in the first file, the second time in row 2",
        ),
        ([row("q", "a", id=1)], [row("r", "b", id=1)], "the id '1' belongs to different prompts"),
        ([row("q", "a")], [row("r", "b")], "no prompt is in both files"),
        ([row("q", "a", id=1)], [row("q", "b", id=2)], "no id is in both files; try to join by prompt"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(first, second, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        matched(*files(tmp_path, first, second))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no answers"),
        ("not json\n", "line 1 of .* is not JSON"),
        ("[1, 2", "is not JSON"),
        ("[1]", "row 1 of .* cannot be used: it is 1, not an object of prompt and answer"),
        ('{"prompt": "q", "answer": 5}', "row 1 of .*: its answer is 5; allowed: text"),
        ('{"prompt": "q", "answer": ["a", "b"]}', r"row 1 of .*: its answer is \['a', 'b'\]; allowed: text"),
        ('{"prompt": "q"}\n', "row 1 .* it has no answer"),
        ('{"prompt": "", "answer": "a"}\n', "row 1 .* an instruction is empty"),
        ('{"prompt": "q", "answer": null}\n', "row 1 .* it has no answer"),
        ('{"prompt": "q", "answer": "\\ud800"}\n', "row 1 .* surrogates not allowed"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n', "row 1 .* cannot be used"),
    ],
)
def test_files_that_cannot_be_used_are_named(text, said, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_answers(path)


def test_a_side_of_one_answer_and_a_much_longer_side_are_warned_of():
    found = win_rate(
        [Comparison(1.0, 1.0)] * 4, ["the same long answer"] * 3 + ["other"], ["a", "b", "c", "c"]
    )
    assert found.first.commonest == 0.75
    assert found.first.duplicates == 0.75
    assert found.second.duplicates == 0.5
    assert found.second.mean_length == 1
    assert [text.split(";")[0] for text in found.warnings] == [
        "75% of the first side's answers are one and the same ('the same long answer')",
        "50% of the second side's answers are given to several prompts",
        "the first side's answers are much longer (16.2 times as long on average)",
    ]
    fair = win_rate([Comparison(1.0, 1.0)], ["one"], ["two"])
    assert fair.warnings == []
    assert fair.probability is None
