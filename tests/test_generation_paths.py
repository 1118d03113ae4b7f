"""Decoding paths that run further passes beside the prompt's own: guidance, drafts, processors, streams."""

import threading

import pytest
import torch
from greedy import NEW, STEERINGS, generate, prompts_of
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TextIteratorStreamer,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from hf_icon2 import Icon2LogitsProcessor, make_steerable, steer, steered_generate
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.hooks import installed_state

STEERING = {"honesty": 3.0, "helpfulness": -2.0}


def logps_by_hand(model, directions, ids, steering, start):
    """Next-token log-probabilities after `ids`, without cache, under hooks written here; (V,)."""

    def adder(layer):
        def hook(_module, _args, output):
            output = output.clone()
            for name, strength in (steering or {}).items():
                if layer in directions.config.control_layers[name]:
                    output[:, start:] += strength * directions.at(name, layer)
            return output

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(model.model.layers)]
    try:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


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


# classifier-free guidance


def guided_by_hand(model, directions, prompt, other, steering, scale, starts=None):
    """Greedy decoding of log p(x | other) + scale * (log p(x | prompt) - log p(x | other)), both steered."""
    starts = starts or (len(prompt) - 1, len(other) - 1)
    ids, uncond = list(prompt), list(other)
    for _ in range(NEW):
        cond = logps_by_hand(model, directions, ids, steering, starts[0])
        base = logps_by_hand(model, directions, uncond, steering, starts[1])
        scores = scale * (cond - base) + base
        scores[2] = -torch.inf
        ids.append(int(scores.argmax()))
        uncond.append(ids[-1])
    return ids[len(prompt) :]


@pytest.mark.parametrize("kwargs", [{}, {"use_cache": False}, {"prefill_chunk_size": 2}], ids=str)
@pytest.mark.parametrize("negative", [0, 3, 11])
def test_both_prompts_of_guidance_are_steered_from_their_own_last_token(
    plain, model, directions, kwargs, negative
):
    """Without a negative prompt, transformers takes the last prompt token for one."""
    prompt = prompts_of(6)[0]
    other = prompts_of(negative, seed=5)[0] if negative else prompt[-1:]
    given = {"negative_prompt_ids": torch.tensor([other])} if negative else {}
    found = generate(model, [prompt], steering=STEERING, guidance_scale=1.7, **given, **kwargs)
    assert found == [guided_by_hand(plain, directions, prompt, other, STEERING, 1.7)]


def test_guidance_of_a_padded_batch_keeps_a_steering_per_row(plain, model, directions):
    prompts, others = prompts_of(6, 3, 9), prompts_of(4, 7, 2, seed=5)
    ids, mask = pad_batch(others, 0, side="left")
    given = {"negative_prompt_ids": ids, "negative_prompt_attention_mask": mask, "guidance_scale": 1.7}
    found = generate(model, prompts, steering=STEERINGS, **given)
    # The unconditional passes are given no positions, so their padding shifts them: each row is compared with
    # itself alone under the same padding.
    alone = []
    for row in range(3):
        given |= {
            "negative_prompt_ids": ids[row : row + 1],
            "negative_prompt_attention_mask": mask[row : row + 1],
        }
        alone += generate(model, prompts[row : row + 1], steering=STEERINGS[row] or {}, **given)
    assert found == alone
    assert found[1] == guided_by_hand(plain, directions, prompts[1], others[1], None, 1.7)


def test_guidance_with_all_positions_steers_both_prompts_whole(plain, model, directions):
    prompt, other = prompts_of(6)[0], prompts_of(4, seed=5)[0]
    given = {"negative_prompt_ids": torch.tensor([other]), "guidance_scale": 1.7}
    found = generate(model, [prompt], steering=STEERING, positions="all", **given)
    assert found == [guided_by_hand(plain, directions, prompt, other, STEERING, 1.7, starts=(0, 0))]
    with steer(model, directions, STEERING):
        assert generate(model, [prompt], **given) == found


def test_guidance_through_custom_generate_equals_the_loop_by_hand(tiny_model, plain, directions):
    prompt, other = prompts_of(6)[0], prompts_of(4, seed=5)[0]
    given = {"negative_prompt_ids": torch.tensor([other]), "guidance_scale": 1.7}
    custom = {"custom_generate": steered_generate, "directions": directions, "steering": STEERING}
    found = generate(tiny_model("llama"), [prompt], **custom, **given)
    assert found == [guided_by_hand(plain, directions, prompt, other, STEERING, 1.7)]


