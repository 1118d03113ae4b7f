"""Candidates and teacher scores: against brute force, one plain pass per text, and a judge with a known bias."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from faulty_server import FaultyServer, completion, scripted

from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.distillation.diversity import most_different
from hf_icon2.distillation.teacher import score_candidates, selection_probabilities
from hf_icon2.judges.chat.client import ChatClient
from hf_icon2.judges.chat_letters import ChatLetterJudge
from hf_icon2.judges.letters import LetterJudge
from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.judges.wording import compare_prompt
from hf_icon2.prompts import encode_prompt
from hf_icon2.steering.decoding import Sampling
from hf_icon2.toy import instructions
from hf_icon2.toy.skills import ab_prompt

PROMPTS = [item.text for item in instructions("train")[:6]]


def distance(first, second):
    """Levenshtein's distance by its recursion, the slow and obvious way."""
    if not first or not second:
        return len(first) + len(second)
    same = distance(first[1:], second[1:]) + (first[0] != second[0])
    return min(same, distance(first[1:], second) + 1, distance(first, second[1:]) + 1)


def test_the_most_different_texts_are_the_greedy_ones():
    texts = ["abc", "abd", "xyz", "ab", "xyw", "q"]
    chosen = [0]
    for _ in range(3):
        nearest = {
            index: min(distance(texts[index], texts[other]) for other in chosen)
            for index in range(len(texts))
            if index not in chosen
        }
        chosen.append(max(nearest, key=nearest.get))
    assert most_different(texts, 4) == chosen


def test_copies_are_not_chosen():
    assert most_different(["a", "a", "b", "a"], 3) == [0, 2]
    assert most_different([], 3) == []


def test_candidates_are_distinct_repeatable_and_independent_of_the_batch(toy_assistant, toy_tokenizer):
    settings = {"samples": 5, "keep": 3, "sampling": Sampling(16, 1.0, 0.95), "show_progress": False}
    found = sample_candidates(toy_assistant, toy_tokenizer, PROMPTS, **settings)
    again = sample_candidates(toy_assistant, toy_tokenizer, PROMPTS, batch_size=2, **settings)
    assert found.to_list() == again.to_list()
    for row in found:
        texts = [response[0]["content"] for response in row["responses"]]
        assert len(set(texts)) == 3
        assert all(text.strip() for text in texts)
    other = sample_candidates(toy_assistant, toy_tokenizer, PROMPTS, seed=1, **settings)
    assert other.to_list() != found.to_list()


def test_prompts_without_enough_distinct_responses_are_left_out_or_refused(toy_assistant, toy_tokenizer):
    with pytest.raises(ValueError, match="no prompt of 6 has 2 distinct responses among 3"):
        sample_candidates(
            toy_assistant,
            toy_tokenizer,
            PROMPTS,
            samples=3,
            keep=2,
            sampling=Sampling(16, temperature=0.0),
            show_progress=False,
        )
    with pytest.raises(ValueError, match="keep=4 of samples=3"):
        sample_candidates(toy_assistant, toy_tokenizer, PROMPTS, samples=3, keep=4)


def test_selection_probabilities_by_hand():
    """Three responses; the first of a pair wins with 0.9, 0.8 / 0.2, 0.6 / 0.3, 0.5 in order of the pairs.

    Response 0: (0.9 + 0.8) shown first, (1 - 0.2) + (1 - 0.3) shown second: 3.2 / 4 = 0.8, and so on.
    """
    choices = [LetterChoice(p, 1.0) for p in (0.9, 0.8, 0.2, 0.6, 0.3, 0.5)]
    expected = [3.2 / 4, (0.2 + 0.6 + 0.1 + 0.5) / 4, (0.3 + 0.5 + 0.2 + 0.4) / 4]
    assert selection_probabilities(3, choices) == pytest.approx(expected)


