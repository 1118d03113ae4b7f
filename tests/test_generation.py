"""`generate(steering=...)`: every way of decoding against a loop by hand, and every way of asking for it."""

import copy
import functools
import threading

import pytest
import torch
from greedy import NEW, STEERINGS, generate, prompts_of
from transformers import GenerationConfig, pipeline
from transformers.generation.streamers import BaseStreamer

from hf_icon2 import make_steerable, steer, steered_generate
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.hooks import installed_state

STEERING = {"honesty": 3.0, "helpfulness": -2.0}


class Tokens(BaseStreamer):
    """Collects what is streamed after the prompt, which may come in pieces as decoding methods please."""

    def __init__(self):
        self.pieces = []

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.tokens = sum(self.pieces[1:], [])


@pytest.fixture(scope="module")
def plain(tiny_model):
    """Never touched by the library, for what is done by hand."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


@pytest.fixture(scope="module")
def model(tiny_model, directions):
    return make_steerable(tiny_model("llama"), directions)


@pytest.fixture(scope="module")
def prompts():
    return prompts_of(5, 9, 2)


@pytest.fixture(scope="module")
def expected(by_hand, plain, directions, prompts):
    return [by_hand(plain, directions, *pair) for pair in zip(prompts, STEERINGS, strict=True)]


# every way of decoding


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"prefill_chunk_size": 1},
        {"do_sample": True, "top_k": 1},
    ],
    ids=str,
)
def test_a_padded_batch_with_one_steering_per_row_equals_the_loop_by_hand(model, prompts, expected, kwargs):
    assert generate(model, prompts, steering=STEERINGS, **kwargs) == expected
    assert len({tuple(answer) for answer in expected}) == 3


@pytest.mark.parametrize("through", ["mixin", "custom_generate", "steer"])
def test_all_positions_steers_the_prompt_as_well(
    by_hand, tiny_model, plain, model, directions, prompts, through
):
    """One row's steering is given to all rows of a left-padded batch: `steer` takes it in the same words."""
    expected = [by_hand(plain, directions, prompt, STEERING, start=0) for prompt in prompts]
    if through == "mixin":
        found = generate(model, prompts, steering=STEERING, positions="all")
    elif through == "custom_generate":
        arguments = {"directions": directions, "steering": STEERING, "positions": "all"}
        found = generate(tiny_model("llama"), prompts, custom_generate=steered_generate, **arguments)
    else:
        with steer(model, directions, STEERING):
            found = generate(model, prompts)
    assert found == expected
    assert found != [by_hand(plain, directions, prompt, STEERING) for prompt in prompts]


def test_positions_that_do_not_exist_are_refused(model, prompts):
    with pytest.raises(ValueError, match="positions is 'prompt'; allowed: last, all"):
        generate(model, prompts, steering=STEERING, positions="prompt")


@pytest.mark.parametrize("copies", [2, 3])
def test_returned_sequences_share_the_steering_of_their_prompt(model, prompts, expected, copies):
    found = generate(model, prompts, steering=STEERINGS, do_sample=True, top_k=1, num_return_sequences=copies)
    assert found == [answer for answer in expected for _ in range(copies)]


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_beams_of_a_batch_equal_beams_of_each_prompt_alone(tiny_model, model, directions, prompts, kwargs):
    alone = tiny_model("llama")
    expected = []
    for prompt, steering in zip(prompts, STEERINGS, strict=True):
        with steer(alone, directions, steering or {}, start=len(prompt) - 1):
            expected += generate(alone, [prompt], **kwargs)
    assert generate(model, prompts, steering=STEERINGS, **kwargs) == expected


def test_prompt_lookup_equals_the_loop_by_hand(by_hand, plain, model, directions):
    prompt = prompts_of(4)[0] * 3
    found = generate(model, [prompt], steering=STEERING, prompt_lookup_num_tokens=3)
    assert found == [by_hand(plain, directions, prompt, STEERING)]


