"""Instructions written by the model: what is kept, what is dropped and counted."""

import copy
import hashlib
import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_icon2.steering.decoding import Sampling
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.duplicates import NearDuplicates, normalized
from hf_icon2.synthesis.instructions import health_check, instruction_id, synthesize_instructions
from hf_icon2.synthesis.sieve import Draft, Sieve

SPECIAL = ["<pad>", "<bos>", "<eos>", "<end>", "<user>", "<assistant>"]
WORDS = ["what", "which", "who", "is", "was", "the", "a", "red", "blue", "sky", "sea", "?"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHORT = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def words_tokenizer():
    vocab = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<end>", "<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="module")
def writer(tiny_model):
    """A model of 18 tokens and nearly even odds: it ends its turns, and makes every kind of mistake."""
    return tiny_model("llama", vocab_size=18, num_hidden_layers=2, initializer_range=0.08)


def write(writer, tokenizer, n, **options):
    reports = []
    options = {"sampling": SHORT, "show_progress": False, "on_report": reports.append} | options
    rows = synthesize_instructions(writer, tokenizer, n, **options)
    return rows, reports[0]


def test_rows_are_different_instructions_with_their_provenance(writer, words_tokenizer):
    rows, _ = write(writer, words_tokenizer, 20, seed=3)
    assert rows.column_names == ["prompt", "id", "source_model", "sampling", "seed", "finish_reason"]
    assert len({normalized(text) for text in rows["prompt"]}) == len(rows) == 20
    assert not any(mark in text for text in rows["prompt"] for mark in SPECIAL)
    assert rows[0]["sampling"] == {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0}
    assert set(rows["finish_reason"]) == {"stop"}
    assert rows["id"][5] == hashlib.sha256(rows["prompt"][5].encode()).hexdigest()[:16]
    seeds = {row_seed(3, f"instruction-{number}") for number in range(500)}
    assert set(rows["seed"]) <= seeds and len(set(rows["seed"])) == 20


def test_neither_batch_size_nor_n_changes_the_rows_or_the_counts(writer, words_tokenizer):
    rows, report = write(writer, words_tokenizer, 20)
    others, other_report = write(writer, words_tokenizer, 20, batch_size=7)
    assert others.to_list() == rows.to_list()
    assert other_report == report
    assert write(writer, words_tokenizer, 12)[0].to_list() == rows.to_list()[:12]
    assert write(writer, words_tokenizer, 12, seed=1)[0]["prompt"] != rows["prompt"][:12]


def test_every_sampled_row_is_counted_once(writer, words_tokenizer):
    _, report = write(writer, words_tokenizer, 30)
    assert report.kept == 30
    assert report.raw == 30 + sum(report.dropped.values())
    assert set(report.dropped) >= {"unfinished", "special_tokens"}
    assert "<" in report.examples["special_tokens"]
    assert str(report).startswith(f"30 of {report.raw} samples look like instructions; dropped: ")


def test_excluded_texts_do_not_occur_and_are_counted(writer, words_tokenizer):
    rows, _ = write(writer, words_tokenizer, 10)
    unwanted = [text.upper().replace(" ", "   ") for text in rows["prompt"][:4]]
    others, report = write(writer, words_tokenizer, 10, exclude=unwanted)
    assert report.dropped["excluded"] >= 4
    assert not set(others["prompt"]) & set(rows["prompt"][:4])
    with pytest.raises(TypeError, match=r"got one string; pass \[text\]"):
        write(writer, words_tokenizer, 1, exclude="what is red ?")


