"""Conversations written by the model, and prompts of several turns on their way through synthesis and training."""

import copy
import os

import pytest
import torch
from datasets import Dataset
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_icon2 import (
    filter_instructions,
    generate_pairs,
    save_pairs,
    score_consistency,
    synthesize_conversations,
    synthesize_instructions,
    tune,
)
from hf_icon2.directions.config import StrengthRange
from hf_icon2.prompts import encode_prompt, pre_query_prefix, render_prompt, template_fingerprint
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.checks import check_pairs
from hf_icon2.synthesis.duplicates import normalized
from hf_icon2.synthesis.instructions import instruction_id
from hf_icon2.synthesis.strategies.choosing import STRATEGIES

# Written after the habits of real families, in as few words as show them.
ANSWER = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
ROLES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}" + ANSWER
TEMPLATES = {
    "roles": "<bos>" + ROLES,
    "injecting": "{% if messages[0].role != 'system' %}<|system|>You are a llama.<eos>{% endif %}" + ROLES,
    "no system role": (
        "<bos>{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}<eos>{% endif %}"
        "{% endfor %}"
    ),
    "trimming": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<eos>{% endfor %}" + ANSWER,
    # Qwen3: reasoning stays in an answer only while no further user turn follows, and a closed one opens answers.
    "strips reasoning": (
        "{% set last = namespace(user=0) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.role == 'assistant' and loop.index0 < last.user %}{{ m.content.split('</think>')[-1] | trim }}"
        "{% elif m.role == 'assistant' and '</think>' not in m.content %}<think></think>{{ m.content }}"
        "{% else %}{{ m.content }}{% endif %}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think></think>{% endif %}"
    ),
    # What some put before the last user turn only, so that no earlier rendering begins the next one.
    "marks the last user turn": (
        "{% set last = namespace(user=0) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if loop.index0 == last.user %}Mind the tools. {% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}" + ANSWER
    ),
}
HISTORY = [
    {"role": "user", "content": "What is the sky?"},
    {"role": "assistant", "content": "<think>Blue, surely.</think> It is blue."},
]
SHORT = Sampling(max_new_tokens=8)


@pytest.fixture
def templated(tiny_tokenizer):
    """The tiny tokenizer under another chat template."""

    def build(template):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return build


def talk(*texts: str) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


# where the user would write -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_later_user_turn_begins_where_the_template_would_put_it(templated, name, turns):
    """Oracle: what two renderings have in common whose last texts differ from the first letter on."""
    tokenizer, history = templated(TEMPLATES[name]), HISTORY * (turns - 1)
    both = [
        tokenizer.apply_chat_template(
            [*history, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        for text in ("First.", "Second.")
    ]
    assert pre_query_prefix(tokenizer, history) == os.path.commonprefix(both)


def test_what_a_template_strips_from_an_earlier_answer_is_not_before_the_next_turn(templated):
    tokenizer = templated(TEMPLATES["strips reasoning"])
    answered = tokenizer.apply_chat_template(HISTORY, tokenize=False)
    assert "Blue, surely." in answered
    prefix = pre_query_prefix(tokenizer, HISTORY)
    assert prefix == "<|user|>What is the sky?<eos><|assistant|>It is blue.<eos><|user|>"
    assert not answered.startswith(prefix.removesuffix("<|user|>"))  # the answered rendering is no prefix


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1].content }}", r"leaves out turn 1 \(user\), 2 \(assistant\)"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% endif %}{% endfor %}",
            r"leaves out turn 2 \(assistant\)",
        ),
        (
            "{% for m in messages | reverse %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
            "changes the order of the turns",
        ),
        (
            "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
            "<|user|>{{ messages[0].content }}",
            "refuses a second user turn: one turn only",
        ),
    ],
)
def test_a_template_that_does_not_show_every_turn_is_refused_before_anything_is_sampled(
    templated, tiny_llama, template, message
):
    tokenizer = templated(template)
    with pytest.raises(ValueError, match=message + r".*ask for single instructions \(turns=1\)"):
        pre_query_prefix(tokenizer, HISTORY)
    with pytest.raises(ValueError, match=message):
        synthesize_conversations(tiny_llama, tokenizer, 1, show_progress=False)


