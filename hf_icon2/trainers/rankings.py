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

PRO_GAPS = ("ranks", "scores", "unit")


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

    Each response is drawn from itself and those the teacher ranks below it (Plackett-Luce). Equal scores are no
    order, so such responses are not drawn from one another: ties push nothing, however the rows are sorted.

    Args:
        student: Scores, (B, n).
        teacher: Scores of the same responses, (B, n), of which only the order counts.
        temperature: Divides the student's scores; above 0.

    Returns:
        (B,) float64, 0 or more.
    """
    return pro(student, teacher, gaps="unit", temperature=temperature)


def pro(student: Tensor, teacher: Tensor, *, gaps: str = "ranks", temperature: float = 1.0) -> Tensor:
    """Preference Ranking Optimization (arXiv 2306.17492), as in its authors' code.

    The sum over k of  -log[ exp(T_k p_k) / (exp(T_k p_k) + sum_i exp(g_ki p_i)) ]  over the responses i that the
    teacher ranks below k, with gaps g_ki = r_k - r_i and T_k = max_i g_ki. Gaps weigh log-probabilities themselves
    and not their differences, so that unlike the other losses this one changes when a constant is added to all.

    In the authors' code an equal response i stands below k or not as the sort has it, and adds exp(0) = 1 to
    the sum, which no training can lower. Here it is left out: ties push nothing.

    Args:
        student: Mean log-probabilities per token p, (B, n).
        teacher: Scores of the same responses, (B, n).
        gaps: "scores": differences of the teacher's scores; "ranks": of their ranks, equal ones sharing the mean;
            "unit": 1, and T_k = 1, which is ListMLE.
        temperature: Divides the student's scores; above 0.

    Returns:
        (B,) float64, 0 or more.

    Raises:
        ValueError: For another kind of gaps.
    """
    if gaps not in PRO_GAPS:
        raise ValueError(f"gaps={gaps!r}; allowed: {', '.join(map(repr, PRO_GAPS))}")
    own, theirs = student.double() / temperature, teacher.detach().double()
    distances = _differences(theirs)
    if gaps == "ranks":
        distances = _differences(distances.sign().sum(-1) / 2)  # worse minus better ones: 2 per rank
    elif gaps == "unit":
        distances = distances.sign()
    chosen = distances.amax(-1) * own
    rivals = (distances * own[:, None, :]).masked_fill(distances <= 0, -math.inf)
    return (torch.cat([chosen[..., None], rivals], -1).logsumexp(-1) - chosen).sum(-1)


def rrhf(student: Tensor, teacher: Tensor) -> Tensor:
    """Ranking loss of RRHF (arXiv 2304.05302): sum of max(0, p_i - p_k) over the pairs with i ranked below k.

    No margin: a pair in the teacher's order contributes nothing, and neither do equal scores.

    Args:
        student: Mean log-probabilities per token p, (B, n).
        teacher: Scores of the same responses, (B, n), of which only the order counts.

    Returns:
        (B,) float64, 0 or more.
    """
    violations = -_differences(student.double())
    return violations.relu().masked_fill(_differences(teacher.detach()) <= 0, 0).sum((1, 2))


def best_nll(student: Tensor, teacher: Tensor) -> Tensor:
    """Negative log-likelihood per token of the teacher's best response, or the mean over several equally good.

    Args:
        student: Mean log-probabilities per token, (B, n).
        teacher: Scores of the same responses, (B, n).

    Returns:
        (B,) float64, 0 or more; 0 where all scores are equal, which calls none of the responses good.
    """
    best = teacher == teacher.amax(-1, keepdim=True)
    weights = (best / best.sum(-1, keepdim=True)).masked_fill(best.all(-1, keepdim=True), 0)
    return -(student.double() * weights).sum(-1)


def _differences(scores: Tensor) -> Tensor:
    """scores[b, k] - scores[b, i] at [b, k, i]; (B, n, n)."""
    return scores[:, :, None] - scores[:, None, :]


def kendall_tau(first: Tensor, second: Tensor) -> Tensor:
    """Share of pairs ranked alike minus share ranked differently (Kendall's tau-a: a tie counts as neither).

    Args:
        first: Scores, (B, n).
        second: Scores of the same responses, (B, n).

    Returns:
        (B,) float64, -1 to 1.
    """
    signs = [_differences(scores.double()).sign() for scores in (first, second)]
    n = first.shape[-1]
    return (signs[0] * signs[1]).sum((1, 2)) / (n * (n - 1))
