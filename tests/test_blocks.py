"""Finding, proving and reading decoder blocks; the numbers come from transformers' own hidden states."""

import threading

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_icon2.blocks import block_output, evaluating, find_blocks, read_states, unwrap

IDS = torch.tensor([[5, 9, 11, 30, 7], [8, 200, 31, 4, 6]])


def test_blocks_put_out_what_the_model_calls_hidden_states(tiny_model, architecture):
    model = tiny_model(architecture)
    with torch.no_grad():
        hidden = model(IDS, output_hidden_states=True).hidden_states
    blocks = find_blocks(model)
    assert len(blocks.layers) == 4
    assert blocks.hidden_size == 64
    states = read_states(blocks, [0, 1, 2], lambda output: output[:, -1], input_ids=IDS)
    # The last entry of hidden_states is after the final norm, so the last block is left out.
    for layer in range(3):
        assert torch.equal(states[:, layer], hidden[layer + 1][:, -1])


def test_the_last_blocks_output_is_before_the_final_norm(tiny_llama):
    with torch.no_grad():
        final = tiny_llama.model(IDS).last_hidden_state
        states = read_states(find_blocks(tiny_llama), [3], lambda output: output, input_ids=IDS)
        assert torch.allclose(tiny_llama.model.norm(states[:, 0]), final, atol=1e-5)


def test_the_trunk_runs_without_the_language_model_head(tiny_model, architecture):
    model = tiny_model(architecture)
    called = []
    model.get_output_embeddings().register_forward_hook(lambda *_: called.append(True))
    find_blocks(model).trunk(input_ids=IDS)
    assert not called


def test_reading_stops_after_the_deepest_layer(tiny_model):
    model = tiny_model("llama")
    called = []
    for layer, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, layer=layer: called.append(layer))
    blocks = find_blocks(model)
    called.clear()
    read_states(blocks, [0, 2], lambda output: output[:, -1], input_ids=IDS)
    assert called == [0, 1, 2]


def test_reading_leaves_no_hook_behind_even_after_an_error(tiny_model):
    model = tiny_model("llama")
    blocks = find_blocks(model)

    def fail(_output):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        read_states(blocks, [1], fail, input_ids=IDS)
    assert not any(module._forward_hooks for module in model.modules())


