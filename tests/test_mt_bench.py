"""MT-Bench: two turns with one's own first reply in context, grades over real HTTP, and duels in both orders."""

import math
import re

import pytest
import torch
from faulty_server import FaultyServer, completion

from hf_icon2 import ChatClient, PairwiseJudge
from hf_icon2.evaluation.answering import answer_prompts
from hf_icon2.evaluation.dialogues import Question, Replies, answer_turns, read_questions
from hf_icon2.evaluation.mt_bench import (
    TEMPERATURES,
    WRONG_REFERENCES,
    compare,
    grade,
    read_replies,
    without_wrong,
)
from hf_icon2.evaluation.writers import write_mt_bench
from hf_icon2.judges.rating import ChatRater, Rating, RewardRater, rating_prompt, stated_rating
from hf_icon2.judges.reward_judge import RewardJudge
from hf_icon2.prompts import decode_answer, encode_prompt
from hf_icon2.steering.decoding import Sampling

GREEDY = Sampling(max_new_tokens=10, temperature=0)
QUESTIONS = [
    Question(81, ("Write a line.", "Now rhyme it."), "writing"),
    Question(111, ("What is 1 + 1?", "And 2 + 2?"), "math"),
    Question(112, ("What is 3 + 3?", "And 4 + 4?"), "math"),
]
ANSWERS = {
    81: Replies(("A line.", "A vine."), (3, 3), ("stop", "stop")),
    111: Replies(("2", "4"), (1, 1), ("stop", "length")),
    112: Replies(("6", "9"), (1, 1), ("stop", "stop")),
}
OTHERS = {
    name: Replies(tuple(f"{text} Surely." for text in replies.texts)) for name, replies in ANSWERS.items()
}


class Grader:
    """Gives grades by the answer; keeps what it was asked."""

    scale = (1.0, 10.0)

    def __init__(self, grades):
        self.grades = grades

    def __call__(self, prompts, answers, *, references=None, progress=None):
        self.prompts, self.references = prompts, references
        return [
            Rating(None, "no grade: x") if self.grades[text] is None else Rating(self.grades[text])
            for text in answers
        ]


def test_the_second_turn_is_answered_after_the_models_own_first_reply(toy_assistant, toy_tokenizer):
    (replies,) = answer_turns(
        toy_assistant,
        toy_tokenizer,
        [Question("q", ("What colour is the sky?", "Why?"))],
        sampling=GREEDY,
    )
    said = [
        {"role": "user", "content": "What colour is the sky?"},
        {"role": "assistant", "content": replies.texts[0]},
        {"role": "user", "content": "Why?"},
    ]
    ids = torch.tensor([encode_prompt(toy_tokenizer, said)])
    output = toy_assistant.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=10,
        pad_token_id=toy_tokenizer.pad_token_id,
    )
    assert replies.texts[1] == decode_answer(toy_tokenizer, output[0, ids.shape[1] :].tolist())
    assert len(replies.tokens) == len(replies.finish_reasons) == 2


def test_each_category_is_answered_at_its_own_temperature(tiny_llama, tiny_tokenizer):
    hot = Sampling(max_new_tokens=12, temperature=0.7)
    found = answer_turns(tiny_llama, tiny_tokenizer, QUESTIONS, sampling=hot, temperatures=TEMPERATURES)
    again = answer_turns(
        tiny_llama, tiny_tokenizer, QUESTIONS, sampling=hot, temperatures=TEMPERATURES, seed=1
    )
    assert found[0].texts[0] != again[0].texts[0]  # writing is sampled
    assert found[1:] == again[1:]  # mathematics is not
    alone = answer_prompts(
        tiny_llama, tiny_tokenizer, [QUESTIONS[0].turns[0]], sampling=hot, names=[str(QUESTIONS[0].name)]
    )
    assert found[0].texts[0] == alone[0]


def test_a_second_turn_without_a_chat_template_is_refused_before_the_first(tiny_llama, toy_tokenizer):
    import copy

    plain = copy.deepcopy(toy_tokenizer)
    plain.chat_template = None
    with pytest.raises(ValueError, match="a second turn needs a chat template"):
        answer_turns(tiny_llama, plain, QUESTIONS, sampling=GREEDY)


def test_means_weigh_every_graded_turn_alike_and_what_has_no_grade_is_dropped():
    """First turns 8, 10, 6: mean 8. Second turns 4, 2 and none: 3. All: 30/5 = 6. Mathematics: (10 + 2 + 6)/3 = 6."""
    grader = Grader({"A line.": 8.0, "A vine.": 4.0, "2": 10.0, "4": 2.0, "6": 6.0, "9": None})
    found = grade(QUESTIONS, ANSWERS, grader)
    assert found.mean.value == pytest.approx(6.0)
    assert [turn.value for turn in found.turns] == pytest.approx([8.0, 3.0])
    assert {name: mean.value for name, mean in found.categories.items()} == pytest.approx(
        {"writing": 6.0, "math": 6.0}
    )
    assert (found.graded, found.failed, found.cut) == (5, 1, 1)
    assert found.reasons == {"no grade: x": 1}
    assert 1 <= found.mean.low < 6 < found.mean.high <= 10
    assert "1 without a grade: no grade: x" in str(found)
    assert found.to_dict()["turns"][0]["value"] == pytest.approx(8.0)


