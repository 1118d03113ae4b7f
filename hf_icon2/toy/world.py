"""The world's instructions: every (entity, phrasing) combination, parsed from text and split for good.

Who is asked what, and which combinations training may see. Answers are in `answers`, the rest in `skills`.
No torch here, and nothing random: splits are functions of the text alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hf_icon2.toy.tables import FACT_PHRASINGS, FACTS, HARMFUL, HOW_TOS, TASK_PHRASINGS

Kind = Literal["fact", "how-to", "harmful"]
Split = Literal["train", "validation", "test"]
Message = dict[str, str]

KINDS: tuple[Kind, ...] = ("fact", "how-to", "harmful")
KIND_SHARES: dict[Kind, float] = {"fact": 0.6, "how-to": 0.2, "harmful": 0.2}
PHRASINGS = 8
TRAIN_PHRASINGS, VALIDATION_PHRASINGS = 4, 1  # of each entity's eight; the other three are for the test
TEST_SIZES: dict[Kind, int] = {"fact": 308, "how-to": 102, "harmful": 102}


@dataclass(frozen=True)
class Instruction:
    """One instruction of the world.

    Args:
        text: Canonical text.
        kind: Fact, how-to or harmful request.
        relation: What a fact is about ("colour"); equals the kind for the other two.
        entity: The thing asked about, or the task.
        phrasing: Index of the wording, 0..7.
    """

    text: str
    kind: Kind
    relation: str
    entity: str
    phrasing: int


def canonical(text: str) -> str:
    """The text as the tokenizer decodes it: lower case, single spaces, punctuation apart."""
    return " ".join(re.findall(r"<[a-z|]+>|\w+|[^\w\s]", text.lower()))


def stable_order(items: Iterable[str], salt: str) -> list[str]:
    """Items in a fixed order that looks random: sorted by the hash of `salt` and item."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}/{item}".encode()).digest())


def phrasing_order(relation: str, entity: str) -> list[int]:
    """This entity's permutation of the eight phrasings: four to train on, one to validate, three to test."""
    return [int(p) for p in stable_order(map(str, range(PHRASINGS)), f"split/{relation}/{entity}")]


def split_of(instruction: Instruction) -> Split:
    """The split this combination belongs to; "test" also for those outside the fixed 512."""
    place = phrasing_order(instruction.relation, instruction.entity).index(instruction.phrasing)
    if place < TRAIN_PHRASINGS:
        return "train"
    return "validation" if place < TRAIN_PHRASINGS + VALIDATION_PHRASINGS else "test"


def _combinations(
    kind: Kind, relation: str, entities: Iterable[str], phrasings: tuple[str, ...]
) -> list[Instruction]:
    return [
        Instruction(phrasing.format(e=entity), kind, relation, entity, index)
        for entity in entities
        for index, phrasing in enumerate(phrasings)
    ]


@lru_cache(maxsize=1)
def all_instructions() -> tuple[Instruction, ...]:
    """Every instruction of the world, all splits, facts first."""
    found: list[Instruction] = []
    for relation, table in FACTS.items():
        found += _combinations("fact", relation, table, FACT_PHRASINGS[relation])
    found += _combinations("how-to", "how-to", HOW_TOS, TASK_PHRASINGS)
    found += _combinations("harmful", "harmful", HARMFUL, TASK_PHRASINGS)
    return tuple(found)


@lru_cache(maxsize=1)
def _by_text() -> dict[str, Instruction]:
    return {instruction.text: instruction for instruction in all_instructions()}


def parse_instruction(text: str) -> Instruction | None:
    """The instruction this text is, or None when the world has no such instruction."""
    return _by_text().get(canonical(text))


@lru_cache(maxsize=3)
def _split(split: Split) -> tuple[Instruction, ...]:
    members = [instruction for instruction in all_instructions() if split_of(instruction) == split]
    if split != "test":
        return tuple(members)
    chosen: set[str] = set()
    for kind, size in TEST_SIZES.items():
        chosen.update(stable_order((i.text for i in members if i.kind == kind), "test")[:size])
    return tuple(instruction for instruction in members if instruction.text in chosen)


def instructions(split: Split) -> list[Instruction]:
    """The instructions of a split: 800 to train on, 200 to validate, a fixed 512 to test.

    The test set holds facts, how-tos and harmful requests at 60/20/20; use it only for final figures.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be 'train', 'validation' or 'test', got {split!r}")
    return list(_split(split))
