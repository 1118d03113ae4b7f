"""torch.compile: hooks that come after a compile hold as much as those that came before."""

import threading

import pytest
import torch
import torch._dynamo.testing
from greedy import generate, prompts_of
from transformers import CompileConfig

from hf_icon2 import make_steerable, steer

STEERING = {"honesty": 3.0, "helpfulness": -2.0}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tiny_model("llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


def logits_by_hand(model, directions, ids, steering):
    def adder(layer):
        def hook(_module, _args, output):
            for name, strength in steering.items():
                if layer in directions.config.control_layers[name]:
                    output = output + strength * directions.at(name, layer)
            return output

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(model.model.layers)]
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("way", ["wrapper", "in place", "forward"])
@pytest.mark.parametrize("run_before", [False, True], ids=["compiled after", "compiled before"])
def test_hooks_hold_whether_they_come_before_or_after_the_first_compile(
    model, plain, directions, way, run_before
):
    """Torch does not look at hooks again once it has compiled a pass, so the later ones would be ignored."""
    ids = torch.tensor(prompts_of(7))
    if not run_before:
        make_steerable(model, directions)
    if way == "wrapper":
        compiled = torch.compile(model, backend="eager")
    elif way == "in place":
        model.compile(backend="eager")
        compiled = model
    else:
        model.forward = torch.compile(model.forward, backend="eager")
        compiled = model
    with torch.no_grad():
        if run_before:
            untouched = compiled(ids, use_cache=False).logits
            torch.testing.assert_close(untouched, plain(ids, use_cache=False).logits)
        for strength in (1.0, -2.0):
            with steer(compiled, directions, {"honesty": strength}):
                found = compiled(ids, use_cache=False).logits
            expected = logits_by_hand(plain, directions, ids, {"honesty": strength})
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
        found = compiled(ids, use_cache=False).logits
    torch.testing.assert_close(found, plain(ids, use_cache=False).logits)


@pytest.mark.parametrize("run_before", [False, True], ids=["compiled after", "compiled before"])
@pytest.mark.parametrize("inside", ["generate", "steer"])
def test_the_compiled_decoding_step_of_a_static_cache_is_steered(
    model, plain, directions, by_hand, run_before, inside
):
    """What generate does by itself on a GPU, here forced onto the CPU."""
    prompts = prompts_of(5, 9)
    step = CompileConfig(backend="eager", fullgraph=False, mode=None)
    step._compile_all_devices = True
    settings = {"cache_implementation": "static", "compile_config": step}
    torch._dynamo.utils.counters.clear()
    if run_before:
        assert generate(model, prompts, **settings) == [
            by_hand(plain, directions, ids, None) for ids in prompts
        ]
    if inside == "generate":
        make_steerable(model, directions)
    for sign in (1, -1):
        steering = {name: sign * strength for name, strength in STEERING.items()}
        if inside == "generate":
            found = generate(model, prompts, steering=steering, **settings)
            expected = [by_hand(plain, directions, ids, steering) for ids in prompts]
        else:
            with steer(model, directions, steering):
                found = generate(model, prompts, **settings)
            expected = [by_hand(plain, directions, ids, steering, start=0) for ids in prompts]
        assert found == expected
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_a_block_copied_by_an_adapter_after_the_compile_is_steered(model, plain, directions):
    from peft import LoraConfig, get_peft_model

    ids = torch.tensor(prompts_of(7))
    make_steerable(model, directions)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), steer(compiled, directions, STEERING):
        compiled(ids, use_cache=False)
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["layers.1"], task_type="CAUSAL_LM")
    get_peft_model(model, config)
    with torch.no_grad(), steer(compiled, directions, STEERING):
        found = compiled(ids, use_cache=False).logits
    torch.testing.assert_close(found, logits_by_hand(plain, directions, ids, STEERING), atol=1e-3, rtol=1e-4)


def test_an_unsteered_compiled_pass_beside_a_steering_thread_is_the_same(model, plain, directions):
    """Its guard on threads that steer may compile it once more, but never changes what it says."""
    ids, found = torch.tensor(prompts_of(7)), []
    counter = torch._dynamo.testing.CompileCounter()
    with steer(model, directions, {}):
        pass
    compiled = torch.compile(model, backend=counter)

    def run():
        with torch.no_grad(), steer(model, directions, {}):
            pass
        with torch.no_grad():
            found.append(compiled(ids, use_cache=False).logits)

    for number in range(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        with steer(model, directions, {"honesty": 1.0 + number}):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        if number == 0:
            frames = counter.frame_count
    assert counter.frame_count == frames
    expected = plain(ids, use_cache=False).logits
    assert len(found) == 6
    for logits in found:
        torch.testing.assert_close(logits, expected)


def test_steering_in_turn_compiles_twice(model, directions):
    ids = torch.tensor(prompts_of(7))
    counter = torch._dynamo.testing.CompileCounter()
    with steer(model, directions, {}):
        pass
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        compiled(ids, use_cache=False)
        frames = counter.frame_count
        for strength in (1.0, 2.0):
            with steer(model, directions, {"honesty": strength}):
                compiled(ids, use_cache=False)
            compiled(ids, use_cache=False)
    assert (frames, counter.frame_count) == (1, 2)  # once inert, once steered
