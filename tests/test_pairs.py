"""Pairs: rows that TRL trains on, with everything that made them."""

import copy

import pytest
from datasets import Dataset

from hf_icon2 import generate_pairs
from hf_icon2.directions.config import StrengthRange
from hf_icon2.prompts import encode_prompt, template_fingerprint
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed

INSTRUCTIONS = ["What is the colour of the sky?", "Tell me how to bake bread.", "Bake.", "Is the sky honest?"]
SHORT = Sampling(max_new_tokens=10)


@pytest.fixture(scope="module")
def setting(tiny_llama, tiny_tokenizer, random_directions):
    """Model, tokenizer, and directions that claim this tokenizer's template."""
    from dataclasses import replace

    directions = random_directions(tiny_llama)
    config = replace(directions.config, chat_template_sha256=template_fingerprint(tiny_tokenizer))
    return copy.deepcopy(tiny_llama), tiny_tokenizer, replace(directions, config=config)


def make(setting, instructions=INSTRUCTIONS, **options):
    options = {"criterion": "honesty", "sampling": SHORT, "show_progress": False, "drop": ()} | options
    return generate_pairs(*setting, instructions, **options)


def test_both_answers_are_those_of_the_two_signs(setting) -> None:
    """Against the decoding engine with explicit strengths and seeds."""
    model, tokenizer, directions = setting
    pairs = make(setting, strengths={"honesty": StrengthRange(0.7, -0.3)}, seed=5)
    seeds = [row_seed(5, str(row)) for row in range(4)]
    sides = generate_variants(
        model,
        [encode_prompt(tokenizer, text) for text in INSTRUCTIONS],
        [[{"honesty": 0.7}] * 4, [{"honesty": -0.3}] * 4],
        sampling=SHORT,
        seeds=[seeds, seeds],
        pad=0,
        directions=directions,
    )
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in side]
        assert [row[0]["content"] for row in pairs[name]] == texts
    assert pairs["seed"] == seeds


def test_every_row_says_what_made_it(setting) -> None:
    row = make(setting, strengths={"honesty": StrengthRange(0.7, -0.3)})[0]
    assert row["prompt"] == [{"role": "user", "content": INSTRUCTIONS[0]}]
    assert (row["criterion"], row["strength_chosen"], row["strength_rejected"]) == ("honesty", 0.7, -0.3)
    assert row["directions_sha256"] == setting[2].sha256
    assert row["noise"] == "shared"
    assert 1 <= row["tokens_chosen"] <= 10


def test_strengths_come_from_the_caller_then_the_directions_then_the_paper(setting) -> None:
    model, tokenizer, directions = setting
    tuned = directions.with_strengths({"honesty": StrengthRange(0.4, -0.2, 3.0)})
    assert set(make(setting)["strength_chosen"]) == {0.1}
    assert set(make((model, tokenizer, tuned))["strength_rejected"]) == {-0.2}
    given = {"honesty": StrengthRange(0.6, -0.6)}
    assert set(make((model, tokenizer, tuned), strengths=given)["strength_chosen"]) == {0.6}


def test_opposite_strengths_of_zero_give_identical_pairs_which_are_dropped(setting) -> None:
    zero = {"honesty": StrengthRange(0.0, 0.0)}
    assert all(row["flags"][0] == "identical" for row in make(setting, strengths=zero))
    assert len(make(setting, strengths=zero, drop=("identical",))) == 0


def test_independent_noise_differs_where_shared_noise_is_identical(setting) -> None:
    zero = {"honesty": StrengthRange(0.0, 0.0)}
    independent = make(setting, strengths=zero, noise="independent")
    assert any("identical" not in row["flags"] for row in independent)
    assert independent["chosen"] == make(setting, strengths=zero)["chosen"]


def test_each_row_is_steered_by_its_own_criterion(setting) -> None:
    rows = Dataset.from_list(
        [
            {"prompt": text, "id": f"row{index}", "criterion": name}
            for index, (text, name) in enumerate(
                zip(INSTRUCTIONS, ["honesty", "helpfulness", "honesty", "helpfulness"], strict=True)
            )
        ]
    )
    strengths = {"honesty": StrengthRange(0.5, -0.5), "helpfulness": StrengthRange(0.9, -0.9)}
    mixed = make(setting, rows, criterion=None, strengths=strengths)
    assert mixed["id"] == ["row0", "row1", "row2", "row3"]
    for name in strengths:
        alone = make(
            setting, rows.filter(lambda row, name=name: row["criterion"] == name), strengths=strengths
        )
        assert alone["chosen"] == [row["chosen"] for row in mixed if row["criterion"] == name]


def test_a_base_model_gets_plain_text_rows(setting) -> None:
    model, tokenizer, directions = setting
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    from dataclasses import replace

    same = replace(
        directions, config=replace(directions.config, chat_template_sha256=template_fingerprint(plain))
    )
    row = make((model, plain, same))[0]
    assert row["prompt"] == INSTRUCTIONS[0]
    assert isinstance(row["chosen"], str)


def test_rows_train_in_trl_unchanged(setting, tiny_llama_dir, tmp_path) -> None:
    """TRL's own DPOTrainer takes the rows with all provenance columns; its first loss is ln 2."""
    from trl import DPOConfig, DPOTrainer

    pairs = make(setting, strengths={"honesty": StrengthRange(0.7, -0.7)})
    settings = DPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, logging_steps=1,
        gradient_checkpointing=False, per_device_train_batch_size=4,
    )  # fmt: skip
    trainer = DPOTrainer(str(tiny_llama_dir), args=settings, train_dataset=pairs, processing_class=setting[1])
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize(
    ("instructions", "options", "sentence"),
    [
        ([], {}, "there are no instructions to answer"),
        (INSTRUCTIONS, {"criterion": None}, "Give the rows a column `criterion`, or pass criterion"),
        (
            INSTRUCTIONS,
            {"criterion": "wit"},
            "row 0 is to be about criterion 'wit'; known are honesty",
        ),
        (Dataset.from_dict({"text": ["a"]}), {}, r"instructions need a column `prompt`, got \['text'\]"),
    ],
)
def test_bad_input_gets_a_sentence(setting, instructions, options, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(setting, instructions, **options)


def test_one_text_is_not_taken_for_a_list_of_letters(setting) -> None:
    with pytest.raises(TypeError, match=r"got one string; pass \[text\]"):
        make(setting, "Hi")


def test_directions_of_another_template_are_refused(setting) -> None:
    model, tokenizer, directions = setting
    other = copy.deepcopy(tokenizer)
    other.chat_template += "{# another #}"
    with pytest.raises(ValueError, match="under another chat template than this tokenizer's"):
        make((model, other, directions))


@pytest.mark.parametrize("drop", ["identical", ("identcal",)])
def test_flags_that_would_drop_nothing_are_refused(setting, drop):
    with pytest.raises(ValueError, match="is no list of flags; allowed: any of identical"):
        make(setting, drop=drop)


def test_rows_with_empty_ids_get_seeds_of_their_own(setting) -> None:
    rows = Dataset.from_list([{"prompt": f"question {number}", "id": None} for number in range(4)])
    pairs = make(setting, rows)
    assert len(set(pairs["seed"])) == 4 and list(pairs["id"]) == ["0", "1", "2", "3"]
