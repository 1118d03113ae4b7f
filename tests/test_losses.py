"""The DPO loss against hand arithmetic, a second formulation and TRL's own."""

import math

import pytest
import torch

from hf_icon2.trainers.losses import dpo_loss, implicit_reward


def logps(seed=0, rows=16):
    """Four tensors (B,) of plausible summed log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(-40 + 10 * torch.randn(rows, generator=generator) for _ in range(4))


def test_loss_is_ln_2_when_policy_and_reference_agree():
    chosen, rejected, *_ = logps()
    torch.testing.assert_close(
        dpo_loss(chosen, rejected, chosen, rejected, beta=0.3), torch.full((16,), math.log(2))
    )


def test_loss_of_one_pair_by_hand():
    """Chosen gains 3 nats on the reference, rejected loses 2, beta 0.1.

    r_chosen = 0.1 * (-10 + 13) = 0.3, r_rejected = 0.1 * (-22 + 20) = -0.2, so the advantage is 0.5 and
    -ln(1 / (1 + e^-0.5)) = ln(1 + 0.60653066) = 0.47407698.
    """
    pair = (torch.tensor([value]) for value in (-10.0, -22.0, -13.0, -20.0))
    assert dpo_loss(*pair, beta=0.1).item() == pytest.approx(0.47407698, abs=1e-7)


def test_margin_and_weight_of_one_pair_by_hand():
    """The same pair with margin 0.8 and weight 2: 0.5 - 0.8 = -0.3, and 2 ln(1 + e^0.3) = 2 * 0.85435524."""
    pair = (torch.tensor([value]) for value in (-10.0, -22.0, -13.0, -20.0))
    loss = dpo_loss(*pair, beta=0.1, margin=torch.tensor([0.8]), weight=torch.tensor([2.0]))
    assert loss.item() == pytest.approx(2 * 0.85435524, abs=1e-6)


def test_loss_is_the_cross_entropy_of_choosing_between_two_rewards():
    """Bradley-Terry is a softmax over the two rewards: a second formulation, from another torch function."""
    chosen, rejected, reference_chosen, reference_rejected = logps(1)
    margin, weight = torch.rand(16), torch.rand(16)
    rewards = torch.stack(
        [
            implicit_reward(chosen, reference_chosen, beta=0.2) - margin,
            implicit_reward(rejected, reference_rejected, beta=0.2),
        ],
        dim=1,
    )
    expected = torch.nn.functional.cross_entropy(rewards, torch.zeros(16, dtype=torch.long), reduction="none")
    loss = dpo_loss(*logps(1), beta=0.2, margin=margin, weight=weight)
    torch.testing.assert_close(loss, weight * expected, rtol=1e-5, atol=1e-6)


def test_weight_scales_the_gradient_and_margin_does_not_touch_the_rewards():
    def gradient(**shape):
        chosen, *rest = logps(2)
        chosen.requires_grad_()
        dpo_loss(chosen, *rest, beta=0.1, **shape).sum().backward()
        return chosen.grad

    torch.testing.assert_close(gradient(weight=torch.full((16,), 2.0)), 2 * gradient())
    assert (
        gradient(margin=torch.ones(16)).abs() > gradient().abs()
    ).all()  # behind by more, so pushed harder


def test_half_precision_inputs_are_computed_in_float32():
    halves = [values.to(torch.bfloat16) for values in logps(3)]
    loss = dpo_loss(*halves, beta=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dpo_loss(*(half.float() for half in halves), beta=0.1), rtol=0, atol=0)


def test_batch_of_pairs_equals_pairs_one_by_one():
    batch = dpo_loss(*logps(4), beta=0.1)
    single = [dpo_loss(*(side[i : i + 1] for side in logps(4)), beta=0.1) for i in range(16)]
    torch.testing.assert_close(batch, torch.cat(single))
