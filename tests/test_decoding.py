"""Several steerings from one prefill must give what separate, plain runs of `generate` give."""

import copy
import threading

import pytest
import torch
from zoo import random_directions as directions_of
from zoo_models import zoo_model

from hf_icon2 import make_steerable
from hf_icon2.steering.cache import roomy_cache
from hf_icon2.steering.decoding import Sampling, generate_variants

PROMPTS = [[5, 9, 200, 31, 8], [77, 12], [150], [40, 41, 42, 43, 44, 45, 46], [9, 9, 9]]
GREEDY = Sampling(max_new_tokens=24, temperature=0)
STOPS = [2, 11, 60, 99, 170, 230]


def separately(model, prompt: list[int], steering, stops=STOPS) -> list[int]:
    """One plain steered `generate` of one unpadded prompt, cut at the first stop id."""
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        steering=steering or {},
    )[0, len(prompt) :].tolist()
    return next((output[:place] for place, token in enumerate(output) if token in stops), output)


@pytest.fixture(scope="module")
def steered(request, tiny_llama, random_directions):
    model = copy.deepcopy(tiny_llama)
    directions = random_directions(model)
    return make_steerable(model, directions), directions


def test_both_signs_from_one_prefill_equal_separate_runs(
    steered, architecture, tiny_model, random_directions
) -> None:
    """Greedy, float32, left padding, ragged ends, batches of 3 and 2: token for token, on every architecture."""
    model = tiny_model(architecture)
    directions = random_directions(model)
    make_steerable(model, directions)
    variants = [[{"honesty": sign}] * len(PROMPTS) for sign in (0.4, -0.4)] + [[None] * len(PROMPTS)]
    together = generate_variants(
        model,
        PROMPTS,
        variants,
        sampling=GREEDY,
        seeds=[[0] * len(PROMPTS)] * 3,
        pad=0,
        directions=directions,
        stop_ids=STOPS,
        batch_size=3,
    )
    for row, steering in zip(together, ({"honesty": 0.4}, {"honesty": -0.4}, None), strict=True):
        assert [answer.ids for answer in row] == [separately(model, prompt, steering) for prompt in PROMPTS]


SMALL_PROMPTS = [[5, 9, 90, 31, 8], [77, 12], [50], [40, 41, 42, 43, 44, 45, 46], [9, 9, 9], [33, 12]]
SMALL_STOPS = [2, 11, 60]


@pytest.fixture(scope="module", params=["mamba", "rwkv", "minimax"])
def recurrent(request):
    """A model that keeps its past in a form of its own, with a criterion that steers two layers."""
    model = zoo_model(request.param)
    with torch.no_grad():
        hidden = model(torch.tensor([[40, 41, 42]]), output_hidden_states=True).hidden_states
    directions = directions_of([states.clone() for states in hidden[1:5]])
    return make_steerable(model, directions), directions


def test_models_that_cannot_share_a_prefill_answer_by_two_passes(recurrent) -> None:
    """Ragged prompts, three to a batch, limits of their own: token for token what each row gives alone."""
    model, directions = recurrent
    count, finished = len(SMALL_PROMPTS), []
    limits = [[1 + (7 * row + 5 * side) % 9 for row in range(count)] for side in range(3)]
    steerings = [{"layer 1": sign, "layer 0": 0.1} if sign else None for sign in (0.3, -0.3, 0)]
    together = generate_variants(
        model,
        SMALL_PROMPTS,
        [[steering] * count for steering in steerings],
        sampling=GREEDY,
        seeds=[[0] * count] * 3,
        pad=0,
        directions=directions,
        stop_ids=SMALL_STOPS,
        limits=limits,
        batch_size=3,
        progress=finished.append,
    )
    for row, steering, longest in zip(together, steerings, limits, strict=True):
        for answer, prompt, limit in zip(row, SMALL_PROMPTS, longest, strict=True):
            expected = separately(model, prompt, steering, stops=SMALL_STOPS)[:limit]
            assert answer.ids == expected
            assert answer.finish_reason == ("length" if len(expected) == limit else "stop")
    assert sum(finished) == 3 * count


def test_two_passes_share_noise_and_do_not_depend_on_the_batch(recurrent) -> None:
    model, directions = recurrent
    prompts = SMALL_PROMPTS + [[77, 12], [8, 3]]
    seeds = list(range(len(prompts)))

    def run(batch_size: int) -> list:
        none = [None] * len(prompts)
        return generate_variants(
            model,
            prompts,
            [none, none, [{"layer 1": 0.4}] * len(prompts)],
            sampling=Sampling(max_new_tokens=8, temperature=0.9, top_p=0.95),
            seeds=[seeds] * 3,
            pad=0,
            directions=directions,
            batch_size=batch_size,
        )

    first, second, steered = run(4)
    assert first == second != steered
    assert first[1] != first[6]  # one prompt under two seeds
    assert run(1) == [first, second, steered]


