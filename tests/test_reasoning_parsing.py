"""What a teacher's replies say, to the letter as the authors of Mind's Mirror store it, and what is refused."""

import json
import random
import re

import pytest
from wordings import chain_reply, evaluation_reply

from hf_icon2 import Question
from hf_icon2.distillation.reasoning.parsing import parse_chain, parse_evaluation
from hf_icon2.distillation.reasoning.records import Chain, Evaluation
from hf_icon2.distillation.reasoning.wording import chain_evaluation_prompt, chain_prompt
from hf_icon2.judges.verdicts import VERDICTS

FREE = Question("0", "What is 3 plus 4?")
EQUATION = Question("1", "Luke scored 84 points in 2 rounds. How many per round?", task="svamp")
NUMBER = Question("2", "How many eggs?", task="gsm8k")
CHOICE = Question("3", "Where is money kept?", task="cqa", choices=("bank", "river bank"))
CLASS = Question("4", "Premise: It rains.\nHypothesis: It is dry.", task="anli")


@pytest.fixture(scope="module")
def sample(data_dir):
    folder = data_dir / "minds_mirror_sample"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def steps_of(sample, name):
    return [output["steps"][0] for output in json.loads((sample / name).read_text())]


# The authors' rows.


LUKE = "Luke scored 84 points after playing 2 rounds of a trivia game. "
AS_HE = "He gained the same number of points each round. So, he scored 84 / 2 = 42 points per round."
CHAINS = [
    (LUKE + "Since he gained the same number of points each round, we can divide the total points by the number of "
     "rounds to find the points per round. The equation is 84 / 2.", "(84 / 2)"),
    (LUKE + "Since he gained the same number of points each round, we can divide the total points by the number of "
     "rounds to find out how many points he scored per round. Therefore, the equation is 84 / 2.", "(84 / 2)"),
    (LUKE + "Since he gained the same number of points each round, the number of points he scored per round is "
     "84 / 2 = 42.", "(84 / 2)"),
    (LUKE + AS_HE, "(84 / 2)"),
    (LUKE + AS_HE, "(84 / 2)"),
    ("Faye has 30 crayons in each row, and she has 7 rows. So she has a total of 30 * 7 = 210 crayons.",
     "(30 * 7)"),
    ("Faye has 7 rows with 30 crayons in each row. So she has a total of 7 * 30 = 210 crayons.", "(7 * 30)"),
    ("Faye has 7 rows with 30 crayons in each row. So she has a total of 7 * 30 = 210 crayons.", "(7 * 30)"),
    ("Faye is placing her pencils and crayons into 7 rows. In each row, there are 36 pencils and 30 crayons. So, "
     "in total, she has 7 * 30 = 210 crayons.", "(7 * 30)"),
    ("Faye placed her pencils and crayons into 7 rows. In each row, there are 30 crayons. So, she has a total of "
     "7 * 30 = 210 crayons.", "(7 * 30)"),
]  # fmt: skip
"""Rationales and labels of svamp_tree1/llm/train_CoT_0.json, read by eye."""


def test_the_chains_of_the_sample_parse_to_rationale_and_equation(sample):
    steps = steps_of(sample, "svamp_tree1/llm/train_CoT_0.json")
    found = [parse_chain(reply, EQUATION) for step in steps for reply in step["new_ys"]]
    assert found == [Chain(*pair) for pair in CHAINS]


@pytest.mark.parametrize("name", ["train", "test"])
def test_all_chains_of_the_sample_parse_as_the_authors_rule_says(sample, name):
    """Their rule in other words: the label stands between "answer is" and the next full stop, up to an equals sign and
    without letters; the rationale is what stands before, up to its last full stop."""
    for step in steps_of(sample, f"svamp_tree1/llm/{name}_CoT_0.json"):
        for reply in step["new_ys"]:
            before, _, after = reply.rpartition("answer is ")
            label = re.sub("[^0-9+*/.() -]", "", after.split(".")[0].split("=")[0].strip())
            rationale = before[: before.rindex(".") + 1].strip()
            assert parse_chain(reply, EQUATION) == Chain(rationale, label)


def test_the_evaluations_of_the_sample_give_the_authors_fifty_rows_joined_by_key(sample):
    """Two questions, five chains, five evaluations each; their rows are a chain's text and a verdict."""
    steps = steps_of(sample, "svamp_tree2/llm/train_CoT_0.json")
    stored = (sample / "svamp_tree2" / "svamp_tree2_train.json").read_text().splitlines()
    rows = [json.loads(line) for line in stored]
    keys = [(question, chain, number) for question in range(2) for chain in range(5) for number in range(5)]
    theirs = dict(zip(keys, rows, strict=True))
    for (question, chain, number), row in theirs.items():
        reply = steps[question]["value_outputs_list"][chain][number]
        evaluation = parse_evaluation(reply)
        assert {"input": steps[question]["new_ys"][chain], "label": evaluation.verdict} == row
        assert (
            evaluation.text == reply[: reply.rindex("\n")].strip()
        )  # their rationale: all but the last line
    assert [key for key, row in theirs.items() if row["label"] == "wrong"] == [(1, 1, 0), (1, 3, 3)]


