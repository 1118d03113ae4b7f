"""Losses as functions of log-probabilities: no model, no trainer, no configuration; float32 throughout."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def implicit_reward(policy: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Reward of a completion as DPO sees it: r = beta * (log p - log p_ref), up to a constant per prompt.

    Args:
        policy: Completion log-probabilities in nats, summed over tokens; (B,).
        reference: The same under the frozen reference; (B,).
        beta: Inverse temperature; 0.01 to 0.5 is usual.

    Returns:
        Rewards in nats, (B,) float32.
    """
    return beta * (policy.float() - reference.float())


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    margin: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """DPO loss per pair (Rafailov et al. 2023, Eq. 7), with an optional margin and weight for each pair.

    With r the implicit reward, loss = -weight * log sigmoid(r_chosen - r_rejected - margin). The margin is by
    how much the chosen reward has to be ahead before a pair counts as even (the offset of ODPO, Amini et al.
    2024). The weight scales a pair's loss and gradient and is not normalised: a mean of 1 keeps what the
    learning rate means. The Icon2 paper has neither.

    Args:
        policy_chosen: Log-probabilities of the chosen completions in nats, summed over tokens; (B,).
        policy_rejected: The same of the rejected completions; (B,).
        reference_chosen: Chosen completions under the frozen reference; (B,).
        reference_rejected: Rejected completions under the frozen reference; (B,).
        beta: Inverse temperature of the implicit reward; 0.01 to 0.5 is usual.
        margin: In units of reward (nats after beta), (B,); None is 0.
        weight: Zero or more, (B,); None is 1.

    Returns:
        Loss per pair, (B,) float32. Equals ln 2 when policy and reference agree, without margin and weight.
    """
    chosen = implicit_reward(policy_chosen, reference_chosen, beta=beta)
    rejected = implicit_reward(policy_rejected, reference_rejected, beta=beta)
    advantage = chosen - rejected
    if margin is not None:
        advantage = advantage - margin.float()
    loss = -functional.logsigmoid(advantage)
    return loss if weight is None else loss * weight.float()
