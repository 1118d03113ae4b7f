"""Directions: extraction against hidden states, estimation by hand, algebra and files."""

import copy
import hashlib
import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from zoo import hooked
from zoo_models import zoo_model

from hf_icon2 import Criterion, DirectionVectorConfig, DirectionVectors, extract_directions
from hf_icon2.blocks import find_blocks
from hf_icon2.directions.config import CONFIG_NAME, StrengthRange
from hf_icon2.directions.estimation import (
    FINDERS,
    centred_component,
    evidence,
    mean_difference,
    principal_component,
)
from hf_icon2.directions.extraction import fingerprint, last_token_states
from hf_icon2.directions.pair import VECTORS_NAME
from hf_icon2.prompts import encode_prompt

KIND = Criterion("kind", "You are kind.", "You are an unkind brute.")
BRIEF = Criterion("brief", "You say little.", "You talk and talk.")
INSTRUCTIONS = [
    "Hi",
    "What is the colour of the sky?",
    "Tell me how to bake bread, and what to do when the water has gone cold.",
    "Why?",
    "Name the capital of a country that you like and say why you like it.",
]


def contrasts_by_hand(model, tokenizer, criterion, instructions=INSTRUCTIONS):
    """Last-token states of layers 0 to 2 under one side minus the other, prompt by prompt; (N, 3, D)."""

    def state(instruction, system):
        ids = torch.tensor([encode_prompt(tokenizer, instruction, system)])
        with torch.no_grad():
            hidden = model(ids, use_cache=False, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer + 1][0, -1] for layer in range(3)])

    return torch.stack([state(i, criterion.positive) - state(i, criterion.negative) for i in instructions])


def extract(model, tokenizer, instructions=INSTRUCTIONS, criteria=(KIND,), **kwargs):
    settings = {"layers": [0, 1, 2], "batch_size": 2, "show_progress": False, **kwargs}
    return extract_directions(model, tokenizer, instructions, criteria, **settings)


# extraction


def test_extraction_equals_contrasts_from_hidden_states(tiny_model, tiny_tokenizer, architecture):
    model = tiny_model(architecture)
    by_hand = contrasts_by_hand(model, tiny_tokenizer, KIND)
    mean = extract(model, tiny_tokenizer, method="mean_difference", scale="contrast")["kind"]
    torch.testing.assert_close(mean, by_hand.mean(0), atol=1e-3, rtol=1e-3)
    axis = torch.linalg.svd(by_hand.transpose(0, 1), full_matrices=False).Vh[:, 0]  # (L, D)
    axis = axis * (axis * by_hand.mean(0)).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(extract(model, tiny_tokenizer, scale="unit")["kind"], axis, atol=1e-3, rtol=0)


