"""Candidates that spread by temperature and by steering: from one prefill as from separate calls."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from zoo_models import zoo_model

from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.prompts import decode_answer, encode_prompt
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed

PROMPTS = [[5, 9, 200, 31, 8], [77, 12], [150], [40, 41, 42, 43, 44, 45, 46], [9, 9, 9]]
TEXTS = ["What is the colour of the sky?", "Tell me how to bake bread, and wait.", "Who are you?"]


@pytest.mark.parametrize("build", [None, "mamba"])
def test_variants_at_several_temperatures_are_those_of_separate_calls(build, tiny_llama):
    """Greedy, cold and hot rows of one batch, where a prompt is prefilled once and where it is not."""
    model = tiny_llama if build is None else zoo_model(build)
    prompts = [[token % 64 for token in prompt] for prompt in PROMPTS] if build else PROMPTS
    sampling = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9)
    settings = {"pad": 0, "batch_size": 3}
    seeds, none = [[variant * 10 + row for row in range(5)] for variant in range(4)], [None] * 5
    heats = [0.0, 0.5, 1.5, 0.5]
    together = generate_variants(
        model, prompts, [none] * 4, sampling=sampling, seeds=seeds, temperatures=heats, **settings
    )
    for row, own, heat in zip(together, seeds, heats, strict=True):
        alone = generate_variants(
            model, prompts, [none], sampling=Sampling(10, heat, 0.9), seeds=[own], **settings
        )
        assert row == alone[0]
    assert together[1] != together[3]


@pytest.mark.parametrize("heats", [[1.0], [1.0, -0.5]])
def test_temperatures_must_be_one_per_variant_and_not_negative(heats, tiny_llama):
    with pytest.raises(ValueError, match=r"temperatures must be 2 numbers of 0 \(greedy\) or more"):
        generate_variants(
            tiny_llama,
            [[5]],
            [[None], [None]],
            sampling=Sampling(4),
            seeds=[[0], [1]],
            pad=0,
            temperatures=heats,
        )


def test_candidates_under_steerings_and_temperatures_are_those_of_separate_calls(
    tiny_model, tiny_tokenizer, random_directions
):
    """Sample i has steering i % 3 and temperature i % 2; every answer once more, by a call of its own."""
    model = tiny_model("llama")
    directions = random_directions(model)
    steerings, heats = [{}, {"honesty": 0.4}, {"honesty": -0.4}], [0.7, 1.3]
    widths = []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    rows = sample_candidates(
        model,
        tiny_tokenizer,
        TEXTS,
        samples=6,
        keep=6,
        sampling=Sampling(8, 1.0, 0.95),
        temperatures=heats,
        directions=directions,
        steerings=steerings,
        seed=3,
        show_progress=False,
    )
    handle.remove()
    assert len(rows) == len(TEXTS)
    for number, row in enumerate(rows):
        alone = set()
        for draw in range(6):
            answer = generate_variants(
                model,
                [encode_prompt(tiny_tokenizer, TEXTS[number])],
                [[steerings[draw % 3] or None]],
                sampling=Sampling(8, heats[draw % 2], 0.95),
                seeds=[[row_seed(3, f"{number}/{draw}")]],
                pad=0,
                directions=directions,
            )[0][0]
            alone.add(decode_answer(tiny_tokenizer, answer.ids))
        assert {response[0]["content"] for response in row["responses"]} == alone
    longest = max(len(encode_prompt(tiny_tokenizer, text)) for text in TEXTS)
    assert widths.count(longest - 1) == 1  # all prompts but their last tokens, once for all samples
    assert max(widths) == longest - 1  # the other ones are the probe of the padding


def test_more_values_than_samples_and_missing_directions_are_refused(tiny_llama, tiny_tokenizer):
    def draw(**settings):
        sample_candidates(tiny_llama, tiny_tokenizer, TEXTS, samples=2, keep=2, **settings)

    with pytest.raises(ValueError, match="3 temperatures for 2 samples; allowed: 1 to 2"):
        draw(temperatures=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="0 steerings for 2 samples"):
        draw(steerings=[])
    with pytest.raises(ValueError, match="directions are needed"):
        draw(steerings=[{}, {"honesty": 0.1}])


def test_a_spread_leaves_unspread_candidates_as_they_were(tiny_llama, tiny_tokenizer):
    settings = {"samples": 3, "keep": 2, "sampling": Sampling(8, 0.8), "show_progress": False}
    plain = sample_candidates(tiny_llama, tiny_tokenizer, TEXTS, **settings)
    same = sample_candidates(tiny_llama, tiny_tokenizer, TEXTS, temperatures=[0.8, 0.8], **settings)
    assert plain.to_list() == same.to_list()
    assert torch.is_grad_enabled()