def test_the_unit_of_the_interval_is_the_question():
    """Both turns of a question always get the same grade, so a second turn tells nothing new: the interval is that of
    the first turns alone."""
    questions = [Question(n, (f"first {n}", f"second {n}")) for n in range(40)]
    answers = {n: Replies((f"{n % 7}.0", f"{n % 7}.0")) for n in range(40)}
    grader = Grader({f"{score}.0": 2.0 + score for score in range(7)})
    both = grade(questions, answers, grader)
    first = grade([Question(n, (f"first {n}",)) for n in range(40)], answers, grader)
    assert both.mean == pytest.approx(first.mean)
    assert both.mean.high - both.mean.low > 0.5


def test_references_are_shown_up_to_the_turn_and_only_where_given():
    grader = Grader(dict.fromkeys(["A line.", "A vine.", "2", "4", "6", "9"], 5.0))
    grade(QUESTIONS, ANSWERS, grader, references={112: Replies(("six", "eight"))})
    assert grader.references == [None, None, None, None, ("six",), ("six", "eight")]
    assert grader.prompts[0] == "Write a line."
    assert grader.prompts[1] == [
        {"role": "user", "content": "Write a line."},
        {"role": "assistant", "content": "A line."},
        {"role": "user", "content": "Now rhyme it."},
    ]


def test_a_chat_model_grades_over_http_and_unclear_replies_are_counted():
    """Second turns are seen with the first reply; "9" gets two grades and the vine a reply that is cut."""
    seen = []

    def answer(payload):
        text = payload["messages"][-1]["content"]
        seen.append(text)
        graded = re.search(r"The answer to grade:\n(.*?)\n\n", text).group(1)
        if graded == "A vine.":
            return completion("It is good, but", finish_reason="length")
        return {"9": "[[8]] or rather [[3]]", "4": "Right. Rating: [[10]]"}.get(graded, "So-so. [[5]]")

    with FaultyServer(answer) as server:
        found = grade(
            QUESTIONS, ANSWERS, ChatRater(ChatClient(server.url)), references={111: Replies(("two", "four"))}
        )
    assert (found.graded, found.failed) == (4, 2)
    assert found.mean.value == pytest.approx((5 + 5 + 10 + 5) / 4)
    assert sorted(found.reasons) == [
        "the reply has no single grade from 1 to 10 like [[7]]: '[[8]] or rather [[3]]'",
        "the reply was cut at 2048 tokens; raise max_tokens",
    ]
    (shown,) = [text for text in seen if "The answer to grade:\n4\n" in text]
    assert "User: What is 1 + 1?\n\nAssistant: 2\n\nUser: And 2 + 2?" in shown
    assert "message 2, to compare with:\nfour" in shown
    assert not [text for text in seen if "compare with" in text and "1 + 1" not in text]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[ 10 ]] and again [[10]]", 10.0),
        ("<think>[[2]]</think>Good. [[8]]", 8.0),
        ("As [[Paris]] says: [[6]]", 6.0),
        ("[7]", None),
        ("Rating: 7", None),
        ("[[7]] no, [[8]]", None),
        ("[[7/10]]", None),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[-7]]", None),
        ("[[rating]]", None),
        ("<think>[[7]]", None),
        ("[[٧]]", None),
        ("", None),
    ],
)
def test_only_one_clear_grade_is_read(reply, score):
    assert stated_rating(reply) == score


def test_rewards_grade_in_their_own_unit():
    rater = RewardRater(RewardJudge(lambda prompts, answers: [float(len(text)) for text in answers]))
    found = grade(QUESTIONS, ANSWERS, rater)
    assert found.mean.value == pytest.approx((7 + 7 + 1 + 1 + 1 + 1) / 6)
    broken = RewardRater(lambda prompts, answers, progress=None: [math.nan] * len(answers))
    assert grade(QUESTIONS, ANSWERS, broken).failed == 6


def test_a_scoring_judge_reads_each_models_own_conversation():
    """The longer second reply wins by length; the judge must see each model's own first reply before it."""
    seen = []

    def length(prompts, answers):
        seen.extend(prompts)
        return [float(len(text)) for text in answers]

    duel = compare(QUESTIONS, OTHERS, ANSWERS, RewardJudge(length))
    assert duel.overall.wins == 6
    assert [turn.wins for turn in duel.turns] == [3, 3]
    assert duel.categories["math"].value == 1.0
    assert [turns[1]["content"] for turns in seen if isinstance(turns, list)] == [
        "A line. Surely.",
        "2 Surely.",
        "6 Surely.",
        "A line.",
        "2",
        "6",
    ]