@pytest.mark.parametrize(
    "model_type", ["jamba", "qwen3_next", "falcon_h1", "zamba2", "lfm2", "gpt_oss", "llama4_text"]
)
def test_hybrid_and_chunked_models_share_a_prefill(model_type) -> None:
    """State-space layers, windows and chunks beside attention: their caches are copied per variant like the rest."""
    model = zoo_model(model_type)
    with torch.no_grad():
        hidden = model(torch.tensor([[40, 41, 42]]), output_hidden_states=True).hidden_states
    directions = directions_of(hidden[1:])
    make_steerable(model, directions)
    rows_per_pass = []
    model.get_decoder().register_forward_pre_hook(
        lambda _trunk, _args, inputs: rows_per_pass.append(len(inputs["input_ids"])), with_kwargs=True
    )
    steerings = [{"layer 1": 0.3}, {"layer 1": -0.3}]
    together = generate_variants(
        model,
        SMALL_PROMPTS,
        [[steering] * 6 for steering in steerings],
        sampling=GREEDY,
        seeds=[[0] * 6] * 2,
        pad=0,
        directions=directions,
        stop_ids=SMALL_STOPS,
        batch_size=6,
    )
    for row, steering in zip(together, steerings, strict=True):
        expected = [separately(model, prompt, steering, stops=SMALL_STOPS) for prompt in SMALL_PROMPTS]
        assert [answer.ids for answer in row] == expected
    assert {6, 12} <= set(rows_per_pass)


@pytest.mark.parametrize("model_type", ["roberta", "bart", "git"])
def test_where_padding_shifts_positions_only_equal_lengths_share_a_batch(model_type) -> None:
    """`generate` itself is no oracle here: it gives RoBERTa positions that its forward pass would not."""
    model = zoo_model(model_type)
    with torch.no_grad():
        hidden = model(torch.tensor([[40, 41, 42]]), output_hidden_states=True).hidden_states
    directions = directions_of(hidden[1:])
    rows_per_pass = []
    model.register_forward_pre_hook(
        lambda _model, _args, inputs: rows_per_pass.append(len(inputs["input_ids"])), with_kwargs=True
    )

    def answers(prompts: list[list[int]]) -> list:
        return generate_variants(
            model,
            prompts,
            [[{"layer 1": 0.3}] * len(prompts)],
            sampling=GREEDY,
            seeds=[[0] * len(prompts)],
            pad=0,
            directions=directions,
            stop_ids=SMALL_STOPS,
            batch_size=6,
        )[0]

    together = answers(SMALL_PROMPTS)
    assert max(rows_per_pass) == 2  # two prompts have two tokens
    assert together == [answers([prompt])[0] for prompt in SMALL_PROMPTS]


def test_a_model_with_offloaded_weights_answers_like_one_in_memory(tiny_llama, random_directions) -> None:
    from accelerate import cpu_offload

    directions = random_directions(tiny_llama)
    offloaded = cpu_offload(copy.deepcopy(tiny_llama), execution_device=torch.device("cpu"))

    def answers(model) -> list:
        variants = [[{"honesty": sign}] * 5 for sign in (0.4, -0.4)]
        sampling = Sampling(max_new_tokens=5)
        return generate_variants(
            model, PROMPTS, variants, sampling=sampling, seeds=[[3] * 5] * 2, pad=0, directions=directions
        )

    assert answers(offloaded) == answers(copy.deepcopy(tiny_llama))


def test_answers_end_at_stop_ids_or_at_the_longest_length(steered) -> None:
    model, directions = steered
    rows = generate_variants(
        model,
        PROMPTS,
        [[None] * 5],
        sampling=GREEDY,
        seeds=[[0] * 5],
        pad=0,
        stop_ids=STOPS,
        directions=directions,
    )[0]
    for answer in rows:
        assert not set(answer.ids) & set(STOPS)
        assert answer.finish_reason == ("length" if len(answer.ids) == 24 else "stop")
    assert {answer.finish_reason for answer in rows} == {"stop", "length"} or len(rows) == 5


