"""The toy's teacher: an OpenAI-compatible endpoint on 127.0.0.1 that works out the toy's sums and judges solutions.

    python -m hf_icon2.toy.reasoner --port 8000 --error 0.2 --evaluation-error 0.1

How often it errs is known exactly. It answers the two prompts of Mind's Mirror's collection, whose layout it reads by
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hf_icon2.toy.chance import draw
from hf_icon2.toy.reasoning import evaluation, guess, orders, parse_sum
from hf_icon2.toy.serving import Request, RuleServer, command_line
from hf_icon2.toy.skills import LARGEST_NUMBER, Sum, wrong_rationale

MODEL = "toy-reasoner"

_QUOTE = "| "
_CHAIN = ("Question:", "Reasoning:")
_EVALUATION = ("Question:", "Rationale:", "Answer:", "Evaluation:")
_VERDICTS = ("correct", "wrong", "uncertain")


@dataclass(frozen=True)
class ReasoningRule:
    """How the teacher reasons and judges; all chances are independent from one request to another.

    A chain of thought takes the terms in any order and says "is" or "makes". With the chances given, one step is
    wrong and later ones follow from it; or it stops before its last result and guesses, which is wrong; or the reply
    has not the form asked for. So a label is right with probability 1 - error - unfinished among those that can be
    read, where malformed is 0.

    An evaluation gives the right verdict (see `reasoning.evaluation`), or with the chance given one of the other two,
    either as often, with reasons to match.

    What it says follows from the prompt, the request's `seed` and this seed; at temperature 0 the request's seed
    counts for nothing, as in other servers. Chains that are to differ need different seeds in their requests.

    Args:
        error: Chance of a wrong step.
        unfinished: Chance of a chain that stops early.
        malformed: Chance of a reply without the form asked for, whether chain or evaluation.
        evaluation_error: Chance of a wrong verdict.
        seed: Of all chances.
    """

    error: float = 0.2
    unfinished: float = 0.05
    malformed: float = 0.02
    evaluation_error: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("error", "unfinished", "malformed", "evaluation_error")
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; allowed: 0 to 1")
        if self.error + self.unfinished + self.malformed > 1 or self.malformed + self.evaluation_error > 1:
            raise ValueError("the chances of a chain, and those of an evaluation, may sum up to at most 1")

    def chain(self, question: str, request_seed: int | None = None) -> str:
        """A reply to a question: reasoning, and "The answer is 7." in its last line.

        Raises:
            ValueError: If the question is none of the toy's sums.
        """
        problem, rng = _sum(question), draw(self.seed, "chain", question, request_seed)
        chance = rng.random()
        order = rng.choice(orders(problem))
        if chance < self.malformed:
            return _formless(order.rationale(), rng)
        if chance < self.malformed + self.unfinished:
            rationale, answer = guess(order, rng)
        else:
            wrong = chance < self.malformed + self.unfinished + self.error
            text = wrong_rationale(order, rng) if wrong else order.rationale()
            rationale, _, said = text.partition(" the answer is ")
            answer = int(said.removesuffix(" ."))
        if rng.random() < 0.5:
            rationale = rationale.replace(" is ", " makes ")
        return f"{rationale}\nThe answer is {answer}."

    def evaluation(self, question: str, rationale: str, answer: str, request_seed: int | None = None) -> str:
        """A reply that judges an answer: reasons, and "Evaluation result: the given answer is wrong." or the like.

        Raises:
            ValueError: If the question is none of the toy's sums.
        """
        problem = _sum(question)
        rng = draw(self.seed, "evaluation", question, rationale, answer, request_seed)
        chance = rng.random()
        reasons, verdict = evaluation(problem, rationale, answer)
        if chance < self.malformed:
            return rng.choice(("", reasons, f"{reasons}\n\nEvaluation result: the given answer is good."))
        if chance < self.malformed + self.evaluation_error:
            verdict = rng.choice([other for other in _VERDICTS if other != verdict])
            reasons = _pretext(verdict, problem, rationale, rng)
        return f"{reasons}\n\nEvaluation result: the given answer is {verdict}."


class ReasonerServer(RuleServer):
    """Serves a `ReasoningRule` while the context is open.

    Args:
        rule: How it reasons; `ReasoningRule()` by default.
        port: 0 takes a free one.
    """

    def __init__(self, rule: ReasoningRule | None = None, *, port: int = 0) -> None:
        self.rule = rule or ReasoningRule()
        super().__init__(self._said, MODEL, port=port)

    def _said(self, prompt: str, request: Request) -> str:
        texts = read_prompt(prompt)
        seed = None if request.get("temperature") == 0 else request.get("seed")
        return self.rule.chain(*texts, seed) if len(texts) == 1 else self.rule.evaluation(*texts, seed)


def read_prompt(prompt: str) -> tuple[str] | tuple[str, str, str]:
    r"""The question of a prompt for a chain of thought; or question, rationale and answer of one for an evaluation.

    Lines that begin with `| ` quote what the heading above them says; a bare `Reasoning:` or `Evaluation:` in the last
    line tells which of the two is asked.

    Raises:
        ValueError: If the text is no such prompt.
    """
    headings: list[str] = []
    texts: list[list[str]] = []
    for line in prompt.rstrip().split("\n"):
        if line in _EVALUATION or line in _CHAIN:
            headings.append(line)
            texts.append([])
        elif texts and line.startswith(_QUOTE):
            texts[-1].append(line.removeprefix(_QUOTE))
    said = ["\n".join(lines) for lines in texts]
    if tuple(headings) == _CHAIN and not said[-1]:
        return (said[0],)
    if tuple(headings) == _EVALUATION and not said[-1]:
        return said[0], said[1], said[2]
    raise ValueError(
        "the toy answers prompts for a chain of thought or an evaluation only, in the layout of "
        f"hf_icon2.distillation.reasoning.wording; this one has the headings {', '.join(headings) or 'none'}"
    )


def _sum(question: str) -> Sum:
    problem = parse_sum(question)
    if problem is None:
        raise ValueError(
            f"the toy works out its own sums only, got {question[:80]!r}; take some from "
            "hf_icon2.toy.reasoning.sums"
        )
    return problem


def _formless(rationale: str, rng: Random) -> str:
    """A reply that nobody can learn from: empty, without its answer, without its reasons, or with a blank answer."""
    steps, _, answer = rationale.partition(" the answer is ")
    return rng.choice(("", steps, f"The answer is {answer}", f"{steps}\nThe answer is ."))


def _pretext(verdict: str, problem: Sum, rationale: str, rng: Random) -> str:
    """Reasons for a verdict that is not the right one."""
    if verdict == "correct":
        return f"{rationale.replace(' makes ', ' is ')} the answer is correct ."
    if verdict == "uncertain":
        return "the rationale is not full . the answer is uncertain ."
    claim, _, right = problem.steps()[-1].partition(" is ")
    slip = rng.choice([value for value in range(LARGEST_NUMBER + 1) if 0 < abs(value - int(right)) <= 2])
    return f"{claim} is {slip} not {right} . the answer is wrong ."


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    rule = ReasoningRule()
    parser = command_line(str(__doc__))
    for name, what in (
        ("error", "chance of a wrong step"),
        ("unfinished", "chance of a chain that stops early"),
        ("malformed", "chance of a reply without the form asked for"),
        ("evaluation-error", "chance of a wrong verdict"),
    ):
        default = getattr(rule, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{what} (%(default)s)")
    parser.add_argument("--seed", type=int, default=rule.seed, help="of all chances (%(default)s)")
    args = parser.parse_args(argv)
    try:
        chances = (args.error, args.unfinished, args.malformed, args.evaluation_error)
        server = ReasonerServer(ReasoningRule(*chances, args.seed), port=args.port)
    except (ValueError, OverflowError, OSError) as error:  # a setting, or the port
        parser.error(str(error))
    server.serve_until_interrupted()


if __name__ == "__main__":
    main()