def test_turns_before_the_users_must_end_with_the_assistants(tiny_tokenizer):
    with pytest.raises(ValueError, match="must end with the assistant's, got 'user'"):
        pre_query_prefix(tiny_tokenizer, HISTORY[:1])


# conversations --------------------------------------------------------------------------------------------


def toy_talks(toy, n, **options):
    reports = []
    options = {
        "sampling": Sampling(24),
        "answers": Sampling(48),
        "show_progress": False,
        "on_report": reports.append,
    } | options
    return synthesize_conversations(*toy, n, **options), reports[0]


@pytest.fixture(scope="module")
def talks(toy):
    """Shared, do not change: 24 conversations of the toy with three user turns, and their report."""
    return toy_talks(toy, 24, turns=3)


def test_rows_are_different_conversations_that_end_with_a_user_turn_and_say_what_made_them(talks, toy):
    rows, _ = talks
    assert rows.column_names == [
        "prompt", "id", "source_model", "sampling", "answer_sampling", "seed", "finish_reasons",
    ]  # fmt: skip
    for row in rows:
        assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user", "assistant", "user"]
        assert row["id"] == instruction_id(row["prompt"])
        assert row["finish_reasons"] == ["stop"] * 5
        assert all(turn["content"].strip() for turn in row["prompt"])
    assert len(set(rows["id"])) == 24
    assert rows[0]["answer_sampling"] == {"max_new_tokens": 48, "temperature": 1.0, "top_p": 1.0}
    assert rows[0]["source_model"] == toy[0].config.name_or_path


def test_neither_batch_size_nor_n_changes_the_conversations_or_the_counts(talks, toy):
    rows, report = talks
    others, other_report = toy_talks(toy, 24, turns=3, batch_size=5)
    assert others.to_list() == rows.to_list()
    assert other_report == report
    assert toy_talks(toy, 7, turns=3)[0].to_list() == rows.to_list()[:7]
    assert toy_talks(toy, 7, turns=3, seed=1)[0]["prompt"] != rows["prompt"][:7]


def test_every_text_is_sampled_alone_the_same_from_the_templates_own_rendering(talks, toy):
    """Every turn of a row again, from ids that apply_chat_template gives, without this module."""
    model, tokenizer = toy
    header = tokenizer("<|user|>", add_special_tokens=False)["input_ids"]
    stop = tokenizer.convert_tokens_to_ids("<|end|>")
    for row in talks[0].select(range(3)):
        for place, turn in enumerate(row["prompt"]):
            before = row["prompt"][:place]
            user = turn["role"] == "user"
            ids = (
                tokenizer.apply_chat_template(before, add_generation_prompt=not user)["input_ids"]
                if before
                else [tokenizer.bos_token_id]
            )
            name = f"user-{place // 2}" if user else f"answer-{place // 2 + 1}"
            seed = row_seed(row["seed"], name) if place else row["seed"]
            found = generate_variants(
                model,
                [ids + header if user else ids],
                [[None]],
                sampling=Sampling(24 if user else 48),
                seeds=[[seed]],
                pad=0,
                stop_ids=[stop],
            )
            assert tokenizer.decode(found[0][0].ids, skip_special_tokens=True).strip() == turn["content"]


def test_first_turns_are_those_of_instructions_and_one_turn_is_an_instruction(talks, toy):
    singles = synthesize_instructions(*toy, 40, sampling=Sampling(24), show_progress=False)
    by_seed = dict(zip(singles["seed"], singles["prompt"], strict=True))
    shared = [row for row in talks[0] if row["seed"] in by_seed]
    assert len(shared) > 5
    assert all(row["prompt"][0]["content"] == by_seed[row["seed"]] for row in shared)
    rows = toy_talks(toy, 40, turns=1)[0]
    assert [prompt[-1]["content"] for prompt in rows["prompt"]] == singles["prompt"]
    assert {len(prompt) for prompt in rows["prompt"]} == {1}