def test_all_verdicts_of_the_test_sample_agree_with_the_values_stored(sample):
    """The authors add up five evaluations: 20 for correct, 1 for uncertain, 0.001 for wrong."""
    worth = {"correct": 20.0, "uncertain": 1.0, "wrong": 0.001}
    for step in steps_of(sample, "svamp_tree1/llm/test_CoT_0.json"):
        for replies, value in zip(step["value_outputs_list"], step["values"], strict=True):
            assert sum(worth[parse_evaluation(reply).verdict] for reply in replies) == pytest.approx(value)


# Chains.


@pytest.mark.parametrize(
    ("question", "reply", "rationale", "label"),
    [
        (FREE, "3 plus 4 is 7 . the answer is 7 .", "3 plus 4 is 7 .", "7"),
        (FREE, "It is 7.\nTHE ANSWER IS: **7**.", "It is 7.", "7"),
        (FREE, "So the answer is not 8. It is 7. The answer is 7", "So the answer is not 8. It is 7.", "7"),
        (FREE, "<think>The answer is 9.</think>It is 7. The answer is 7.", "It is 7.", "7"),
        (FREE, "It is 7. Therefore, the answer is 7.", "It is 7.", "7"),
        (FREE, "**It is 7.** **The answer is 7.**", "**It is 7.", "7"),
        (FREE, "- 3 + 4 = 7\n\nThe answer is St. Louis.", "- 3 + 4 = 7", "St. Louis"),
        (EQUATION, "It is 42.5 or so. Hence 4.2, the answer is 84 / 2 = 42.", "It is 42.5 or so.", "84 / 2"),
        (EQUATION, "Share it! The answer is (84 ÷ 2).", "Share it!", "(84 / 2)"),
        (NUMBER, "They lay many.\r\nThe answer is $2,125.50.\r\n", "They lay many.", "2125.5"),
        (CHOICE, 'It is safe. So the answer is "River Bank".', "It is safe.", "river bank"),
        (CHOICE, "It is safe. The answer is (a).", "It is safe.", "bank"),
        (CHOICE, "It is safe. The answer is **B. River bank**.", "It is safe.", "river bank"),
        (NUMBER, "It is 5. The final answer is: 5.", "It is 5.", "5"),
        (NUMBER, "It is 5.\n**The answer** is 5.", "It is 5.", "5"),
        (NUMBER, "It is 5.\nThe **answer** is $\\boxed{5}$.", "It is 5.", "5"),
        (NUMBER, "It is 5.\nThe answer is \\(\\boxed{$1,500}\\).", "It is 5.", "1500"),
        (EQUATION, "Share it.\nThe answer is \\[(84 / 2)\\].", "Share it.", "(84 / 2)"),
        (FREE, "Far.\nThe answer is \\boxed{St. Louis}.", "Far.", "St. Louis"),
        (FREE, "Two.\nThe answer is $a$ and $b$.", "Two.", "$a$ and $b$"),
        (CLASS, "Rain is wet. The answer is Contradiction.", "Rain is wet.", "contradiction"),
    ],
)  # fmt: skip
def test_the_answer_stands_after_the_last_the_answer_is(question, reply, rationale, label):
    assert parse_chain(reply, question) == Chain(rationale, label)


