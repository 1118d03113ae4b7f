"""Questions from the rows of SVAMP, GSM8K, CQA and ANLI, what makes two answers the same, and splits of questions."""

import json
import math
import random
from fractions import Fraction

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_icon2 import (
    Question,
    read_anli,
    read_cqa,
    read_gsm8k,
    read_svamp,
    read_text,
    same_answer,
    split_questions,
)
from hf_icon2.distillation.reasoning.answers import written_answer
from hf_icon2.distillation.reasoning.arithmetic import evaluate

CQA_ROW = {
    "id": "q1",
    "question": "Where is money kept?",
    "choices": ["bank", "river bank", "tree"],
    "answer": "bank",
    "abstractive_explanation": "it is safe there",
    "extractive_explanation": "money",
}
ANLI_ROW = {"uid": "u1", "premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "reason": ""}
SVAMP_ROW = {
    "ID": "chal-1",
    "Body": "Dan had 4 dollars.",
    "Question": "How many?",
    "Equation": "( 4.0 )",
    "Answer": 4.0,
}
GSM8K_ROW = {"question": "How many?", "answer": "It is 2 * 3 = <<2*3=6>>6.\n#### 6"}
TEXT_ROW = {"question": "Where is the Eiffel Tower?", "answer": "in Paris."}


@pytest.fixture(scope="module")
def svamp(data_dir):
    return json.loads(present(data_dir / "svamp" / "SVAMP.json").read_text())


@pytest.fixture(scope="module")
def gsm8k(data_dir):
    return [json.loads(line) for line in present(data_dir / "gsm8k" / "test.jsonl").read_text().splitlines()]


def present(path):
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def test_all_of_svamp_is_read_and_its_equations_have_the_values_it_says(svamp):
    """One of its 1,000 rows says 1 where its equation is (4 - 2) + 3."""
    questions = read_svamp(svamp)
    assert len({one.id for one in questions}) == 1000
    assert questions[2].text == f"{svamp[2]['Body']}\n{svamp[2]['Question']}"
    assert questions[2].answer == "( 26.0 - 9.0 )"
    differ = [
        row["ID"]
        for row, one in zip(svamp, questions, strict=True)
        if abs(float(evaluate(one.answer)) - row["Answer"]) > 1e-9
    ]
    assert differ == ["chal-680"]


def test_svamp_reads_the_rows_of_the_authors_alike(svamp, data_dir):
    """Their input is the body and the question on two lines, their label the equation."""
    folder = data_dir / "minds_mirror_sample" / "svamp_tree1"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    theirs = [
        json.loads(line)
        for split in ("train", "test")
        for line in (folder / f"svamp_tree1_{split}.json").read_text().splitlines()
    ]
    ours = {(one.text, one.answer) for one in read_svamp(svamp)}
    assert len(theirs) == 4 and {(row["input"], row["label"]) for row in theirs} <= ours


def test_all_of_gsm8k_is_read_with_plain_numbers(gsm8k):
    questions = read_gsm8k(gsm8k)
    assert [one.id for one in questions[:2]] == ["gsm8k-0", "gsm8k-1"] and len(questions) == 1319
    assert questions[0].answer == "18"
    assert [one.answer for one in questions if one.answer == "1450000"] == ["1450000"]  # "1,450,000" there
    assert all(Fraction(one.answer) is not None for one in questions)


def test_cqa_lists_its_choices_with_letters():
    expected = Question(
        "q1",
        "Where is money kept?\nAnswer Choices:\n(a) bank\n(b) river bank\n(c) tree",
        "bank",
        "cqa",
        ("bank", "river bank", "tree"),
    )
    assert read_cqa([CQA_ROW]) == [expected]
    other_form = {
        "id": "q1",
        "question": "Where is money kept?",
        "choices": {"label": ["A", "B", "C"], "text": ["bank", "river bank", "tree"]},
        "answerKey": "A",
    }
    assert read_cqa(Dataset.from_list([other_form])) == [expected]
    assert read_cqa([other_form | {"answerKey": ""}])[0].answer is None  # as in its test split


@pytest.mark.parametrize(
    ("label", "answer"),
    [
        (0, "entailment"),
        (1, "neutral"),
        (2, "contradiction"),
        ("neutral", "neutral"),
        (-1, None),
        (None, None),
    ],
)
def test_anli_has_premise_and_hypothesis_on_two_lines(label, answer):
    assert read_anli([ANLI_ROW | {"label": label}]) == [
        Question("u1", "Premise: It rains.\nHypothesis: It is dry.", answer, "anli")
    ]


def test_any_rows_are_read_and_their_answers_compared_as_text():
    rows = [TEXT_ROW, {"id": 7, "question": "How many?", "answer": 5}, {"question": "Why?", "answer": None}]
    found = read_text([*rows, {"question": "Where?", "answer": " "}])
    assert found == [
        Question("questions-0", "Where is the Eiffel Tower?", "in Paris"),
        Question("7", "How many?", "5"),
        Question("questions-2", "Why?"),
        Question("questions-3", "Where?"),
    ]
    assert same_answer(found[0].task, "In  paris.", found[0].answer)
    assert not same_answer(found[0].task, "Paris", found[0].answer)


def test_a_split_of_datasets_is_read_like_a_list():
    features = Features(
        {name: Value("string") for name in ("uid", "premise", "hypothesis", "reason")}
        | {"label": ClassLabel(names=["entailment", "neutral", "contradiction"])}
    )
    rows = Dataset.from_list([ANLI_ROW], features)
    assert read_anli(rows) == read_anli([ANLI_ROW])
    with pytest.raises(
        TypeError, match="ANLI is read from a list of rows, got DatasetDict; read a file before, of a"
    ):
        read_anli(DatasetDict({"train": rows}))


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (read_text, {"question": "x", "target": "5"}, "it has no answer; it has question, target"),
        (read_text, {"question": "x", "answer": math.nan}, "its answer must be text or a whole number, .* nan"),
        (read_text, {"question": "x", "answer": True}, "it is True"),
        (read_text, {"question": "x", "answer": " ?? "}, "without a letter or a digit says nothing"),
        (read_text, {"question": "", "answer": "x"}, "its question must be text"),
        (read_svamp, {"question": "x"}, "row 1 of SVAMP cannot be used: it has no Equation; it has question"),
        (read_svamp, SVAMP_ROW | {"Body": " "}, "its Body must be text that is not blank; it is ' '"),
        (read_svamp, SVAMP_ROW | {"Equation": "4 apples"}, "row 1 of SVAMP cannot be used: '4 apples' is not made"),
        (read_svamp, SVAMP_ROW | {"Equation": 4.0}, "its Equation must be text"),
        (read_svamp, SVAMP_ROW | {"Equation": "4 / (2 - 2)"}, "divides by zero"),
        (read_gsm8k, GSM8K_ROW | {"answer": "6"}, "row 1 of GSM8K cannot be used: its answer has no `####`"),
        (read_gsm8k, GSM8K_ROW | {"answer": "#### six"}, "'six' is no number"),
        (read_gsm8k, {"question": "x", "answer": None}, "its answer must be text"),
        (read_cqa, CQA_ROW | {"answer": "moon"}, "its answer 'moon' is none of its choices"),
        (read_cqa, CQA_ROW | {"choices": "abc"}, "its choices must be a list of 2 to 26 texts; they are 'abc'"),
        (read_cqa, CQA_ROW | {"choices": ["a", "a"]}, "its choices must be different texts"),
        (
            read_cqa,
            {"question": "x", "choices": {"label": ["A", "B"], "text": ["a", "b"]}, "answerKey": "C"},
            "its answerKey 'C' is none of the labels",
        ),
        (read_anli, ANLI_ROW | {"label": 3}, "its label is 3; allowed: 0, 1, 2, entailment"),
        (read_anli, ANLI_ROW | {"label": True}, "its label is True"),
        (read_anli, ANLI_ROW | {"label": [1]}, r"its label is \[1\]"),
        (read_anli, ANLI_ROW | {"premise": None}, "its premise must be text"),
    ],
)  # fmt: skip
def test_a_row_of_another_form_is_refused_by_its_number(read, row, reason):
    first = {
        read_svamp: SVAMP_ROW, read_gsm8k: GSM8K_ROW, read_cqa: CQA_ROW, read_anli: ANLI_ROW, read_text: TEXT_ROW,
    }[read]  # fmt: skip
    with pytest.raises(ValueError, match=reason) as raised:
        read([first, row])
    assert str(raised.value).startswith("row 1 of ")


