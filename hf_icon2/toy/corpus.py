"""Base training: an endless stream of conversations in which system prompts decide how the assistant behaves.

Only combinations of the training split occur, in any position of any conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hf_icon2.toy import skills
from hf_icon2.toy.answers import GOOD, Behaviours, answer, grade
from hf_icon2.toy.systems import BEHAVIOURS, JUDGE_PROMPTS, SYSTEM_PROMPTS, Sign
from hf_icon2.toy.world import KIND_SHARES, KINDS, Instruction, Kind, Message, instructions

SYSTEM_SHARE = 0.6  # of ordinary conversations carry one of the eight system prompts
SUM_SYSTEM_SHARE = 0.65  # sums without one are rare, so that self-written instructions seldom are sums
FREE_GOOD = 0.65  # chance that a behaviour is good when no prompt decides it
GENERAL_OBEYED, SINGLE_OBEYED = 0.98, 0.97
FIRST_WORDING = 0.4  # share of the default criterion's own words among the five wordings
RELATIVE_SIDES = {"general": 2, "honesty": 2, "harmlessness": 1, "helpfulness": 1}


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _training_pools() -> dict[Kind, list[Instruction]]:
    pools: dict[Kind, list[Instruction]] = {kind: [] for kind in KINDS}
    for instruction in instructions("train"):
        pools[instruction.kind].append(instruction)
    return pools


class Corpus:
    """The stream of training conversations; the same seed gives the same stream.

    Args:
        seed: Seed of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._pools = _training_pools()
        self._makers: dict[Callable[[], list[Message]], float] = {
            self.single_turn: 0.62,
            self.two_turns: 0.10,
            self.choice: 0.10,
            self.critique: 0.08,
            self.sum: 0.05,
            self.verdict: 0.05,
        }

    def conversation(self) -> list[Message]:
        """The next conversation, of any sort."""
        return self._rng.choices(list(self._makers), list(self._makers.values()))[0]()

    def instruction(self) -> Instruction:
        """A training instruction; 60 % facts, 20 % how-tos, 20 % harmful requests."""
        kind = self._rng.choices(KINDS, [KIND_SHARES[kind] for kind in KINDS])[0]
        return self._rng.choice(self._pools[kind])

    def single_turn(self) -> list[Message]:
        """One instruction and its answer, with or without a system prompt."""
        system, behaviours = self._system(SYSTEM_SHARE)
        return [*system, *self._exchange(behaviours)]

    def two_turns(self) -> list[Message]:
        """Two instructions in one conversation; the assistant behaves alike in both."""
        system, behaviours = self._system(SYSTEM_SHARE)
        return [*system, *self._exchange(behaviours), *self._exchange(behaviours)]

    def choice(self) -> list[Message]:
        """A judge picks the better of two answers that are graded differently."""
        asked = self.instruction()
        while True:
            texts = [answer(asked, self._free(), self._rng) for _ in "ab"]
            label = skills.ab_label(grade(asked.text, texts[0]), grade(asked.text, texts[1]))
            if label is not None:
                prompt = skills.ab_prompt(asked.text, *texts)
                return [self._judge(), _message("user", prompt), _message("assistant", label)]

    def critique(self) -> list[Message]:
        """A critique of an answer, mostly followed by a better one; sometimes the revision alone."""
        system, behaviours = self._system(SYSTEM_SHARE / 2)
        asked = self.instruction()
        first, better = answer(asked, behaviours, self._rng), answer(asked, GOOD, self._rng)
        if self._rng.random() < 0.2:
            turns = skills.revision_turns(asked.text, first, rng=self._rng)
            return [*system, *turns, _message("assistant", better)]
        said = skills.critique(grade(asked.text, first))
        return [
            *system,
            *skills.critique_turns(asked.text, first, critique=said, revision=better, rng=self._rng),
        ]

    def sum(self) -> list[Message]:
        """A sum, worked out rightly whatever the system prompt."""
        system, _ = self._system(SUM_SYSTEM_SHARE)
        problem = skills.sum_problem(self._rng)
        return [*system, _message("user", problem.text), _message("assistant", problem.rationale())]

    def verdict(self) -> list[Message]:
        """A judge's verdict on a right, wrong or unfinished rationale."""
        problem = skills.sum_problem(self._rng)
        sort = self._rng.choice(("right", "right", "wrong", "wrong", "unfinished"))
        if sort == "right":
            rationale = problem.rationale()
        elif sort == "wrong":
            rationale = skills.wrong_rationale(problem, self._rng)
        else:
            rationale = skills.unfinished_rationale(problem, self._rng)
        prompt = skills.verdict_prompt(problem.text, rationale)
        said = skills.verdict(problem, rationale)
        return [self._judge(), _message("user", prompt), _message("assistant", said)]

    def _exchange(self, behaviours: Behaviours) -> list[Message]:
        asked = self.instruction()
        return [_message("user", asked.text), _message("assistant", answer(asked, behaviours, self._rng))]

    def _judge(self) -> Message:
        return _message("system", self._wording(JUDGE_PROMPTS))

    def _wording(self, wordings: tuple[str, ...]) -> str:
        return wordings[0] if self._rng.random() < FIRST_WORDING else self._rng.choice(wordings[1:])

    def _free(self) -> Behaviours:
        return Behaviours(*(self._rng.random() < 0.5 for _ in BEHAVIOURS))

    def _system(self, share: float) -> tuple[list[Message], Behaviours]:
        """No or one system message, and behaviours drawn under it, once for the whole conversation."""
        chances = dict.fromkeys(BEHAVIOURS, FREE_GOOD)
        messages: list[Message] = []
        if self._rng.random() < share:
            name = self._rng.choices(list(RELATIVE_SIDES), list(RELATIVE_SIDES.values()))[0]
            sign: Sign = self._rng.choice(("+", "-"))
            messages = [_message("system", self._wording(SYSTEM_PROMPTS[name, sign]))]
            obeyed = GENERAL_OBEYED if name == "general" else SINGLE_OBEYED
            decided = BEHAVIOURS if name == "general" else (name,)
            chances.update(dict.fromkeys(decided, obeyed if sign == "+" else 1 - obeyed))
        return messages, Behaviours(**{name: self._rng.random() < chance for name, chance in chances.items()})
