"""Consistency against hand-computed projections; routing and filtering against rows with known scores."""

import copy
import logging
import math

import pytest
import torch
from datasets import Dataset

from hf_icon2.criteria import Criterion
from hf_icon2.directions.config import DirectionVectorConfig
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import encode_prompt, template_fingerprint
from hf_icon2.synthesis.consistency import filter_instructions, project, score_consistency
from hf_icon2.synthesis.distribution import consistency_histogram, routing_shares

NAMES = ("kind", "terse", "calm")
LAYERS = (0, 1, 2)  # output_hidden_states shows the last layer only after the final norm
TEXTS = [
    "Hi",
    "What is the colour of the sky?",
    "Tell me how to bake bread.",
    "Why?",
    "A longer question, " * 5,
]


@pytest.fixture(scope="module")
def directions(tiny_tokenizer):
    config = DirectionVectorConfig(
        base_model=None,
        hidden_size=64,
        num_layers=4,
        layers=LAYERS,
        criteria=tuple(Criterion(name, f"Be {name}.", f"Do not be {name}.") for name in NAMES),
        control_layers=dict.fromkeys(NAMES, (1, 2)),
        pooling=dict.fromkeys(NAMES, "last"),
        method="pca",
        scale="residual",
        residual_norms=(2.0, 3.0, 5.0),
        contrast_norms=dict.fromkeys(NAMES, (1.0, 1.0, 1.0)),
        instructions={"number": 2, "fingerprint": ""},
        chat_template_sha256=template_fingerprint(tiny_tokenizer),
    )
    generator = torch.Generator().manual_seed(0)
    return DirectionVectors(
        config, torch.randn(3, 3, 64, generator=generator) * torch.tensor([1.0, 7.0, 30.0])[:, None, None]
    )


@pytest.fixture(scope="module")
def states(tiny_llama, tiny_tokenizer):
    """The state of every text at its last token, one text at a time, (N, L, D)."""
    found = []
    for text in TEXTS:
        ids = torch.tensor([encode_prompt(tiny_tokenizer, text)])
        with torch.no_grad():
            hidden = tiny_llama(ids, output_hidden_states=True).hidden_states
        found.append(torch.stack([hidden[layer + 1][0, -1] for layer in LAYERS]))
    return torch.stack(found)


def score(model, tokenizer, directions, instructions=TEXTS, **options):
    return score_consistency(model, tokenizer, directions, instructions, show_progress=False, **options)


def table(scored):
    return torch.tensor([[row[name] for name in row] for row in scored["consistency"]])


def test_dot_is_the_mean_over_layers_of_state_times_unit_direction(
    tiny_llama, tiny_tokenizer, directions, states
):
    expected = torch.zeros(5, 3)
    for row in range(5):
        for column, name in enumerate(NAMES):
            for place in range(3):
                unit = directions[name][place] / directions[name][place].norm()
                expected[row, column] += states[row, place] @ unit / 3
    scored = score(tiny_llama, tiny_tokenizer, directions, score="dot")
    torch.testing.assert_close(table(scored), expected, rtol=1e-4, atol=1e-4)  # float32, other batch shapes
    for row, best, value in zip(expected, scored["criterion"], scored["score"], strict=True):
        assert best == NAMES[int(row.argmax())]
        assert value == pytest.approx(float(row.max()), abs=1e-4)


def test_cosine_is_the_default_and_divides_by_the_norm_of_each_state(
    tiny_llama, tiny_tokenizer, directions, states
):
    expected = torch.stack(
        [torch.cosine_similarity(states, directions[name][None], dim=-1).mean(1) for name in NAMES], dim=1
    )
    scored = score(tiny_llama, tiny_tokenizer, directions)
    torch.testing.assert_close(table(scored), expected, rtol=1e-4, atol=1e-5)
    assert table(scored).abs().max() <= 1


def test_standardized_has_mean_0_and_deviation_1_per_criterion(tiny_llama, tiny_tokenizer, directions):
    raw = table(score(tiny_llama, tiny_tokenizer, directions, score="dot"))
    values = table(score(tiny_llama, tiny_tokenizer, directions, score="standardized"))
    torch.testing.assert_close(values, (raw - raw.mean(0)) / raw.std(0, unbiased=False), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="standardized scores compare instructions, and only 1"):
        score(tiny_llama, tiny_tokenizer, directions, ["Hi"], score="standardized")


def test_projection_of_hand_made_vectors():
    states = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    units = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert project(states, units, normalize=False).item() == pytest.approx((3 + 2) / 2)
    assert project(states, units, normalize=True).item() == pytest.approx((0.6 + 1) / 2)


