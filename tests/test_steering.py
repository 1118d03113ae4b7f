"""Steering of bare forward passes: what is added, to which tokens and rows, and what stays as it was."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
import torch._dynamo.testing
from transformers import DynamicCache

from hf_icon2 import make_steerable, steer
from hf_icon2.directions.config import StrengthRange
from hf_icon2.prompts import pad_batch
from hf_icon2.steering.hooks import installed_state

STEERING = {"honesty": 1.5, "helpfulness": -0.7}
CHANGED = (1, 2, 3)  # layers that the two criteria control


def rows_of(*lengths, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(6, 300, (length,), generator=generator).tolist() for length in lengths]


def hidden_states(model, ids, **inputs):
    """Outputs of blocks 0 to 2, (3, B, T, D)."""
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True, **inputs)
    return torch.stack(output.hidden_states[1:4])


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture
def directions(model, random_directions):
    return random_directions(model)


@pytest.fixture
def one_layer(directions):
    """Only layer 1 is steered, so that what its output gains is exactly strength x direction."""
    return directions.with_control_layers({"honesty": [1], "helpfulness": [1]})


@pytest.mark.parametrize("steering", [{}, {"honesty": 0.0}, [None, {"honesty": 0}]])
def test_strength_zero_is_bit_identical(model, directions, steering):
    ids = torch.tensor(rows_of(7, 7))
    plain = logits(model, ids)
    with steer(model, directions, steering):
        assert torch.equal(logits(model, ids), plain)
    assert torch.equal(logits(model, ids), plain)


def test_a_blocks_output_gains_strength_times_direction(tiny_model, random_directions, architecture):
    model = tiny_model(architecture)
    directions = random_directions(model).with_control_layers({"honesty": [1], "helpfulness": [1]})
    ids = torch.tensor(rows_of(7, 7))
    plain = hidden_states(model, ids)
    with steer(model, directions, STEERING):
        steered = hidden_states(model, ids)
    added = 1.5 * directions.at("honesty", 1) - 0.7 * directions.at("helpfulness", 1)
    assert torch.equal(steered[0], plain[0])
    torch.testing.assert_close(steered[1], plain[1] + added, atol=1e-5, rtol=1e-6)
    assert not torch.allclose(steered[2], plain[2] + added, atol=1e-2)  # later blocks react


def test_recorded_hidden_states_show_the_steering_even_if_recorded_before(model, one_layer):
    ids = torch.tensor(rows_of(7))
    plain = hidden_states(model, ids)  # transformers installs its own hooks here, ahead of ours
    with steer(model, one_layer, {"honesty": 1.0}):
        added = hidden_states(model, ids)[1] - plain[1]
    torch.testing.assert_close(added, one_layer.at("honesty", 1).expand_as(added), atol=1e-3, rtol=0)


def test_rows_are_steered_independently(tiny_model, random_directions, architecture):
    model, ids = tiny_model(architecture), torch.tensor(rows_of(6, 6, 6))
    directions, steerings = random_directions(model), [{"honesty": 2.0}, None, {"helpfulness": -1.0}]
    with steer(model, directions, steerings):
        together = logits(model, ids)
    for row, steering in enumerate(steerings):
        with steer(model, directions, steering or {}):
            alone = logits(model, ids[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(together[1:2], logits(model, ids[1:2]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_touched(model, one_layer, side):
    rows = rows_of(7, 3)
    ids, mask = pad_batch(rows, 0, side=side)
    plain = hidden_states(model, ids, attention_mask=mask)
    with steer(model, one_layer, {"honesty": 1.0}):
        added = hidden_states(model, ids, attention_mask=mask)[1] - plain[1]
    expected = mask[..., None] * one_layer.at("honesty", 1)
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_each_row_what_it_gets_alone(tiny_model, random_directions, architecture, side):
    model, rows = tiny_model(architecture), rows_of(7, 3)
    directions = random_directions(model)
    ids, mask = pad_batch(rows, 0, side=side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with steer(model, directions, [{"honesty": 2.0}, {"honesty": -2.0}]):
        together = logits(model, ids, attention_mask=mask, position_ids=positions)
    for row, strength in enumerate((2.0, -2.0)):
        with steer(model, directions, {"honesty": strength}):
            alone = logits(model, torch.tensor([rows[row]]))
        found = together[row, mask[row].bool()]
        torch.testing.assert_close(found, alone[0], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("start", [0, 3, 6])
def test_steering_starts_at_the_column_asked_for(model, one_layer, start):
    ids = torch.tensor(rows_of(7))
    plain = hidden_states(model, ids)
    with steer(model, one_layer, {"honesty": 1.0}, start=start):
        added = (hidden_states(model, ids)[1] - plain[1])[0]
    assert torch.equal(added[:start], torch.zeros(start, 64))
    torch.testing.assert_close(
        added[start:], one_layer.at("honesty", 1).expand(7 - start, -1), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("splits", [[7], [4, 3], [1] * 7])
def test_each_row_may_have_a_start_of_its_own(model, directions, side, splits):
    rows, starts = rows_of(7, 4), (5, 2)
    ids, mask = pad_batch(rows, 0, side=side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    columns = [
        start + (7 - len(row) if side == "left" else 0) for start, row in zip(starts, rows, strict=True)
    ]
    cache, pieces, seen = DynamicCache(config=model.config), [], 0
    with torch.no_grad(), steer(model, directions, STEERING, start=columns):
        for piece, place in zip(ids.split(splits, dim=1), positions.split(splits, dim=1), strict=True):
            seen += piece.shape[1]
            pieces.append(
                model(piece, attention_mask=mask[:, :seen], position_ids=place, past_key_values=cache).logits
            )
    together = torch.cat(pieces, dim=1)
    for row, (ids, start) in enumerate(zip(rows, starts, strict=True)):
        with steer(model, directions, STEERING, start=start):
            alone = logits(model, torch.tensor([ids]))
        torch.testing.assert_close(together[row, mask[row].bool()], alone[0], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("start", [-1, 1.5, [0, -1], [0.0, 1.0], [True, False], [[0, 1]], []])
def test_a_start_that_is_no_column_is_refused(model, directions, start):
    with (
        pytest.raises(ValueError, match=r"counted from 0, or one per row; got .* give prompt_length - 1"),
        steer(model, directions, STEERING, start=start),
    ):
        pass


def test_what_are_no_directions_is_refused_by_its_type(model):
    with (
        pytest.raises(TypeError, match=r"expected DirectionVectors, got str; load them with"),
        steer(model, "me/directions", STEERING),
    ):
        pass


def test_starts_for_another_number_of_rows_are_refused(model, directions):
    with (
        steer(model, directions, STEERING, start=[1, 2]),
        pytest.raises(ValueError, match="for 2 rows, but the model runs 3"),
    ):
        logits(model, torch.tensor(rows_of(5, 5, 5)))


@pytest.mark.parametrize("splits", [[4, 1, 1, 1], [2, 3, 2], [1] * 7])
@pytest.mark.parametrize("start", [None, 3])
def test_a_pass_in_pieces_over_a_cache_is_the_pass_in_one(model, directions, splits, start):
    ids = torch.tensor(rows_of(7))
    with steer(model, directions, STEERING, start=start):
        whole = logits(model, ids)
        for _ in range(2):  # the second sequence starts again at column 0
            cache, pieces = None, []
            for piece in ids.split(splits, dim=1):
                with torch.no_grad():
                    output = model(piece, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                pieces.append(output.logits)
            torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-3, rtol=1e-4)


def test_four_threads_steering_one_model_differently_get_the_sequential_answers(model, directions):
    ids = [torch.tensor(rows_of(8, seed=seed)) for seed in range(4)]
    steerings = [{"honesty": 2.0}, {"honesty": -2.0}, {"helpfulness": 1.0}, {}]

    def answer(place):
        with steer(model, directions, steerings[place]):
            return logits(model, ids[place])

    alone, together = [answer(place) for place in range(4)], [[] for _ in range(4)]

    def work(place):
        together[place] = [answer(place) for _ in range(8)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        assert all(torch.equal(expected, given) for given in found)


def test_an_inner_steering_replaces_the_outer_one_and_hands_back(model, directions):
    ids = torch.tensor(rows_of(7))
    outer, inner = {"honesty": 2.0}, {"helpfulness": -1.0}
    with steer(model, directions, outer):
        expected_outer = logits(model, ids)
    with steer(model, directions, inner):
        expected_inner = logits(model, ids)
    with steer(model, directions, outer):
        with steer(model, directions, inner):
            assert torch.equal(logits(model, ids), expected_inner)
        assert torch.equal(logits(model, ids), expected_outer)


def test_an_exception_inside_leaves_the_model_inert(model, directions):
    ids = torch.tensor(rows_of(7))
    plain = logits(model, ids)
    with pytest.raises(RuntimeError, match="boom"), steer(model, directions, STEERING):
        raise RuntimeError("boom")
    assert installed_state(model).plan is None
    assert torch.equal(logits(model, ids), plain)


def test_hooks_are_installed_once(model, directions):
    for _ in range(3):
        with steer(model, directions, STEERING):
            pass
        make_steerable(model, directions)
    assert [len(block._forward_hooks) for block in model.model.layers] == [1] * 4
    assert len(model.model._forward_pre_hooks) == 1


def test_a_copy_has_a_state_of_its_own(model, directions):
    ids = torch.tensor(rows_of(7))
    plain = logits(model, ids)
    make_steerable(model, directions)
    with steer(model, directions, STEERING):
        steered = logits(model, ids)
        twin = copy.deepcopy(model)
        assert torch.equal(logits(twin, ids), plain)
        with steer(twin, directions, {}):
            assert torch.equal(logits(model, ids), steered)
    with steer(twin, directions, STEERING):
        assert torch.equal(logits(twin, ids), steered)
        assert torch.equal(logits(model, ids), plain)


def test_a_pickled_model_comes_back_steerable(model, directions):
    ids = torch.tensor(rows_of(7))
    make_steerable(model, directions)
    with steer(model, directions, STEERING):
        steered, data = logits(model, ids), pickle.dumps(model)
    twin = pickle.loads(data)
    assert type(twin).__name__ == "LlamaForCausalLM"
    assert torch.equal(logits(twin, ids), logits(model, ids))
    with steer(twin, directions, STEERING):
        assert torch.equal(logits(twin, ids), steered)
    mask = torch.ones_like(ids)
    answers = [
        each.generate(ids, attention_mask=mask, steering=STEERING, max_new_tokens=5) for each in (model, twin)
    ]
    assert torch.equal(*answers)


def test_torch_save_and_load_of_a_whole_model_keep_steering(model, directions):
    make_steerable(model, directions)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twin = torch.load(buffer, weights_only=False)
    assert installed_state(twin).directions.sha256 == directions.sha256


def test_gradients_flow_through_steered_passes(model, directions):
    ids = torch.tensor(rows_of(7))
    with steer(model, directions, STEERING):
        output = model(ids, labels=ids)
        output.loss.backward()
        without = logits(model, ids)
    assert torch.allclose(output.logits, without, atol=1e-4)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("start", [None, 2])
@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}], ids=str)
def test_gradients_equal_those_of_a_hand_made_hook(tiny_model, model, directions, checkpointing, start):
    plain, ids = tiny_model("llama"), torch.tensor(rows_of(7, 7))

    def adder(layer):
        def hook(_module, _args, output):
            added = torch.zeros_like(output)
            for name, strength in STEERING.items():
                if layer in directions.config.control_layers[name]:
                    added[:, start or 0 :] += strength * directions.at(name, layer)
            return output + added

        return hook

    for layer, block in enumerate(plain.model.layers):
        block.register_forward_hook(adder(layer))
    plain(ids, labels=ids, use_cache=False).loss.backward()
    model.train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    with steer(model, directions, STEERING, start=start):
        model(ids, labels=ids, use_cache=False).loss.backward()
    for (name, found), (_, expected) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_replicas_of_data_parallel_are_refused(model, directions):
    """Torch runs them in threads of its own; the replica here is made as it makes them."""
    ids, errors = torch.tensor(rows_of(7)), []
    with steer(model, directions, STEERING):
        replica = model.model._replicate_for_data_parallel()

        def run():
            with pytest.raises(ValueError, match="run one process per device instead"):
                replica(ids)
            errors.append(True)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert errors == [True]


def test_what_a_block_returned_is_not_written_to_while_gradients_are_recorded(model, directions):
    kept = []
    with steer(model, directions, STEERING):
        model.model.layers[1].register_forward_hook(  # ahead of ours
            lambda _module, _args, output: kept.append((output, output.detach().clone())), prepend=True
        )
        model(torch.tensor(rows_of(7)))
    assert torch.equal(*kept[0])


def test_compiled_passes_have_no_graph_break_and_no_recompile_per_strength(tiny_model, random_directions):
    model = tiny_model("llama", num_hidden_layers=2)
    directions = random_directions(model, names=("honesty",)).with_control_layers({"honesty": [0, 1]})
    ids = torch.tensor(rows_of(7))
    with steer(model, directions, {}):
        pass  # hooks must be there before the first compile
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        plain = compiled(ids, use_cache=False).logits
        for strength in (1.0, -2.0, 3.5):
            with steer(model, directions, {"honesty": strength}):
                found = compiled(ids, use_cache=False).logits
                expected = model(ids, use_cache=False).logits
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
            if strength == 1.0:
                frames = counter.frame_count
        assert torch.equal(compiled(ids, use_cache=False).logits, plain)
    assert frames == 2  # once inert, once steered
    assert counter.frame_count == frames
    torch._dynamo.reset()


def test_layers_steered_only_after_the_compile_are_steered_in_the_compiled_pass(
    tiny_model, random_directions
):
    """Dynamo guards no hooks: one added after the compile would be ignored without a word."""
    model = tiny_model("llama", num_hidden_layers=3)
    directions = random_directions(model, names=("honesty",)).with_control_layers({"honesty": [0]})
    ids = torch.tensor(rows_of(7))
    with steer(model, directions, {}):
        pass
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        with steer(model, directions, {"honesty": 1.0}):
            compiled(ids, use_cache=False)
        with steer(model, directions.with_control_layers({"honesty": [1, 2]}), {"honesty": 1.0}):
            found, expected = compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    torch._dynamo.reset()


def test_a_compiled_model_can_be_given_to_steer(model, directions):
    compiled = torch.compile(model, backend="eager")
    with steer(compiled, directions, STEERING):
        assert installed_state(model).plan is not None


def test_half_precision_models_are_steered_in_their_own_dtype(tiny_model, random_directions):
    model = tiny_model("llama").to(torch.bfloat16)
    ids, directions = torch.tensor(rows_of(7)), random_directions(model)
    plain = logits(model, ids)
    with steer(model, directions, STEERING):
        steered = logits(model, ids)
    assert steered.dtype == torch.bfloat16
    assert not torch.equal(steered, plain)


def test_a_peft_wrap_after_and_before_steering_is_steered_and_an_unadapted_pass_too(tiny_model, directions):
    from peft import LoraConfig, get_peft_model

    ids, model = torch.tensor(rows_of(7)), tiny_model("llama")
    with steer(model, directions, STEERING):
        expected = logits(model, ids)
    wrapped = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    with steer(wrapped, directions, STEERING):
        adapted = logits(wrapped, ids)
        with wrapped.disable_adapter():
            assert torch.equal(logits(wrapped, ids), expected)
    assert not torch.allclose(adapted, expected, atol=1e-2)
    fresh = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with steer(fresh, directions, STEERING):
        torch.testing.assert_close(logits(fresh, ids), expected)


def test_training_a_peft_model_while_steered_moves_the_adapter(tiny_model, directions):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        tiny_model("llama"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    ids = torch.tensor(rows_of(7))
    with steer(wrapped, directions, STEERING):
        wrapped(ids, labels=ids).loss.backward()
    gradients = [value.grad for name, value in wrapped.named_parameters() if "lora_B" in name]
    assert all(bool(gradient.any()) for gradient in gradients)


def test_saving_keeps_architecture_class_and_weights(model, directions, tmp_path):
    keys, name, module = list(model.state_dict()), type(model).__name__, type(model).__module__
    make_steerable(model, directions)
    assert (type(model).__name__, type(model).__module__) == (name, module)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    ids = torch.tensor(rows_of(7))
    assert torch.equal(logits(loaded, ids), logits(model, ids))


@pytest.mark.parametrize(
    ("steering", "error", "message"),
    [
        ({"mind": 1.0}, ValueError, "unknown criterion 'mind'; these directions have: honesty, helpfulness"),
        ({"honesty": "much"}, TypeError, "strength of 'honesty' must be a number, got 'much'"),
        ({"honesty": True}, TypeError, "strength of 'honesty' must be a number, got True"),
        ({"honesty": float("nan")}, ValueError, "strength of 'honesty' must be finite, got nan"),
        ({"honesty": 10**400}, ValueError, "strength of 'honesty' must be finite, got 1000"),
        ({"honesty": -1e39}, ValueError, r"strength of 'honesty' must be finite, got -1e\+39"),
        ("honesty", TypeError, "steering must map criteria to strengths, like"),
        (0.5, TypeError, "or list one such mapping per row; got 0.5"),
        (["honesty"], TypeError, "a row's steering must map criteria to strengths, got 'honesty'"),
    ],
)
def test_a_steering_that_makes_no_sense_is_refused(model, directions, steering, error, message):
    with pytest.raises(error, match=message), steer(model, directions, steering):
        pass
    assert installed_state(model).plan is None


def test_the_wrong_number_of_rows_is_refused(model, directions):
    with (
        steer(model, directions, [STEERING, None]),
        pytest.raises(ValueError, match="for 2 rows, but the model"),
    ):
        logits(model, torch.tensor(rows_of(5, 5, 5)))


def test_directions_of_another_model_are_refused(tiny_model, directions):
    wide, deep = tiny_model("llama", hidden_size=128), tiny_model("llama", num_hidden_layers=2)
    with pytest.raises(ValueError, match="hidden size 64, this model has 128"), steer(wide, directions, {}):
        pass
    with pytest.raises(ValueError, match="number of layers 4, this model has 2"):
        make_steerable(deep, directions)


def test_strengths_above_the_safe_maximum_warn(model, directions):
    tuned = directions.with_strengths({"honesty": StrengthRange(maximum=0.5)})
    with warnings.catch_warnings(), steer(model, tuned, {"honesty": -0.5}):
        pass
    with (
        pytest.warns(UserWarning, match="strength -0.6 of 'honesty' is above its safe maximum 0.5.*Lower it"),
        steer(model, tuned, {"honesty": -0.6}),
    ):
        pass