def test_a_chat_judge_compares_both_turns_in_both_orders_over_http():
    """It prefers "Surely." in the last reply, but always the first seat for the first turn of 81: a tie there. So
    1 of 6 is even and 5 are won: 5.5/6."""

    def answer(payload):
        text = payload["messages"][-1]["content"]
        if "Question:\nWrite a line.\n" in text:
            return "[[A]]"
        first = text.partition("Answer A:\n")[2].partition("Answer B:\n")[0]
        return "A" if first.strip().endswith("Surely.") else "B"

    with FaultyServer(answer) as server:
        duel = compare(QUESTIONS, OTHERS, ANSWERS, PairwiseJudge.from_endpoint(server.url))
        shown = [seen.payload["messages"][-1]["content"] for seen in server.seen]
    assert len(shown) == 12
    assert (duel.overall.wins, duel.overall.losses, duel.overall.abstained) == (5, 0, 1)
    assert duel.overall.win_rate.value == pytest.approx(5.5 / 6)
    assert duel.turns[0].win_rate.value == pytest.approx(2.5 / 3)
    second = [text for text in shown if "Message 2:\nNow rhyme it." in text]
    assert len(second) == 2
    assert all("Reply 1:\nA line.\n\nReply 2:\nA vine.\n" in text for text in second)
    assert "turn 2" in str(duel)


def test_answers_are_written_for_fastchat_and_read_back(tmp_path):
    path = write_mt_bench(
        tmp_path / "ours.jsonl",
        list(ANSWERS),
        [replies.texts for replies in ANSWERS.values()],
        model="ours",
        finish_reasons=[replies.finish_reasons for replies in ANSWERS.values()],
    )
    found = read_replies(path)
    assert [(name, replies.texts, replies.finish_reasons) for name, replies in found.items()] == [
        (name, replies.texts, replies.finish_reasons) for name, replies in ANSWERS.items()
    ]


def test_questions_of_every_benchmark_are_read(tmp_path):
    rows = [
        '{"question_id": 81, "category": "writing", "turns": ["a", "b"]}',
        '{"uid": "u", "category": "hard_prompt", "prompt": "c"}',
        '{"question_id": "x", "turns": [{"content": "d"}]}',
        '{"instruction": "e", "output": "no", "dataset": "koala"}',
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "f"}]}',
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(rows))
    assert read_questions(path) == [
        Question(81, ("a", "b"), "writing"),
        Question("u", ("c",), "hard_prompt"),
        Question("x", ("d",)),
        Question("3", ("e",), dataset="koala"),
        Question("4", ([{"role": "system", "content": "s"}, {"role": "user", "content": "f"}],)),
    ]


@pytest.mark.parametrize(
    "row", ['{"turns": []}', '{"turns": ["a", ""]}', '{"prompt": " "}', "[]", '{"a": 1}']
)
def test_a_row_without_a_question_is_named(row, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "fine"}\n' + row)
    with pytest.raises(ValueError, match="row 2 of .*questions.jsonl cannot be used: "):
        read_questions(path)


def test_what_cannot_be_graded_is_refused_in_a_sentence(tmp_path):
    grader = Grader({})
    with pytest.raises(ValueError, match="there are no questions"):
        grade([], ANSWERS, grader)
    with pytest.raises(ValueError, match="question 81 has 2 turns and 1 replies"):
        grade(QUESTIONS, {**ANSWERS, 81: Replies(("one",))}, grader)
    with pytest.raises(ValueError, match="question 112 has 2 turns and 0 replies"):
        compare(QUESTIONS, ANSWERS, {81: ANSWERS[81], 111: ANSWERS[111]}, RewardJudge(lambda p, a: [0.0]))
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 81, "choices": []}\n')
    with pytest.raises(ValueError, match="row 1 of .* needs question_id and choices"):
        read_replies(path)
    path.write_text('{"question_id": 81, "choices": [{"turns": ["a"]}]}\n' * 2)
    with pytest.raises(ValueError, match="question 81 stands twice"):
        read_replies(path)


def test_the_prompt_for_a_grade_keeps_the_answer_last_and_asks_for_brackets():
    text = rating_prompt("Q", "the answer", ["the reference"])
    assert text.index("Conversation:\nQ") < text.index("the reference") < text.index("the answer")
    assert "[[5]]" in text


def test_the_real_benchmark_has_80_questions_and_30_references_of_which_some_are_wrong(data_dir):
    """The references of 111 and 120 by arithmetic: area |(-1)(3) - (3)(1)|/2 = 3, not 0; and f(2) = 32 - 18 - 14 = 0,
    so x is 2, not 1.65."""
    folder = data_dir / "mt_bench"
    if not folder.is_dir():
        pytest.skip(f"no MT-Bench at {folder}")
    questions = read_questions(folder / "mt_bench_question.jsonl")
    references = read_replies(folder / "mt_bench_reference_gpt4.jsonl")
    assert len(questions) == 80
    assert {len(question.turns) for question in questions} == {2}
    assert {question.category for question in questions} == set(TEMPERATURES)
    assert set(references) == set(range(101, 131))
    assert "The area of the triangle is 0" in references[111].texts[0]
    assert "x ≈ 1.65" in references[120].texts[1]
    assert set(WRONG_REFERENCES) < set(references)
    assert len(without_wrong(references)) == 30 - len(WRONG_REFERENCES)
