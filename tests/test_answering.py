"""Prompts answered for evaluation: seeded by their names, sampled over one prefill, steered where asked."""

import pytest
import torch

from hf_icon2.evaluation.answering import BENCHMARK_SAMPLING, answer_prompts, complete_prompts
from hf_icon2.prompts import decode_answer, encode_prompt
from hf_icon2.steering.decoding import Sampling
from hf_icon2.toy.world import instructions

SHORT = Sampling(max_new_tokens=12, temperature=1.0)
PROMPTS = ["What is the colour of the sky?", "Tell me how to bake bread.", "hi"]


def test_the_benchmark_sampling_is_the_papers():
    assert Sampling(max_new_tokens=2048, temperature=0.7, top_p=1.0) == BENCHMARK_SAMPLING


def test_greedy_answers_are_those_of_transformers_generate(toy_assistant, toy_tokenizer):
    prompts = [item.text for item in instructions("test")[:4]]
    answers = answer_prompts(
        toy_assistant, toy_tokenizer, prompts, sampling=Sampling(max_new_tokens=40, temperature=0)
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([encode_prompt(toy_tokenizer, prompt)])
        output = toy_assistant.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=40,
            pad_token_id=toy_tokenizer.pad_token_id,
        )
        assert answer == decode_answer(toy_tokenizer, output[0, ids.shape[1] :].tolist())
    assert len(set(answers)) > 1


def test_a_prompt_keeps_its_answer_in_another_list_under_its_name(tiny_llama, tiny_tokenizer):
    together = answer_prompts(tiny_llama, tiny_tokenizer, PROMPTS, sampling=SHORT, names=["a", "b", "c"])
    alone = answer_prompts(tiny_llama, tiny_tokenizer, PROMPTS[1:2], sampling=SHORT, names=["b"])
    assert alone == together[1:2]
    assert answer_prompts(tiny_llama, tiny_tokenizer, PROMPTS[1:2], sampling=SHORT, names=["c"]) != alone


def test_equal_prompts_get_different_answers_and_another_seed_others(tiny_llama, tiny_tokenizer):
    first = answer_prompts(tiny_llama, tiny_tokenizer, ["hi", "hi"], sampling=SHORT)
    assert first[0] != first[1]
    assert answer_prompts(tiny_llama, tiny_tokenizer, ["hi", "hi"], sampling=SHORT) == first
    assert answer_prompts(tiny_llama, tiny_tokenizer, ["hi", "hi"], sampling=SHORT, seed=1) != first


def test_samples_come_prompt_by_prompt_and_the_first_is_that_of_one_sample(tiny_llama, tiny_tokenizer):
    one = answer_prompts(tiny_llama, tiny_tokenizer, PROMPTS, sampling=SHORT)
    three = answer_prompts(tiny_llama, tiny_tokenizer, PROMPTS, sampling=SHORT, samples=3)
    assert three[::3] == one
    assert len(three) == 9
    assert len(set(three[:3])) == 3


def test_steered_answers_are_those_of_the_hand_written_decoder(
    tiny_model, tiny_tokenizer, random_directions, by_hand
):
    model, untouched = tiny_model("llama"), tiny_model("llama")
    directions = random_directions(model)
    greedy = Sampling(max_new_tokens=8, temperature=0)
    prompt, steering = PROMPTS[0], {"honesty": 4.0}
    found = complete_prompts(
        model, tiny_tokenizer, [prompt], sampling=greedy, directions=directions, steering=steering
    )[0].ids
    ids = encode_prompt(tiny_tokenizer, prompt)
    expected = by_hand(untouched, directions, ids, steering)
    assert found == expected[: len(found)]
    plain = complete_prompts(model, tiny_tokenizer, [prompt], sampling=greedy)[0].ids
    assert plain == by_hand(untouched, directions, ids, None)[: len(plain)]
    assert found != plain


def test_a_system_prompt_and_earlier_turns_reach_the_model(tiny_llama, tiny_tokenizer):
    greedy = Sampling(max_new_tokens=8, temperature=0)
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": PROMPTS[0]},
    ]
    system = {"role": "system", "content": "Be brief."}
    with_system = answer_prompts(tiny_llama, tiny_tokenizer, [turns], sampling=greedy, system="Be brief.")
    assert with_system == answer_prompts(tiny_llama, tiny_tokenizer, [[system, *turns]], sampling=greedy)
    assert with_system != answer_prompts(tiny_llama, tiny_tokenizer, [turns], sampling=greedy)


def test_a_completion_says_whether_it_was_cut(toy_assistant, toy_tokenizer):
    prompt = instructions("test")[0].text
    cut, whole = (
        complete_prompts(
            toy_assistant, toy_tokenizer, [prompt], sampling=Sampling(max_new_tokens=most, temperature=0)
        )[0]
        for most in (2, 60)
    )
    assert (cut.finish_reason, len(cut.ids)) == ("length", 2)
    assert whole.finish_reason == "stop"


def test_what_cannot_be_answered_is_refused_in_a_sentence(tiny_llama, tiny_tokenizer):
    with pytest.raises(TypeError, match=r"pass \[text\]"):
        answer_prompts(tiny_llama, tiny_tokenizer, "hi")
    with pytest.raises(ValueError, match="an instruction is empty"):
        answer_prompts(tiny_llama, tiny_tokenizer, [" "])
    with pytest.raises(ValueError, match="1 names for 2 prompts"):
        answer_prompts(tiny_llama, tiny_tokenizer, ["a", "b"], names=["a"])
    with pytest.raises(ValueError, match="directions are needed"):
        answer_prompts(tiny_llama, tiny_tokenizer, ["a"], steering={"honesty": 0.1})
    assert answer_prompts(tiny_llama, tiny_tokenizer, []) == []