def test_rows_that_take_the_place_of_ended_ones_decode_as_if_alone(steered) -> None:
    """Prompts of 1 to 12 tokens, two at a time under both signs: those in waiting join rows in mid-answer."""
    model, directions = steered
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 12, 3, 1, 7, 2, 9, 1, 5, 4]
    prompts = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in lengths]
    limits = [[3 + (5 * row + 7 * side) % 19 for row in range(len(prompts))] for side in (0, 1)]
    rows_per_pass = []
    watch = model.register_forward_pre_hook(
        lambda _model, _args, inputs: rows_per_pass.append(len(inputs["input_ids"])), with_kwargs=True
    )
    together = generate_variants(
        model,
        prompts,
        [[{"honesty": sign}] * len(prompts) for sign in (0.4, -0.4)],
        sampling=GREEDY,
        seeds=[[0] * len(prompts)] * 2,
        pad=0,
        directions=directions,
        limits=limits,
        batch_size=4,
    )
    watch.remove()
    assert max(rows_per_pass) <= 8
    assert any(later > earlier for earlier, later in zip(rows_per_pass, rows_per_pass[1:], strict=False))
    for row, sign, longest in zip(together, (0.4, -0.4), limits, strict=True):
        for answer, prompt, limit in zip(row, prompts, longest, strict=True):
            expected = separately(model, prompt, {"honesty": sign}, stops=[2])[:limit]
            assert answer.ids == expected
            assert answer.finish_reason == ("length" if len(expected) == limit else "stop")


def test_sampled_answers_do_not_depend_on_the_batch(steered) -> None:
    """Same seeds in batches of 1, 2 and 5, and in another order."""
    model, directions = steered
    seeds = [101, 102, 103, 104, 105]

    def run(order: list[int], batch: int) -> dict[int, list[int]]:
        answers = generate_variants(
            model,
            [PROMPTS[index] for index in order],
            [[{"helpfulness": 0.3}] * 5],
            sampling=Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95),
            seeds=[[seeds[index] for index in order]],
            pad=0,
            directions=directions,
            batch_size=batch,
        )[0]
        return {index: answer.ids for index, answer in zip(order, answers, strict=True)}

    assert run([0, 1, 2, 3, 4], 5) == run([0, 1, 2, 3, 4], 1) == run([3, 1, 4, 0, 2], 2)


def test_equal_seeds_share_noise_and_different_seeds_do_not(steered) -> None:
    model, directions = steered
    sampling = Sampling(max_new_tokens=12)
    none = [None] * 5
    shared = generate_variants(model, PROMPTS, [none, none], sampling=sampling, seeds=[[1] * 5] * 2, pad=0)
    other = generate_variants(
        model, PROMPTS, [none, none], sampling=sampling, seeds=[[1] * 5, [2] * 5], pad=0
    )
    assert shared[0] == shared[1]
    assert other[0] == shared[0]
    assert other[1] != other[0]


def test_four_threads_decode_differently_steered_rows_like_one_after_the_other(steered) -> None:
    model, directions = steered
    strengths = [-0.5, -0.1, 0.2, 0.6]
    found: dict[float, object] = {}

    def run(strength: float) -> object:
        return generate_variants(
            model,
            PROMPTS,
            [[{"honesty": strength}] * 5],
            sampling=Sampling(max_new_tokens=10),
            seeds=[[3] * 5],
            pad=0,
            directions=directions,
        )

    sequential = {strength: run(strength) for strength in strengths}
    threads = [
        threading.Thread(target=lambda strength=strength: found.update({strength: run(strength)}))
        for strength in strengths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == sequential


def test_the_growing_cache_holds_the_states_of_a_plain_cache(tiny_llama) -> None:
    from transformers import DynamicCache

    ids = torch.randint(3, 300, (3, 80), generator=torch.Generator().manual_seed(0))
    roomy, plain = roomy_cache(tiny_llama), DynamicCache(config=tiny_llama.config)
    keep = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        for cache in (roomy, plain):
            tiny_llama(input_ids=ids[:, :70], past_key_values=cache)
            cache.reorder_cache(keep)
            for column in range(70, 80):
                tiny_llama(input_ids=ids[keep, column : column + 1], past_key_values=cache)
    for ours, theirs in zip(roomy.layers, plain.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
        ("temperature", -1.0, r"temperature must be 0 \(greedy\) or more, got -1.0"),
        ("top_p", 0.0, "top_p must be above 0 and at most 1, got 0.0"),
    ],
)
def test_impossible_sampling_is_refused(field: str, value: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sampling(**{field: value})


def test_a_steered_variant_without_directions_is_refused(tiny_llama) -> None:
    with pytest.raises(ValueError, match="a variant is steered, so directions are needed"):
        generate_variants(tiny_llama, [[5]], [[{"honesty": 1.0}]], sampling=GREEDY, seeds=[[0]], pad=0)


def test_lists_of_another_length_are_refused(tiny_llama) -> None:
    with pytest.raises(ValueError, match="seeds must be 1 lists of 2 entries"):
        generate_variants(tiny_llama, [[5], [6]], [[None, None]], sampling=GREEDY, seeds=[[0]], pad=0)