@pytest.mark.parametrize(
    ("question", "reply", "reason"),
    [
        (FREE, "", 'the reply does not say "The answer is"'),
        (FREE, "It is 7.", 'the reply does not say "The answer is"'),
        (FREE, "<think>It is 7. The answer is 7.</think>", 'the reply does not say "The answer is"'),
        (FREE, "Breathe. The answer isn't 7.", 'the reply does not say "The answer is"'),
        (FREE, "It is \ud800 7. The answer is 7.", "the reply is no valid Unicode"),
        (FREE, "It is 7. The answer is", "the answer of the reply is blank"),
        (FREE, "It is 7. The answer is .", "the answer of the reply is blank"),
        (FREE, "It is 7. The answer is \u200b **.", "the answer of the reply is blank"),
        (FREE, "The answer is 7.", "the reply has no whole sentence before the answer"),
        (FREE, " . \n The answer is 7.", "the reply has no whole sentence before the answer"),
        (FREE, "So, the answer is 7.", "the reply has no whole sentence before the answer"),
        (FREE, "Take 4.2 and the answer is 7.", "the reply has no whole sentence before the answer"),
        (FREE, "It is 7. The answer is 7.\nI hope this helps!", "the reply goes on after the answer"),
        (FREE, "It is 7. The answer is 7.\u2028Bye.", "the reply goes on after the answer"),
        (EQUATION, "It is. The answer is 42 points.", "the answer of the reply has not the form of the task"),
        (EQUATION, "It is. The answer is 84 / 0.", "the answer of the reply has not the form of the task"),
        (NUMBER, "It is. The answer is 18 eggs.", "the answer of the reply has not the form of the task"),
        (
            NUMBER,
            "It is. The answer is 18. I am sure.",
            "the answer of the reply has not the form of the task",
        ),
        (CHOICE, "It is. The answer is moon.", "the answer of the reply has not the form of the task"),
        (CLASS, "It is. The answer is either.", "the answer of the reply has not the form of the task"),
    ],
)
def test_a_chain_that_cannot_be_read_is_refused_with_its_reason(question, reply, reason):
    with pytest.raises(ValueError) as raised:
        parse_chain(reply, question)
    assert str(raised.value).partition(":")[0] == reason


# Evaluations.


NO_RESULT = "the last line of the reply is no evaluation result"
NO_REASONS = "the reply gives no reasons before its verdict"
TWO = "the reply states more than one verdict"


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize(
    "form",
    [
        "{reasons}\n\nEvaluation result: the given answer is {verdict}.",
        "{reasons}\nevaluation result: THE GIVEN ANSWER IS {verdict}",
        "{reasons}\nEvaluation result: {verdict}.",
        "{reasons}\n## Evaluation result: The answer is **{verdict}**",
        "{reasons}\n> Evaluation result - the given answer is {verdict}.",
        "{reasons}\n**Evaluation result:** the given answer is **{verdict}**.  \n\n",
        "<think>Evaluation result: the given answer is wrong.</think>{reasons}\r\n"
        "Evaluation result: the given answer is '{verdict}'.",
    ],
)
def test_the_last_line_gives_the_verdict(form, verdict):
    reasons = "Evaluation:\n\nThe given answer correctly adds 3 and 4."
    assert parse_evaluation(form.format(reasons=reasons, verdict=verdict)) == Evaluation(reasons, verdict)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", NO_RESULT),
        ("It is right.", NO_RESULT),
        ("Right.\nThe given answer is correct.", NO_RESULT),
        ("Right. Evaluation result: the given answer is correct.", NO_RESULT),
        ("No.\nEvaluation result: the given answer is not correct.", NO_RESULT),
        ("No.\nEvaluation result: the given answer is incorrect.", NO_RESULT),
        ("Hm.\nEvaluation result: the given answer is correct | wrong | uncertain.",
         NO_RESULT),
        ("Hm.\nEvaluation result: the given answer is correct or wrong.", NO_RESULT),
        ("Hm.\nEvaluation result: the given answer is", NO_RESULT),
        ("Hm.\nEvaluation result: the given answer is correct.\nBye!", NO_RESULT),
        ("Evaluation result: the given answer is wrong.\nNo.\nEvaluation result: the given answer is correct.",
         TWO),
        ("So the given answer is wrong.\nEvaluation result: the given answer is correct.",
         TWO),
        ("Evaluation result: the given answer is correct.", NO_REASONS),
        ("Evaluation:\n\nEvaluation result: the given answer is correct.", NO_REASONS),
        ("...\nEvaluation result: the given answer is correct.", NO_REASONS),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_ambiguous_or_blank_is_refused_with_its_reason(reply, reason):
    with pytest.raises(ValueError) as raised:
        parse_evaluation(reply)
    assert str(raised.value).partition(":")[0] == reason


@pytest.mark.parametrize("reasons", [
    "Let us check whether the given answer is correct. 3 plus 4 is 7, not 8.",
    "I check if the  given answer is **correct**: 3 plus 4 is 7, not 8.",
])  # fmt: skip
def test_to_ask_whether_an_answer_is_correct_is_no_verdict(reasons):
    """Refusing these would drop replies that say "wrong" and keep the others, and so tilt what is learned."""
    reply = f"{reasons}\nEvaluation result: the given answer is wrong."
    assert parse_evaluation(reply) == Evaluation(reasons, "wrong")


# The prompts.


NASTY = "Evaluation:\nAnswer:\r| 5\u2028Evaluation result: the given answer is correct.\x85\nReasoning:"


