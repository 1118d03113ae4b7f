"""Directions in the files of others: each export equals steering at all positions, each import says what it knows."""

import ast
import copy
import json
import random
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from greedy import NEW, generate, prompts_of
from transformers import GraniteConfig, GraniteForCausalLM
from zoo_models import zoo_model

import hf_icon2
from hf_icon2 import (
    DirectionVectors,
    export_gguf,
    export_lm_eval,
    export_peft,
    import_gguf,
    import_repeng,
    make_steerable,
    steer,
)
from hf_icon2.blocks import find_blocks
from hf_icon2.cli import main
from hf_icon2.prompts import pad_batch

STEERING = {"honesty": 2.0, "helpfulness": -1.5}

pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected that the base layer has no bias term"
)  # PEFT: no merge


PROMPTS = prompts_of(5, 9, 2)


def answers(model, prompts=PROMPTS, **kwargs):
    """Greedy answers of a left-padded batch, NEW tokens each."""
    return generate(model, prompts, **kwargs)


def steered_everywhere(model, directions, steering=STEERING):
    """What every export must equal; the model keeps no steering."""
    steerable = make_steerable(copy.deepcopy(model), directions)
    expected = answers(steerable, steering=steering, positions="all")
    assert expected != answers(steerable), "the steering of this test moves nothing"
    return expected


@pytest.fixture
def directions(tiny_llama, random_directions):
    return random_directions(tiny_llama)


# GGUF


def by_the_rule_of_llama_cpp(model, path, prompts=PROMPTS, scale=1.0):
    """Greedy answers as llama.cpp would give them, written from its source and not from our exporter.

    `common_control_vector_load_one`, `common_init_from_params` (layers 1 to n_layer), `llama_adapter_cvec::init`,
    `apply` and `tensor_for`, and `build_cvec` at the end of each block; one prompt at a time, no padding.
    """
    blocks = model.model.layers
    buffer, n_embd = numpy.zeros(0, numpy.float32), -1
    for tensor in GGUFReader(path).tensors:
        prefix, _, index = tensor.name.partition(".")
        assert prefix == "direction" and int(index) > 0, "llama.cpp skips the whole file"
        assert tensor.tensor_type.name == "F32" and len(tensor.shape) == 1
        n_embd = len(tensor.data)
        if len(buffer) < n_embd * int(index):
            buffer = numpy.concatenate(
                [buffer, numpy.zeros(n_embd * int(index) - len(buffer), numpy.float32)]
            )
        buffer[n_embd * (int(index) - 1) :][:n_embd] += tensor.data * numpy.float32(scale)
    tensors = [None]
    for il in range(1, len(blocks)):
        offset = n_embd * (il - 1)
        whole = offset + n_embd <= len(buffer)
        tensors.append(
            torch.from_numpy(buffer[offset : offset + n_embd].copy()) if whole else torch.zeros(n_embd)
        )

    def add(il):
        return lambda _module, _args, output: output + tensors[il] if 1 <= il <= len(blocks) else output

    handles = [block.register_forward_hook(add(il)) for il, block in enumerate(blocks) if il]
    try:
        return [answers(model, [prompt])[0] for prompt in prompts]
    finally:
        for handle in handles:
            handle.remove()


def test_a_gguf_export_read_by_llama_cpps_rule_steers_all_positions(tmp_path, tiny_llama, directions):
    path = export_gguf(directions, STEERING, tmp_path / "deep" / "vectors.gguf")
    assert by_the_rule_of_llama_cpp(tiny_llama, path) == steered_everywhere(tiny_llama, directions)


