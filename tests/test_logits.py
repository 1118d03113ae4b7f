"""Icon2LogitsProcessor against a recomputation by hand: no cache, no padding, one row and one sign at a time."""

import pytest
import torch
from greedy import prompts_of
from transformers import LogitsProcessor

from hf_icon2 import Icon2LogitsProcessor, make_steerable, steer
from hf_icon2.prompts import pad_batch

GUIDANCE = 1.5
STEERING = {"honesty": 3.0, "helpfulness": -2.0}


class ByHand(LogitsProcessor):
    """What the processor promises, the slow way: full prefixes of single rows, and hooks written here.

    Args:
        steerings: One mapping per prompt.
        prompts: The prompts without padding, so that the number of pads of every row is known.
    """

    def __init__(self, model, directions, steerings, prompts, guidance=GUIDANCE):
        self.model, self.directions, self.guidance = model, directions, guidance
        self.steerings, self.prompts = steerings, prompts
        self.width = max(len(prompt) for prompt in prompts)

    def logps(self, ids, start, steering, sign):
        """Next-token log-probabilities of one row, (V,)."""

        def adder(layer):
            def hook(_module, _args, output):
                states = (output[0] if isinstance(output, tuple) else output).clone()
                for name, strength in steering.items():
                    if layer in self.directions.config.control_layers[name]:
                        states[:, start:] += sign * strength * self.directions.at(name, layer)
                return (states, *output[1:]) if isinstance(output, tuple) else states

            return hook

        blocks = getattr(self.model.base_model, "layers", None) or self.model.base_model.h
        handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(blocks)]
        try:
            return self.model(ids[None], use_cache=False).logits[0, -1].float().log_softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    def difference(self, ids, prompt):
        pads = self.width - len(self.prompts[prompt])
        plus, minus = (
            self.logps(ids[pads:], len(self.prompts[prompt]) - 1, self.steerings[prompt] or {}, sign)
            for sign in (1, -1)
        )
        return plus - minus

    def __call__(self, input_ids, scores):
        copies = len(input_ids) // len(self.prompts)
        rows = [self.difference(ids, row // copies) for row, ids in enumerate(input_ids)]
        return scores + self.guidance * torch.stack(rows)


class Both(LogitsProcessor):
    """Follows the first processor and keeps the largest difference to the second."""

    def __init__(self, first, second):
        self.first, self.second, self.worst, self.calls = first, second, 0.0, 0

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        ours, theirs = self.first(input_ids, scores), self.second(input_ids, scores)
        finite = torch.isfinite(theirs)
        assert torch.equal(finite, torch.isfinite(ours))
        self.worst = max(self.worst, float((ours - theirs)[finite].abs().max()))
        self.calls += 1
        return ours


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def steered_model(tiny_model):
    """One that has its hooks, apart from the one the oracle runs on."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def directions(model, random_directions):
    return random_directions(model)


def generate(model, prompts, processor, **kwargs):
    ids, mask = pad_batch(prompts, 0, side="left")
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        logits_processor=[processor],
        **{"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, **kwargs},
    )


def both(model, steered_model, directions, steering, prompts, **kwargs):
    """Our processor and the one by hand, to be called side by side."""
    _, mask = pad_batch(prompts, 0, side="left")
    steerings = [steering] * len(prompts) if isinstance(steering, dict) else steering
    ours = Icon2LogitsProcessor(steered_model, directions, steering, GUIDANCE, attention_mask=mask)
    return Both(ours, ByHand(model, directions, steerings, prompts, **kwargs))


DECODING = {
    "greedy": {},
    "sampling with returned sequences": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "beams with returned sequences": {"num_beams": 4, "num_return_sequences": 2},
    "without the outer cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("kwargs", DECODING.values(), ids=DECODING)
@pytest.mark.parametrize(
    "steering", [STEERING, [STEERING, None, {"honesty": -4.0}]], ids=["one steering", "one per row"]
)
def test_it_equals_the_recomputation_by_hand_on_left_padded_prompts(
    model, steered_model, directions, steering, kwargs
):
    torch.manual_seed(0)
    prompts = prompts_of(5, 9, 2)
    pair = both(model, steered_model, directions, steering, prompts)
    generate(steered_model, prompts, pair, **kwargs)
    assert pair.calls >= 8
    assert pair.worst < 1e-3  # float32 log-probabilities of size 10, times the guidance


def test_it_changes_what_is_generated(steered_model, directions):
    prompts = prompts_of(6, 6)
    plain = Icon2LogitsProcessor(steered_model, directions, STEERING, 0.0)
    guided = Icon2LogitsProcessor(steered_model, directions, STEERING, GUIDANCE)
    assert not torch.equal(generate(steered_model, prompts, plain), generate(steered_model, prompts, guided))


def test_prompt_lookup_equals_the_recomputation_by_hand(model, steered_model, directions):
    prompts = [prompts_of(4)[0] * 3]  # repeats, so that there is something to look up
    pair = both(model, steered_model, directions, STEERING, prompts)
    looked_up = generate(steered_model, prompts, pair, prompt_lookup_num_tokens=3, max_new_tokens=12)
    assert pair.worst < 1e-3
    by_hand = ByHand(model, directions, [STEERING], prompts)
    assert torch.equal(looked_up, generate(steered_model, prompts, by_hand, max_new_tokens=12))


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_inside_an_outer_steering_it_is_the_same_and_the_outer_one_stays(
    tiny_model, model, directions, kwargs
):
    outer, prompts = {"helpfulness": 4.0}, prompts_of(7, 3)
    steerable = make_steerable(tiny_model("llama"), directions)
    pair = both(model, steerable, directions, STEERING, prompts)
    inside = generate(steerable, prompts, pair, steering=outer, **kwargs)
    assert pair.worst < 1e-3
    # The scores it is added to are the outer steering's: an oracle that runs on another model gives the same text.
    by_hand = ByHand(model, directions, [STEERING] * 2, prompts)
    assert torch.equal(inside, generate(steerable, prompts, by_hand, steering=outer, **kwargs))
    assert not torch.equal(inside, generate(steerable, prompts, by_hand, **kwargs))


def test_inside_a_steer_block_it_is_the_same(model, steered_model, directions):
    prompts = prompts_of(7, 3)
    pair = both(model, steered_model, directions, STEERING, prompts)
    with steer(steered_model, directions, {"helpfulness": 4.0}):
        generate(steered_model, prompts, pair)
    assert pair.worst < 1e-3


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "falcon", "opt"])
def test_other_architectures_equal_the_recomputation_by_hand(tiny_model, random_directions, model_type):
    theirs, ours = tiny_model(model_type), tiny_model(model_type)
    if model_type == "opt":
        theirs.base_model.layers = theirs.base_model.decoder.layers
    prompts, directions = prompts_of(20, 3), random_directions(ours)
    pair = both(theirs, ours, directions, STEERING, prompts)
    generate(ours, prompts, pair, num_beams=2)
    assert pair.worst < 1e-3


def test_one_processor_serves_one_generate_call_after_another(model, steered_model, directions):
    processor = Icon2LogitsProcessor(steered_model, directions, STEERING, GUIDANCE)
    for prompts in (prompts_of(4, 4), prompts_of(6, seed=4), prompts_of(6, seed=5), prompts_of(2, 2)):
        pair = Both(processor, ByHand(model, directions, [STEERING] * len(prompts), prompts))
        generate(steered_model, prompts, pair)
        assert pair.worst < 1e-3


def test_a_later_turn_of_a_conversation_is_a_new_prompt(model, steered_model, directions):
    processor = Icon2LogitsProcessor(steered_model, directions, STEERING, GUIDANCE)
    first = generate(steered_model, prompts_of(4), processor)
    later = [first[0].tolist() + prompts_of(3)[0]]
    pair = Both(processor, ByHand(model, directions, [STEERING], later))
    generate(steered_model, later, pair)
    assert pair.worst < 1e-3


def test_rows_that_change_places_do_not_take_each_others_steering(model, steered_model, directions):
    prompts = prompts_of(5) * 2  # equal prompts under opposite steerings: only the place tells them apart
    steerings = [{"honesty": 3.0}, {"honesty": -3.0}]
    pair = both(model, steered_model, directions, steerings, prompts)
    generate(steered_model, prompts, pair, num_beams=4)
    assert pair.worst < 1e-3


def test_extending_rows_costs_one_token_each(steered_model, directions):
    widths = []
    handle = steered_model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = prompts_of(5, 5)
    processor = Icon2LogitsProcessor(steered_model, directions, STEERING)
    widths.clear()
    for extra in range(3):
        ids = torch.tensor(prompts_of(5 + extra, 5 + extra))
        ids[:, :5] = torch.tensor(prompts)
        ids[:, 5:] = torch.arange(7, 7 + extra)
        processor(ids, torch.zeros(2, 320))
    handle.remove()
    assert widths == [(2, 4), (4, 1), (4, 1), (4, 1)]  # both signs share the prefill


@pytest.mark.parametrize("steering", [{}, {"honesty": 0.0}, [None, {}]])
def test_an_empty_steering_returns_the_scores_untouched(steered_model, directions, steering):
    scores = torch.randn(2, 320)
    assert (
        Icon2LogitsProcessor(steered_model, directions, steering)(torch.ones(2, 3).long(), scores) is scores
    )


def test_no_guidance_returns_the_scores_untouched(steered_model, directions):
    scores = torch.randn(2, 320)
    processor = Icon2LogitsProcessor(steered_model, directions, STEERING, guidance_scale=0.0)
    assert processor(torch.ones(2, 3).long(), scores) is scores


def test_scores_keep_their_dtype(tiny_model, random_directions):
    model = tiny_model("llama").to(torch.bfloat16)
    processor = Icon2LogitsProcessor(model, random_directions(model), STEERING)
    ids = torch.tensor(prompts_of(4))
    assert processor(ids, torch.zeros(1, 320, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert processor(ids, torch.zeros(1, 320)).dtype == torch.float32


def test_a_peft_model_is_guided_with_its_adapter(tiny_model, random_directions):
    from peft import LoraConfig, get_peft_model

    def lora():
        torch.manual_seed(5)
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        return get_peft_model(tiny_model("llama"), config).eval()

    prompts, model = prompts_of(5, 3), lora()
    directions = random_directions(model)
    pair = both(lora().get_base_model(), model, directions, STEERING, prompts)
    generate(model, prompts, pair)
    assert pair.worst < 1e-3


def test_a_model_with_a_state_is_read_again_whole(tiny_model, model, directions):
    stateful = tiny_model("llama")
    stateful._is_stateful = True  # the flag of state-space models, on one whose numbers are known
    prompts = prompts_of(5, 3)
    _, mask = pad_batch(prompts, 0, side="left")
    ours = Icon2LogitsProcessor(stateful, directions, STEERING, GUIDANCE, attention_mask=mask)
    pair = Both(ours, ByHand(model, directions, [STEERING] * 2, prompts))
    generate(model, prompts, pair)
    assert pair.worst < 1e-3


def test_unfit_input_gets_a_sentence(steered_model, directions):
    scores = torch.zeros(2, 320)
    with pytest.raises(ValueError, match="unknown criterion 'kindness'; these directions have: honesty"):
        Icon2LogitsProcessor(steered_model, directions, {"kindness": 1.0})
    with pytest.raises(ValueError, match="guidance_scale must be finite, got inf"):
        Icon2LogitsProcessor(steered_model, directions, STEERING, float("inf"))
    with pytest.raises(ValueError, match="padded on the right.*padding_side='left'"):
        Icon2LogitsProcessor(steered_model, directions, STEERING, attention_mask=torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="steering has 1 entries for 2 rows"):
        Icon2LogitsProcessor(steered_model, directions, [STEERING], attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="made for 3 prompts, got 2 rows"):
        Icon2LogitsProcessor(steered_model, directions, [STEERING] * 3)(torch.ones(2, 4).long(), scores)
    with pytest.raises(ValueError, match="for prompts of 3 tokens, got 4; make a new processor"):
        Icon2LogitsProcessor(steered_model, directions, STEERING, attention_mask=torch.ones(2, 3))(
            torch.ones(2, 4).long(), scores
        )
    with pytest.raises(ValueError, match="some prompts are padded; pass attention_mask"):
        Icon2LogitsProcessor(steered_model, directions, STEERING)(torch.tensor([[0, 7], [7, 7]]), scores)
    with pytest.raises(ValueError, match="not as inputs_embeds"):
        Icon2LogitsProcessor(steered_model, directions, STEERING)(torch.ones(2, 0).long(), scores)
