"""`generate_batch(steering=...)`: requests packed into one row, against the loop by hand for each prompt alone."""

import pytest
import torch
from greedy import prompts_of
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import RequestState

from hf_icon2 import make_steerable, steer
from hf_icon2.steering.hooks import installed_state

STEERING = {"honesty": 3.0, "helpfulness": -2.0}
LENGTHS = (5, 9, 2, 70, 30)


def batch(model, prompts, *, new=8, room=None, **kwargs):
    """Answers in the order of the prompts; 16 tokens per pass, so long prompts come in several."""
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    config = GenerationConfig(**settings, **kwargs.pop("generation", {}))
    room = {"num_blocks": 64, "max_batch_tokens": 16, "page_size": 16, **(room or {})}
    outputs = model.generate_batch(
        prompts,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(**room),
        **kwargs,
    )
    assert all(output.error is None for output in outputs.values())
    return [output.generated_tokens for output in outputs.values()]


@pytest.fixture(scope="module")
def plain(tiny_model):
    """Never touched by the library. The id that would end an answer is never chosen, as in `by_hand`."""
    model = tiny_model("llama")
    model.lm_head.weight.data[2] = 0
    return model


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


@pytest.fixture
def model(tiny_model, plain, directions):
    model = tiny_model("llama")
    model.load_state_dict(plain.state_dict())
    return make_steerable(model, directions)


@pytest.fixture(scope="module")
def prompts():
    return prompts_of(*LENGTHS)


@pytest.fixture(scope="module")
def expected(by_hand, plain, directions, prompts):
    return [by_hand(plain, directions, prompt, STEERING) for prompt in prompts]


def test_every_request_is_steered_from_its_last_prompt_token(model, prompts, expected, by_hand, plain):
    assert batch(model, prompts, steering=STEERING) == expected
    assert batch(model, prompts) == [by_hand(plain, None, prompt, None) for prompt in prompts]
    assert installed_state(model).plan is None


def test_long_prompts_come_in_several_passes_and_share_passes_with_answers(model, prompts, expected):
    widths = []
    model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    assert batch(model, prompts, steering=STEERING) == expected
    assert sum(widths) == sum(LENGTHS) + 7 * len(LENGTHS) and max(widths) == 16


def test_steering_in_the_generation_config_holds_for_batches(model, prompts, expected):
    assert batch(model, prompts, generation={"steering": STEERING}) == expected
    assert batch(model, prompts, generation={"steering": {"honesty": 1.0}}, steering=STEERING) == expected


@pytest.mark.parametrize("start", [0, 3])
def test_inside_a_steer_block_requests_are_steered_from_the_column_it_names(
    model, directions, prompts, by_hand, plain, start
):
    with steer(model, directions, STEERING, start=start or None):
        found = batch(model, prompts)
    assert found == [by_hand(plain, directions, prompt, STEERING, start=start) for prompt in prompts]
    if start == 0:
        assert batch(model, prompts, steering=STEERING, positions="all") == found


def test_an_answer_is_no_prefix_for_a_later_request(model, by_hand, plain, directions):
    """Its keys were steered, those of the same tokens in a prompt are not; by default the blocks are shared."""
    room = {"page_size": 4}
    first = prompts_of(13)[0]
    turn = first + by_hand(plain, directions, first, STEERING, new=12)
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(
        config, ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=16, **room), steering=STEERING
    )
    manager.start()
    answers = []
    for prompt in (first, turn):
        manager.add_request(prompt)
        answers.append(manager.get_result(timeout=60).generated_tokens)
    manager.stop()
    assert answers[0] == turn[13:]
    assert answers[1] == by_hand(plain, directions, turn, STEERING, new=12)