@pytest.mark.parametrize("read", [read_svamp, read_gsm8k, read_cqa, read_anli, read_text])
def test_what_are_no_rows_is_refused(read):
    with pytest.raises(ValueError, match="there are no rows of"):
        read([])
    with pytest.raises(TypeError, match="row 0 of .* has no named columns but is 5"):
        read([5])
    for rows in ("text", SVAMP_ROW):
        with pytest.raises(TypeError, match="is read from a list of rows"):
            read(rows)


# Answers.


def random_term(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return str(rng.randint(0, 20))
    parts = [random_term(rng, depth - 1) for _ in range(2)]
    return rng.choice(["({} {} {})", "{} {} {}", "{}{}{}", "-{} {} {}"]).format(
        parts[0], rng.choice("+-*/"), parts[1]
    )


def test_terms_have_the_values_that_python_gives_them():
    """1,000 random terms; Python's own parser is the oracle, its numbers made fractions."""
    import re

    rng = random.Random(0)
    compared = 0
    while compared < 1000:
        term = random_term(rng, 4)
        if "--" in term or len(term) > 200:
            continue
        exact = re.sub(r"[0-9]+", r"Fraction(\g<0>)", term)
        try:
            expected = eval(exact)
        except ZeroDivisionError:
            with pytest.raises(ValueError, match="by zero"):
                evaluate(term)
            continue
        assert evaluate(term) == expected
        compared += 1


@pytest.mark.parametrize(
    ("term", "value"),
    [("0.1 + 0.2", Fraction(3, 10)), ("7 × (6 ÷ 2) − 1", Fraction(20)), ("1.", Fraction(1)), (".5", Fraction(1, 2)),
     ("8 / 3 * 3", Fraction(8)), ("2 - 3 - 4", Fraction(-5)), ("- ( - 2 )", Fraction(2))],
)  # fmt: skip
def test_terms_are_exact(term, value):
    assert evaluate(term) == value


@pytest.mark.parametrize(
    "term",
    ["", " ", "()", "(1", "1)", "1 +", "* 2", "2 ** 9999999", "7 // 2", "1 2", "2(3)", "1e9", "0x10", "1_000", "x",
     "__import__('os').abort()", "1 / 0", "1 / (2 - 2)", "1.2.3", "٣ + ٤", "²", "(" * 100_000, "(" * 150, "-" * 150,
     "9" * 10_000, "1, 2", "1\x002", "nan", "inf"],
)  # fmt: skip
def test_what_is_no_term_is_refused(term):
    with pytest.raises(ValueError):
        evaluate(term)


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        ("svamp", "(30 * 7)", "( 7.0 * 30.0 )"),
        ("svamp", "10 - 3 - 6", "( 10.0 - ( 6.0 + 3.0 ) )"),
        ("svamp", "84 / 2 = 42", "42."),
        ("svamp", "$76 - $25", "51"),
        ("svamp", "(1,250,000 / 2)", "625000"),
        ("gsm8k", "$1,450,000.", "1450000"),
        ("gsm8k", "#### 18", "18.00"),
        ("gsm8k", "**25%**", "25"),
        ("gsm8k", "-0.5", "-.50"),
        ("cqa", "(b) River Bank.", "river bank"),
        ("cqa", '"bank"', "b) bank"),
        ("anli", "Entailment.", "entailment"),
        ("text", "St. Louis", "st.  louis."),
    ],
)
def test_answers_that_differ_only_in_their_writing_are_the_same(task, first, second):
    assert same_answer(task, first, second) and same_answer(task, second, first)


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        ("svamp", "(30 * 7)", "(30 + 7)"),
        ("svamp", "1 / 0", "1 / 0"),
        ("svamp", "1,25", "125"),
        ("svamp", "1 / 3", "0.333333333333333333"),
        ("gsm8k", "18", "81"),
        ("gsm8k", "1,45", "145"),
        ("gsm8k", "18 eggs", "18 eggs"),
        ("gsm8k", "", ""),
        ("cqa", "bank", "river bank"),
        ("cqa", "(a)", "(a)"),
        ("anli", "maybe", "maybe"),
        ("text", "...", "..."),
        ("text", "3.5", "35"),
    ],
)
def test_other_answers_and_what_is_none_are_not_the_same(task, first, second):
    assert not same_answer(task, first, second)