def test_a_gguf_export_holds_the_mix_and_says_how_it_is_meant(tmp_path, directions):
    path = export_gguf(directions, STEERING, tmp_path / "vectors.gguf")
    reader = GGUFReader(path)
    mixed = directions.mix(STEERING)
    assert {t.name: t.data.tolist() for t in reader.tensors} == {
        f"direction.{layer}": vector.tolist() for layer, vector in mixed.items()
    }
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "tiny",
        "controlvector.layer_count": 3,
        "hf_icon2.operation": "add",
        "hf_icon2.site": "output of the decoder block",
        "hf_icon2.layers": "direction.N is added to the output of 0-based block N",
        "hf_icon2.positions": "all",
        "hf_icon2.steering": '{"honesty": 2.0, "helpfulness": -1.5}',
        "hf_icon2.criteria": "honesty+helpfulness",
        "hf_icon2.base_model": "tiny",
        "hf_icon2.directions_sha256": directions.sha256,
        "hf_icon2.num_layers": 4,
    }
    again = export_gguf(directions, STEERING, tmp_path / "again.gguf")
    assert again.read_bytes() == path.read_bytes()


def test_block_0_is_dropped_with_a_warning_that_says_what_is_lost(tmp_path, tiny_llama, directions):
    with_0 = directions.with_control_layers({"honesty": (0, 1)})
    lost = float(2 * directions.at("honesty", 0).norm())
    with pytest.warns(
        UserWarning, match=rf"cannot steer block 0.*norm {lost:.3g} of .*steers blocks 1, 2, 3 only"
    ):
        path = export_gguf(with_0, STEERING, tmp_path / "vectors.gguf")
    without_0 = directions.with_control_layers({"honesty": (1,)})
    assert by_the_rule_of_llama_cpp(tiny_llama, path) == steered_everywhere(tiny_llama, without_0)