def test_guidance_inside_a_steer_block_with_a_start_is_refused(model, directions):
    prompt = prompts_of(6)
    with (
        steer(model, directions, STEERING, start=5),
        pytest.raises(ValueError, match="gives no column; use make"),
    ):
        generate(model, prompt, guidance_scale=1.7)


# drafts


class Passes:
    """Counts a model's passes and those that ran under a plan."""

    def __init__(self, model):
        self.all, self.steered, state = 0, 0, installed_state(model)

        def count(*_):
            self.all += 1
            self.steered += state is not None and state.plan is not None

        self.handle = model.model.register_forward_pre_hook(count)


@pytest.fixture
def draft(tiny_model, random_directions):
    """Steerable too, with directions of its own, and by its own default steered."""
    draft = tiny_model("llama", seed=1, num_hidden_layers=2)
    make_steerable(draft, random_directions(draft, names=("kindness",)))
    draft.generation_config.steering = {"kindness": 2.0}
    return draft


@pytest.mark.parametrize("config", [False, True], ids=["argument", "generation_config"])
def test_a_steerable_draft_is_not_steered_by_the_main_model(
    tiny_model, plain, directions, by_hand, draft, config
):
    model, prompt, passes = make_steerable(tiny_model("llama"), directions), prompts_of(6)[0], Passes(draft)
    asked = {"steering": STEERING}
    if config:
        model.generation_config.steering, asked = STEERING, {}
    found = generate(model, [prompt], assistant_model=draft, **asked)
    assert found == [by_hand(plain, directions, prompt, STEERING)]
    assert passes.all > 0 and passes.steered == 0


def test_a_model_may_draft_for_itself(plain, model, directions, by_hand):
    prompt = prompts_of(6)[0]
    expected = [by_hand(plain, directions, prompt, STEERING)]
    assert generate(model, [prompt], steering=STEERING, assistant_model=model) == expected


def test_the_first_layers_may_draft_for_the_whole(plain, model, directions, by_hand):
    prompt = prompts_of(6)[0]
    expected = [by_hand(plain, directions, prompt, STEERING)]
    assert generate(model, [prompt], steering=STEERING, assistant_early_exit=3) == expected


def test_a_draft_inside_a_steer_block_changes_no_token(model, plain, directions, by_hand, draft):
    prompt = prompts_of(6)[0]
    with steer(model, directions, STEERING):
        found = generate(model, [prompt], assistant_model=draft)
    assert found == [by_hand(plain, directions, prompt, STEERING, start=0)]


def test_sampling_with_lookup_takes_tokens_of_the_steered_distribution(model, plain, directions, by_hand):
    prompt = prompts_of(4)[0] * 3
    settings = {"do_sample": True, "top_k": 1, "prompt_lookup_num_tokens": 3}
    assert generate(model, [prompt], steering=STEERING, **settings) == [
        by_hand(plain, directions, prompt, STEERING)
    ]


# sampling


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.9}, {"num_beams": 2}], ids=str)
def test_sampling_with_a_seed_equals_sampling_by_hand(tiny_model, plain, model, directions, settings):
    """The hand-made hooks stay on an untouched model while transformers samples from it with the same seed."""
    prompt = prompts_of(6)[0]

    def adder(layer):
        def hook(_module, _args, output):
            whole = output.shape[1] > 1
            for name, strength in STEERING.items():
                if layer in directions.config.control_layers[name]:
                    output[:, 5 if whole else 0 :] += strength * directions.at(name, layer)

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(plain.model.layers)]
    torch.manual_seed(11)
    expected = generate(plain, [prompt], do_sample=True, **settings)
    for handle in handles:
        handle.remove()
    torch.manual_seed(11)
    assert generate(model, [prompt], do_sample=True, steering=STEERING, **settings) == expected
    torch.manual_seed(11)
    assert generate(model, [prompt], do_sample=True, **settings) != expected


def test_rows_of_a_sampled_batch_draw_from_their_own_steered_distributions(model, plain, directions):
    prompts = prompts_of(5, 9, 2)
    ids, mask = pad_batch(prompts, 0, side="left")
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        steering=STEERINGS,
        do_sample=True,
        max_new_tokens=4,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for row, (prompt, steering) in enumerate(zip(prompts, STEERINGS, strict=True)):
        answer = output.sequences[row, ids.shape[1] :].tolist()
        for step in range(4):
            expected = logps_by_hand(plain, directions, prompt + answer[:step], steering, len(prompt) - 1)
            found = output.logits[step][row].log_softmax(-1)
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