@pytest.mark.parametrize(
    ("task", "text", "written"),
    [
        ("svamp", " (84 ÷ 2) = 42. ", "(84 / 2)"),
        ("gsm8k", "$2,125.50.", "2125.5"),
        ("gsm8k", "-0.05", "-0.05"),
        ("cqa", "(b) RIVER bank", "river bank"),
        ("cqa", "b).", "river bank"),
        ("cqa", "(A)", "bank"),
        ("anli", "'Neutral'.", "neutral"),
        ("text", "**5  apples** .", "5 apples"),
    ],
)
def test_answers_are_written_in_one_way(task, text, written):
    assert written_answer(task, text, ["bank", "river bank"]) == written
    assert written_answer(task, written, ["bank", "river bank"]) == written


def test_a_choice_is_one_of_the_choices():
    for text in ("moon", "(a) tree", "(c)", "bank or tree", ""):
        with pytest.raises(ValueError, match="is none of the choices bank, tree"):
            written_answer("cqa", text, ["bank", "tree"])
    assert written_answer("cqa", "(a) 50% (or more)", ["50% (or more)", "less"]) == "50% (or more)"


# Splits.


def numbered(count, prefix=""):
    return [Question(f"{prefix}{index}", f"question {index}") for index in range(count)]


def test_a_split_has_the_sizes_asked_for_and_loses_nothing():
    splits = split_questions(numbered(200), validation=0.1, test=0.2)
    assert [len(split) for split in splits] == [140, 20, 40]
    assert sorted((one for split in splits for one in split), key=lambda one: int(one.id)) == numbered(200)
    assert [int(one.id) for one in splits.train] == sorted(int(one.id) for one in splits.train)


