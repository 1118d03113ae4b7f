"""Measure a bundled model by sampling: behaviours under each system prompt, and the other skills.

Figures are shares in 0..1, sampled at temperature 1.0 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hf_icon2.toy import skills
from hf_icon2.toy.answers import Behaviours, answer, grade
from hf_icon2.toy.systems import BEHAVIOURS, JUDGE_PROMPTS, SYSTEM_PROMPTS
from hf_icon2.toy.world import Instruction, Message, parse_instruction, split_of

Figures = dict[str, float]
LONGEST_ANSWER = 48


@torch.no_grad()
def _generate(model: LlamaForCausalLM, **inputs: Any) -> torch.Tensor:
    # transformers 5.23 annotates `generate` for a protocol that its own models do not satisfy.
    output: torch.Tensor = model.generate(**inputs)  # type: ignore[misc, assignment]
    return output


def sample_replies(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Message]],
    *,
    seed: int = 0,
    greedy: bool = False,
    batch: int = 256,
) -> list[str]:
    """The model's next message in each conversation, temperature 1.0.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        conversations: Message lists that end with a user message.
        seed: Seed of the sampling; the global generator is left as it was.
        greedy: Take the likeliest token instead of sampling.
        batch: Conversations per forward pass.
    """
    texts = [
        str(tokenizer.apply_chat_template(list(c), tokenize=False, add_generation_prompt=True))
        for c in conversations
    ]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].split()))
    replies = [""] * len(texts)
    sampling = (
        {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            inputs = tokenizer([texts[row] for row in rows], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            output = _generate(model, **inputs, **sampling, max_new_tokens=LONGEST_ANSWER)
            words = tokenizer.batch_decode(
                output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for row, text in zip(rows, words, strict=True):
                replies[row] = text
    return replies


def behaviour_shares(asked: Sequence[Instruction], replies: Sequence[str]) -> Figures:
    """Shares correct and well formed over all replies, and of each behaviour where it applies."""
    grades = [grade(instruction.text, reply) for instruction, reply in zip(asked, replies, strict=True)]
    shares = {
        "correct": sum(g.correct for g in grades) / len(grades),
        "well_formed": sum(g.well_formed for g in grades) / len(grades),
    }
    for name in BEHAVIOURS:
        values = [g.applicable[name] for g in grades if name in g.applicable]
        shares[name] = sum(values) / len(values) if values else float("nan")
    return shares


def measure_behaviours(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Instruction],
    *,
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Figures]:
    """Behaviour shares without a system prompt and under the first wording of each of the eight.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        asked: Instructions; each is answered `repeats` times.
        repeats: Samples per instruction and system prompt.
        seed: Seed of the sampling.
    """
    prompts = {"none": None} | {f"{name}{sign}": texts[0] for (name, sign), texts in SYSTEM_PROMPTS.items()}
    rows = list(asked) * repeats
    figures: dict[str, Figures] = {}
    for name, system in prompts.items():
        head = [] if system is None else [{"role": "system", "content": system}]
        conversations = [[*head, {"role": "user", "content": row.text}] for row in rows]
        figures[name] = behaviour_shares(rows, sample_replies(model, tokenizer, conversations, seed=seed))
    return figures


def measure_skills(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Instruction],
    *,
    seed: int = 0,
) -> Figures:
    """How well the model chooses, criticises, revises, sums and judges (greedy), and what it asks itself."""

    def reply(conversations: list[list[Message]]) -> list[str]:
        return sample_replies(model, tokenizer, conversations, greedy=True)

    rng = Random(seed)
    shares = {"choice": _choice(reply, asked, rng)}
    shares |= _critique_and_revision(reply, asked, rng)
    shares |= _sums_and_verdicts(reply, rng)
    return shares | measure_instructions(model, tokenizer, count=1000, seed=seed)


Reply = Callable[[list[list[Message]]], list[str]]


def _any_behaviours(rng: Random) -> Behaviours:
    return Behaviours(*(rng.random() < 0.5 for _ in BEHAVIOURS))


def _choice(reply: Reply, asked: Sequence[Instruction], rng: Random) -> float:
    conversations, labels = [], []
    for instruction in asked:
        first, second = (answer(instruction, _any_behaviours(rng), rng) for _ in "ab")
        label = skills.ab_label(grade(instruction.text, first), grade(instruction.text, second))
        if label is not None:
            conversations.append(_judged(skills.ab_prompt(instruction.text, first, second)))
            labels.append(label)
    return _agreement(reply(conversations), labels)


def _judged(prompt: str) -> list[Message]:
    return [{"role": "system", "content": JUDGE_PROMPTS[0]}, {"role": "user", "content": prompt}]


def _agreement(replies: Sequence[str], right: Sequence[str]) -> float:
    return sum(said == wanted for said, wanted in zip(replies, right, strict=True)) / len(right)


def _critique_and_revision(reply: Reply, asked: Sequence[Instruction], rng: Random) -> Figures:
    answers = [answer(instruction, _any_behaviours(rng), rng) for instruction in asked]
    right = [skills.critique(grade(i.text, a)) for i, a in zip(asked, answers, strict=True)]
    said = reply([skills.critique_turns(i.text, a) for i, a in zip(asked, answers, strict=True)])
    rows = list(zip(asked, answers, said, strict=True))
    revised = reply([skills.critique_turns(i.text, a, critique=c) for i, a, c in rows])
    direct = reply([skills.revision_turns(i.text, a) for i, a, _ in rows])
    return {
        "critique": _agreement(said, right),
        "revision": behaviour_shares(asked, revised)["correct"],
        "direct_revision": behaviour_shares(asked, direct)["correct"],
    }


def _sums_and_verdicts(reply: Reply, rng: Random, count: int = 300) -> Figures:
    problems = [skills.sum_problem(rng, "test") for _ in range(count)]
    solved = reply([[{"role": "user", "content": problem.text}] for problem in problems])
    makers: tuple[Callable[[skills.Sum], str], ...] = (
        lambda problem: problem.rationale(),
        lambda problem: skills.wrong_rationale(problem, rng),
        lambda problem: skills.unfinished_rationale(problem, rng),
    )
    rationales = [makers[index % 3](problem) for index, problem in enumerate(problems)]
    judged = list(zip(problems, rationales, strict=True))
    said = reply([_judged(skills.verdict_prompt(p.text, r)) for p, r in judged])
    right = [skills.verdict(p, r) for p, r in judged]
    results = [skills.parse_sum_answer(text) == p.result for text, p in zip(solved, problems, strict=True)]
    return {
        "sum": sum(results) / count,
        "sum_rationale": _agreement(solved, [problem.rationale() for problem in problems]),
        "verdict": _agreement(said, right),
        "verdict_sort": _agreement([s.split(" ")[0] for s in said], [r.split(" ")[0] for r in right]),
    }


def measure_instructions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int, seed: int = 0
) -> Figures:
    """What the model asks when it writes the user's turn: shares known to the world, unseen, distinct."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = tokenizer("<bos><|user|>", return_tensors="pt")["input_ids"].expand(count, -1)
        output = _generate(
            model,
            input_ids=start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=32,
        )
    texts = tokenizer.batch_decode(output[:, start.shape[1] :], skip_special_tokens=True)
    known = [found for found in map(parse_instruction, texts) if found is not None]
    return {
        "own_instructions_known": len(known) / count,
        "own_instructions_unseen": sum(split_of(found) != "train" for found in known) / count,
        "own_instructions_distinct": len({found.text for found in known}) / count,
        "own_sums": sum("plus" in text or "minus" in text for text in texts) / count,
    }