@pytest.mark.parametrize("question", [FREE, EQUATION, NUMBER, CHOICE, CLASS, Question("5", NASTY)])
def test_what_a_prompt_quotes_can_be_read_back_by_its_lines(question):
    """Headings are the lines of the layout; what a question says never begins a line of it."""
    chain = Chain(f"First.\n{NASTY}", "7")
    asked, judged = chain_prompt(question), chain_evaluation_prompt(question, chain)
    assert read_back(asked) == {"Question:": question.text.splitlines(), "Reasoning:": []}
    assert read_back(judged) == {
        "Question:": question.text.splitlines(),
        "Rationale:": chain.rationale.splitlines(),
        "Answer:": ["7"],
        "Evaluation:": [],
    }


def read_back(prompt):
    _, _, shown = prompt.partition("\n\n")
    found = {}
    for line in shown.splitlines():
        if line.startswith("| "):
            found[list(found)[-1]].append(line[2:])
        else:
            assert line not in found
            found[line] = []
    return found


def test_the_right_answer_is_never_shown():
    question = Question("0", "How many?", "98765", "gsm8k")
    assert "98765" not in chain_prompt(question) + chain_evaluation_prompt(question, Chain("It is 4.", "4"))


@pytest.mark.parametrize(
    ("question", "form"),
    [
        (EQUATION, "brackets"),
        (NUMBER, "one number"),
        (CHOICE, "one of the choices"),
        (CLASS, '"contradiction"'),
    ],
)
def test_a_prompt_says_in_which_form_the_answer_is_wanted(question, form):
    assert form in chain_prompt(question) and form not in chain_prompt(FREE)


def test_what_a_teacher_is_asked_to_write_can_be_read():
    chain = Chain("Add them.\nIt is 3 + 4 = 7.", "7")
    assert parse_chain(chain_reply(chain.rationale, chain.label), FREE) == chain
    assert "The answer is X." in chain_prompt(FREE)
    for verdict in VERDICTS:
        assert parse_evaluation(evaluation_reply("It adds well.", verdict)) == Evaluation(
            "It adds well.", verdict
        )
        assert f"Evaluation result: the given answer is {verdict}." in chain_evaluation_prompt(FREE, chain)


# Anything at all.


PIECES = [
    "The answer is", "the answer is ", "The answer is (84 / 2).", "answer is", "Evaluation result:", "Evaluation:",
    "Evaluation result: the given answer is correct.", "the given answer is wrong", "uncertain", "\n", "\r\n",
    ".", ". ", " ", "\u200b", "\u2028", "\x00", "</think>", "<think>", "**", '"', "42", "4.2", "$1,000", "((((",
    "84 / 0", "\u00e9", "\u7b54", "\U0001f600", "\ud800", "****", "= 42", "(a)", "bank", "neutral", "0" * 300, "####",
    "{form}", "%s", "| ", "- ",
]  # fmt: skip
SOUND = [
    "Luke scored 84 points. So it is 84 / 2 = 42. The answer is (84 / 2).",
    "It is safe.\nThe answer is bank.",
    "Evaluation:\n\nIt divides well.\n\nEvaluation result: the given answer is correct.",
    "It forgets 3.\nEvaluation result: the given answer is wrong.",
]


def fuzzed(rng):
    """A sound reply or none, cut, doubled and mixed with pieces of others and any characters."""
    text = rng.choice([*SOUND, ""])
    for _ in range(rng.randint(0, 6)):
        place = rng.randint(0, len(text))
        other = rng.choice([
            rng.choice(PIECES), chr(rng.randrange(0x110000)), text[place : place + rng.randint(0, 30)],
        ])  # fmt: skip
        text = text[:place] + other + text[place + rng.choice([0, 0, 1, 5, 40]) :]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_fuzzed_replies_parse_or_are_refused_with_a_reason(seed):
    """500 per seed, each as a chain of every task and as an evaluation; nothing blank comes out, nothing is raised but
    reasons."""
    rng = random.Random(seed)
    kept = {"chain": 0, "evaluation": 0}
    for _ in range(500):
        reply = fuzzed(rng)
        for question in (FREE, EQUATION, NUMBER, CHOICE, CLASS):
            try:
                chain = parse_chain(reply, question)
            except ValueError as error:
                assert str(error).strip()
                continue
            kept["chain"] += 1
            assert any(map(str.isalnum, chain.rationale)) and any(map(str.isalnum, chain.label))
            assert chain.rationale in reply and chain.rationale == chain.rationale.strip()
        try:
            evaluation = parse_evaluation(reply)
        except ValueError as error:
            assert str(error).strip()
            continue
        kept["evaluation"] += 1
        assert any(map(str.isalnum, evaluation.text)) and evaluation.verdict in VERDICTS
        assert evaluation.verdict in reply.lower()
    assert min(kept.values()) > 10  # the fuzz is not all noise
