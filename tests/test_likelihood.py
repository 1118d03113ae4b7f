"""Log-probabilities from a shared prefix against one plain pass per text."""

import pytest
import torch

from hf_icon2.likelihood import continuation_log_probs, next_token_log_probs, response_log_probs


def ids(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(6, 300, (length,), generator=generator).tolist() for length in lengths]


def plain(model, row):
    with torch.no_grad():
        return model(torch.tensor([row])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("length", [1, 9])
def test_continuations_equal_one_plain_pass_each(tiny_model, architecture, length):
    model = tiny_model(architecture)
    prompt, *continuations = ids(length, 3, 7, 1)
    found = continuation_log_probs(model, prompt, continuations)
    for continuation, values in zip(continuations, found, strict=True):
        scores = plain(model, prompt + continuation)[length - 1 : -1]
        expected = scores.gather(1, torch.tensor(continuation)[:, None])[:, 0]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_next_tokens_equal_one_plain_pass_each(tiny_model, model_type):
    model = tiny_model(model_type)
    start, *ends = ids(11, 4, 9, 1)
    rows = [start + end for end in ends]
    expected = torch.stack([plain(model, row)[-1] for row in rows])
    torch.testing.assert_close(next_token_log_probs(model, rows), expected, rtol=1e-4, atol=1e-4)


def test_rows_without_anything_in_common_are_read_whole(tiny_llama):
    rows = ids(4, 8)
    expected = torch.stack([plain(tiny_llama, row)[-1] for row in rows])
    torch.testing.assert_close(next_token_log_probs(tiny_llama, rows), expected, rtol=1e-4, atol=1e-4)


def test_many_rows_are_read_in_parts(tiny_llama, monkeypatch):
    prompt, *continuations = ids(6, 5, 2, 4, 3, 1)
    whole = continuation_log_probs(tiny_llama, prompt, continuations)
    monkeypatch.setattr("hf_icon2.likelihood._LOGITS_PER_PASS", 320 * 6 * 2)  # two rows of six columns
    for one, other in zip(continuation_log_probs(tiny_llama, prompt, continuations), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_responses_to_different_prompts_equal_one_plain_pass_each(tiny_model, model_type, monkeypatch):
    model = tiny_model(model_type)
    start, *ends = ids(5, 4, 9, 1)
    prompts, responses = [start + end for end in ends], ids(3, 1, 8, seed=1)
    monkeypatch.setattr("hf_icon2.likelihood._LOGITS_PER_PASS", 320 * 13 * 2)  # two rows at a time
    found = response_log_probs(model, prompts, responses)
    for prompt, response, values in zip(prompts, responses, found, strict=True):
        scores = plain(model, prompt + response)[len(prompt) - 1 : -1]
        expected = scores.gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