# what generate returns, and when it stops


def test_recorded_states_of_all_steps_are_the_steered_ones(model, plain, directions):
    """Of every step and beam-free row, after every block but the last, which transformers shows after its norm."""
    prompt = prompts_of(6)[0]
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 6, dtype=torch.long),
        steering=STEERING,
        max_new_tokens=4,
        min_new_tokens=4,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    whole = output.sequences[:, :-1]
    recorded = {}

    def adder(layer):
        def hook(_module, _args, output):
            output = output.clone()
            for name, strength in STEERING.items():
                if layer in directions.config.control_layers[name]:
                    output[:, 5:] += strength * directions.at(name, layer)
            recorded[layer] = output
            return output

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(plain.model.layers)]
    with torch.no_grad():
        plain(whole, use_cache=False)
    for handle in handles:
        handle.remove()
    for layer in range(3):
        found = torch.cat([step[layer + 1] for step in output.hidden_states], dim=1)
        torch.testing.assert_close(found, recorded[layer], atol=1e-3, rtol=1e-4)


def test_stop_strings_and_time_limits_end_steered_generation(
    model, plain, directions, by_hand, tiny_tokenizer
):
    prompt = prompts_of(6)[0]
    expected = by_hand(plain, directions, prompt, STEERING)
    word = tiny_tokenizer.decode(expected[2])
    last = next(index for index, token in enumerate(expected) if word in tiny_tokenizer.decode(token))
    settings = {"min_new_tokens": 0, "tokenizer": tiny_tokenizer, "stop_strings": [word]}
    assert generate(model, [prompt], steering=STEERING, **settings) == [expected[: last + 1]]
    assert generate(model, [prompt], steering=STEERING, max_time=600.0) == [expected]
    assert generate(model, [prompt], steering=STEERING, max_time=0.0, min_new_tokens=0) == [expected[:1]]


def test_token_healing_is_refused_as_it_rewrites_the_prompt(model, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"call model.heal_tokens\(input_ids, tokenizer\) first"):
        generate(model, prompts_of(6), steering=STEERING, token_healing=True, tokenizer=tiny_tokenizer)


# streams and pipelines


@pytest.mark.filterwarnings("error")
def test_a_text_streamer_in_another_thread_gets_the_steered_text(
    model, plain, directions, by_hand, tiny_tokenizer
):
    prompt = prompts_of(6)[0]
    streamer = TextIteratorStreamer(tiny_tokenizer, skip_prompt=True, timeout=60)
    kwargs = {"steering": STEERING, "streamer": streamer}
    thread = threading.Thread(target=generate, args=(model, [prompt]), kwargs=kwargs)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tiny_tokenizer.decode(by_hand(plain, directions, prompt, STEERING))


def test_a_pass_in_another_thread_beside_a_steer_block_warns(model, directions):
    """`Thread(target=model.generate)` inside `steer` is a likely slip: the block is not seen from there."""
    caught = []

    def run(about):
        with pytest.warns(
            UserWarning, match=r"unsteered while another thread is inside steer\(\).*own thread only"
        ):
            generate(model, prompts_of(6))
        caught.append(about)

    with steer(model, directions, STEERING):
        thread = threading.Thread(target=run, args=("warned",))
        thread.start()
        thread.join()
    assert caught == ["warned"]


