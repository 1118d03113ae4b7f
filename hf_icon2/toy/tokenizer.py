"""The word-level tokenizer of the world's language and its chat template.

Text is lower-cased and split into words and punctuation marks; decoding joins with single spaces, so
canonical text survives the round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_icon2.toy import answers, skills, tables
from hf_icon2.toy.systems import JUDGE_PROMPTS, SYSTEM_PROMPTS
from hf_icon2.toy.world import Message, all_instructions

CONTEXT = 256
ROLES = ("system", "user", "assistant")
SPECIALS = ("<pad>", "<unk>", "<bos>", *(f"<|{role}|>" for role in ROLES), "<|end|>")

# Words no conversation of base training holds, kept so that later prompts need not say <unk>.
SPARE_WORDS = "c d e f response candidate rank order instruction request score rate than more less and or"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception(\"the role must be 'system', 'user' or 'assistant', got \" + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def language() -> Iterator[str]:
    """Texts that together hold every word of the language, canonical."""
    for instruction in all_instructions():
        yield instruction.text
        if instruction.phrasing:
            continue  # answers do not depend on the phrasing
        yield " ".join(answers.myths(instruction))
        for honest, harmless, helpful in ((1, 1, 1), (0, 0, 0), (1, 1, 0), (0, 0, 1)):
            yield from answers.variants(
                instruction, answers.Behaviours(bool(honest), bool(harmless), bool(helpful))
            )
    for table in tables.FACTS.values():
        yield from table.values()
    for wordings in (
        *SYSTEM_PROMPTS.values(),
        JUDGE_PROMPTS,
        skills.CRITIQUE_REQUESTS,
        skills.REVISION_REQUESTS,
    ):
        yield from wordings
    yield from (skills.ab_prompt("a", "a", "a"), skills.verdict_prompt("a", "a"), "the answer is good .")
    yield from (
        *skills.FAULTS.values(),
        *(p.format(x="1 plus 1") for p in skills.SUM_PHRASINGS),
        "plus minus is",
        "wrong because",
    )
    yield from (skills.CORRECT, skills.UNCERTAIN, *map(str, range(skills.LARGEST_NUMBER + 1)), SPARE_WORDS)


@cache
def vocabulary() -> tuple[str, ...]:
    """Special tokens, then every word of the language in alphabetical order."""
    words = {word for text in language() for word in text.split()}
    return (*SPECIALS, *sorted(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both bundled models."""
    vocab = {word: index for index, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(conversation: Sequence[Message], vocab: dict[str, int]) -> list[int]:
    """Token ids of a canonical conversation; equals the chat template, at a small part of its cost."""
    ids = [vocab["<bos>"]]
    for message in conversation:
        ids.append(vocab[f"<|{message['role']}|>"])
        ids.extend(vocab[word] for word in message["content"].split())
        ids.append(vocab["<|end|>"])
    return ids