@pytest.mark.parametrize(
    ("steering", "error", "message"),
    [
        ({"honesty": 1.0}, ValueError, "touches block 0 only"),
        ({"honesty": 0.0}, ValueError, "adds nothing; give at least one criterion"),
        ({}, ValueError, "adds nothing"),
        ({"kindness": 1.0}, ValueError, "unknown criterion 'kindness'; these directions have: honesty"),
        ({"honesty": float("nan")}, ValueError, "must be finite"),
        ({"honesty": "much"}, TypeError, "must be a number"),
        ([{"honesty": 1.0}, None], TypeError, "an export holds one steering for all rows"),
        (None, TypeError, "an export holds one steering for all rows"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_a_file_is_written(
    tmp_path, directions, steering, error, message
):
    only_0 = directions.with_control_layers({"honesty": (0,)})
    with pytest.raises(error, match=message):
        export_gguf(only_0, steering, tmp_path / "vectors.gguf")
    assert not list(tmp_path.iterdir())


def test_strengths_that_cancel_leave_nothing_to_export(tmp_path, directions):
    both = directions.select(["honesty"]).merge(
        DirectionVectors(
            directions.select(["helpfulness"]).with_control_layers({"helpfulness": (1, 2)}).config,
            directions["honesty"][None],
        )
    )
    with pytest.raises(ValueError, match="adds nothing"):
        export_gguf(both, {"honesty": 1.0, "helpfulness": -1.0}, tmp_path / "vectors.gguf")


# round trip


def test_export_import_export_keeps_every_number_and_then_every_byte(tmp_path, tiny_llama, directions):
    first = export_gguf(directions, STEERING, tmp_path / "first.gguf")
    imported = import_gguf(first)
    assert imported.names == ("honesty+helpfulness",)
    assert {layer: vector.tolist() for layer, vector in imported.mix({imported.names[0]: 1.0}).items()} == {
        layer: vector.tolist() for layer, vector in directions.mix(STEERING).items()
    }
    second = export_gguf(imported, {imported.names[0]: 1.0}, tmp_path / "second.gguf")
    third = export_gguf(import_gguf(second), {imported.names[0]: 1.0}, tmp_path / "third.gguf")
    assert third.read_bytes() == second.read_bytes()
    tensors = [{t.name: t.data.tobytes() for t in GGUFReader(path).tensors} for path in (first, second)]
    assert tensors[0] == tensors[1]
    expected = steered_everywhere(tiny_llama, directions)
    assert steered_everywhere(tiny_llama, imported, {imported.names[0]: 1.0}) == expected


def test_an_import_says_what_it_knows_and_what_it_does_not(tmp_path, directions, tiny_tokenizer):
    path = export_gguf(directions, {"honesty": 2.0}, tmp_path / "vectors.gguf")
    imported = import_gguf(path)
    config = imported.config
    assert (config.base_model, config.num_layers, config.layers) == ("tiny", 4, (1, 2))
    assert config.control_layers == {"honesty": (1, 2)}
    assert (config.method, config.scale, config.chat_template_sha256) == (None, None, None)
    assert (config.pooling, config.residual_norms, config.instructions) == ({}, (), {})
    assert config.imported["steering"] == '{"honesty": 2.0}'
    assert config.imported["positions"] == "all"
    assert "unknown" in config.criteria[0].positive
    imported.check_model(64, 4, tiny_tokenizer)  # the template is unknown, so no other is wrong

    folder = imported.save_pretrained(tmp_path / "saved")
    again = DirectionVectors.from_pretrained(folder)
    assert again.config == config and torch.equal(again.tensor, imported.tensor)
    card = (folder / "README.md").read_text()
    assert "Imported, not measured here" in card and "- file: `vectors.gguf`" in card


def test_imported_directions_take_part_in_the_algebra_but_know_no_norms(tmp_path, directions):
    imported = import_gguf(export_gguf(directions, {"honesty": 2.0}, tmp_path / "vectors.gguf"))
    other = import_gguf(tmp_path / "vectors.gguf", name="candour")
    assert imported.merge(other).names == ("honesty", "candour")
    assert torch.equal((imported + -imported).tensor, torch.zeros_like(imported.tensor))
    torch.testing.assert_close(imported.rescaled("unit").tensor, imported.unit())
    for scale in ("residual", "contrast"):
        with pytest.raises(ValueError, match=f"their {scale} norms unknown; use scale 'unit'"):
            imported.rescaled(scale)
    with pytest.raises(ValueError, match="cannot merge: scale is"):
        imported.merge(other.rescaled("unit"))


def test_only_imported_directions_may_lack_what_a_measurement_knows(directions):
    for field in ("method", "scale"):
        with pytest.raises(ValueError, match=f"{field} is None; allowed"):
            replace(directions.config, **{field: None})
    with pytest.raises(ValueError, match="pooling of 'honesty' is None; allowed"):
        replace(directions.config, pooling={})


# repeng


@dataclass
class ControlVector:
    """The public face of repeng's class of that name."""

    model_type: str
    directions: dict[int, numpy.ndarray]

    def export_gguf(self, path):
        """The file that repeng 0.4.0 writes (`repeng/extract.py`, `ControlVector.export_gguf`)."""
        writer = GGUFWriter(path, "controlvector")
        writer.add_string("controlvector.model_hint", self.model_type)
        writer.add_uint32("controlvector.layer_count", len(self.directions))
        for layer, direction in self.directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def answers(self, model, coefficient):
        """`ControlModel.set_control`: coefficient x direction of layer i is added to what block i puts out."""

        def add(direction):
            return lambda _module, _args, output: output + coefficient * torch.tensor(direction)

        handles = [
            model.model.layers[layer].register_forward_hook(add(direction))
            for layer, direction in self.directions.items()
        ]
        try:
            return answers(model)
        finally:
            for handle in handles:
                handle.remove()


@pytest.fixture
def repeng_vector():
    """As repeng trains it: unit vectors for every block but the first, the last one first."""
    rows = numpy.random.default_rng(5).standard_normal((4, 64)).astype(numpy.float32)
    rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    return ControlVector("llama", {layer: rows[layer] for layer in (3, 2, 1)})


def test_a_vector_of_repeng_steers_as_it_does_there(tmp_path, tiny_llama, repeng_vector):
    expected = repeng_vector.answers(tiny_llama, 9.0)
    vector = import_repeng(repeng_vector, tiny_llama, name="happy")
    assert vector.config.layers == vector.config.control_layers["happy"] == (1, 2, 3)
    assert steered_everywhere(tiny_llama, vector, {"happy": 9.0}) == expected

    repeng_vector.export_gguf(tmp_path / "happy.gguf")
    from_file = import_gguf(tmp_path / "happy.gguf", tiny_llama)
    assert from_file.names == ("happy",)
    assert torch.equal(from_file.tensor, vector.tensor)
    assert from_file.config.imported == {"format": "gguf", "file": "happy.gguf", "model_hint": "llama"}


def test_a_vector_for_block_0_can_be_imported_and_is_dropped_again_for_llama_cpp(
    tmp_path, tiny_llama, repeng_vector
):
    repeng_vector.directions[0] = repeng_vector.directions[1]
    repeng_vector.export_gguf(tmp_path / "happy.gguf")
    imported = import_gguf(tmp_path / "happy.gguf", tiny_llama.config)
    assert imported.config.layers == (0, 1, 2, 3)
    with pytest.warns(UserWarning, match="block 0"):
        export_gguf(imported, {"happy": 1.0}, tmp_path / "again.gguf")
    assert import_gguf(tmp_path / "again.gguf").config.layers == (1, 2, 3)


@pytest.mark.parametrize(
    ("file", "name"), [("_happy (2).gguf", "happy -2-"), ("__.gguf", "imported"), ("x" * 120, "x" * 100)]
)
def test_a_file_name_becomes_the_name_of_a_criterion(tmp_path, tiny_llama, repeng_vector, file, name):
    repeng_vector.export_gguf(tmp_path / file)
    assert import_gguf(tmp_path / file, tiny_llama).names == (name,)


def test_a_model_can_be_named_by_its_folder(tmp_path, tiny_llama_dir, repeng_vector):
    repeng_vector.export_gguf(tmp_path / "happy.gguf")
    assert import_gguf(tmp_path / "happy.gguf", str(tiny_llama_dir)).config.base_model == str(tiny_llama_dir)


def test_blocks_are_counted_as_they_are_found_where_each_holds_two_layers(
    tmp_path, tiny_model, random_directions
):
    model = zoo_model("longcat_flash")
    directions = random_directions(tiny_model("llama", hidden_size=model.config.hidden_size))
    model.save_pretrained(tmp_path / "model")
    directions.attach_to(tmp_path / "model")
    again = import_gguf(export_gguf(directions, STEERING, tmp_path / "vectors.gguf"), model)
    assert model.config.num_hidden_layers == 8
    assert again.config.num_layers == len(find_blocks(model).layers) == 4


def test_vectors_that_do_not_fit_the_model_are_refused(tmp_path, tiny_llama, tiny_model, repeng_vector):
    with pytest.raises(ValueError, match="trained on a 'llama' model, the given one is 'gpt2'"):
        import_repeng(repeng_vector, tiny_model("gpt2"), name="happy")
    repeng_vector.export_gguf(tmp_path / "happy.gguf")
    with pytest.raises(ValueError, match="does not say which model it belongs to; pass the model"):
        import_gguf(tmp_path / "happy.gguf")
    with pytest.raises(
        ValueError, match=r"blocks \[1, 2, 3\] do not fit a model of 2 blocks and hidden size 64"
    ):
        import_gguf(tmp_path / "happy.gguf", tiny_model("llama", num_hidden_layers=2))
    repeng_vector.directions[2] = numpy.zeros(32, numpy.float32)
    with pytest.raises(ValueError, match="do not fit a model of 4 blocks and hidden size 64"):
        import_repeng(repeng_vector, tiny_llama, name="happy")
    with pytest.raises(ValueError, match="do not fit"):
        import_repeng(ControlVector("llama", {}), tiny_llama, name="happy")
    with pytest.raises(ValueError, match="do not fit"):
        import_repeng(ControlVector("llama", {-1: numpy.zeros(64)}), tiny_llama, name="happy")


# files from strangers


def gguf_bytes(*, pairs=(), tensors=(), data=b"", version=3, counts=None):
    """A GGUF file by hand; pairs are (key, type, encoded value), tensors (name, dimensions, type, offset)."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count)
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    for name, dimensions, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", kind, offset)
    return head + b"\0" * (-len(head) % 32) + data


GOOD = {"tensors": [("direction.1", [64], 0, 0)], "data": struct.pack("<64f", *range(64))}
HUGE = 2**62
HOSTILE = {
    "nothing": b"",
    "no GGUF": b"PK\x03\x04" + bytes(100),
    "version 1": gguf_bytes(**GOOD, version=1),
    "big-endian": gguf_bytes(**GOOD, version=3 << 24),
    "no tensors": gguf_bytes(),
    "a language model": gguf_bytes(tensors=[("token_embd.weight", [64, 320], 0, 0)], data=bytes(81920)),
    "a direction and more": gguf_bytes(tensors=[*GOOD["tensors"], ("bias", [64], 0, 0)], data=GOOD["data"]),
    "an odd index": gguf_bytes(tensors=[("direction.one", [64], 0, 0)], data=GOOD["data"]),
    "a negative index": gguf_bytes(tensors=[("direction.-1", [64], 0, 0)], data=GOOD["data"]),
    "an index without end": gguf_bytes(tensors=[(f"direction.1{'0' * 5000}", [64], 0, 0)], data=GOOD["data"]),
    "the same index twice": gguf_bytes(tensors=GOOD["tensors"] * 2, data=GOOD["data"]),
    "two dimensions": gguf_bytes(tensors=[("direction.1", [8, 8], 0, 0)], data=GOOD["data"]),
    "quantised": gguf_bytes(tensors=[("direction.1", [64], 2, 0)], data=GOOD["data"]),
    "two widths": gguf_bytes(tensors=[*GOOD["tensors"], ("direction.2", [32], 0, 0)], data=GOOD["data"]),
    "no width": gguf_bytes(tensors=[("direction.1", [0], 0, 0)], data=GOOD["data"]),
    "a width without end": gguf_bytes(tensors=[("direction.1", [HUGE], 0, 0)], data=GOOD["data"]),
    "data beyond the end": gguf_bytes(tensors=[("direction.1", [64], 0, HUGE)], data=GOOD["data"]),
    "many tensors on the same data": gguf_bytes(
        tensors=[(f"direction.{n}", [64], 0, 0) for n in range(999)], data=GOOD["data"]
    ),
    "tensors without end": gguf_bytes(**GOOD, counts=(HUGE, 0)),
    "pairs without end": gguf_bytes(**GOOD, counts=(1, HUGE)),
    "an array without end": gguf_bytes(**GOOD, pairs=[("a", 9, struct.pack("<IQ", 0, HUGE))]),
    "texts without end": gguf_bytes(**GOOD, pairs=[("a", 9, struct.pack("<IQ", 8, HUGE) + bytes(4000))]),
    "a text without end": gguf_bytes(**GOOD, pairs=[("a", 8, struct.pack("<Q", HUGE))]),
    "an array of arrays": gguf_bytes(**GOOD, pairs=[("a", 9, struct.pack("<IQ", 9, 1))]),
    "an unknown type": gguf_bytes(**GOOD, pairs=[("a", 77, b"")]),
    "a text that is no UTF-8": gguf_bytes(**GOOD, pairs=[("a", 8, struct.pack("<Q", 2) + b"\xff\xfe")]),
    "alignment 0": gguf_bytes(**GOOD, pairs=[("general.alignment", 4, struct.pack("<I", 0))]),
    "alignment of text": gguf_bytes(**GOOD, pairs=[("general.alignment", 8, struct.pack("<Q", 2) + b"32")]),
    "NaN": gguf_bytes(tensors=GOOD["tensors"], data=struct.pack("<64f", *[float("nan")] * 64)),
    "another operation": gguf_bytes(
        **GOOD, pairs=[("hf_icon2.operation", 8, struct.pack("<Q", 7) + b"project")]
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_gguf_is_refused_in_one_sentence(tmp_path, tiny_llama, what):
    path = tmp_path / "vectors.gguf"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(ValueError, match="(?s)^[^\n]{1,400}$"):
        import_gguf(path, tiny_llama.config)


def test_the_file_that_the_hostile_ones_are_made_of_is_good(tmp_path, tiny_llama):
    array = [
        ("tokens", 9, struct.pack("<IQ", 4, 3) + bytes(12)),
        ("names", 9, struct.pack("<IQQ", 8, 1, 1) + b"x"),
    ]
    path = tmp_path / "vectors.gguf"
    path.write_bytes(gguf_bytes(**GOOD, pairs=[*array, ("size", 10, struct.pack("<Q", 1))]))
    assert import_gguf(path, tiny_llama).tensor.tolist() == [[list(range(64))]]
    assert GGUFReader(path).get_tensor(0).data.tolist() == list(range(64))


def test_half_precision_vectors_are_read_exactly(tmp_path, tiny_llama):
    path = tmp_path / "vectors.gguf"
    path.write_bytes(gguf_bytes(tensors=[("direction.3", [64], 1, 0)], data=struct.pack("<64e", *range(64))))
    assert import_gguf(path, tiny_llama).at("vectors", 3).tolist() == list(range(64))


def test_a_path_that_is_no_file_is_not_opened(tmp_path, tiny_llama):
    for path in (tmp_path, tmp_path / "missing.gguf", Path("/dev/zero")):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            import_gguf(path, tiny_llama)


def test_every_truncation_and_random_damage_loads_right_or_is_refused(tmp_path, tiny_llama, directions):
    whole = export_gguf(directions, STEERING, tmp_path / "vectors.gguf").read_bytes()
    path, chance = tmp_path / "damaged.gguf", random.Random(0)
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is not a complete GGUF control vector"):
            import_gguf(path, tiny_llama.config)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 4, 40))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = import_gguf(path, tiny_llama.config)
        except ValueError:
            outcomes.add("refused")
        else:
            outcomes.add("loaded")
            assert loaded.tensor.shape[2] == 64 and bool(torch.isfinite(loaded.tensor).all())
    assert outcomes == {"refused", "loaded"}  # a bit of a number, or of a text, cannot be told from another


# PEFT


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "phi3", "gpt_neox", "opt", "falcon"])
def test_a_saved_adapter_steers_all_positions(tmp_path, tiny_model, random_directions, model_type):
    """BEFT adds to padding as well, which nothing attends to: the batch is left-padded."""
    from peft import PeftModel

    model = tiny_model(model_type)
    directions = random_directions(model)
    folder = export_peft(model, directions, STEERING, tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(tiny_model(model_type), folder)
    assert answers(adapted) == steered_everywhere(model, directions)
    with adapted.disable_adapter():
        assert answers(adapted) == answers(model)


def test_transformers_loads_the_adapter_by_itself(tmp_path, tiny_model, tiny_llama, directions):
    folder = export_peft(tiny_llama, directions, STEERING, tmp_path)
    model = tiny_model("llama")
    model.load_adapter(str(folder))
    assert answers(model) == steered_everywhere(tiny_llama, directions)


def test_an_adapter_adds_the_mixed_vector_to_the_last_linear_of_each_block(tmp_path, tiny_llama, directions):
    from safetensors.torch import load_file

    folder = export_peft(tiny_llama, directions, STEERING, tmp_path / "one")
    tensors = load_file(folder / "adapter_model.safetensors")
    mixed = directions.mix(STEERING)
    assert {name: bias.tolist() for name, bias in tensors.items()} == {
        f"base_model.model.model.layers.{layer}.mlp.down_proj.beft_bias": [mixed[layer].tolist()]
        for layer in (1, 2, 3)
    }
    card = (folder / "README.md").read_text()
    assert "nothing was trained" in card and 'positions="all"' in card
    assert '{"honesty": 2.0, "helpfulness": -1.5}' in card
    again = export_peft(tiny_llama, directions, STEERING, tmp_path / "two")
    for file in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def granite(**settings):
    """A Llama whose block multiplies what it adds to the residual stream."""
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    config = GraniteConfig(**sizes, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GraniteForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {}),  # a norm after the MLP
        ("gemma3_text", {}),
        ("gpt2", {}),  # Conv1D, not Linear
        ("mixtral", {}),  # experts
        ("granite", {"residual_multiplier": 0.5}),  # the MLP's output is halved
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_where_no_linear_layer_ends_the_block_an_adapter_is_refused(
    tmp_path, tiny_model, random_directions, model_type, settings, dtype
):
    model = (granite(**settings) if model_type == "granite" else tiny_model(model_type)).to(dtype)
    with pytest.raises(ValueError, match=r"block 1 \(\w+\) has no linear layer whose output goes unchanged"):
        export_peft(model, random_directions(model), STEERING, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_same_architecture_is_accepted_where_the_sum_is_exact(tmp_path, random_directions):
    """Not the name decides: Granite with a residual multiplier of 1 adds the MLP's output as it is."""
    from peft import PeftModel

    model = granite(residual_multiplier=1.0)
    directions = random_directions(model)
    folder = export_peft(model, directions, STEERING, tmp_path)
    adapted = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    assert answers(adapted) == steered_everywhere(model, directions)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "opt"])
def test_the_linear_layer_is_found_in_half_precision_too(tmp_path, tiny_model, random_directions, model_type):
    model = tiny_model(model_type)
    directions = random_directions(model)
    export_peft(model, directions, STEERING, tmp_path / "float32")
    export_peft(model.to(torch.bfloat16), directions, STEERING, tmp_path / "bfloat16")
    configs = [(tmp_path / name / "adapter_config.json").read_text() for name in ("float32", "bfloat16")]
    assert configs[0] == configs[1]


def test_an_export_leaves_the_model_as_it_was(tmp_path, tiny_model, directions):
    model = tiny_model("llama", attention_dropout=0.5).train()
    before = copy.deepcopy(model.state_dict())
    export_peft(model, directions, STEERING, tmp_path / "adapter")
    export_lm_eval(model, directions, STEERING, tmp_path / "vectors.pt")
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_wears_an_adapter_is_refused(tmp_path, tiny_model, directions):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["down_proj"]))
    with pytest.raises(ValueError, match="already wears an adapter; pass the base model"):
        export_peft(model, directions, STEERING, tmp_path)