@pytest.mark.parametrize("model_type", ["roberta", "bart", "bloom", "mamba", "rwkv", "jamba"])
def test_extraction_is_right_wherever_a_model_starts_to_count(model_type, tiny_tokenizer):
    """RoBERTa begins after its padding id, BART's table has an offset, the others have no positions."""
    model = zoo_model(model_type, vocab_size=320, max_position_embeddings=512)
    blocks = find_blocks(model).layers[:3]

    def state(instruction, system):
        ids = torch.tensor([encode_prompt(tiny_tokenizer, instruction, system)])
        with torch.no_grad(), hooked(blocks) as outputs:
            model(ids, use_cache=False)
        return torch.stack([output[0, -1] for output in outputs])

    shifts = [state(text, KIND.positive) - state(text, KIND.negative) for text in INSTRUCTIONS]
    mean = extract(model, tiny_tokenizer, method="mean_difference", scale="contrast")["kind"]
    torch.testing.assert_close(mean, torch.stack(shifts).mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_changes_only_rounding(tiny_llama, tiny_tokenizer, batch_size):
    found = extract(tiny_llama, tiny_tokenizer, batch_size=batch_size, scale="unit").tensor
    expected = extract(tiny_llama, tiny_tokenizer, scale="unit").tensor
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def columns_read(model, call):
    """Shapes of the token ids that pass through the trunk during `call()`."""
    shapes = []
    handle = model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        result = call()
    finally:
        handle.remove()
    return result, shapes


def test_the_system_prompt_is_read_once_and_the_states_are_the_same_without_sharing(
    tiny_model, tiny_tokenizer
):
    model = tiny_model("llama")
    shared = len(encode_prompt(tiny_tokenizer, "x", KIND.positive)) - len(encode_prompt(tiny_tokenizer, "x"))
    call = lambda: last_token_states(model, tiny_tokenizer, INSTRUCTIONS, system=KIND.positive)  # noqa: E731
    states, shapes = columns_read(model, call)
    prefixes = [columns for rows, columns in shapes if rows == 1 and columns > 2]  # two tokens are the probe
    assert len(prefixes) == 1
    assert prefixes[0] > shared
    model._is_stateful = True  # such models read every row whole
    unshared, shapes = columns_read(model, call)
    assert not [columns for rows, columns in shapes if rows == 1 and columns > 2]
    torch.testing.assert_close(states, unshared, atol=1e-3, rtol=1e-4)


def test_prompts_that_share_nothing_equal_the_hidden_states_too(tiny_llama, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    around = Criterion("mood", "{instruction} And all were glad.", "{instruction} And all wept.")
    by_hand = contrasts_by_hand(tiny_llama, tokenizer, around)
    found = extract(tiny_llama, tokenizer, criteria=[around], method="mean_difference", scale="contrast")
    torch.testing.assert_close(found["mood"], by_hand.mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "opt"])
def test_response_pooling_is_the_mean_over_the_models_own_answer(
    tiny_model, tiny_tokenizer, model_type, monkeypatch
):
    monkeypatch.setattr("hf_icon2.directions.extraction.RESPONSE_TOKENS", 12)
    model = tiny_model(model_type)

    def state(instruction, system):
        prompt = encode_prompt(tiny_tokenizer, instruction, system)
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        row = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)[0]
        answer = row[len(prompt) :].tolist()
        end = answer.index(2) if 2 in answer else len(answer)
        row = row[: len(prompt) + max(end, 1)]
        with torch.no_grad():
            hidden = model(row[None], use_cache=False, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer + 1][0, len(prompt) :].mean(0) for layer in range(3)])

    some = INSTRUCTIONS[:3]
    by_hand = torch.stack([state(i, KIND.positive) - state(i, KIND.negative) for i in some])
    found = extract(
        model,
        tiny_tokenizer,
        some,
        pooling="response",
        method="mean_difference",
        scale="contrast",
        batch_size=3,
    )
    torch.testing.assert_close(found["kind"], by_hand.mean(0), atol=2e-3, rtol=1e-3)


def test_pooling_can_differ_between_criteria(tiny_llama, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("hf_icon2.directions.extraction.RESPONSE_TOKENS", 12)
    mixed = extract(tiny_llama, tiny_tokenizer, criteria=[KIND, BRIEF], pooling={"brief": "response"})
    assert mixed.config.pooling == {"kind": "last", "brief": "response"}
    unit = mixed.unit()
    last = extract(tiny_llama, tiny_tokenizer, criteria=[KIND, BRIEF]).unit()
    torch.testing.assert_close(unit[0], last[0], atol=1e-5, rtol=0)
    assert not torch.allclose(unit[1], last[1], atol=1e-2)


def test_dropout_of_a_model_in_training_mode_does_not_reach_the_states(tiny_model, tiny_tokenizer):
    model = tiny_model("gpt2")
    expected = extract(model, tiny_tokenizer).tensor
    model.train()
    assert torch.equal(extract(model, tiny_tokenizer).tensor, expected)
    assert model.training


def test_a_peft_model_is_measured_with_its_adapter(tiny_model, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model("llama"), config)
    adapted = extract(model, tiny_tokenizer, scale="unit").tensor
    with model.disable_adapter():
        plain = extract(model, tiny_tokenizer, scale="unit").tensor
    merged = extract(model.merge_and_unload(), tiny_tokenizer, scale="unit").tensor
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=0)
    assert not torch.allclose(adapted, plain, atol=1e-2)