def test_threads_that_read_one_model_get_their_own_states(tiny_llama):
    blocks = find_blocks(tiny_llama)
    rows = [torch.randint(6, 300, (1, 6), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]

    def read(ids):
        return read_states(blocks, [1, 2], lambda output: output[:, -1], input_ids=ids)

    alone, together = [read(ids) for ids in rows], [[] for _ in rows]

    def work(place):
        together[place] = [read(rows[place]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        assert all(torch.equal(expected, states) for states in found)


def test_evaluating_switches_dropout_off_and_back_on_where_it_was(tiny_model):
    model = tiny_model("gpt2").train()
    model.transformer.h[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert {name: module.training for name, module in model.named_modules()} == before


def test_peft_and_compiled_models_are_unwrapped(tiny_model):
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert unwrap(wrapped) is model
    assert unwrap(torch.compile(model, backend="eager")) is model
    assert unwrap(torch.compile(wrapped, backend="eager")) is model
    assert find_blocks(wrapped).layers == tuple(model.model.layers)


def test_a_layer_that_does_not_exist_is_refused_by_number(tiny_llama):
    with pytest.raises(ValueError, match="layer 4 is not in this model; it has layers 0 to 3"):
        find_blocks(tiny_llama).check([0, 4])


def test_something_that_is_no_transformers_model_is_refused():
    with pytest.raises(TypeError, match="expected a transformers model .* got Linear"):
        find_blocks(nn.Linear(2, 2))


def test_encoder_decoder_models_are_refused():
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(
        ValueError, match="T5ForConditionalGeneration cannot be steered .*: it is an encoder-decoder model"
    ):
        find_blocks(T5ForConditionalGeneration(config))


def test_a_model_with_several_residual_streams_is_refused_by_the_name_of_its_block():
    config = AutoConfig.for_model(
        "gemma3n_text",
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size=16,
        hidden_size_per_layer_input=8,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        altup_num_inputs=2,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    expected = (
        r"Gemma3nForCausalLM cannot .*: block 0 \(Gemma3nTextDecoderLayer\) puts out shape \(2, 3, 2, 16\) .*"
        r"expected \(3, 2, 16\)"
    )
    with pytest.raises(ValueError, match=expected):
        find_blocks(model)


def test_a_model_that_runs_a_block_twice_is_refused(tiny_model):
    model = tiny_model("llama")
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM cannot .*: it does not run its decoder blocks once each"
    ):
        find_blocks(model)


def test_a_model_without_a_list_of_blocks_is_refused(tiny_model):
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(
        ValueError, match="LlamaForCausalLM cannot be steered .*: it has no list of 7 decoder blocks"
    ):
        find_blocks(model)


def test_a_model_whose_next_block_takes_in_something_else_is_refused(tiny_model):
    model = tiny_model("llama")
    model.model.layers[2].register_forward_pre_hook(lambda _block, args: (args[0] + args[0].roll(1, -1),))
    with pytest.raises(
        ValueError, match=r"block 2 \(LlamaDecoderLayer\) does not take in what the block befor"
    ):
        find_blocks(model)


def test_a_stream_that_is_only_scaled_between_blocks_can_be_steered(tiny_model):
    """RWKV halves its states every few blocks, so that they fit into half precision."""
    model = tiny_model("llama")
    model.model.layers[2].register_forward_pre_hook(lambda _block, args: (args[0] / 2,))
    assert len(find_blocks(model).layers) == 4


def test_an_encoder_is_refused_until_it_is_made_a_decoder():
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=32, initializer_range=0.3)
    with pytest.raises(ValueError, match=r"depends on later tokens, .* by is_decoder=True"):
        find_blocks(BertLMHeadModel(config))
    config.is_decoder = True
    assert len(find_blocks(BertLMHeadModel(config)).layers) == 2


def test_a_model_whose_rows_see_each_other_is_refused(tiny_model):
    model = tiny_model("llama")
    model.model.layers[2].mlp.register_forward_hook(lambda _mlp, _args, output: output + output.mean(0))
    with pytest.raises(ValueError, match=r"block 2 .* puts out other states when another row is steered"):
        find_blocks(model)


def test_a_model_that_keeps_a_blocks_output_for_later_is_refused(tiny_model):
    """Added in place, a vector also reaches the copy that block 3 reads; added to a clone, it would not."""
    model = tiny_model("llama")
    kept = []
    model.model.layers[0].register_forward_hook(lambda _block, _args, output: kept.append(output))
    model.model.layers[3].mlp.register_forward_hook(lambda _mlp, _args, output: output + kept[-1])
    with pytest.raises(
        ValueError, match=r"block 3 .* puts out other states when steered in place and not in"
    ):
        find_blocks(model)


def test_a_model_that_drops_the_last_blocks_output_is_refused(tiny_model):
    model = tiny_model("llama")
    kept = []
    model.model.layers[2].register_forward_hook(lambda _block, _args, output: kept.append(output.clone()))
    model.model.norm.register_forward_pre_hook(lambda _norm, _args: (kept[-1],))
    with pytest.raises(ValueError, match="added behind block 3 .* does not reach the model's output"):
        find_blocks(model)


def test_a_model_that_needs_more_than_token_ids_is_refused_with_its_own_words(tiny_model):
    model = tiny_model("llama")

    def fail(*_):
        raise TypeError("pixels are missing")

    model.model.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match=r"does not run on token ids .* \(TypeError: pixels are missing\)"):
        find_blocks(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_reason_to_refuse(tiny_model, architecture, dtype):
    assert len(find_blocks(tiny_model(architecture).to(dtype)).layers) == 4


def test_damaged_weights_are_not_taken_for_an_odd_architecture(tiny_model):
    """Their NaNs are reported where states are measured, with advice."""
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0] = torch.nan
    assert len(find_blocks(model).layers) == 4


def test_dropout_is_no_reason_to_refuse(tiny_model):
    model = tiny_model("gpt2").train()
    assert len(find_blocks(model).layers) == 4
    assert model.training


def test_a_model_whose_weights_are_offloaded_is_probed_like_another(tiny_model):
    from accelerate import cpu_offload

    model = cpu_offload(tiny_model("llama"), execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert len(find_blocks(model).layers) == 4


def test_probing_does_not_touch_the_passes_of_another_thread(tiny_model):
    model = tiny_model("llama")
    with torch.no_grad():
        expected = model(IDS).logits
    found = []

    def work():
        with torch.no_grad():
            found.extend(model(IDS).logits for _ in range(20))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        find_blocks(model)
    thread.join()
    assert len(found) == 20
    assert all(torch.equal(expected, logits) for logits in found)


def test_a_block_that_puts_out_no_tensor_is_refused():
    assert block_output((IDS, None)) is IDS
    with pytest.raises(ValueError, match="a decoder block returned dict, not a tensor"):
        block_output({"hidden_states": IDS})
