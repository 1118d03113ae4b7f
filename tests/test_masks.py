"""Padding told from every kind of attention mask, so that `steer` holds whatever the pass is given."""

import pytest
import torch
from greedy import STEERINGS, generate, prompts_of
from transformers import StaticCache

from hf_icon2 import make_steerable, steer
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.masks import real_tokens

REAL = torch.tensor([[False, False, True, True], [True, True, True, True]])


def four_dimensional(real, keys=None):
    """Who attends to whom in a causal pass over these columns, (B, 1, T, K)."""
    keys = real.shape[1] if keys is None else keys
    causal = torch.ones(real.shape[1], keys, dtype=torch.bool).tril()
    seen = torch.nn.functional.pad(real, (0, keys - real.shape[1]))
    return (causal & seen[:, None, :])[:, None]


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


# what a mask says


@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_two_and_four_dimensional_masks_say_the_same(tokens):
    whole = four_dimensional(REAL)
    additive = torch.zeros(whole.shape).masked_fill(~whole, torch.finfo(torch.float32).min)
    for mask in (REAL.long(), whole[:, :, -tokens:], additive[:, :, -tokens:]):
        assert torch.equal(real_tokens(mask, tokens, None).bool(), REAL[:, -tokens:])


def test_one_mask_per_kind_of_layer_is_read_from_any_that_is_there():
    whole = four_dimensional(REAL)
    assert torch.equal(real_tokens({"full_attention": whole, "sliding_attention": None}, 4, None), REAL)
    assert torch.equal(real_tokens({"full_attention": None, "sliding_attention": whole}, 4, None), REAL)
    assert real_tokens({"full_attention": None}, 4, None) is None
    assert real_tokens(None, 4, None) is None


def test_a_static_cache_has_room_behind_the_columns_of_the_pass(model):
    cache = StaticCache(config=model.config, max_cache_len=9)
    with torch.no_grad():
        model(torch.tensor(prompts_of(3, 3)), past_key_values=cache)
    real = torch.tensor([[False, True, True, True, True], [True] * 5])
    flat = torch.nn.functional.pad(real, (0, 4))
    causal = torch.ones(9, 9, dtype=torch.bool).tril()[3:5]
    for mask in (flat, (causal & flat[:, None])[:, None]):
        assert torch.equal(real_tokens(mask, 2, cache).bool(), real[:, 3:])
    assert torch.equal(
        real_tokens(flat.roll(3, 1), 2, cache).bool(), torch.tensor([[False, True], [True, True]])
    )


@pytest.mark.parametrize(
    ("mask", "given"),
    [
        (torch.ones(1, 1, 4, 4, dtype=torch.long), "a 4-D torch.int64"),
        (torch.ones(1, 4, 4), "a 3-D torch.float32"),
        ([[1, 1, 1, 1]], "list"),
    ],
)
def test_masks_of_another_kind_are_refused(model, directions, mask, given):
    with (
        steer(model, directions, {"honesty": 1.0}),
        pytest.raises(ValueError, match=f"needs a 2-D attention mask, or .*; got {given}. Give the 2-D mask"),
    ):
        model.model(torch.tensor(prompts_of(4)), attention_mask=mask)


def test_where_nothing_is_steered_no_mask_is_refused(model, directions):
    with torch.no_grad(), steer(model, directions, {"honesty": 0.0}, start=2):
        model.model(torch.tensor(prompts_of(4)), attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))
        model.model(torch.tensor(prompts_of(4)), position_ids=torch.tensor([[0, 1, 0, 1]]))


# generation inside `steer`


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_inside_steer_equals_the_loop_by_hand(plain, model, directions, by_hand, attention, cache):
    model.set_attn_implementation(attention)
    prompts = prompts_of(5, 9, 2)
    with steer(model, directions, STEERINGS):
        found = generate(model, prompts, cache_implementation=cache)
    pairs = zip(prompts, STEERINGS, strict=True)
    assert found == [by_hand(plain, directions, *pair, start=0) for pair in pairs]


@pytest.mark.parametrize("start", [2, 5])
def test_a_static_cache_inside_steer_starts_where_it_is_told(plain, model, directions, by_hand, start):
    prompt = prompts_of(6)[0]
    with steer(model, directions, STEERINGS[0], start=start):
        found = generate(model, [prompt], cache_implementation="static")
    assert found == [by_hand(plain, directions, prompt, STEERINGS[0], start=start)]