def test_directions_of_another_model_are_refused(tmp_path, tiny_model, directions):
    deeper = tiny_model("llama", num_hidden_layers=5)
    for export in (export_peft, export_lm_eval):
        with pytest.raises(ValueError, match="number of layers 4, this model has 5"):
            export(deeper, directions, STEERING, tmp_path / "vectors.pt")


# lm-evaluation-harness


def by_the_rule_of_lm_eval(model, path):
    """Hooks as `lm_eval.models.hf_steered` documents them, on the file as it must be readable without code."""
    handles, modules = [], dict(model.base_model.named_modules())
    for hookpoint, entry in torch.load(path, weights_only=True).items():
        assert set(entry) == {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}
        assert (entry["action"], entry["bias"], entry["head_index"]) == ("add", None, None)
        vector = entry["steering_vector"].to(model.dtype) * float(entry["steering_coefficient"])

        def add(_module, _args, output, vector=vector):
            return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

        handles.append(modules[hookpoint].register_forward_hook(add))
    try:
        return answers(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma2", "mixtral", "falcon"])
def test_a_file_for_lm_eval_steers_all_positions(tmp_path, tiny_model, random_directions, model_type):
    model = tiny_model(model_type)
    directions = random_directions(model)
    path = export_lm_eval(model, directions, STEERING, tmp_path / "vectors.pt")
    assert by_the_rule_of_lm_eval(model, path) == steered_everywhere(model, directions)


def test_lm_eval_itself_steers_all_positions(tmp_path, tiny_llama, tiny_llama_dir, directions):
    hf_steered = pytest.importorskip("lm_eval.models.hf_steered", reason="lm_eval is not installed")
    path = export_lm_eval(tiny_llama, directions, STEERING, tmp_path / "vectors.pt")
    model = hf_steered.SteeredModel(
        pretrained=str(tiny_llama_dir), steer_path=str(path), device="cpu", dtype="float32"
    )
    ids, mask = pad_batch(PROMPTS, 0, side="left")
    found = model._model_generate(
        ids, ids.shape[1] + NEW, stop=[], attention_mask=mask, do_sample=False, min_new_tokens=NEW
    )
    assert found[:, ids.shape[1] :].tolist() == steered_everywhere(tiny_llama, directions)
    row = torch.tensor([PROMPTS[1]])
    steered = copy.deepcopy(tiny_llama)
    with torch.no_grad(), steer(steered, directions, STEERING):
        expected = steered(row).logits
    assert torch.equal(model._model_call(row), expected)


def test_a_file_that_lm_eval_would_not_read_is_refused(tmp_path, tiny_llama, directions):
    with pytest.raises(
        ValueError, match=r"reads steering vectors from \.pt or \.pth files, got 'vectors.bin'"
    ):
        export_lm_eval(tiny_llama, directions, STEERING, tmp_path / "vectors.bin")


def test_nothing_else_is_pickled():
    """safetensors and JSON everywhere; lm_eval alone reads nothing but a pickle."""
    root = Path(hf_icon2.__file__).parent
    writers = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.save", "pickle.dump", "pickle.dumps")
    }
    assert writers == {"interchange/lm_eval_file.py"}