def test_a_judge_that_always_takes_the_first_seat_prefers_nobody():
    rows = Dataset.from_list([{"prompt": "q", "responses": ["x", "y", "z"]}])
    biased = score_candidates(
        rows, judge=lambda asked: [LetterChoice(0.97, 1.0)] * len(asked), alpha=0.0, show_progress=False
    )
    assert biased[0]["selection"] == pytest.approx([0.5] * 3)


def rows():
    texts = ["the sky is blue .", "the sky is green , and i am sure of it .", "no ."]
    responses = [[{"role": "assistant", "content": text}] for text in texts]
    prompt = [{"role": "user", "content": "what colour is the sky ?"}]
    return Dataset.from_list([{"prompt": prompt, "responses": responses}])


def plain_log_probs(model, tokenizer, row, system):
    messages = [{"role": "system", "content": system}, *row["prompt"]]
    start = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    for response in row["responses"]:
        ids = tokenizer.apply_chat_template(messages + response, return_dict=True)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        yield scores.gather(1, torch.tensor(ids[1:])[:, None])[len(start) - 1 :, 0].mean().item()


def plain_choice(model, tokenizer, text):
    with torch.no_grad():
        probabilities = model(torch.tensor([encode_prompt(tokenizer, text)])).logits[0, -1].softmax(-1)
    return [probabilities[tokenizer.convert_tokens_to_ids(letter)].item() for letter in "ab"]


def test_scores_are_those_of_one_plain_pass_per_text_and_order(toy_assistant, toy_tokenizer):
    scored = score_candidates(
        rows(),
        toy_assistant,
        toy_tokenizer,
        judge=LetterJudge(toy_assistant, toy_tokenizer),
        ask=ab_prompt,
        alpha=0.25,
        system="You are good.",
        show_progress=False,
    )[0]
    expected = list(plain_log_probs(toy_assistant, toy_tokenizer, rows()[0], "You are good."))
    assert scored["mean_log_probs"] == pytest.approx(expected, abs=1e-4)

    texts = [response[0]["content"] for response in rows()[0]["responses"]]
    total = [0.0] * 3
    for first, second in itertools.combinations(range(3), 2):
        for one, other in ((first, second), (second, first)):
            a, b = plain_choice(
                toy_assistant, toy_tokenizer, ab_prompt("what colour is the sky ?", texts[one], texts[other])
            )
            total[one] += a / (a + b) / 4
            total[other] += b / (a + b) / 4
    assert scored["selection"] == pytest.approx(total, abs=1e-5)
    mixed = [0.25 * x + 0.75 * math.log(y) for x, y in zip(expected, total, strict=True)]
    assert scored["scores"] == pytest.approx(mixed, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "lack the column"),
        ([{"prompt": "q"}], "lack the column.s. responses"),
        (
            [{"prompt": "q", "responses": ["x", "y"]}, {"prompt": "q", "responses": ["x"]}],
            "row 1 needs 2 or more",
        ),
        ([{"prompt": "q", "responses": ["x", " "]}], "row 0 needs 2 or more responses, none of them empty"),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(toy_assistant, toy_tokenizer, given, message):
    with pytest.raises(ValueError, match=message):
        score_candidates(Dataset.from_list(given), toy_assistant, toy_tokenizer, show_progress=False)


def test_one_prompt_in_the_place_of_a_list_is_refused(toy_assistant, toy_tokenizer):
    with pytest.raises(TypeError, match="got one string"):
        sample_candidates(toy_assistant, toy_tokenizer, "who are you ?")


def test_a_judge_sees_the_whole_conversation_and_one_that_guesses_is_reported(caplog):
    prompt = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another!"},
    ]
    asked = []

    def judge(questions):
        asked.extend(questions)
        return [LetterChoice(0.6, 0.001)] * len(questions)

    data = Dataset.from_list([{"prompt": prompt, "responses": ["Red.", "No."]}])
    score_candidates(data, judge=judge, alpha=0.0, show_progress=False)
    assert len(asked) == 2
    assert all(turn["content"] in question for question in asked for turn in prompt)
    assert "in 1 of 1 rows the judge gave the two letters less than 0.1" in caplog.text