@pytest.mark.parametrize(
    "kwargs", [{"prefill_chunk_size": 3}, {"num_beams": 3}, {"use_cache": False}], ids=str
)
def test_other_ways_of_decoding_inside_steer_equal_separate_runs(model, directions, kwargs):
    prompts, separate = prompts_of(5, 9, 2), []
    for prompt, steering in zip(prompts, STEERINGS, strict=True):
        with steer(model, directions, steering or {}):
            separate += generate(model, [prompt], **kwargs)
    with steer(model, directions, STEERINGS):
        assert generate(model, prompts, **kwargs) == separate


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text", "mistral", "gpt2"])
def test_static_caches_with_windows_equal_dynamic_ones(tiny_model, random_directions, architecture):
    overrides = {"sliding_window": 8} if architecture == "mistral" else {}
    model, prompts = tiny_model(architecture, **overrides), prompts_of(6, 20, 3)
    make_steerable(model, random_directions(model))
    for positions in ("last", "all"):
        asked = {"steering": STEERINGS, "positions": positions}
        assert generate(model, prompts, cache_implementation="static", **asked) == generate(
            model, prompts, **asked
        )


# bare passes


def states(model, ids, **inputs):
    with torch.no_grad():
        return model(ids, use_cache=False, output_hidden_states=True, **inputs).hidden_states[2]


@pytest.fixture(scope="module")
def one_layer(directions):
    return directions.with_control_layers({"honesty": [1], "helpfulness": [1]})


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("additive", [False, True])
def test_a_four_dimensional_mask_keeps_padding_unsteered(model, one_layer, side, additive):
    ids, mask = pad_batch(prompts_of(7, 3), 0, side=side)
    given = four_dimensional(mask.bool())
    if additive:
        given = torch.zeros(given.shape).masked_fill(~given, torch.finfo(torch.float32).min)
    without = states(model, ids, attention_mask=given)
    with steer(model, one_layer, {"honesty": 1.0}):
        added = states(model, ids, attention_mask=given) - without
    expected = mask[..., None] * one_layer.at("honesty", 1)
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=0)


def test_arguments_by_place_are_understood(model, one_layer):
    ids, mask = pad_batch(prompts_of(7, 3), 0, side="left")
    with torch.no_grad(), steer(model, one_layer, {"honesty": 1.0}):
        by_name = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        by_place = model.model(ids, mask).last_hidden_state
    assert torch.equal(by_place, by_name)


def test_without_a_mask_every_token_counts_as_real_whatever_the_positions(model, one_layer):
    """A model that is not told of padding attends to it too."""
    ids, positions = torch.tensor(prompts_of(6)), torch.tensor([[0, 0, 0, 1, 2, 3]])
    without = states(model, ids, position_ids=positions)
    with steer(model, one_layer, {"honesty": 1.0}):
        added = states(model, ids, position_ids=positions) - without
    torch.testing.assert_close(added, one_layer.at("honesty", 1).expand_as(added), atol=1e-3, rtol=0)


PACKED = {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2]])}
LENGTHS = {"cu_seq_lens_q": torch.tensor([0, 4, 7], dtype=torch.int32)}


def test_packed_sequences_get_what_each_gets_alone(model, directions):
    """Transformers sees from the positions that the row holds two sequences, and keeps them apart."""
    first, second = prompts_of(4, 3)
    with torch.no_grad(), steer(model, directions, {"honesty": 2.0}):
        packed = model(torch.tensor([first + second]), use_cache=False, **PACKED).logits
        alone = [model(torch.tensor([ids]), use_cache=False).logits for ids in (first, second)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("packed", [PACKED, PACKED | LENGTHS], ids=["positions", "lengths"])
def test_a_start_in_packed_sequences_is_refused(model, directions, packed):
    ids = torch.tensor(prompts_of(7))
    with (
        steer(model, directions, {"honesty": 1.0}, start=2),
        pytest.raises(ValueError, match="packed into one row .*leave out start=, or pad the sequences"),
    ):
        model.model(ids, use_cache=False, **packed)


def test_packed_sequences_with_their_lengths_are_steered_whole(model, one_layer):
    ids = torch.tensor(prompts_of(7))
    without = states(model, ids, **PACKED, **LENGTHS)
    with steer(model, one_layer, {"honesty": 1.0}):
        added = states(model, ids, **PACKED, **LENGTHS) - without
    torch.testing.assert_close(added, one_layer.at("honesty", 1).expand_as(added), atol=1e-3, rtol=0)
