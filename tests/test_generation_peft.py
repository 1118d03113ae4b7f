"""Steering through PEFT: adapters of every kind against hand-made hooks on untouched models of the same weights."""

import pytest
import torch
from greedy import NEW, STEERINGS, generate, prompts_of
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)

from hf_icon2 import Icon2LogitsProcessor, extract_directions, make_steerable, steer
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.hooks import installed_state

STEERING = {"honesty": 3.0, "helpfulness": -2.0}


def lora(seed=5, **settings):
    """An adapter that changes the model from the start, as random weights on both sides do."""
    torch.manual_seed(seed)
    return LoraConfig(
        target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **settings
    )


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


@pytest.fixture(scope="module")
def prompts():
    return prompts_of(5, 9, 2)


@pytest.fixture
def adapters(tiny_model):
    """Builds a PEFT model with two adapters, the same at every call."""

    def build(base):
        wrapped = get_peft_model(base, lora(5), "first")
        torch.manual_seed(6)
        wrapped.add_adapter("second", lora(6))
        return wrapped.eval()

    return build


@pytest.fixture
def answers(tiny_model, adapters, directions, prompts, by_hand):
    """What an adapter answers by hand: merged into weights that the library never saw."""

    def compute(adapter, steerings):
        wrapped = adapters(tiny_model("llama"))
        wrapped.set_adapter(adapter)
        merged = wrapped.merge_and_unload() if adapter else None
        pairs = zip(prompts, steerings, strict=True)
        return [by_hand(merged, directions, *pair) for pair in pairs]

    return compute


@pytest.mark.parametrize("order", ["steerable first", "adapter first"])
def test_the_active_adapter_is_steered_and_so_is_the_model_without_any(
    tiny_model, adapters, answers, directions, prompts, plain, by_hand, order
):
    if order == "steerable first":
        model = adapters(make_steerable(tiny_model("llama"), directions))
    else:
        model = make_steerable(adapters(tiny_model("llama")), directions)
    found = {}
    for adapter in ("first", "second", "first"):
        model.set_adapter(adapter)
        found[adapter] = generate(model, prompts, steering=STEERINGS)
        assert found[adapter] == answers(adapter, STEERINGS)
        with model.disable_adapter():
            pairs = zip(prompts, STEERINGS, strict=True)
            assert generate(model, prompts, steering=STEERINGS) == [
                by_hand(plain, directions, *pair) for pair in pairs
            ]
    assert found["first"] != found["second"]


def test_rows_with_adapters_of_their_own_keep_steerings_of_their_own(
    tiny_model, adapters, answers, directions, prompts
):
    model = make_steerable(adapters(tiny_model("llama")), directions)
    found = generate(model, prompts, steering=STEERINGS, adapter_names=["first", "second", "first"])
    first, second = answers("first", STEERINGS), answers("second", STEERINGS)
    assert found == [first[0], second[1], first[2]]


def test_a_merged_model_is_steered_as_before(tiny_model, adapters, answers, directions, prompts):
    model = make_steerable(adapters(tiny_model("llama")), directions)
    model.set_adapter("second")
    merged = model.merge_and_unload()
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert generate(merged, prompts, steering=STEERINGS) == answers("second", STEERINGS)
    unloaded = make_steerable(adapters(tiny_model("llama")), directions).unload()
    assert generate(unloaded, prompts, steering=STEERING) == generate(
        make_steerable(tiny_model("llama"), directions), prompts, steering=STEERING
    )


@pytest.mark.parametrize("how", ["PeftModel", "load_adapter"])
def test_a_saved_adapter_loaded_by_either_library_is_steered(
    tiny_model, adapters, answers, directions, prompts, tmp_path, how
):
    adapters(tiny_model("llama")).save_pretrained(tmp_path)
    model = make_steerable(tiny_model("llama"), directions)
    if how == "PeftModel":
        model = PeftModel.from_pretrained(model, tmp_path / "second").eval()
    else:
        model.load_adapter(str(tmp_path / "second"))
    assert generate(model, prompts, steering=STEERINGS) == answers("second", STEERINGS)


# adapters that replace a block


def with_trained_block(base):
    """Layer 1 is copied to be trained, and then differs from the original."""
    wrapped = get_peft_model(
        base, LoraConfig(target_modules=["q_proj"], modules_to_save=["layers.1"], task_type="CAUSAL_LM")
    ).eval()
    block = wrapped.base_model.model.model.layers[1].modules_to_save["default"]
    block.mlp.down_proj.weight.data.mul_(-1.5)
    return wrapped