def test_the_scale_of_the_directions_and_the_batch_size_do_not_matter(tiny_llama, tiny_tokenizer, directions):
    scored = score(tiny_llama, tiny_tokenizer, directions)
    scaled = score(tiny_llama, tiny_tokenizer, directions * 9.0, batch_size=2)
    torch.testing.assert_close(table(scaled), table(scored), rtol=1e-5, atol=1e-6)
    assert list(scaled["criterion"]) == list(scored["criterion"])


def test_layers_and_competing_criteria_can_be_chosen(tiny_llama, tiny_tokenizer, directions, states):
    scored = score(tiny_llama, tiny_tokenizer, directions, layers=[2], criteria=["calm", "kind"])
    assert list(scored[0]["consistency"]) == ["calm", "kind"]
    assert set(scored["criterion"]) <= {"calm", "kind"}
    expected = torch.cosine_similarity(states[:, 2], directions.at("kind", 2), dim=-1)
    torch.testing.assert_close(table(scored)[:, 1], expected, rtol=1e-4, atol=1e-5)


def test_datasets_and_conversations_keep_their_columns(tiny_llama, tiny_tokenizer, directions):
    rows = Dataset.from_dict({"prompt": TEXTS, "id": list("abcde"), "score": [0.0] * 5, "topic": ["x"] * 5})
    scored = score(tiny_llama, tiny_tokenizer, directions, rows)
    assert scored.column_names == ["prompt", "id", "topic", "consistency", "criterion", "score"]
    assert list(scored["id"]) == list("abcde")
    assert list(scored["score"]) == list(score(tiny_llama, tiny_tokenizer, directions)["score"])
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    mixed = score(tiny_llama, tiny_tokenizer, directions, [turns, "Hi"])
    assert mixed[0]["prompt"] == turns and mixed[1]["prompt"] == [{"role": "user", "content": "Hi"}]
    assert mixed[1]["score"] == pytest.approx(scored[0]["score"], abs=1e-5)
    assert mixed[0]["id"] != mixed[1]["id"]


def test_bad_input_to_scoring_gets_a_sentence(tiny_llama, tiny_tokenizer, tiny_model, directions):
    def refuse(match, *args, error=ValueError, tokenizer=tiny_tokenizer, model=tiny_llama, **options):
        with pytest.raises(error, match=match):
            score(model, tokenizer, directions, *args, **options)

    refuse("no instructions to score; synthesize some", [])
    refuse(r"list of texts or a dataset, got one string", "Hi", error=TypeError)
    refuse("need a column 'prompt', this dataset has: text", Dataset.from_dict({"text": TEXTS}))
    refuse("score is 'sine'; allowed: cosine, dot, standardized", score="sine")
    refuse(r"layers \[3\] are not all in these directions; available: \(0, 1, 2\)", layers=[3])
    refuse("unknown criterion 'brave'; these directions have: kind, terse, calm", criteria=["brave"])
    refuse("hidden size 64, this model has 32", model=tiny_model("llama", hidden_size=32))
    other = copy.deepcopy(tiny_tokenizer)
    other.chat_template += " "
    refuse("another chat template", tokenizer=other)
    broken = copy.deepcopy(tiny_llama)
    broken.model.embed_tokens.weight.data[:150] = math.inf  # tokens that no proof of the model's blocks uses
    refuse("states of 5 of 5 instructions are not finite", model=broken)


def test_a_system_prompt_of_the_template_is_reported(tiny_llama, tiny_tokenizer, directions, caplog):
    other = copy.deepcopy(tiny_tokenizer)
    other.chat_template = (
        "{{ bos_token }}<|system|>Be good.{{ eos_token }}"
        + other.chat_template.removeprefix("{{ bos_token }}")
    )
    config = copy.copy(directions.config)
    object.__setattr__(config, "chat_template_sha256", template_fingerprint(other))
    with caplog.at_level(logging.WARNING, logger="hf_icon2"):
        score(tiny_llama, other, DirectionVectors(config, directions.tensor), ["Hi"])
    assert "Be good." in caplog.text