def test_the_norm_of_a_direction_is_the_unit_of_its_scale(tiny_llama, tiny_tokenizer):
    sides = [
        last_token_states(tiny_llama, tiny_tokenizer, INSTRUCTIONS, layers=[0, 1, 2], system=side)
        for side in (KIND.positive, KIND.negative)
    ]
    norms = {
        "residual": torch.cat(sides).norm(dim=-1).mean(0),
        "contrast": (sides[0] - sides[1]).mean(0).norm(dim=-1),
        "unit": torch.ones(3),
    }
    unit = extract(tiny_llama, tiny_tokenizer, scale="unit")
    for scale, norm in norms.items():
        found = extract(tiny_llama, tiny_tokenizer, scale=scale)
        torch.testing.assert_close(found["kind"].norm(dim=-1), norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(unit.rescaled(scale).tensor, found.tensor, rtol=1e-4, atol=1e-5)


def test_the_record_says_what_was_measured(tiny_llama, tiny_tokenizer):
    config = extract(tiny_llama, tiny_tokenizer, criteria=[KIND, BRIEF], layers=None).config
    assert (config.hidden_size, config.num_layers, config.layers) == (64, 4, (0, 1, 2, 3))
    assert config.names == ("kind", "brief")
    assert config.control_layers == {"kind": (1,), "brief": (1,)}  # the middle third of four blocks
    assert config.instructions == {"number": 5, "fingerprint": fingerprint(INSTRUCTIONS)}
    assert set(config.evidence["brief"]) == {"held_out_accuracy", "random_accuracy", "split_half_cosine"}
    assert config.versions["torch"] == torch.__version__


def test_a_missing_system_role_is_said_in_the_log(tiny_llama, tiny_tokenizer, caplog):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    with caplog.at_level(logging.WARNING):
        found = extract(tiny_llama, tokenizer, method="mean_difference", scale="contrast")
    assert [record.message for record in caplog.records] == [
        "the chat template has no system role; the criteria's texts go into the user turn"
    ]
    by_hand = contrasts_by_hand(tiny_llama, tokenizer, KIND)
    torch.testing.assert_close(found["kind"], by_hand.mean(0), atol=1e-3, rtol=1e-3)


def test_unfit_input_gets_a_sentence(tiny_model, tiny_llama, tiny_tokenizer):
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"at least 2 instructions, got {count}"):
            extract(tiny_llama, tiny_tokenizer, INSTRUCTIONS[:count])
    with pytest.raises(TypeError, match=r"got one string; pass \[text\]"):
        extract(tiny_llama, tiny_tokenizer, "Hi")
    with pytest.raises(ValueError, match="an instruction is empty"):
        extract(tiny_llama, tiny_tokenizer, ["Hi", " "])
    with pytest.raises(ValueError, match="layer 4 is not in this model; it has layers 0 to 3"):
        extract(tiny_llama, tiny_tokenizer, layers=[0, 4])
    with pytest.raises(ValueError, match="criterion 'kind' is given twice"):
        extract(tiny_llama, tiny_tokenizer, criteria=[KIND, KIND])
    with pytest.raises(ValueError, match="no criteria given"):
        extract(tiny_llama, tiny_tokenizer, criteria=[])
    with pytest.raises(ValueError, match=r"pooling names unknown criteria \['mind'\]; there are: kind"):
        extract(tiny_llama, tiny_tokenizer, pooling={"mind": "last"})
    with pytest.raises(ValueError, match="pooling of 'kind' is 'first'; allowed: last, response"):
        extract(tiny_llama, tiny_tokenizer, pooling="first")
    with pytest.raises(ValueError, match="method is 'svm'; allowed: pca, mean_difference, centred_pca"):
        extract(tiny_llama, tiny_tokenizer, method="svm")
    with pytest.raises(ValueError, match="scale is 'big'; allowed: residual, contrast, unit"):
        extract(tiny_llama, tiny_tokenizer, scale="big")
    broken = tiny_model("llama")
    broken.model.embed_tokens.weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="states for 'kind' have NaN or infinite values; load the model in"):
        extract(broken, tiny_tokenizer)
    overflowing = tiny_model("llama")  # at one token only
    token = encode_prompt(tiny_tokenizer, "Hi", KIND.positive)[-1]
    overflowing.model.embed_tokens.weight.data[token] = float("inf")
    with pytest.raises(ValueError, match="states for 'kind' have NaN or infinite values; load the model in"):
        extract(overflowing, tiny_tokenizer)