@pytest.mark.parametrize("order", ["steerable first", "adapter first"])
def test_a_block_that_an_adapter_replaces_is_steered(tiny_model, directions, prompts, by_hand, order):
    """PEFT copies the block with its hooks; a copy of a hook would have a state of its own, never steered."""
    only = directions.with_control_layers({"honesty": [1], "helpfulness": [1]})
    plain = tiny_model("llama")
    trained = tiny_model("llama")
    trained.model.layers[1].mlp.down_proj.weight.data.mul_(-1.5)
    if order == "steerable first":
        model = with_trained_block(make_steerable(tiny_model("llama"), only))
    else:
        model = make_steerable(with_trained_block(tiny_model("llama")), only)
    pairs = list(zip(prompts, STEERINGS, strict=True))
    assert generate(model, prompts, steering=STEERINGS) == [by_hand(trained, only, *pair) for pair in pairs]
    with model.disable_adapter():
        assert generate(model, prompts, steering=STEERINGS) == [by_hand(plain, only, *pair) for pair in pairs]
    merged = model.merge_and_unload()
    assert generate(merged, prompts, steering=STEERINGS) == [by_hand(trained, only, *pair) for pair in pairs]


def test_a_block_put_in_place_of_another_is_hooked_at_the_next_call(tiny_model, directions, prompts, by_hand):
    model = make_steerable(tiny_model("llama"), directions)
    other = tiny_model("llama", seed=8)
    model.model.layers[1] = other.model.layers[1]
    plain = tiny_model("llama")
    plain.model.layers[1] = tiny_model("llama", seed=8).model.layers[1]
    with steer(model, directions, STEERING, start=4):
        found = generate(model, prompts[:1])
    assert found == [by_hand(plain, directions, prompts[0], STEERING)]
    assert installed_state(model).directions is directions


def test_an_adapter_that_replaces_the_whole_trunk_is_steered_or_fails_loudly(
    tiny_model, directions, prompts, by_hand
):
    config = LoraConfig(target_modules=["lm_head"], modules_to_save=["model"], task_type="CAUSAL_LM")
    model, plain = (
        get_peft_model(make_steerable(tiny_model("llama"), directions), config),
        tiny_model("llama"),
    )
    pairs = zip(prompts, STEERINGS, strict=True)
    assert generate(model, prompts, steering=STEERINGS) == [
        by_hand(plain, directions, *pair) for pair in pairs
    ]
    with (
        model.disable_adapter(),
        pytest.raises(RuntimeError, match="without running the blocks that steering"),
    ):
        generate(model, prompts, steering=STEERINGS)


# soft prompts: virtual tokens before the prompt


def prompt_tuned(base):
    torch.manual_seed(7)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = get_peft_model(base, config).eval()
    wrapped.prompt_encoder["default"].embedding.weight.data.normal_(std=0.5)
    return wrapped


def prefix_tuned(base):
    torch.manual_seed(7)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = get_peft_model(base, config).eval()
    wrapped.prompt_encoder["default"].embedding.weight.data.normal_(std=0.5)
    return wrapped


def soft_prompt_by_hand(wrapped, directions, prompt, steering, start):
    """Greedy decoding without generate, each step anew, through the wrapper; hooks as in `by_hand`."""
    model, ids = wrapped.get_base_model(), list(prompt)

    def adder(layer):
        def hook(_module, _args, output):
            output = output.clone()
            first = output.shape[1] - len(
                ids
            )  # prompt tuning has virtual columns, prefix tuning has keys only
            for name, strength in (steering or {}).items():
                if layer in directions.config.control_layers[name]:
                    output[:, first + start :] += strength * directions.at(name, layer)
            return output

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(model.model.layers)]
    with torch.no_grad():
        for _ in range(NEW):
            scores = wrapped(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1]
            scores[2] = -torch.inf
            ids.append(int(scores.argmax()))
    for handle in handles:
        handle.remove()
    return ids[len(prompt) :]


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("soft", [prompt_tuned, prefix_tuned])
def test_after_a_soft_prompt_steering_starts_at_the_last_prompt_token(tiny_model, directions, soft):
    model = make_steerable(soft(tiny_model("llama")), directions)
    wrapped, early = soft(tiny_model("llama")), []
    for prompt in prompts_of(6, 6, 6, 6):
        found = generate(model, [prompt], steering=STEERING)[0]
        assert found == soft_prompt_by_hand(wrapped, directions, prompt, STEERING, 5)
        early.append(found == soft_prompt_by_hand(wrapped, directions, prompt, STEERING, 2))
        assert generate(model, [prompt]) == [soft_prompt_by_hand(wrapped, directions, prompt, None, 0)]
    assert not all(early)  # where the virtual tokens would be, if they were not counted


@pytest.mark.parametrize("soft", [prompt_tuned, prefix_tuned])
def test_what_runs_the_model_inside_refuses_a_soft_prompt_rather_than_leave_it_out(
    tiny_model, directions, tiny_tokenizer, soft
):
    model, sampling = soft(tiny_model("llama")), Sampling(max_new_tokens=2)
    calls = (
        lambda: extract_directions(model, tiny_tokenizer, ["Hi.", "You."], show_progress=False),
        lambda: generate_variants(model, [[5, 6]], [[None]], sampling=sampling, seeds=[[0]], pad=0),
        lambda: Icon2LogitsProcessor(model, directions, STEERING),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"soft prompt.*use model.generate\(steering=...\), or"):
            call()