def test_a_draft_model_changes_no_token(by_hand, tiny_model, plain, model, directions):
    prompt = prompts_of(6)[0]
    found = generate(model, [prompt], steering=STEERING, assistant_model=tiny_model("llama", seed=1))
    assert found == [by_hand(plain, directions, prompt, STEERING)]


def test_embeddings_are_steered_like_their_tokens(by_hand, plain, model, directions):
    prompt = prompts_of(6)[0]
    ids = torch.tensor([prompt])
    inputs = {"inputs_embeds": model.model.embed_tokens(ids), "attention_mask": torch.ones_like(ids)}
    for also in ({}, {"input_ids": ids[:, -1:]}):
        found = model.generate(
            **inputs, **also, steering=STEERING, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
        )
        assert found[0, -NEW:].tolist() == by_hand(plain, directions, prompt, STEERING)


@pytest.mark.parametrize("given", ["all tokens", "new tokens"])
def test_a_prompt_that_lies_partly_in_the_cache_equals_the_loop_by_hand(
    by_hand, plain, model, directions, given
):
    prompt = prompts_of(9)[0]
    with torch.no_grad():
        cache = model(torch.tensor([prompt[:5]]), use_cache=True).past_key_values
    found = model.generate(
        input_ids=torch.tensor([prompt if given == "all tokens" else prompt[5:]]),
        attention_mask=torch.ones(1, 9, dtype=torch.long),
        past_key_values=cache,
        steering=STEERING,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
    )
    assert found[0, -NEW:].tolist() == by_hand(plain, directions, prompt, STEERING)


def test_rows_of_a_padded_batch_get_what_they_get_alone(tiny_model, random_directions, architecture):
    model, prompts = tiny_model(architecture), prompts_of(18, 6)
    make_steerable(model, random_directions(model))
    steerings = [{"honesty": 4.0}, {"honesty": -4.0}]
    alone = [
        generate(model, [prompt], steering=steering)[0]
        for prompt, steering in zip(prompts, steerings, strict=True)
    ]
    assert generate(model, prompts, steering=steerings) == alone


def test_the_last_prompt_token_is_steered_and_those_before_are_not(model, directions):
    one_layer = directions.with_control_layers({"honesty": [1], "helpfulness": [1]})
    model = make_steerable(copy.deepcopy(model), one_layer)
    ids = torch.tensor(prompts_of(6))
    settings = {"max_new_tokens": 2, "output_hidden_states": True, "return_dict_in_generate": True}
    settings["attention_mask"] = torch.ones_like(ids)
    without = model.generate(ids, **settings).hidden_states[0][2][0]  # the prefill, after block 1
    steered = model.generate(ids, steering={"honesty": 1.0}, **settings).hidden_states[0][2][0]
    assert torch.equal(steered[:-1], without[:-1])
    torch.testing.assert_close(steered[-1] - without[-1], one_layer.at("honesty", 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("steering", [{}, {"honesty": 0.0}, [None, {}, {"helpfulness": 0}]])
def test_strength_zero_gives_bit_identical_scores(plain, model, prompts, steering):
    ids, mask = pad_batch(prompts, 0, side="left")
    settings = {"max_new_tokens": NEW, "output_logits": True, "return_dict_in_generate": True}
    steered = model.generate(ids, attention_mask=mask, steering=steering, **settings).logits
    without = plain.generate(ids, attention_mask=mask, **settings).logits
    assert all(torch.equal(*pair) for pair in zip(steered, without, strict=True))


@pytest.mark.parametrize("positions", ["last", "all"])
def test_prompts_padded_on_the_right_are_refused_where_steering_is_asked_for(model, directions, positions):
    ids, mask = pad_batch([[1, 50, 60, 70], [1, 9]], 0, side="right")
    with pytest.raises(ValueError, match="padded on the right; generation needs padding_side='left'"):
        model.generate(ids, attention_mask=mask, steering=STEERING, positions=positions)
    with pytest.raises(ValueError, match="padded on the right"):
        model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            custom_generate=steered_generate,
            directions=directions,
            steering=STEERING,
        )


def test_directions_no_longer_fit_a_model_that_lost_layers(tiny_model, directions):
    model = make_steerable(tiny_model("llama"), directions)
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="number of layers 4, this model has 3; extract directions"):
        model.generate(torch.tensor([[1, 50, 60]]), steering=STEERING, max_new_tokens=2)