def test_excluded_texts_are_no_turn_of_any_conversation(talks, toy):
    unwanted = {
        place: [prompt[place]["content"].upper() for prompt in talks[0]["prompt"][:3]] for place in (0, 2, 4)
    }
    texts = [text for found in unwanted.values() for text in found]
    rows, report = toy_talks(toy, 24, turns=3, exclude=texts)
    said = {
        normalized(turn["content"]) for prompt in rows["prompt"] for turn in prompt if turn["role"] == "user"
    }
    assert not said & {normalized(text) for text in texts}
    assert report.dropped["excluded"] >= 3


WORDS = [
    "what",
    "which",
    "who",
    "is",
    "was",
    "the",
    "a",
    "red",
    "blue",
    "sky",
    "sea",
    "?",
    "user",
    "assistant",
]


@pytest.fixture(scope="module")
def careless(tiny_model):
    """A model of 16 tokens with nearly even odds, and its tokenizer: it makes every kind of mistake."""
    vocab = {word: index for index, word in enumerate(["<bos>", "<eos>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=(
            "{{ bos_token }}{% for m in messages %} {{ m['role'] }} {{ m['content'] }} <eos>{% endfor %}"
            "{% if add_generation_prompt %} assistant {% endif %}"
        ),
    )
    sizes = {"vocab_size": 16, "num_hidden_layers": 2, "initializer_range": 0.08}
    return tiny_model("llama", pad_token_id=None, bos_token_id=0, eos_token_id=1, **sizes), tokenizer


def test_every_sampled_conversation_is_counted_once_by_its_first_fault(careless):
    reports = []
    rows = synthesize_conversations(
        *careless,
        12,
        sampling=Sampling(12),
        answers=Sampling(12),
        on_report=reports.append,
        show_progress=False,
    )
    report = reports[0]
    assert report.kept == len(rows) == 12
    assert report.raw == 12 + sum(report.dropped.values())
    assert set(report.dropped) >= {"unfinished", "special_tokens", "answer"}
    said = [turn["content"] for prompt in rows["prompt"] for turn in prompt]
    assert not any("<" in text for text in said)
    assert all(text.strip() for text in said)
    assert "whose earlier answers are empty, unfinished or hold special tokens" in str(report)


def test_conversations_that_ask_the_same_twice_or_end_like_another_are_dropped(talks, toy):
    def asked(rows):
        return [tuple(turn["content"] for turn in prompt[::2]) for prompt in rows["prompt"]]

    assert talks[1].dropped["repeated"] > 0
    assert all(len(set(texts)) == 3 for texts in asked(talks[0]))
    rows, report = toy_talks(toy, 40)
    assert report.dropped["duplicate"] > 5  # the toy often goes on with one of a few requests for a critique
    assert len({last for _, last in asked(rows)}) == 40


def test_a_text_that_the_template_rewrites_is_dropped(careless):
    model, tokenizer = careless[0], copy.deepcopy(careless[1])
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}", "{{ m['content'] | replace('sky', 'sea') }}"
    )
    reports = []
    rows = synthesize_conversations(
        model, tokenizer, 20, sampling=Sampling(12), answers=Sampling(12), on_report=reports.append,
        show_progress=False,
    )  # fmt: skip
    assert reports[0].dropped["rewritten"] > 0
    assert not any("sky" in turn["content"] for prompt in rows["prompt"] for turn in prompt[::2])


