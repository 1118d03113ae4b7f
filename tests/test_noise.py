"""The sampling noise against the distributions it must reproduce."""

import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from hf_icon2.steering.noise import gumbel_noise, row_seed

LOGITS = torch.tensor([2.0, 1.0, 1.0, 0.0, -1.0, -2.0, -5.0, -9.0])


def frequencies(choices: torch.Tensor) -> torch.Tensor:
    return torch.bincount(choices, minlength=len(LOGITS)) / len(choices)


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().sum() / 2)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 0.9), (1.0, 0.6)])
def test_argmax_of_warped_scores_plus_noise_has_the_warped_probabilities(
    temperature: float, top_p: float
) -> None:
    """Total variation <= 0.01 from softmax(warped); 200,000 draws leave about 0.002 of sampling error."""
    scores = LOGITS[None]
    if temperature != 1:
        scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    noise = gumbel_noise([row_seed(0, str(row)) for row in range(200_000)], 5, len(LOGITS))
    found = frequencies((scores + noise).argmax(-1))
    assert total_variation(found, scores[0].softmax(-1)) <= 0.01


def test_steps_of_one_row_are_as_independent_as_rows() -> None:
    """The same over 50,000 steps of a single seed, and neighbouring steps do not repeat each other's choice more
    often than chance: P(equal) = sum p^2."""
    choices = torch.cat(
        [(LOGITS + gumbel_noise([7], step, len(LOGITS))).argmax(-1) for step in range(50_000)]
    )
    target = LOGITS.softmax(-1)
    assert total_variation(frequencies(choices), target) <= 0.01
    repeats = float((choices[1:] == choices[:-1]).float().mean())
    assert repeats == pytest.approx(float((target**2).sum()), abs=0.01)


def test_noise_is_standard_gumbel() -> None:
    """Mean 0.5772 (Euler's constant), variance pi^2 / 6 = 1.6449."""
    noise = gumbel_noise([1, 2, 3, 4], 0, 250_000)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.005)
    assert float(noise.var()) == pytest.approx(1.6449, abs=0.02)


def test_noise_depends_on_seed_step_and_token_alone() -> None:
    alone = gumbel_noise([42], 3, 1000)
    among_others = gumbel_noise([7, 42, 9], 3, 2000)
    assert torch.equal(alone[0], among_others[1, :1000])
    assert not torch.equal(alone, gumbel_noise([42], 4, 1000))
    assert not torch.equal(alone, gumbel_noise([43], 3, 1000))


def test_noise_is_the_same_tomorrow() -> None:
    """Literal values: a change here changes every dataset made with a seed."""
    assert row_seed(0, "a") == 6841154156042874738
    assert gumbel_noise([12345], 6, 3)[0].tolist() == pytest.approx(
        [1.501371, -0.679056, -0.481939], abs=1e-4
    )


def test_rows_get_different_seeds() -> None:
    assert len({row_seed(run, str(row)) for run in range(10) for row in range(1000)}) == 10_000