def test_without_a_prompt_the_start_token_is_steered(model):
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    found = model.generate(steering=STEERING, **settings)
    assert found[:, 1:].tolist() == generate(model, [[1]], steering=STEERING)


# every way of asking


def test_threads_that_steer_a_new_model_first_at_the_same_time_all_do(tiny_model, model, directions):
    prompt = torch.tensor(prompts_of(7))
    expected = model.generate(prompt, max_new_tokens=NEW, do_sample=False, steering=STEERING).tolist()
    new, found, together = tiny_model("llama"), [], threading.Barrier(8)

    def run():
        together.wait()
        steerable = make_steerable(new, directions)
        answer = steerable.generate(prompt, max_new_tokens=NEW, do_sample=False, steering=STEERING)
        found.append(answer.tolist())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
    assert [len(block._forward_hooks) for block in new.model.layers] == [1] * 4


def test_four_threads_that_generate_and_stream_get_the_sequential_answers(model):
    prompts = [prompts_of(7, seed=seed) for seed in range(4)]
    steerings = [{"honesty": 3.0}, {"honesty": -3.0}, {"helpfulness": 4.0}, None]
    alone = [
        generate(model, prompt, steering=steering)
        for prompt, steering in zip(prompts, steerings, strict=True)
    ]
    streamers = [Tokens() for _ in range(4)]
    together = [None] * 4

    def work(place):
        kwargs = {"steering": steerings[place], "streamer": streamers[place]}
        together[place] = generate(model, prompts[place], **kwargs)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert [streamer.tokens for streamer in streamers] == [answer[0] for answer in alone]


def test_steering_in_the_generation_config_is_used_and_saved(model, directions, prompts, tmp_path):
    model = copy.deepcopy(model)
    expected = generate(model, prompts, steering=STEERING)
    assert expected != generate(model, prompts)
    ids, mask = pad_batch(prompts, 0, side="left")
    config = GenerationConfig(
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
        steering=STEERING,
    )
    by_name = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    by_place = model.generate(ids, config, attention_mask=mask)
    assert by_name[:, ids.shape[1] :].tolist() == expected
    assert torch.equal(by_name, by_place)
    model.generation_config = config
    assert generate(model, prompts) == expected
    assert generate(model, prompts, steering={}) != expected  # what is asked for comes first
    model.save_pretrained(tmp_path)
    loaded = make_steerable(type(model).from_pretrained(tmp_path), directions)
    assert generate(loaded, prompts) == expected


def test_custom_generate_steers_a_model_whose_class_is_untouched(tiny_model, directions, prompts, expected):
    model = tiny_model("llama")
    cls = type(model)
    kwargs = {"custom_generate": steered_generate, "directions": directions}
    assert generate(model, prompts, steering=STEERINGS, **kwargs) == expected
    assert type(model) is cls
    assert installed_state(model).plan is None


@pytest.mark.parametrize(
    "mode",
    [
        {"num_beams": 3},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        {"num_beams": 4, "num_return_sequences": 2},
        {"cache_implementation": "static"},
    ],
    ids=str,
)
def test_custom_generate_equals_the_mixin_in_every_mode(tiny_model, model, directions, prompts, mode):
    kwargs = {"custom_generate": steered_generate, "directions": directions, **mode}
    found = generate(tiny_model("llama"), prompts, steering=STEERINGS, **kwargs)
    assert found == generate(model, prompts, steering=STEERINGS, **mode)


