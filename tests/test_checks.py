"""Pair checks: hand-made texts for the flags, unbatched recomputation for what the model reads."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from zoo_models import zoo_model

from hf_icon2.criteria import Criterion
from hf_icon2.directions.config import DirectionVectorConfig
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import encode_prompt, template_fingerprint
from hf_icon2.steering.decoding import Completion
from hf_icon2.steering.hooks import steer
from hf_icon2.synthesis.checks import check_pairs, summarize_checks
from hf_icon2.synthesis.flags import (
    FLAGS,
    answer_flags,
    degenerate,
    length_only,
    longest_loop,
    pair_flags,
    repeated_share,
)
from hf_icon2.synthesis.readings import Row, response_projections, unsteered_logps

NAMES = ("kind", "terse")
PAIRS = [
    ("What is the sky?", "The sky is blue.", "I will not say, go away!", "kind"),
    ("Hi", "Hello, how are you today?", "Hello, how", "terse"),
    ("How do I bake bread?", "First mix the flour.", "no no no no no no", "kind"),
    ("Why?", "Because of the water and the flour.", "Because of the water and the flour.", "terse"),
    ("And then?", "Then wait.", "", "kind"),
]


def make_directions(tokenizer):
    config = DirectionVectorConfig(
        base_model=None,
        hidden_size=64,
        num_layers=4,
        layers=(0, 1, 2),
        criteria=tuple(Criterion(name, f"Be {name}.", f"Do not be {name}.") for name in NAMES),
        control_layers={"kind": (0, 2), "terse": (1,)},
        pooling=dict.fromkeys(NAMES, "last"),
        method="pca",
        scale="residual",
        residual_norms=(2.0, 3.0, 5.0),
        contrast_norms=dict.fromkeys(NAMES, (1.0, 1.0, 1.0)),
        instructions={"number": 2, "fingerprint": ""},
        chat_template_sha256=template_fingerprint(tokenizer),
    )
    return DirectionVectors(config, torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def directions(tiny_tokenizer):
    return make_directions(tiny_tokenizer)


@pytest.fixture(scope="module")
def rows(tiny_tokenizer):
    """Chosen answers, then rejected ones."""
    return [
        Row(
            encode_prompt(tiny_tokenizer, pair[0]),
            tiny_tokenizer(pair[side], add_special_tokens=False)["input_ids"],
        )
        for side in (1, 2)
        for pair in PAIRS
    ]


def message_pairs():
    say = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    return Dataset.from_list(
        [
            {
                "prompt": say("user", prompt),
                "chosen": say("assistant", chosen),
                "rejected": say("assistant", rejected),
                "criterion": criterion,
            }
            for prompt, chosen, rejected, criterion in PAIRS
        ]
    )


def naive_logp(model, row):
    """One row, no padding, logits of everything."""
    if not row.response:
        return 0.0
    with torch.no_grad():
        logps = model(torch.tensor([row.prompt + row.response])).logits[0].log_softmax(-1)
    start = len(row.prompt)
    return sum(float(logps[start + place - 1, token]) for place, token in enumerate(row.response))


# --- answers alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("red red red red", True),
        ("the sky is is is is is", True),
        ("it is it is it is it is fine", True),
        ("red red red", False),
        ("the sea is very very deep and blue", False),
        ("first mix it then wait then mix it again then wait again", False),
        (
            "a table of " + "- | " * 6 + "with these things in it and in it also some others to read about",
            False,
        ),
        ("a " * 16 + " ".join(f"w{index}" for index in range(60)), True),
        (" ".join(f"w{index}" for index in range(60)), False),
        # A loop of 10 words is longer than a unit may be; 33 words hold 30 4-grams, of which 10 are distinct.
        (" ".join(["one two three four five six seven eight nine ten"] * 3 + ["one two three"]), True),
    ],
)
def test_degenerate_answers_are_empty_or_repeat_themselves(text, expected):
    assert degenerate(text.split()) is expected


def test_loops_and_repeated_ngrams_are_counted():
    assert longest_loop("xababababy") == 8
    assert longest_loop("xabababy") == 0  # three times only
    assert longest_loop([7, 7, 7, 7, 7]) == 5
    assert repeated_share("abcdabcd") == pytest.approx(1 / 5)
    assert repeated_share("abc") == 0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("the sky is blue", "the sky is blue and i hope this helps", True),
        ("no no no", "no", True),
        ("it is very very good", "it is very good", True),
        ("the sky is blue", "the sky is red and i hope this helps", False),
        ("not blue", "blue", False),
        ("the same", "the same", False),
        ("", "the same", False),
    ],
)
def test_length_only_pairs_are_cut_short_or_stretched(first, second, expected):
    assert length_only(first.split(), second.split()) is expected
    assert length_only(second.split(), first.split()) is expected


def test_flags_of_generated_answers_come_from_their_ids():
    chosen, rejected = Completion([5, 6, 7], "stop"), Completion([5, 6, 7], "length")
    assert pair_flags(chosen, rejected) == answer_flags([5, 6, 7], [5, 6, 7]) == ["identical"]
    assert pair_flags(chosen, Completion([], "stop")) == ["degenerate_rejected"]
    assert answer_flags([1, 1, 1, 1], [2, 3]) == ["degenerate_chosen"]


# --- answers as the model reads them -----------------------------------------------------------------------


def test_logps_equal_log_softmax_row_by_row_for_every_architecture(architecture, tiny_model, rows):
    model = tiny_model(architecture)
    found = unsteered_logps(model, rows, pad=0, batch_size=4)
    expected = torch.tensor([naive_logp(model, row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)  # float32, other batch shapes


@pytest.mark.parametrize("model_type", ["roberta", "bart", "mamba", "rwkv", "jamba"])
def test_logps_are_right_where_padding_does_harm_too(model_type):
    model = zoo_model(model_type)
    answers = [[30, 7, 12], [4, 6], [63], [31], [8, 50]]
    rows = [Row([5, 9, 11][: 1 + index % 3], answer) for index, answer in enumerate(answers)]
    found = unsteered_logps(model, rows, pad=0, batch_size=3)
    expected = torch.tensor([naive_logp(model, row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_projections_are_mean_states_along_the_unit_direction(tiny_llama, directions, rows):
    criteria = [pair[3] for pair in PAIRS] * 2
    found = response_projections(tiny_llama, directions, rows, criteria, pad=0, batch_size=3)
    for row, name, value in zip(rows, criteria, found, strict=True):
        with torch.no_grad():
            hidden = tiny_llama(
                torch.tensor([row.prompt + row.response]), output_hidden_states=True
            ).hidden_states
        expected = 0.0
        for layer in directions.config.control_layers[name] if row.response else ():
            mean = hidden[layer + 1][0, len(row.prompt) :].mean(0)
            unit = directions.at(name, layer) / directions.at(name, layer).norm()
            norm = directions.config.residual_norms[layer]
            expected += float(mean @ unit) / norm / len(directions.config.control_layers[name])
        assert float(value) == pytest.approx(expected, abs=1e-4)


def test_readings_do_not_depend_on_the_batch_or_on_a_surrounding_steering(tiny_model, directions, rows):
    model = tiny_model("llama")
    criteria = [pair[3] for pair in PAIRS] * 2
    alone = (
        unsteered_logps(model, rows, pad=0, batch_size=1),
        response_projections(model, directions, rows, criteria, pad=0, batch_size=1),
    )
    with steer(model, directions, {"kind": 5.0}):
        together = (
            unsteered_logps(model, rows, pad=0),
            response_projections(model, directions, rows, criteria, pad=0),
        )
    for first, second in zip(alone, together, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-3)


def test_checked_pairs_carry_flags_margins_and_mean_logps(tiny_llama, tiny_tokenizer, directions, rows):
    checked = check_pairs(
        tiny_llama, tiny_tokenizer, directions, message_pairs(), unlikely=-30.0, show_progress=False
    )
    own = ["flags", "projection_margin", "logp_chosen", "logp_rejected"]
    assert checked.column_names == ["prompt", "chosen", "rejected", "criterion", *own]
    projections = response_projections(tiny_llama, directions, rows, [pair[3] for pair in PAIRS] * 2, pad=0)
    assert list(checked["projection_margin"]) == pytest.approx(
        (projections[:5] - projections[5:]).tolist(), abs=1e-5
    )
    for place, name in enumerate(("logp_chosen", "logp_rejected")):
        means = [
            naive_logp(tiny_llama, row) / max(len(row.response), 1) for row in rows[5 * place : 5 * place + 5]
        ]
        assert list(checked[name]) == pytest.approx(means, abs=1e-4)
    answers = [[flag for flag in row if flag != "flipped"] for row in checked["flags"]]
    assert answers == [[], ["length_only"], ["degenerate_rejected"], ["identical"], ["degenerate_rejected"]]
    flipped = ["flipped" in row for row in checked["flags"]]
    assert flipped == [margin < 0 for margin in checked["projection_margin"]]
    assert any(flipped) and not all(flipped)
    assert checked["projection_margin"][3] == pytest.approx(0, abs=1e-6)


def test_unlikely_answers_are_flagged_and_checking_again_replaces_the_flags(
    tiny_llama, tiny_tokenizer, directions
):
    pairs = message_pairs().add_column("flags", [["mine", "unlikely_chosen"]] * 5)
    once = check_pairs(tiny_llama, tiny_tokenizer, directions, pairs, unlikely=-30.0, show_progress=False)
    assert all(row[0] == "mine" and "unlikely_chosen" not in row for row in once["flags"])
    limit = sorted(once["logp_chosen"])[2]
    twice = check_pairs(tiny_llama, tiny_tokenizer, directions, once, unlikely=limit, show_progress=False)
    assert ["unlikely_chosen" in row for row in twice["flags"]] == [
        value < limit for value in once["logp_chosen"]
    ]
    assert twice.column_names[:-4] == once.column_names[:-4]
    assert all(row.count("mine") == 1 for row in twice["flags"])


def test_pairs_of_a_base_model_are_plain_texts(tiny_llama, tiny_tokenizer):
    base = copy.deepcopy(tiny_tokenizer)
    base.chat_template = None
    columns = dict(
        zip(("prompt", "chosen", "rejected", "criterion"), map(list, zip(*PAIRS, strict=True)), strict=True)
    )
    checked = check_pairs(
        tiny_llama, base, make_directions(base), Dataset.from_dict(columns), show_progress=False
    )
    row = Row(base("Hi")["input_ids"], base("Hello, how")["input_ids"])
    assert checked["logp_rejected"][1] == pytest.approx(
        naive_logp(tiny_llama, row) / len(row.response), abs=1e-4
    )


def test_bad_pairs_get_a_sentence(tiny_llama, tiny_tokenizer, tiny_model, directions):
    def refuse(match, pairs, model=tiny_llama):
        with pytest.raises(ValueError, match=match):
            check_pairs(model, tiny_tokenizer, directions, pairs, show_progress=False)

    pairs = message_pairs()
    refuse(
        r"pairs lack chosen, criterion \(they have: prompt, rejected\)",
        pairs.remove_columns(["chosen", "criterion"]),
    )
    refuse("no pairs to check; generate some first", pairs.select([]))
    strange = pairs.remove_columns("criterion").add_column("criterion", ["brave"] * 5)
    refuse(r"name criteria \['brave'\]; these directions have: kind, terse", strange)
    refuse("hidden size 64, this model has 32", pairs, model=tiny_model("llama", hidden_size=32))


# --- many pairs together -----------------------------------------------------------------------------------


def flagged(criterion, *flags):
    return [{"criterion": criterion, "flags": list(row)} for row in flags]


def test_the_summary_says_which_strength_breaks_the_text():
    rows = flagged("kind", ["degenerate_chosen", "unlikely_chosen"], ["unlikely_chosen"], *[[]] * 8)
    rows += flagged("terse", ["degenerate_rejected"], *[["length_only"]] * 9)
    summary = summarize_checks(Dataset.from_list(rows))
    assert summary.rows == {"kind": 10, "terse": 10}
    assert summary.shares == {
        "kind": {"degenerate_chosen": 0.1, "unlikely_chosen": 0.2},
        "terse": {"length_only": 0.9, "degenerate_rejected": 0.1},
    }
    assert len(summary.warnings) == 1  # exactly 10 % of terse is allowed
    assert summary.warnings[0].startswith(
        "The chosen side's strength breaks the text: 20% of the chosen answers for 'kind'"
    )
    assert "Lower that strength" in summary.warnings[0]
    assert "terse, 10 pairs: 90% length_only, 10% degenerate_rejected" in str(summary)


def test_the_summary_says_when_pairs_point_the_wrong_way():
    rows = Dataset.from_list(flagged("kind", ["flipped"], ["flipped"], []))
    assert "point the wrong way: in 67% of them" in summarize_checks(rows).warnings[0]
    fine = Dataset.from_list(flagged("kind", ["flipped"], ["identical"]))
    assert summarize_checks(fine).warnings == ()


def test_checking_broken_pairs_logs_the_warning(tiny_llama, tiny_tokenizer, directions, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_icon2"):
        check_pairs(
            tiny_llama, tiny_tokenizer, directions, message_pairs(), unlikely=-30.0, show_progress=False
        )
    assert "rejected side's strength breaks the text: 67% of the rejected answers for 'kind'" in caplog.text


def test_every_flag_is_explained():
    assert set(FLAGS) == {
        "identical",
        "length_only",
        "flipped",
        "undecided",
        *(f"{kind}_{side}" for kind in ("degenerate", "unlikely") for side in ("chosen", "rejected")),
    }