def test_routing_to_one_criterion_only_is_warned_of(tiny_llama, tiny_tokenizer, directions, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_icon2"):
        assert len(set(score(tiny_llama, tiny_tokenizer, directions, TEXTS * 4)["criterion"])) > 1
        assert (
            len(set(score(tiny_llama, tiny_tokenizer, directions, ["Hi"] * 19)["criterion"])) == 1
        )  # too few to say
        assert not caplog.text
        best = score(tiny_llama, tiny_tokenizer, directions, ["Hi"] * 20)["criterion"][0]
    assert f"100% of the instructions are routed to '{best}' by score='cosine'" in caplog.text


@pytest.fixture
def scored():
    """Six instructions; a, b, e and f fit kind best, c terse, d calm; b and e are equal."""
    values = [
        (0.9, 0.1, 0.0),
        (0.5, 0.4, 0.3),
        (0.2, 0.6, 0.1),
        (-0.3, -0.2, -0.1),
        (0.5, 0.2, 0.45),
        (0.3, 0.2, 0.1),
    ]
    return Dataset.from_dict(
        {
            "prompt": [f"question {name}" for name in "abcdef"],
            "id": list("aecdbf"),
            "consistency": [dict(zip(NAMES, row, strict=True)) for row in values],
            "criterion": [NAMES[row.index(max(row))] for row in values],
            "score": [max(row) for row in values],
        }
    )


def kept(*args, **options):
    return [(row["id"], row["criterion"], row["score"]) for row in filter_instructions(*args, **options)]


def test_threshold_keeps_scores_from_it_on_in_the_given_order(scored):
    assert kept(scored, threshold=0.5) == [
        ("a", "kind", 0.9),
        ("e", "kind", 0.5),
        ("c", "terse", 0.6),
        ("b", "kind", 0.5),
    ]
    assert kept(scored, threshold={"kind": 0.6, "calm": -1}) == [("a", "kind", 0.9), ("d", "calm", -0.1)]
    assert filter_instructions(scored, threshold=0.5).column_names == scored.column_names


def test_keep_takes_the_best_of_each_criterion_and_breaks_ties_by_id(scored):
    assert kept(scored, keep=2) == [
        ("a", "kind", 0.9),
        ("c", "terse", 0.6),
        ("d", "calm", -0.1),
        ("b", "kind", 0.5),
    ]
    assert kept(scored, keep={"kind": 3}) == [("a", "kind", 0.9), ("e", "kind", 0.5), ("b", "kind", 0.5)]
    assert kept(scored, keep=2, threshold=0.55) == [("a", "kind", 0.9), ("c", "terse", 0.6)]
    assert len(filter_instructions(scored)) == 6


def test_an_instruction_may_serve_several_criteria_as_rows_of_their_own(scored):
    assert kept(scored, threshold=0.3, criteria_per_instruction=2) == [
        ("a", "kind", 0.9),
        ("e", "kind", 0.5),
        ("e:terse", "terse", 0.4),
        ("c", "terse", 0.6),
        ("b", "kind", 0.5),
        ("b:calm", "calm", 0.45),
        ("f", "kind", 0.3),
    ]
    everything = filter_instructions(scored, criteria_per_instruction=3)
    assert len(everything) == 18 and len(set(everything["id"])) == 18
    assert everything[1]["prompt"] == everything[0]["prompt"] == "question a"


def test_filtering_refuses_what_leaves_nothing(scored):
    with pytest.raises(
        ValueError, match=r"leave none of 6 instructions.*-0.1 to -0.1 \(calm, 1\), 0.3 to 0.9 \(kind, 4\)"
    ):
        filter_instructions(scored, threshold=0.95)
    with pytest.raises(ValueError, match="keep=0 and threshold=None leave none"):
        filter_instructions(scored, keep=0)
    with pytest.raises(
        ValueError, match=r"keep names unknown criteria \['brave'\]; scored were: kind, terse, calm"
    ):
        filter_instructions(scored, keep={"brave": 2})
    with pytest.raises(ValueError, match="criteria_per_instruction must be 1 to 3"):
        filter_instructions(scored, criteria_per_instruction=4)
    with pytest.raises(
        ValueError, match=r"lack consistency, score \(they have: prompt, id, criterion\); call score_cons"
    ):
        filter_instructions(scored.remove_columns(["consistency", "score"]))
    with pytest.raises(ValueError, match="no scored instructions"):
        filter_instructions(scored.select([]))


def test_histogram_and_shares_count_every_instruction(scored):
    histogram = consistency_histogram(scored, bins=3)
    assert histogram["kind"]["edges"] == pytest.approx([-0.3, 0.1, 0.5, 0.9])
    assert histogram["kind"]["counts"] == [1, 2, 3]
    assert histogram["kind"]["routed"] == [0, 1, 3]
    assert histogram["terse"]["routed"] == [0, 0, 1]
    assert all(sum(entry["counts"]) == 6 for entry in histogram.values())
    assert routing_shares(scored) == {"kind": 4 / 6, "terse": 1 / 6, "calm": 1 / 6}
