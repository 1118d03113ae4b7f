"""Rendering: what each kind of chat template, or none, makes of a system text and an instruction."""

import copy

import pytest
import torch

from hf_icon2.prompts import (
    as_messages,
    default_system_prompt,
    encode_prompt,
    has_system_role,
    pad_batch,
    pad_token_id,
    pre_query_prefix,
    render_prompt,
    template_fingerprint,
)

# Written after the habits of real families, in as few words as show them.
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN_ROLES = TURNS + ANSWER
INJECTING = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a llama.<|im_end|>\n{% endif %}"
    + PLAIN_ROLES
)
DATED = "{{ bos_token }}<|im_start|>system\nToday is Monday.<|im_end|>\n" + PLAIN_ROLES
PREAMBLE = (
    "A chat with a polite assistant. {% for m in messages %}"
    "{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:{% else %} {{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
RAISING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
DROPPING = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
TWICE = "{% for m in messages %}<{{ m.role }}>{{ m.content }} {{ m.content }}{% endfor %}"
STARTING = "[gMASK]<sop>" + PLAIN_ROLES  # special tokens that stand only before the first turn


@pytest.fixture
def templated(tiny_tokenizer):
    """The tiny tokenizer under another chat template."""

    def build(template):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return build


def test_a_template_with_a_system_role_gets_a_system_message(templated):
    assert render_prompt(templated(PLAIN_ROLES), "Hi", "Be kind.") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_system_prompt_none_is_rendered(templated):
    text = render_prompt(templated(PLAIN_ROLES), "Hi")
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [(RAISING, "<bos>[INST] Be kind.\n\nHi [/INST]"), (DROPPING, "<user>Be kind.\n\nHi")],
    ids=["raises", "drops it"],
)
def test_without_a_system_role_the_system_prompt_is_folded_into_the_first_user_turn(
    templated, template, expected
):
    tokenizer = templated(template)
    assert not has_system_role(tokenizer)
    assert render_prompt(tokenizer, "Hi", "Be kind.") == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, "Once upon a time"),
        ("A happy story.", "A happy story.\nOnce upon a time"),
        ("Happy: {instruction} and they smiled", "Happy: Once upon a time and they smiled"),
    ],
    ids=["alone", "before", "around"],
)
def test_a_base_model_gets_plain_text_before_or_around_the_instruction(templated, system, expected):
    assert render_prompt(templated(None), "Once upon a time", system) == expected


def test_a_conversation_keeps_its_turns_and_its_own_system_message(templated):
    talk = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    before = copy.deepcopy(talk)
    assert render_prompt(templated(DROPPING), talk, "Ours.") == "<user>Ours.\n\nOwn.\n\nA<assistant>B<user>C"
    assert render_prompt(templated(RAISING), talk) == "<bos>[INST] Own.\n\nA [/INST]B<eos>[INST] C [/INST]"
    assert "system\nOurs.\n\nOwn.<|im_end|>\n<|im_start|>user\nA" in render_prompt(
        templated(PLAIN_ROLES), talk, "Ours."
    )
    assert talk == before


def test_ids_are_those_of_the_template_with_no_special_token_twice(tiny_tokenizer):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    expected = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert encode_prompt(tiny_tokenizer, "Hi", "Be kind.") == expected
    assert expected.count(tiny_tokenizer.bos_token_id) == 1


def test_plain_ids_have_the_tokenizers_start_but_no_end(templated):
    from tokenizers.processors import TemplateProcessing

    tokenizer = templated(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    ids = encode_prompt(tokenizer, "Hi")
    assert ids[0] == 1
    assert 2 not in ids
    assert tokenizer.decode(ids[1:]) == "Hi"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN_ROLES, ""),
        (INJECTING, "You are a llama."),
        (DATED, "Today is Monday."),
        (PREAMBLE, "A chat with a polite assistant."),
        (RAISING, ""),
        (TWICE, ""),
        (None, ""),
    ],
    ids=["none", "unless given", "always", "plain text", "raises", "says it twice", "base model"],
)
def test_a_system_prompt_that_the_template_injects_is_found(templated, template, expected):
    found = default_system_prompt(templated(template))
    assert expected in found
    assert bool(found) == bool(expected)


def test_special_tokens_at_the_start_are_no_system_prompt(templated):
    tokenizer = templated(STARTING)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>"]})
    assert default_system_prompt(tokenizer) == ""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN_ROLES, "<|im_start|>user\n"),
        (INJECTING, "<|im_start|>system\nYou are a llama.<|im_end|>\n<|im_start|>user\n"),
        (RAISING, "<bos>[INST] "),
    ],
    ids=["roles", "injecting", "raising"],
)
def test_the_pre_query_prefix_ends_where_the_users_text_would_start(templated, template, expected):
    tokenizer = templated(template)
    assert pre_query_prefix(tokenizer) == expected
    assert render_prompt(tokenizer, "Any text.").startswith(expected + "Any text.")


def test_no_pre_query_prefix_without_a_template_that_shows_the_text_once(templated):
    with pytest.raises(
        ValueError, match="no chat template, so there is no pre-query template.*pass your own"
    ):
        pre_query_prefix(templated(None))
    with pytest.raises(ValueError, match="shows the user's text 2 times"):
        pre_query_prefix(templated(TWICE))


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_instruction_is_refused(empty):
    with pytest.raises(ValueError, match="an instruction is empty; remove empty rows"):
        as_messages(empty)


def test_unfit_instructions_get_a_sentence(templated):
    with pytest.raises(ValueError, match="must end with a user turn"):
        as_messages([{"role": "assistant", "content": "Hello"}])
    with pytest.raises(TypeError, match=r"got dict; of a dataset pass one column, like list\(dataset"):
        as_messages({"prompt": "Hi"})
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    with pytest.raises(ValueError, match="a conversation of 3 turns needs a chat template"):
        render_prompt(templated(None), talk)


def test_the_fingerprint_tells_templates_apart(templated):
    prints = [template_fingerprint(templated(template)) for template in (PLAIN_ROLES, RAISING, None)]
    assert len(set(prints)) == 3
    assert prints[0] == template_fingerprint(templated(PLAIN_ROLES))


def test_the_padding_id_falls_back_to_the_end_of_sequence(templated):
    tokenizer = templated(None)
    assert pad_token_id(tokenizer) == 0
    tokenizer.pad_token = None
    assert pad_token_id(tokenizer) == tokenizer.eos_token_id == 2


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("left", [[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]]),
        ("right", [[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]]),
    ],
)
def test_batches_are_padded_on_the_side_asked_for(side, ids, mask):
    found = pad_batch([[7, 8, 9], [5]], 0, side=side)
    assert torch.equal(found[0], torch.tensor(ids))
    assert torch.equal(found[1], torch.tensor(mask))
