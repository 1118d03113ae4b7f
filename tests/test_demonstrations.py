"""The demonstrations of a black box: which agreements come in, which go, and files of hand-written ones."""

import json

import pytest

from hf_icon2.distillation.demonstrations import Agreed, DemonstrationPool, read_demonstrations
from hf_icon2.judges.verdicts import Demonstration


def agreed(question, share=1.0, margin=1.0, answers=("good", "bad")):
    return Agreed(Demonstration(question, answers), share, margin)


def questions(pool):
    return [one.question for one in pool.shown]


def test_the_fullest_agreements_come_in_first_and_of_those_the_surest():
    found = [agreed("a", 0.75, 9.0), agreed("b", 1.0, 0.1), agreed("c", 1.0, 0.3), agreed("d", 0.75, 8.0)]
    pool = DemonstrationPool(most=3).updated(found)
    assert questions(pool) == ["c", "b", "a"]
    assert DemonstrationPool(most=3).updated(reversed(found)) == pool


def test_an_older_one_goes_only_for_a_surer_one_and_static_ones_stay():
    static = Demonstration("by hand", ("x", "y"))
    pool = DemonstrationPool((static,), most=2).updated([agreed("a"), agreed("b", margin=0.5)])
    pool = pool.updated([agreed("c", margin=0.7), agreed("d", margin=0.4)])
    assert questions(pool) == ["by hand", "a", "c"]
    assert questions(pool.updated([agreed("e", 0.9, 5.0)])) == ["by hand", "a", "c"]
    assert questions(DemonstrationPool((static,), most=0).updated([agreed("a")])) == ["by hand"]


def test_a_question_is_shown_once():
    static = Demonstration("by hand", ("x", "y"))
    pool = DemonstrationPool((static,), most=4).updated(
        [agreed("a"), agreed("by hand"), agreed("b", margin=0.5)]
    )
    pool = pool.updated(
        [agreed("a", margin=2.0, answers=("better", "good")), agreed("a", 0.5), agreed("b", 0.5)]
    )
    assert questions(pool) == ["by hand", "a", "b"]
    assert pool.shown[1].answers == ("better", "good")
    assert pool.dynamic[1].share == 1.0


def test_a_pool_survives_its_file():
    pool = DemonstrationPool((Demonstration("ü", ("x", "y")),), most=2).updated([agreed("a")])
    assert DemonstrationPool.from_dict(json.loads(json.dumps(pool.to_dict()))) == pool


def test_demonstrations_are_read_from_a_file(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"question": "q", "answers": ["best", "worst"], "note": "by me"}\n')
    assert read_demonstrations(path) == (Demonstration("q", ("best", "worst")),)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q"},
        {"question": " ", "answers": ["a", "b"]},
        {"question": "q", "answers": "ab"},
        {"question": "q", "answers": ["a"]},
        {"question": "q", "answers": ["a", "a"]},
        {"question": "q", "answers": ["a", " "]},
        {"question": "q", "answers": ["a", 1]},
        ["q", "a", "b"],
    ],
)
def test_a_row_that_is_no_demonstration_is_named(row, tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"question": "q", "answers": ["a", "b"]}\n' + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*: a demonstration has a `question` and `answers`"):
        read_demonstrations(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_demonstrations(tmp_path / "none.jsonl")