def test_questions_may_come_one_by_one():
    assert split_questions(iter(numbered(20)), 0.2, 0.2) == split_questions(numbered(20), 0.2, 0.2)
    assert [len(split) for split in split_questions(iter(numbered(20)), 0.2, 0.2)] == [12, 4, 4]


def test_a_split_follows_from_the_seed_and_not_from_the_order():
    questions = numbered(100)
    shuffled = random.Random(1).sample(questions, 100)
    first, again, other = (
        {one.id for one in split_questions(rows, 0.3, seed=seed).validation}
        for rows, seed in ((questions, 0), (shuffled, 0), (questions, 1))
    )
    assert first == again != other


@pytest.mark.parametrize("seed", range(20))
def test_no_question_is_on_both_sides_even_where_texts_repeat(seed):
    """Each text up to five times, in other cases and with other white space."""
    rng = random.Random(seed)
    ways = [str, str.upper, lambda text: f"  {text} ", lambda text: text.replace(" ", "\n")]
    questions = [
        Question(str(index), rng.choice(ways)(f"Question {rng.randrange(20)}")) for index in range(100)
    ]
    splits = split_questions(questions, 0.2, 0.2, seed=seed)
    texts = [{" ".join(one.text.lower().split()) for one in split} for split in splits]
    assert all(texts) and sum(map(len, texts)) == len(set.union(*texts))
    assert sum(map(len, splits)) == 100


@pytest.mark.parametrize(
    ("count", "shares", "reason"),
    [
        (10, (-0.1, 0), "give shares of 0 or more, together below 1"),
        (10, (0.5, 0.5), "together below 1"),
        (10, (float("nan"), 0), "together below 1"),
        (1, (0.1, 0), "1 different questions leave none to learn from"),
        (0, (0, 0), "0 different questions leave none"),
    ],
)
def test_a_split_that_leaves_nothing_to_learn_from_is_refused(count, shares, reason):
    with pytest.raises(ValueError, match=reason):
        split_questions(numbered(count), *shares)


@pytest.mark.parametrize(("key", "text", "task"), [("a", " ", "text"), (5, "x", "text"), ("a", "x", "sums")])
def test_a_question_that_is_none_is_refused(key, text, task):
    with pytest.raises(
        ValueError, match="needs an id and a text|the task 'sums' is unknown; allowed: text, svamp"
    ):
        Question(key, text, task=task)