def test_two_sides_that_reach_the_model_as_the_same_text_are_refused(tiny_llama, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{{ m.content | length > 3 }}{% endfor %}"
    with pytest.raises(ValueError, match="two sides of criterion 'kind' give the same states.*reword them"):
        extract(tiny_llama, tokenizer)


# estimation, on contrasts made by hand


def test_the_uncentred_axis_is_the_shared_shift_and_the_centred_one_the_spread():
    # Every contrast is (10, s, 0) with s = +-3: they share the first axis, and vary along the second.
    contrasts = torch.tensor([[[10.0, 3, 0]], [[10.0, -3, 0]], [[10.0, 3, 0]], [[10.0, -3, 0]]])
    torch.testing.assert_close(principal_component(contrasts)[0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(mean_difference(contrasts)[0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(centred_component(contrasts)[0].abs(), torch.tensor([0.0, 1, 0]))


def test_the_uncentred_axis_of_two_contrasts_is_worked_out_by_hand():
    # Rows (3, 1) and (1, 3): the Gram matrix of columns is [[10, 6], [6, 10]], its first eigenvector (1, 1).
    found = principal_component(torch.tensor([[[3.0, 1]], [[1.0, 3]]]))
    torch.testing.assert_close(found, torch.full((1, 2), math.sqrt(0.5)))


@pytest.mark.parametrize("shape", [(40, 2, 6), (6, 2, 40)], ids=["more rows", "more columns"])
@pytest.mark.parametrize("method", ["pca", "centred_pca"])
def test_axes_equal_the_singular_vectors(shape, method):
    contrasts = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    found = FINDERS[method](contrasts)
    for layer in range(2):
        rows = contrasts[:, layer] - (contrasts[:, layer].mean(0) if method == "centred_pca" else 0)
        axis = torch.linalg.svd(rows, full_matrices=False).Vh[0]
        assert float((axis * found[layer]).sum().abs()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", FINDERS)
def test_the_sign_is_that_of_the_mean_contrast(method):
    contrasts = torch.randn(20, 3, 8, generator=torch.Generator().manual_seed(2)) + 1
    found, reverse = FINDERS[method](contrasts), FINDERS[method](-contrasts)
    assert bool(((found * contrasts.mean(0)).sum(-1) > 0).all())
    torch.testing.assert_close(found, -reverse)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))


@pytest.mark.parametrize("shape", [(2, 1, 8), (8, 1, 2)])
def test_where_nothing_differs_no_axis_is_made_up(shape):
    assert not FINDERS["pca"](torch.zeros(shape)).any()


def test_evidence_is_worked_out_by_hand():
    # Layer 0: all contrasts alike, so each half predicts the other. Layer 1: the halves are opposites.
    contrasts = torch.zeros(4, 2, 3)
    contrasts[:, 0, 0] = 1
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    contrasts[order[0::2], 1, 1] = 1
    contrasts[order[1::2], 1, 1] = -1
    found = evidence(contrasts, mean_difference, seed=0)
    assert found["held_out_accuracy"] == [1.0, 0.0]
    assert found["split_half_cosine"] == [1.0, -1.0]


def test_held_out_accuracy_counts_held_out_contrasts_only():
    # Three quarters of each half point up, the rest down: the means agree, and 0.75 project positively.
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    contrasts = torch.zeros(8, 1, 2)
    contrasts[:, 0, 0] = 1
    contrasts[order[[0, 1]], 0, 0] = -1  # one of each half
    found = evidence(contrasts, mean_difference)
    assert found["held_out_accuracy"] == [0.75]
    assert found["split_half_cosine"] == [1.0]


def test_pure_noise_has_no_evidence():
    contrasts = torch.randn(400, 1, 32, generator=torch.Generator().manual_seed(3))
    found = evidence(contrasts, mean_difference)
    assert abs(found["held_out_accuracy"][0] - 0.5) < 0.1  # two standard errors of 400 coin tosses are 0.05
    assert abs(found["split_half_cosine"][0]) < 0.5
    assert abs(found["random_accuracy"][0] - 0.5) < 0.1


# the value: reading and algebra


@pytest.fixture
def directions(tiny_llama, random_directions):
    return random_directions(tiny_llama)


def test_mixing_sums_strength_times_direction_over_control_layers(directions):
    mixed = directions.mix({"honesty": 2.0, "helpfulness": -0.5})
    assert sorted(mixed) == [1, 2, 3]
    torch.testing.assert_close(mixed[1], 2 * directions.at("honesty", 1))
    torch.testing.assert_close(
        mixed[2], 2 * directions.at("honesty", 2) - 0.5 * directions.at("helpfulness", 2)
    )
    torch.testing.assert_close(mixed[3], -0.5 * directions.at("helpfulness", 3))


def test_mixing_nothing_adds_nothing(directions):
    assert directions.mix({}) == {}
    assert directions.mix({"honesty": 0.0}) == {}


def test_twice_the_directions_at_strength_one_are_the_directions_at_strength_two(directions):
    assert all(
        torch.equal(value, directions.mix({"honesty": 2})[layer])
        for layer, value in (2 * directions).mix({"honesty": 1}).items()
    )
    assert torch.equal((-directions).tensor, -directions.tensor)
    assert torch.equal((directions + directions).tensor, (directions * 2).tensor)
    assert not (directions - directions).tensor.any()


def test_recommended_strengths_do_not_outlive_a_change_of_norm(directions):
    tuned = directions.with_strengths({"honesty": StrengthRange(0.2, -0.1, 0.4)})
    assert tuned.config.strengths["honesty"].positive == 0.2
    for changed in (2 * tuned, tuned + tuned, tuned.rescaled("unit")):
        assert not changed.config.strengths
    assert tuned.with_control_layers({"honesty": [3]}).config.strengths == tuned.config.strengths


def test_selecting_and_merging_are_inverse(directions):
    parts = [directions.select([name]) for name in ("honesty", "helpfulness")]
    merged = parts[0].merge(parts[1])
    assert merged.config == directions.config
    assert torch.equal(merged.tensor, directions.tensor)
    assert directions.select(["helpfulness", "honesty"]).names == ("helpfulness", "honesty")
    assert torch.equal(directions.select(["helpfulness"])["helpfulness"], directions["helpfulness"])


def test_cosines_compare_criteria_and_layers_that_both_have(directions):
    found = directions.cosine((-3 * directions).select(["honesty"]))
    assert list(found) == ["honesty"]
    assert found["honesty"] == pytest.approx(dict.fromkeys(range(4), -1.0), abs=1e-5)


def test_the_fingerprint_follows_what_steering_depends_on(directions):
    assert directions.sha256 == DirectionVectors(directions.config, directions.tensor.clone()).sha256
    changed = [
        2 * directions,
        directions.with_control_layers({"honesty": [3]}),
        directions.select(["honesty"]),
    ]
    assert len({directions.sha256, *(other.sha256 for other in changed)}) == 4


def test_algebra_that_makes_no_sense_is_refused(directions, random_directions, tiny_model):
    other = directions.select(["honesty"])
    with pytest.raises(ValueError, match="can only add directions of the same criteria and layers"):
        _ = directions + other
    with pytest.raises(ValueError, match=r"criteria \['honesty'\] stand on both sides; select\(\) one"):
        directions.merge(other)
    with pytest.raises(ValueError, match="cannot merge: scale is residual and unit"):
        directions.select(["helpfulness"]).merge(other.rescaled("unit"))
    narrow = random_directions(tiny_model("llama", hidden_size=32))
    with pytest.raises(ValueError, match="cannot compare directions of width 64 and 32"):
        directions.cosine(narrow)
    with pytest.raises(ValueError, match="unknown criterion 'mind'; these directions have: honesty, helpful"):
        directions["mind"]
    with pytest.raises(ValueError, match=r"layer 9 is not in these directions; available: \(0, 1, 2, 3\)"):
        directions.at("honesty", 9)
    with pytest.raises(ValueError, match="control layers of 'honesty' are .*; choose at least one"):
        directions.with_control_layers({"honesty": []})
    with pytest.raises(ValueError, match=r"are \(2, 2\); choose at least one out of .*, each once"):
        directions.with_control_layers({"honesty": [2, 2]})
    with pytest.raises(
        ValueError, match=r"must be float32 of shape \(2, 4, 64\).* got torch.float64 of shape"
    ):
        DirectionVectors(directions.config, directions.tensor.double())


def test_directions_of_another_model_are_refused(directions, tiny_tokenizer):
    directions.check_model(64, 4)
    with pytest.raises(ValueError, match="measured on tiny with hidden size 64, this model has 32; extract"):
        directions.check_model(32, 4)
    with pytest.raises(
        ValueError, match="measured on tiny with number of layers 4, this model has 6; extract"
    ):
        directions.check_model(64, 6)
    with pytest.raises(ValueError, match="measured on tiny under another chat template"):
        directions.check_model(64, 4, tiny_tokenizer)


def test_directions_fit_the_tokenizer_they_were_extracted_with(tiny_llama, tiny_tokenizer):
    extract(tiny_llama, tiny_tokenizer).check_model(64, 4, tiny_tokenizer)


# files


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_what_was_loaded_gives_the_same_bytes(tiny_llama, tiny_tokenizer, tmp_path):
    directions = extract(tiny_llama, tiny_tokenizer, criteria=[KIND, BRIEF]).with_strengths(
        {"kind": StrengthRange(0.2, -0.1, 0.5)}
    )
    first = directions.save_pretrained(tmp_path / "first")
    loaded = DirectionVectors.from_pretrained(first)
    assert loaded.config == directions.config
    assert torch.equal(loaded.tensor, directions.tensor)
    assert loaded.sha256 == directions.sha256
    second = loaded.save_pretrained(tmp_path / "second")
    assert set(contents(first)) == {CONFIG_NAME, VECTORS_NAME, "README.md"}
    assert contents(first) == contents(second)


def test_a_readme_that_is_there_stays(directions, tmp_path):
    (tmp_path / "README.md").write_text("a model's card")
    directions.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "a model's card"


def test_the_card_shows_criteria_evidence_and_unit(tiny_llama, tiny_tokenizer, tmp_path):
    directions = extract(tiny_llama, tiny_tokenizer)
    card = (directions.save_pretrained(tmp_path) / "README.md").read_text()
    config = directions.config
    accuracy = sum(
        config.evidence["kind"]["held_out_accuracy"][layer] for layer in config.control_layers["kind"]
    )
    for part in (
        KIND.positive,
        KIND.negative,
        "`residual`",
        f"{accuracy / len(config.control_layers['kind']):.2f}",
    ):
        assert part in card


@pytest.fixture
def saved(directions, tmp_path):
    return directions.save_pretrained(tmp_path)


def edit_record(folder, **changes):
    data = json.loads((folder / CONFIG_NAME).read_text())
    data.update(changes)
    (folder / CONFIG_NAME).write_text(
        json.dumps({key: value for key, value in data.items() if value is not ...})
    )


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_vector_file_is_refused(saved, size):
    path = saved / VECTORS_NAME
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        ValueError, match="direction_vectors.safetensors is truncated or not a safetensors file"
    ):
        DirectionVectors.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_record_is_refused(saved, size):
    path = saved / CONFIG_NAME
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="direction_vector_config.json is truncated or not JSON"):
        DirectionVectors.from_pretrained(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_vector_file_is_refused_by_criterion_and_layer(directions, saved, value):
    from safetensors.torch import save_file

    damaged = directions.tensor.clone()
    damaged[1, 2, 5] = value
    save_file({"directions": damaged}, saved / VECTORS_NAME)
    edit_record(saved, vectors_sha256=hashlib.sha256((saved / VECTORS_NAME).read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="direction of 'helpfulness' at layer 2 has NaN or infinite values"):
        DirectionVectors.from_pretrained(saved)


def test_a_file_with_other_tensors_is_refused(saved):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(2, 4, 64)}, saved / VECTORS_NAME)
    with pytest.raises(ValueError, match=r"holds tensors \['weights'\], expected one named 'directions'"):
        DirectionVectors.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version is 3, this library reads 1 to 2; upgrade hf_icon2"),
        ({"hidden_size": ...}, r"lacks \['hidden_size'\]; the file is incomplete"),
        ({"strenghts": {}}, r"unknown fields \['strenghts'\]; known: "),
        ({"hidden_size": 32}, r"must be float32 of shape \(2, 4, 32\)"),
        ({"num_layers": 2}, r"layers \(0, 1, 2, 3\) do not fit a model of 2 blocks"),
        ({"layers": [0, 2, 1, 3]}, "layers must be ascending and unique"),
        ({"control_layers": {"honesty": [9]}}, "control layers of 'honesty' are"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_record_that_does_not_fit_is_refused(saved, changes, message):
    edit_record(saved, **changes)
    with pytest.raises(ValueError, match=message):
        DirectionVectors.from_pretrained(saved)


def test_a_folder_without_directions_says_which_file_is_missing(saved, tmp_path):
    (saved / VECTORS_NAME).unlink()
    with pytest.raises(
        FileNotFoundError, match="holds no direction_vectors.safetensors; save directions there"
    ):
        DirectionVectors.from_pretrained(saved)


@pytest.mark.parametrize("name", ["runs/no/such/folder", "no such/folder"])
def test_what_is_neither_folder_nor_repo_is_refused(name):
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a folder nor a Hub repo id"):
        DirectionVectors.from_pretrained(name)


def test_a_missing_folder_that_could_be_a_repo_says_so_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="there is no folder 'runs/directions', and on the Hub"):
        DirectionVectors.from_pretrained("runs/directions")


def test_a_record_is_a_value(directions):
    assert replace(directions.config) == directions.config
    assert DirectionVectorConfig.from_json(directions.config.to_json()) == directions.config