@pytest.mark.filterwarnings("error")
def test_threads_that_say_what_they_mean_are_not_warned(model, directions):
    outcomes = []

    def run():
        with steer(model, directions, {}):
            outcomes.append(generate(model, prompts_of(6)))
        outcomes.append(generate(model, prompts_of(6)))

    plain = generate(model, prompts_of(6))
    with steer(model, directions, STEERING):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert outcomes == [plain, plain]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_pipeline_steers_texts_and_chats_in_batches(
    model, plain, directions, by_hand, tiny_tokenizer, batch_size
):
    pipe = pipeline("text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "return_full_text": False}
    texts = ["The colour", "What is the sky?", "Bread"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    ids = [tiny_tokenizer(text)["input_ids"] for text in texts]
    rendered = tiny_tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    for inputs, prompts in ((texts, ids), (chats, rendered)):
        found = pipe(inputs, steering=STEERING, batch_size=batch_size, **settings)
        answers = [by_hand(plain, directions, prompt, STEERING) for prompt in prompts]
        expected = [tiny_tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        assert [output[0]["generated_text"] for output in found] == expected


def test_a_logits_processor_runs_beside_every_other_way(model, directions):
    """Its own passes, of a model steered otherwise meanwhile, change nothing of what it says."""
    prompt = prompts_of(6)

    def guided(**kwargs):
        processor = Icon2LogitsProcessor(model, directions, {"honesty": 1.0})
        return generate(model, prompt, logits_processor=[processor], **kwargs)

    expected = guided(steering=STEERING)
    assert expected != guided()
    for kwargs in ({"cache_implementation": "static"}, {"prefill_chunk_size": 2}, {"use_cache": False}):
        assert guided(steering=STEERING, **kwargs) == expected
    with steer(model, directions, STEERING, start=5):
        assert guided() == expected


# errors


class Interrupts:
    """Raises at the third step, in whatever place it is put."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def step(self):
        self.calls += 1
        if self.calls == 3:
            raise self.error


class InterruptingProcessor(Interrupts, LogitsProcessor):
    def __call__(self, input_ids, scores):
        self.step()
        return scores


class InterruptingCriterion(Interrupts, StoppingCriteria):
    def __call__(self, input_ids, scores):
        self.step()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class InterruptingStreamer(Interrupts, BaseStreamer):
    def put(self, value):
        self.step()

    def end(self):
        pass


PLACES = {
    "logits_processor": lambda error: [InterruptingProcessor(error)],
    "stopping_criteria": lambda error: [InterruptingCriterion(error)],
    "streamer": InterruptingStreamer,
}


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("outer", [False, True], ids=["alone", "in a steer block"])
def test_an_exception_in_the_middle_leaves_no_state(model, plain, directions, by_hand, error, place, outer):
    prompt = prompts_of(6)[0]
    kwargs = {place: PLACES[place](error)}
    state = installed_state(model)

    def fail():
        with pytest.raises(type(error)):
            generate(model, [prompt], steering=STEERING, **kwargs)

    if outer:
        with steer(model, directions, {"helpfulness": 4.0}):
            plan = state.plan
            fail()
            assert state.plan is plan
            assert generate(model, [prompt]) == [
                by_hand(plain, directions, prompt, {"helpfulness": 4.0}, start=0)
            ]
    else:
        fail()
    assert state.plan is None and not state.steered_elsewhere
    assert generate(model, [prompt]) == [by_hand(plain, directions, prompt, None)]
    assert generate(model, [prompt], steering=STEERING) == [by_hand(plain, directions, prompt, STEERING)]


# threads


MODES = [
    {},
    {"num_beams": 3},
    {"use_cache": False},
    {"prefill_chunk_size": 2},
    {"cache_implementation": "static"},
    {"prompt_lookup_num_tokens": 2},
]


def work_of(thread, model, directions):
    """50 generations: all modes, rows and steerings in turn, a third of them unsteered or inside `steer`."""
    answers = []
    for index in range(50):
        turn = 7 * thread + index
        mode = MODES[turn % len(MODES)]
        lengths = (4 + turn % 5,) if "prompt_lookup_num_tokens" in mode else (4 + turn % 5, 3)
        prompts = prompts_of(*lengths, seed=50 * thread + index)
        rows = [STEERINGS[(turn + row) % 3] for row in range(len(prompts))]
        settings = {"max_new_tokens": 3, "min_new_tokens": 3, **mode}
        if turn % 5 == 0:
            answers.append(generate(model, prompts, **settings))
        elif turn % 5 == 1:
            with steer(model, directions, rows):
                answers.append(generate(model, prompts, **settings))
        else:
            answers.append(generate(model, prompts, steering=rows if turn % 2 else rows[0] or {}, **settings))
    return answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:thread .* runs this model unsteered")
def test_eight_threads_of_fifty_mixed_generations_get_the_sequential_answers(tiny_model, random_directions):
    model = tiny_model("llama", num_hidden_layers=3)
    directions = random_directions(model)
    make_steerable(model, directions)
    alone = [work_of(thread, model, directions) for thread in range(8)]
    together = [None] * 8

    def work(thread):
        together[thread] = work_of(thread, model, directions)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len({str(answer) for answers in alone for answer in answers}) > 200
    state = installed_state(model)
    assert state.plan is None and not state.steered_elsewhere