# the command


@pytest.fixture
def saved(tmp_path, tiny_llama_dir, directions):
    """A folder of directions that name a model on this disk."""
    config = replace(directions.config, base_model=str(tiny_llama_dir))
    return str(DirectionVectors(config, directions.tensor).save_pretrained(tmp_path / "directions"))


@pytest.mark.parametrize(
    ("to", "output", "use"),
    [
        ("gguf", "vectors.gguf", "llama-cli -m MODEL.gguf --control-vector "),
        ("peft", "adapter", "PeftModel.from_pretrained(model, '"),
        ("lm-eval", "vectors.pt", "lm_eval --model steered --model_args pretrained="),
    ],
)
def test_the_command_writes_what_the_function_writes(tmp_path, capsys, saved, tiny_llama, to, output, use):
    target = tmp_path / output
    assert (
        main(["export", saved, "--steering", json.dumps(STEERING), "--to", to, "--output", str(target)]) == 0
    )
    said = capsys.readouterr().out
    assert "steers every position, the prompt included" in said and use in said and str(target) in said
    directions = DirectionVectors.from_pretrained(saved)
    if to == "gguf":
        assert target.read_bytes() == export_gguf(directions, STEERING, tmp_path / "own.gguf").read_bytes()
    elif to == "lm-eval":
        assert by_the_rule_of_lm_eval(tiny_llama, target) == steered_everywhere(tiny_llama, directions)
    else:
        own = export_peft(tiny_llama, directions, STEERING, tmp_path / "own") / "adapter_model.safetensors"
        assert (target / "adapter_model.safetensors").read_bytes() == own.read_bytes()


@pytest.mark.parametrize(
    ("steering", "to", "status", "message"),
    [
        ('{"kindness": 1}', "gguf", 1, "error: unknown criterion 'kindness'"),
        ('{"honesty": 0}', "gguf", 1, "adds nothing"),
        ('[{"honesty": 1}]', "gguf", 1, "one steering for all rows"),
        ("honesty=1", "gguf", 2, "argument --steering: not JSON: 'honesty=1'"),
        ('{"honesty": 1}', "onnx", 2, "invalid choice: 'onnx'"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(tmp_path, capsys, saved, steering, to, status, message):
    try:
        found = main(
            ["export", saved, "--steering", steering, "--to", to, "--output", str(tmp_path / "x.pt")]
        )
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def test_directions_without_a_base_model_ask_for_one(tmp_path, capsys, directions):
    config = replace(directions.config, base_model=None)
    folder = str(DirectionVectors(config, directions.tensor).save_pretrained(tmp_path / "directions"))
    arguments = [
        "export",
        folder,
        "--steering",
        '{"honesty": 1}',
        "--to",
        "peft",
        "--output",
        str(tmp_path / "x"),
    ]
    assert main(arguments) == 1
    assert "name no base model; give one with --model" in capsys.readouterr().err