def test_what_a_weight_does_not_need_is_not_asked_for(toy_assistant, toy_tokenizer):
    def judge(_asked):
        raise AssertionError("asked")

    alone = score_candidates(
        rows(), toy_assistant, toy_tokenizer, judge=judge, alpha=1.0, show_progress=False
    )
    assert alone[0]["scores"] == alone[0]["mean_log_probs"]
    with pytest.raises(ValueError, match="alpha above 0 needs teacher="):
        score_candidates(rows(), judge=judge, alpha=0.5)
    with pytest.raises(ValueError, match="alpha below 1 needs a judge="):
        score_candidates(rows(), alpha=0.0)
    with pytest.raises(ValueError, match="alpha=2"):
        score_candidates(rows(), alpha=2)


def test_a_vocabulary_without_the_letters_is_refused(toy_assistant, toy_tokenizer):
    with pytest.raises(ValueError, match="is the letter 'Q'"):
        LetterJudge(toy_assistant, toy_tokenizer, letters=("Q", "B"))


def answers_like(toy):
    """An endpoint's answers whose log-probabilities are those of a real model."""
    model, tokenizer = toy

    def answer(payload):
        with torch.no_grad():
            ids = torch.tensor([encode_prompt(tokenizer, payload["messages"])])
            log_probs = model(ids).logits[0, -1].log_softmax(-1)
        best = log_probs.topk(payload["top_logprobs"])
        tokens = [tokenizer.decode([token]) for token in best.indices.tolist()]
        return completion(
            tokens[0],
            alternatives=list(zip(tokens, best.values.tolist(), strict=True)),
            finish_reason="length",
        )

    return answer


def test_a_chat_endpoint_judges_like_the_model_behind_it(toy, toy_assistant, toy_tokenizer):
    settings = {"ask": ab_prompt, "alpha": 0.0, "show_progress": False}
    with FaultyServer(answers_like(toy), plan=scripted("503", "429")) as server:
        judge = ChatLetterJudge(ChatClient(server.url, backoff=0.01))
        remote = score_candidates(rows(), judge=judge, **settings)
    local = score_candidates(rows(), toy_assistant, toy_tokenizer, **settings)
    assert remote[0]["selection"] == pytest.approx(local[0]["selection"], abs=1e-3)
    assert remote[0]["scores"] == pytest.approx(local[0]["scores"], abs=1e-2)


def test_a_judge_at_an_endpoint_is_shown_its_system_prompt(toy):
    with FaultyServer(answers_like(toy)) as server:
        ChatLetterJudge(ChatClient(server.url), system="Be just.")(["a or b ?"])
    assert server.seen[0].payload["messages"] == [
        {"role": "system", "content": "Be just."},
        {"role": "user", "content": "a or b ?"},
    ]


def test_an_endpoint_without_log_probabilities_is_refused():
    with (
        FaultyServer(lambda _payload: "A") as server,
        pytest.raises(ValueError, match="no log-probabilities"),
    ):
        ChatLetterJudge(ChatClient(server.url))(["a or b ?"])


def test_an_endpoint_that_refuses_is_a_sentence():
    with (
        FaultyServer(lambda _payload: "A", plan=scripted("401")) as server,
        pytest.raises(ConnectionError, match="gives no answer .*status 401: this is fault 401"),
    ):
        ChatLetterJudge(ChatClient(server.url))(["a or b ?"])
    assert len(server.seen) == 1


def test_the_question_and_both_answers_stand_in_the_comparison():
    text = compare_prompt("Why?", "Because.", "Thus.")
    assert text.index("Why?") < text.index("Answer A:\nBecause.") < text.index("Answer B:\nThus.")