def test_bad_requests_get_a_sentence(toy, tiny_llama, templated):
    with pytest.raises(ValueError, match="turns must be at least 1, got 0"):
        toy_talks(toy, 3, turns=0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        toy_talks(toy, 0)
    with pytest.raises(ValueError, match="no chat template.*pass your own instructions"):
        synthesize_conversations(tiny_llama, templated(None), 1)


# on their way through the library --------------------------------------------------------------------------

TALKS = [
    talk("What is the sky?", "The sky is blue.", "And the bread?"),
    talk("Bake.", "First mix.", "Then?", "Then wait for it.", "How long is that?"),
    talk("Tell me.", "No.", "Is the sky honest? Tell me how."),
]


@pytest.fixture(scope="module")
def setting(tiny_llama, tiny_tokenizer, random_directions):
    """Model, tokenizer, and directions that claim this tokenizer's template."""
    from dataclasses import replace

    directions = random_directions(tiny_llama)
    config = replace(directions.config, chat_template_sha256=template_fingerprint(tiny_tokenizer))
    return copy.deepcopy(tiny_llama), tiny_tokenizer, replace(directions, config=config)


@pytest.fixture(scope="module")
def pairs(setting):
    """Shared, do not change: greedy pairs of `TALKS`, steered far apart."""
    return generate_pairs(
        *setting,
        TALKS,
        criterion="honesty",
        strengths={"honesty": StrengthRange(3.0, -3.0)},
        sampling=Sampling(max_new_tokens=8, temperature=0),
        drop=(),
        show_progress=False,
    )


def test_pairs_of_conversations_differ_in_one_assistant_message_and_keep_the_whole_prompt(pairs):
    assert pairs["prompt"] == TALKS
    for row in pairs:
        for side in ("chosen", "rejected"):
            assert [turn["role"] for turn in row[side]] == ["assistant"]
        assert row["chosen"] != row["rejected"]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "icon2"])
def test_every_strategy_answers_the_last_turn_and_keeps_the_whole_prompt(setting, strategy):
    asked = []

    def reward(prompts, answers):
        asked.extend(prompts)
        return [float(len(answer)) for answer in answers]

    given = {"sampling-ranking": {"reward": reward}, "self-rewarding": {"judge": reward}}.get(strategy, {})
    made = generate_pairs(
        *setting, TALKS, strategy=strategy, criterion="honesty", 
        sampling=SHORT, drop=(), show_progress=False, **given,
    )  # fmt: skip
    assert made["prompt"] == TALKS
    assert all(
        [turn["role"] for turn in row[side]] == ["assistant"]
        for row in made
        for side in ("chosen", "rejected")
    )
    assert all(prompt in TALKS for prompt in asked)


@pytest.mark.parametrize("place", range(len(TALKS)))
def test_answers_are_steered_from_the_last_token_of_the_last_turn_on(
    tiny_llama, setting, by_hand, place, pairs
):
    """Against a loop by hand on a model without our hooks, steered from the last token of the template's ids."""
    _, tokenizer, directions = setting
    prompt = tokenizer.apply_chat_template(TALKS[place], add_generation_prompt=True)["input_ids"]
    for side, strength in (("chosen", 3.0), ("rejected", -3.0)):
        ids = by_hand(tiny_llama, directions, prompt, {"honesty": strength}, new=8)
        row = pairs[place]
        assert row[f"finish_{side}"] == "length"  # the loop by hand never ends a text
        assert tokenizer.decode(ids, skip_special_tokens=True) == row[side][0]["content"]