def test_requests_that_lose_their_cache_are_read_again_as_they_were(
    model, by_hand, plain, directions, monkeypatch
):
    lost = []
    again = RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState,
        "create_equivalent_initial_request",
        lambda state: (lost.append(len(state.generated_tokens)), again(state))[1],
    )
    prompts = prompts_of(14, 13, 12, 15)
    room = {"num_blocks": 22, "page_size": 4, "safety_margin": 0.0}
    found = batch(model, prompts, new=24, steering=STEERING, room=room)
    assert found == [by_hand(plain, directions, prompt, STEERING, new=24) for prompt in prompts]
    assert max(lost) > 1  # a request had generated several tokens, which then came back as part of its prompt


def test_returned_sequences_are_steered_alike(model, prompts, expected):
    generation = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    config = {**generation, "max_new_tokens": 8, "eos_token_id": -1, "pad_token_id": 0}
    outputs = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(**config),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=16, page_size=16),
        steering=STEERING,
    )
    found = [output.generated_tokens for output in outputs.values()]
    assert found == [answer for answer in expected for _ in range(2)]


def test_windowed_attention_is_steered_like_generate(tiny_model, random_directions):
    model = tiny_model("gemma2")
    make_steerable(model, random_directions(model))
    prompts = prompts_of(5, 30)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), steering=STEERING, **settings)
        expected.append(answer[0, len(prompt) :].tolist())
    assert batch(model, prompts, steering=STEERING) == expected
    assert batch(model, prompts) != expected


def test_a_peft_wrap_passes_steering_through(model, prompts, expected):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert batch(wrapped, prompts, steering=STEERING) == expected


def test_a_steering_per_row_is_refused_before_anything_runs(model, directions, prompts):
    per_row = [STEERING, None, None, None, None]
    with pytest.raises(
        ValueError, match="takes one steering for all of them, not one per row; call generate_b"
    ):
        batch(model, prompts, steering=per_row)
    with steer(model, directions, per_row), pytest.raises(ValueError, match="not one per row"):
        batch(model, prompts)
    with pytest.raises(ValueError, match="unknown criterion 'mind'"):
        batch(model, prompts, steering={"mind": 1.0})
    assert installed_state(model).plan is None


def test_a_kept_manager_never_serves_another_steering(model, prompts, expected):
    with pytest.raises(ValueError, match="keeps no manager, later calls would inherit its steering"):
        batch(model, prompts, steering=STEERING, persistent_manager=True)
    plain = batch(model, prompts, persistent_manager=True)
    assert batch(model, prompts, persistent_manager=True) == plain
    with pytest.raises(ValueError, match="destroy_cached_continuous_batching_manager"):
        batch(model, prompts, steering=STEERING)
    model.destroy_cached_continuous_batching_manager()
    assert batch(model, prompts, steering=STEERING) == expected


def test_a_compiled_batch_is_refused(model, prompts):
    with pytest.raises(ValueError, match="a compiled continuous batch cannot be steered"):
        batch(model, prompts, steering=STEERING, room={"default_compile_level": 1})


def test_generate_with_a_paged_cache_is_refused_with_the_way_out(model):
    with pytest.raises(ValueError, match=r"call generate_batch\(prompts, steering=...\)"):
        model.generate(torch.tensor(prompts_of(4)), steering=STEERING, cache_implementation="paged")


def test_a_steer_block_around_a_batch_of_a_model_without_the_mixin_fails_loudly(
    tiny_model, directions, prompts
):
    """Transformers catches what its thread raises, and returns it with each request."""
    model = tiny_model("llama")
    config = GenerationConfig(max_new_tokens=8, eos_token_id=-1, pad_token_id=0, do_sample=False)
    with steer(model, directions, STEERING):
        outputs = model.generate_batch(
            prompts,
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=16),
        )
    assert all("call make_steerable(model, directions) first" in output.error for output in outputs.values())
    assert all(not output.generated_tokens for output in outputs.values())


def test_a_batch_that_no_manager_explains_is_refused(model, directions):
    packed = {"cu_seq_lens_q": torch.tensor([0, 4]), "cache": object()}
    with (
        steer(model, directions, STEERING),
        pytest.raises(ValueError, match="cannot tell them apart; call make"),
    ):
        model.model(input_ids=torch.tensor(prompts_of(4)), **packed)