def test_a_model_that_knows_few_instructions_gives_those_and_a_warning(writer, words_tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_icon2"):
        rows, report = write(writer, words_tokenizer, 1000, sampling=Sampling(max_new_tokens=2))
    assert 1 < len(rows) < len(WORDS)  # one word each; "?" alone is no instruction
    assert set(rows["prompt"]) <= set(WORDS)
    assert report.dropped["duplicate"] > report.kept
    assert "1000 were asked for, and hardly anything new was coming" in caplog.text


def test_no_usable_row_is_an_error_that_says_why(writer, words_tokenizer):
    with pytest.raises(ValueError, match=r"0 of 512 samples .* unfinished \(raise max_new_tokens.*your own"):
        write(writer, words_tokenizer, 5, sampling=Sampling(max_new_tokens=1))


def test_the_turn_ends_at_the_templates_own_token_or_text(writer, words_tokenizer):
    rows, _ = write(writer, words_tokenizer, 20)  # <end> is not in the model's generation config
    assert writer.generation_config.eos_token_id == 2
    plain = copy.deepcopy(words_tokenizer)
    plain.chat_template = "{% for m in messages %}what {{ m['content'] }} sea {% endfor %}"
    others, report = write(writer, plain, 20)
    assert not any("sea" in text.split() for text in others["prompt"])
    assert any("sea" in text.split() for text in rows["prompt"])
    assert report.kept == 20


def test_a_system_prompt_of_the_template_is_reported(writer, words_tokenizer, caplog):
    injecting = copy.deepcopy(words_tokenizer)
    injecting.chat_template = "{{ bos_token }}the sky is blue <end>" + TEMPLATE.removeprefix(
        "{{ bos_token }}"
    )
    with caplog.at_level(logging.WARNING, logger="hf_icon2"):
        _, report = write(writer, injecting, 3)
    assert "the sky is blue" in report.template_system_prompt
    assert "injects a system prompt of its own" in caplog.text
    assert "the sky is blue" in str(health_check(writer, injecting, sampling=SHORT))


def test_the_health_check_judges_the_first_rows_of_a_run(writer, words_tokenizer):
    report = health_check(writer, words_tokenizer, 20, sampling=SHORT)
    rows, _ = write(writer, words_tokenizer, report.kept)
    assert report.raw == 20 == report.kept + sum(report.dropped.values())
    assert set(rows["seed"]) <= {row_seed(0, f"instruction-{number}") for number in range(20)}


def test_bad_requests_get_a_sentence(writer, words_tokenizer):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        write(writer, words_tokenizer, 0)
    with pytest.raises(ValueError, match="sample must be at least 1, got 0"):
        health_check(writer, words_tokenizer, 0)
    base = copy.deepcopy(words_tokenizer)
    base.chat_template = None
    with pytest.raises(ValueError, match="no chat template.*pass your own instructions"):
        write(writer, base, 1)
    base.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="puts nothing before the user's text"):
        write(writer, base, 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Is it? Is it?", None),
        ("System requirements of Debian", None),
        ("", "empty"),
        ("?! ...", "empty"),
        ("assistant\n\nSure, here it is.", "header"),
        ("User: what is this?", "header"),
        ("what IS\n the sea", "duplicate"),
        ("held out", "excluded"),
    ],
)
def test_faults_of_hand_made_texts(text, fault):
    sieve = Sieve(["Held  out"], near_duplicates=False)
    assert sieve.add(Draft("What is the sea", 0, "stop", False))
    assert sieve.add(Draft(text, 0, "stop", False)) is (fault is None)
    assert list(sieve.report("").dropped) == ([fault] if fault else [])


def test_near_duplicates_are_dropped_only_on_request():
    first = "Write a short story about a dragon who lives in a cave and eats apples"
    nearly = first + " daily"  # 13 and 14 words, 12 and 13 distinct 3-grams: 12 / 13 = 0.92
    other = "Write a short poem about a knight who lives in a castle and eats bread"
    for wanted, kept in ((False, 3), (True, 2)):
        sieve = Sieve((), near_duplicates=wanted)
        for text in (first, nearly, other):
            sieve.add(Draft(text, 0, "stop", False))
        assert len(sieve.kept) == kept
    assert sieve.report("").dropped == {"near_duplicate": 1}


def test_near_duplicates_agree_with_the_jaccard_index():
    words = [f"w{index}" for index in range(22)]  # 20 3-grams
    for changed, similarity in ((1, 19 / 21), (3, 17 / 23), (5, 15 / 25), (8, 12 / 28)):
        known = NearDuplicates(threshold=0.7)
        assert known.add(" ".join(words))
        # Replacing the last k words spoils k 3-grams and brings k others.
        text = " ".join(words[:-changed] + [f"x{index}" for index in range(changed)])
        assert known.add(text) is (similarity < 0.7)
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1, got 1.5"):
        NearDuplicates(1.5)


def test_ids_depend_on_content_only():
    turns = [{"role": "user", "content": "hi"}]
    assert instruction_id("hi") == instruction_id("hi") != instruction_id("hi!")
    assert (
        instruction_id(turns) == instruction_id([{"content": "hi", "role": "user"}]) != instruction_id("hi")
    )