def test_states_of_earlier_turns_are_bit_identical_to_the_unsteered_models(tiny_llama, setting):
    """All blocks' outputs at every position before the last, recorded while a pair is made."""
    model, tokenizer, directions = copy.deepcopy(tiny_llama), *setting[1:]
    seen: dict[int, list[torch.Tensor]] = {}

    def recorder(layer):
        return lambda _module, _args, output: seen.setdefault(layer, []).append(output.detach().clone())

    generate_pairs(
        model, tokenizer, directions, TALKS[:1], criterion="honesty", show_progress=False, sampling=SHORT
    )
    for layer, block in enumerate(model.model.layers):
        block.register_forward_hook(recorder(layer))
    generate_pairs(
        model, tokenizer, directions, TALKS[:1], criterion="honesty", show_progress=False, sampling=SHORT,
        strengths={"honesty": StrengthRange(5.0, -5.0)},
    )  # fmt: skip
    ids = tokenizer.apply_chat_template(TALKS[0], add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        plain = tiny_llama(torch.tensor([ids[:-1]]), output_hidden_states=True).hidden_states
    for layer in range(3):  # the last entry of hidden_states is normed
        before = next(states for states in seen[layer] if states.shape[:2] == (1, len(ids) - 1))
        assert torch.equal(before, plain[layer + 1])
    steered = seen[1][-1]
    assert steered.shape[:2] == (2, 1) and not torch.equal(steered[0], steered[1])


def test_consistency_reads_the_last_token_of_the_whole_conversation(setting):
    """Second formulation: the cosine from hidden states of the template's ids."""
    model, tokenizer, directions = setting
    scored = score_consistency(
        model, tokenizer, directions, TALKS, layers=[0, 1, 2], show_progress=False, batch_size=2
    )
    assert scored["prompt"] == TALKS
    assert scored["id"] == [instruction_id(prompt) for prompt in TALKS]
    for prompt, values in zip(TALKS, scored["consistency"], strict=True):
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        states = [state[0, -1] for state in hidden[1:4]]  # the last one is normed
        for name in directions.names:
            cosines = [
                torch.cosine_similarity(states[layer], directions.at(name, layer), dim=0)
                for layer in range(3)
            ]
            assert values[name] == pytest.approx(float(sum(cosines)) / 3, abs=1e-5)
    kept = filter_instructions(scored, keep=1, criteria_per_instruction=2)
    assert all(prompt in TALKS for prompt in kept["prompt"])


def test_rewards_see_whole_conversations_in_tuning(setting):
    seen = []

    def reward(prompts, answers):
        seen.extend(prompts)
        return [float(len(answer)) for answer in answers]

    rows = Dataset.from_list(
        [{"prompt": prompt, "criterion": name} for prompt in TALKS for name in ("honesty", "helpfulness")]
    )
    tune(*setting, rows, reward, strengths=[0.2], layers=[[1, 2]], sampling=SHORT, show_progress=False)
    assert all(prompt in TALKS for prompt in seen)
    assert {instruction_id(prompt) for prompt in seen} == {instruction_id(prompt) for prompt in TALKS}


def test_checks_read_answers_after_the_whole_conversation(setting, pairs):
    """The log-probabilities again, from the template's ids of one row."""
    model, tokenizer, directions = setting
    checked = check_pairs(model, tokenizer, directions, pairs, show_progress=False)
    row = checked[1]
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    answer = tokenizer(row["chosen"][0]["content"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    logps = torch.log_softmax(logits.float(), -1)[torch.arange(len(answer)), torch.tensor(answer)]
    assert row["logp_chosen"] == pytest.approx(float(logps.mean()), abs=1e-4)


def test_published_conversations_come_back_as_they_were(pairs, setting, tmp_path):
    from datasets import load_dataset

    save_pairs(pairs, tmp_path / "published", directions=setting[2])
    back = load_dataset(str(tmp_path / "published"), split="train")
    for column in ("prompt", "chosen", "rejected", "id"):
        assert back[column][:] == pairs[column][:]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_trainer_trains_on_the_templates_own_ids(tiny_llama, templated, pairs, tmp_path, name):
    """Of each row: the prompt's ids, and those that the template adds when the answer stands there."""
    from hf_icon2 import Icon2DPOConfig, Icon2DPOTrainer

    tokenizer = templated(TEMPLATES[name])
    trainer = Icon2DPOTrainer(
        copy.deepcopy(tiny_llama),
        args=Icon2DPOConfig(str(tmp_path), report_to="none", use_cpu=True, max_length=None),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    for row, example in zip(pairs, trainer.train_dataset, strict=True):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        assert example["prompt_ids"] == prompt == encode_prompt(tokenizer, row["prompt"])
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template([*row["prompt"], *row[side]])["input_ids"]
            assert example["prompt_ids"] + example[f"{side}_ids"] == whole


def test_a_template_refusing_the_conversation_says_so_where_prompts_are_rendered(templated):
    tokenizer = templated(
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"
    )
    with pytest.raises(TemplateError, match="one turn only"):
        render_prompt(tokenizer, TALKS[0])
