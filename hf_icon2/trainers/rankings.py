"""Rankings of n responses as probabilities: Plackett-Luce, and the losses that compare a student's with a teacher's.

Functions of scores only: no model, no trainer. A score is a mean log-probability per token, or any number that
is higher for a better response; dividing scores by a temperature below 1 sharpens the distribution.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

MOST_RESPONSES = 8
"""n! orderings are enumerated: 40,320 for eight responses."""


@cache
def _orderings(n: int) -> Tensor:
    """All orderings of n responses, best first, in lexicographic order; (n!, n)."""
    return torch.tensor(list(permutations(range(n))))


def plackett_luce_log_probs(scores: Tensor) -> Tensor:
    """Log-probability of every ordering of n responses (Plackett-Luce).

    log P(t) = sum over k of  s_t(k) - log sum_{j >= k} exp s_t(j): the best is drawn with a softmax over all, the
    second with a softmax over the rest, and so on. For n = 2 this is Bradley-Terry.

    Args:
        scores: (B, n), n from 2 to 8.

    Returns:
        (B, n!) float64 in nats, orderings lexicographic, best first; every row's probabilities sum to 1.

    Raises:
        ValueError: For fewer than 2 or more than 8 responses.
    """
    n = scores.shape[-1]
    if not 2 <= n <= MOST_RESPONSES:
        raise ValueError(
            f"got {n} responses per prompt; all n! orderings are enumerated for 2 to {MOST_RESPONSES} of "
            "them, split more into groups"
        )
    return ranking_log_prob(scores.double()[:, _orderings(n).to(scores.device)])


def ranking_log_prob(ordered: Tensor) -> Tensor:
    """Log-probability (Plackett-Luce) of the ranking in which scores are given.

    Args:
        ordered: Scores from the best response to the worst, (..., n).

    Returns:
        (...), in nats.
    """
    tails = ordered.flip(-1).logcumsumexp(-1).flip(-1)
    return (ordered - tails).sum(-1)


def preference_divergence(
    student: Tensor, teacher: Tensor, *, student_temperature: float = 1.0, teacher_temperature: float = 1.0
) -> Tensor:
    """Jensen-Shannon divergence between the orderings of a student and of a teacher (PAD's PPD loss).

    JSD = 1/2 KL(P || M) + 1/2 KL(Q || M) with M = (P + Q) / 2, for each prompt on its own. The authors' code takes
    the mixture over the whole batch and as the first argument of KL; this is the textbook definition, which is
    0 with a gradient of 0 where student and teacher agree, and never above ln 2.

    Args:
        student: Scores, (B, n).
        teacher: Scores of the same responses, (B, n); no gradient flows into them.
        student_temperature: Divides the student's scores; above 0.
        teacher_temperature: Divides the teacher's; above 0.

    Returns:
        (B,) float64, 0 to ln 2.
    """
    p = plackett_luce_log_probs(student.double() / student_temperature)
    q = plackett_luce_log_probs(teacher.detach().double() / teacher_temperature)
    mixture = torch.logaddexp(p, q) - math.log(2)
    return (p.exp() * (p - mixture) + q.exp() * (q - mixture)).sum(-1) / 2


def list_mle(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Negative log-likelihood of the teacher's ranking under the student (ListMLE; PAD's VPD loss).

    Args:
        student: Scores, (B, n).
        teacher: Scores of the same responses, (B, n), of which only the order counts; of two equal ones
            the first ranks higher.
        temperature: Divides the student's scores; above 0.

    Returns:
        (B,) float64, 0 or more.
    """
    order = teacher.argsort(dim=-1, descending=True, stable=True)
    return -ranking_log_prob(student.double().gather(-1, order) / temperature)


def kendall_tau(first: Tensor, second: Tensor) -> Tensor:
    """Share of pairs ranked alike minus share ranked differently (Kendall's tau-a: a tie counts as neither).

    Args:
        first: Scores, (B, n).
        second: Scores of the same responses, (B, n).

    Returns:
        (B,) float64, -1 to 1.
    """
    signs = [(scores[:, :, None] - scores[:, None, :]).double().sign() for scores in (first, second)]
    n = first.shape[-1]
    return (signs[0] * signs[1]).sum((1, 2)) / (n * (n - 1))