def test_custom_generate_on_a_steerable_model_uses_the_directions_it_is_given(
    model, tiny_model, random_directions, prompts
):
    other = random_directions(model, seed=9)
    kwargs = {"custom_generate": steered_generate, "directions": other, "steering": STEERING}
    assert generate(model, prompts, **kwargs) == generate(tiny_model("llama"), prompts, **kwargs)
    assert generate(model, prompts, **kwargs) != generate(model, prompts, steering=STEERING)


def test_custom_generate_streams_when_the_streamer_is_bound(by_hand, directions, plain, tiny_model):
    prompt = prompts_of(6)
    streamer = Tokens()
    function = functools.partial(steered_generate, streamer=streamer)
    generate(tiny_model("llama"), prompt, custom_generate=function, directions=directions, steering=STEERING)
    assert streamer.tokens == by_hand(plain, directions, prompt[0], STEERING)


def test_a_text_generation_pipeline_takes_steering(model, tiny_tokenizer):
    pipe = pipeline("text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "return_full_text": False}
    messages = [{"role": "user", "content": "Hi"}]
    ids = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    found = pipe(messages, steering=STEERING, **settings)[0]["generated_text"]
    answer = generate(model, [ids], steering=STEERING)[0]
    assert found == tiny_tokenizer.decode(answer, skip_special_tokens=True)


def test_a_peft_wrap_passes_steering_through(tiny_model, directions, prompts):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")  # starts as no change at all
    before = get_peft_model(make_steerable(tiny_model("llama"), directions), config)
    after = make_steerable(get_peft_model(tiny_model("llama"), config), directions)
    expected = generate(make_steerable(tiny_model("llama"), directions), prompts, steering=STEERINGS)
    for wrapped in (before, after):
        assert generate(wrapped, prompts, steering=STEERINGS) == expected
        with wrapped.disable_adapter():
            assert generate(wrapped, prompts, steering=STEERINGS) == expected


def test_generating_inside_a_steer_block_replaces_it_for_the_call(model, directions, prompts, expected):
    with steer(model, directions, {"helpfulness": 5.0}):
        outer = installed_state(model).plan
        assert generate(model, prompts, steering=STEERINGS) == expected
        assert installed_state(model).plan is outer


def test_making_a_model_steerable_again_replaces_its_directions(tiny_model, directions, prompts, expected):
    model = make_steerable(tiny_model("llama"), -directions)
    cls = type(model)
    make_steerable(model, directions)
    assert type(model) is cls
    assert generate(model, prompts, steering=STEERINGS) == expected


# unfit input


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ({"mind": 1.0}, "unknown criterion 'mind'; these directions have: honesty, helpfulness"),
        ([STEERING], "steering has 1 entries for 3 rows; give one entry per row"),
        ([STEERING] * 6, "steering has 6 entries for 3 rows"),
    ],
)
@pytest.mark.parametrize("way", ["mixin", "custom_generate"])
def test_unfit_steering_is_refused_before_the_model_runs(model, directions, prompts, steering, message, way):
    ran = []
    handle = model.model.register_forward_pre_hook(lambda *_: ran.append(True))
    custom = {"custom_generate": steered_generate, "directions": directions} if way != "mixin" else {}
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, steering=steering, **custom)
    handle.remove()
    assert not ran
    assert installed_state(model).plan is None


def test_an_error_while_generating_leaves_the_model_inert(model, prompts):
    def fail(*_):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        generate(model, prompts, steering=STEERING, logits_processor=[fail])
    assert installed_state(model).plan is None


def test_custom_generate_without_directions_says_what_to_do(tiny_model):
    with pytest.raises(
        ValueError, match=r"has no directions; call make_steerable\(model, directions\) first"
    ):
        generate(tiny_model("llama"), prompts_of(4), custom_generate=steered_generate, steering=STEERING)
