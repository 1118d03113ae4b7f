"""Plackett-Luce and the losses on it: hand arithmetic, brute force over permutations, finite differences."""

import itertools
import math

import pytest
import torch

from hf_icon2.trainers.rankings import (
    list_mle,
    plackett_luce_log_probs,
    preference_divergence,
    ranking_log_prob,
)


def scores(rows=5, n=4, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, n, generator=generator, dtype=torch.float64)


def brute_force(row):
    """Probabilities of all orderings of one prompt by drawing the best, then the best of the rest, ..."""
    weights = [math.exp(score) for score in row]
    result = []
    for order in itertools.permutations(range(len(row))):
        probability, left = 1.0, sum(weights)
        for index in order:
            probability *= weights[index] / left
            left -= weights[index]
        result.append(probability)
    return result


def brute_force_divergence(student, teacher):
    p, q = brute_force(student), brute_force(teacher)
    terms = [
        a / 2 * math.log(2 * a / (a + b)) + b / 2 * math.log(2 * b / (a + b))
        for a, b in zip(p, q, strict=True)
    ]
    return sum(terms)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orderings_equal_brute_force_and_sum_to_one(n):
    given = scores(n=n)
    found = plackett_luce_log_probs(given).exp()
    expected = torch.tensor([brute_force(row) for row in given.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64))


def test_a_ranking_by_hand():
    """Weights 3, 2, 1 in that order: 3/6 * 2/3 * 1/1 = 1/3."""
    ordered = torch.tensor([[math.log(3), math.log(2), 0.0]], dtype=torch.float64)
    assert ranking_log_prob(ordered).exp().item() == pytest.approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_divergence_equals_brute_force(n):
    student, teacher = scores(n=n), scores(n=n, seed=1)
    expected = [
        brute_force_divergence(*pair) for pair in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    found = preference_divergence(student, teacher)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_divergence_of_two_responses_is_that_of_two_coins():
    """Bradley-Terry: the first response wins with probability sigmoid(s1 - s2)."""
    student, teacher = scores(n=2), scores(n=2, seed=1)
    p, q = (torch.sigmoid(side[:, 0] - side[:, 1]) for side in (student, teacher))

    def entropy(x):
        return -(x * x.log() + (1 - x) * (1 - x).log())

    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    torch.testing.assert_close(preference_divergence(student, teacher), expected)


def test_the_divergence_is_zero_without_gradient_where_both_agree():
    teacher = scores()
    student = (teacher + 7.0).requires_grad_()  # a constant per prompt changes no ranking
    loss = preference_divergence(student, teacher)
    loss.sum().backward()
    assert loss.abs().max().item() < 1e-14
    assert student.grad.abs().max().item() < 1e-14


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_the_divergence_lies_between_zero_and_ln_2(scale):
    student, teacher = scores(64, scale=scale), scores(64, seed=1, scale=scale)
    loss = preference_divergence(student, teacher)
    assert torch.isfinite(loss).all()
    assert loss.min() >= 0
    assert loss.max() <= math.log(2) + 1e-12


@pytest.mark.parametrize("loss", [preference_divergence, list_mle])
def test_a_batch_is_its_prompts_one_by_one(loss):
    student, teacher = scores(), scores(seed=1)
    single = [loss(student[row : row + 1], teacher[row : row + 1]) for row in range(5)]
    torch.testing.assert_close(loss(student, teacher), torch.cat(single))


def test_gradients_equal_finite_differences():
    student, teacher = scores(3).requires_grad_(), scores(3, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: preference_divergence(x, teacher, student_temperature=0.5, teacher_temperature=2.0), student
    )
    assert torch.autograd.gradcheck(lambda x: list_mle(x, teacher, temperature=0.5), student)


def test_temperatures_divide_the_scores_of_their_own_side():
    student, teacher = scores(), scores(seed=1)
    found = preference_divergence(student, teacher, student_temperature=0.1, teacher_temperature=4.0)
    torch.testing.assert_close(found, preference_divergence(student * 10, teacher / 4))
    torch.testing.assert_close(list_mle(student, teacher, temperature=0.1), list_mle(student * 10, teacher))


def test_the_teacher_receives_no_gradient():
    student, teacher = scores().requires_grad_(), scores(seed=1).requires_grad_()
    preference_divergence(student, teacher).sum().backward()
    assert teacher.grad is None


def test_list_mle_by_hand():
    """The teacher ranks 2, 0, 1; the student's weights are 1, 2, 3: 3/6 * 1/3 = 1/6, so -ln(1/6) = ln 6."""
    student = torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float64)
    teacher = torch.tensor([[-1.0, -2.0, -0.5]])
    assert list_mle(student, teacher).item() == pytest.approx(math.log(6), abs=1e-12)


def test_list_mle_of_two_responses_is_bradley_terry():
    student, teacher = scores(n=2), scores(n=2, seed=1)
    gap = (student[:, 0] - student[:, 1]) * torch.sign(teacher[:, 0] - teacher[:, 1])
    torch.testing.assert_close(list_mle(student, teacher), -torch.nn.functional.logsigmoid(gap))


def test_half_precision_scores_are_computed_in_float64():
    student, teacher = scores().to(torch.bfloat16), scores(seed=1).to(torch.bfloat16)
    loss = preference_divergence(student, teacher)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, preference_divergence(student.double(), teacher.double()))


@pytest.mark.parametrize("n", [1, 9])
def test_too_few_or_too_many_responses_are_refused(n):
    with pytest.raises(ValueError, match=f"got {n} responses per prompt"):
        plackett_luce_log_probs(torch.zeros(1, n))
