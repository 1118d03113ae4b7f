"""Models that are spread, offloaded, quantised or of several number formats, as far as a CPU can show it."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from greedy import NEW, STEERINGS, generate, prompts_of
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from hf_icon2 import extract_directions, make_steerable, steer
from hf_icon2.steering.decoding import Sampling, generate_variants

STEERING = {"honesty": 3.0, "helpfulness": -2.0}


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def directions(plain, random_directions):
    return random_directions(plain)


@pytest.fixture(scope="module")
def prompts():
    return prompts_of(5, 9, 2)


@pytest.fixture(scope="module")
def expected(by_hand, plain, directions, prompts):
    return [by_hand(plain, directions, *pair) for pair in zip(prompts, STEERINGS, strict=True)]


# weights elsewhere


PARTLY = {"model.layers.1": "disk", "model.layers.2": "disk", "lm_head": "disk"}
WHOLLY = dict.fromkeys(("model.embed_tokens", "model.layers", "lm_head"), "disk")


def spread(folder, offload, places):
    device_map = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    if "model.layers" not in places:
        device_map |= {f"model.layers.{layer}": "cpu" for layer in range(4)}
    return AutoModelForCausalLM.from_pretrained(
        folder, device_map=device_map | places, offload_folder=str(offload)
    )


OFFLOADED = {
    "cpu": lambda model, _dir, _offload: cpu_offload(copy.deepcopy(model), torch.device("cpu")),
    "disk": lambda model, _dir, offload: disk_offload(copy.deepcopy(model), offload, torch.device("cpu")),
    "device_map, some layers": lambda _model, folder, offload: spread(folder, offload, PARTLY),
    "device_map, all layers": lambda _model, folder, offload: spread(folder, offload, WHOLLY),
    "device_map auto": lambda _model, folder, _offload: AutoModelForCausalLM.from_pretrained(
        folder, device_map="auto"
    ),
}


@pytest.mark.parametrize("how", OFFLOADED)
def test_offloaded_weights_are_steered_when_their_turn_comes(
    plain, tiny_llama_dir, directions, prompts, expected, tmp_path, how
):
    """Their tensors are on `meta` until then, so nothing may be placed by looking at them."""
    model = make_steerable(OFFLOADED[how](plain, tiny_llama_dir, tmp_path), directions)
    if how not in ("cpu", "device_map auto"):
        assert any(parameter.is_meta for parameter in model.parameters())
    assert generate(model, prompts, steering=STEERINGS) == expected
    assert generate(model, prompts, steering=STEERINGS, cache_implementation="static") == expected


def test_a_steerable_model_may_be_offloaded_later(plain, directions, prompts, expected):
    model = cpu_offload(make_steerable(copy.deepcopy(plain), directions), torch.device("cpu"))
    assert generate(model, prompts, steering=STEERINGS) == expected


def test_a_model_whose_weights_are_not_loaded_is_refused(plain, directions):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**plain.config.to_dict()))
    with pytest.raises(ValueError, match="on the meta device, that is, not loaded; load them first"):
        make_steerable(model, directions)


def test_offloaded_weights_serve_the_decoding_engine_and_the_measurement_too(
    plain, tiny_llama_dir, directions, prompts, expected, tmp_path, tiny_tokenizer
):
    model = OFFLOADED["device_map, all layers"](plain, tiny_llama_dir, tmp_path)
    sampling, seeds = Sampling(max_new_tokens=NEW, temperature=0), [[0] * 3]
    found, without = (
        generate_variants(
            each, prompts, [STEERINGS], sampling=sampling, seeds=seeds, pad=0, directions=directions
        )
        for each in (model, copy.deepcopy(plain))
    )
    assert found == without
    texts = ["What is the sky?", "Tell me how to bake bread."]
    measured, usual = (
        extract_directions(each, tiny_tokenizer, texts, show_progress=False).tensor
        for each in (model, copy.deepcopy(plain))
    )
    torch.testing.assert_close(measured, usual)


# number formats


class Int8Linear(nn.Module):
    """Weights kept as int8 with one scale per output, as in weight-only quantisation."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale.detach())
        self.register_buffer("weight", (linear.weight / scale).round().to(torch.int8).detach())

    def forward(self, states):
        return nn.functional.linear(states, self.weight.to(states.dtype) * self.scale.to(states.dtype))


def quantised(model):
    for block in model.model.layers:
        for module in (block.self_attn, block.mlp):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int8Linear(child))
    return model


def test_quantised_layers_are_steered(tiny_model, directions, prompts, by_hand):
    model = make_steerable(quantised(tiny_model("llama")), directions)
    plain = quantised(tiny_model("llama"))
    pairs = list(zip(prompts, STEERINGS, strict=True))
    assert generate(model, prompts, steering=STEERINGS) == [
        by_hand(plain, directions, *pair) for pair in pairs
    ]


@pytest.mark.filterwarnings(
    "ignore:.*torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor"
)
def test_quantisation_that_mixes_the_rows_of_a_batch_is_refused(tiny_model, directions):
    """Torch's dynamic int8 takes one scale for all rows, so that steering one would change the others."""
    model = tiny_model("llama")
    model.model.layers = torch.ao.quantization.quantize_dynamic(
        model.model.layers, {nn.Linear}, dtype=torch.qint8
    )
    with pytest.raises(ValueError, match="other states when another row is steered"):
        make_steerable(model, directions)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norms", ["float32", "the same"])
def test_low_precision_models_are_steered_in_the_dtype_of_their_activations(
    tiny_model, directions, dtype, norms
):
    """float32 norms put float32 into a half-precision stream, as quantised models often do."""
    model = tiny_model("llama").to(dtype)
    if norms == "float32":
        model.model.norm.float()
        model.lm_head.float()
    plain, ids = copy.deepcopy(model), torch.tensor(prompts_of(7))
    seen = []

    def adder(layer):
        def hook(_module, _args, output):
            added = sum(
                strength * directions.at(name, layer)
                for name, strength in STEERING.items()
                if layer in directions.config.control_layers[name]
            )
            seen.append(output.dtype)
            return output + torch.as_tensor(added).to(output.dtype)

        return hook

    for layer, block in enumerate(plain.model.layers):
        block.register_forward_hook(adder(layer))
    with torch.no_grad(), steer(model, directions, STEERING):
        assert torch.equal(model(ids).logits, plain(ids).logits)
    assert set(seen) == {dtype}


def test_blocks_of_different_dtypes_get_a_vector_each(tiny_model, directions):
    """A stream that changes its format on the way: the vectors follow it."""

    def mixed():
        model = tiny_model("llama")
        for layer in (2, 3):
            model.model.layers[layer].double()
            forward = model.model.layers[layer].forward
            model.model.layers[layer].forward = lambda states, *args, forward=forward, **kwargs: forward(
                states.double(),
                *args,
                **kwargs | {"position_embeddings": tuple(t.double() for t in kwargs["position_embeddings"])},
            )
        model.model.norm.double()
        model.lm_head.double()
        return model

    model, plain, ids = mixed(), mixed(), torch.tensor(prompts_of(7))

    def adder(layer):
        def hook(_module, _args, output):
            for name, strength in STEERING.items():
                if layer in directions.config.control_layers[name]:
                    output = output + (strength * directions.at(name, layer)).to(output.dtype)
            return output

        return hook

    for layer, block in enumerate(plain.model.layers):
        block.register_forward_hook(adder(layer))
    with torch.no_grad(), steer(model, directions, STEERING):
        found = model(ids, use_cache=False).logits
    assert found.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(found, plain(ids, use_cache=False).logits, atol=1e-4, rtol=1e-5)


def test_inference_mode_and_training_may_alternate_inside_a_steer_block(tiny_model, directions):
    model, ids = tiny_model("llama"), torch.tensor(prompts_of(7))
    with steer(model, directions, STEERING):
        with torch.inference_mode():
            frozen = model(ids).logits
        trained = model(ids, labels=ids)
        trained.loss.backward()
    torch.testing.assert_close(trained.logits.detach(), frozen.clone(), atol=1e-4, rtol=1e-5)
