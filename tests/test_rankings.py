"""Plackett-Luce and the losses on it: hand arithmetic, brute force over permutations, finite differences."""

import functools
import itertools
import math

import pytest
import torch

from hf_icon2.trainers.rankings import (
    PRO_GAPS,
    best_nll,
    list_mle,
    plackett_luce_log_probs,
    preference_divergence,
    pro,
    ranking_log_prob,
    rrhf,
)

RANKING_LOSSES = {
    "rrhf": rrhf,
    "listmle": list_mle,
    "best": best_nll,
    **{f"pro-{gaps}": functools.partial(pro, gaps=gaps) for gaps in PRO_GAPS},
}
ranking_losses = pytest.mark.parametrize("loss", RANKING_LOSSES.values(), ids=RANKING_LOSSES)


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


@pytest.mark.parametrize("loss", [preference_divergence, *RANKING_LOSSES.values()])
def test_a_batch_is_its_prompts_one_by_one(loss):
    student, teacher = scores(), scores(seed=1)
    single = [loss(student[row : row + 1], teacher[row : row + 1]) for row in range(5)]
    torch.testing.assert_close(loss(student, teacher), torch.cat(single))


def test_gradients_equal_finite_differences():
    student, teacher = scores(3).requires_grad_(), scores(3, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: preference_divergence(x, teacher, student_temperature=0.5, teacher_temperature=2.0), student
    )


def test_temperatures_divide_the_scores_of_their_own_side():
    student, teacher = scores(), scores(seed=1)
    found = preference_divergence(student, teacher, student_temperature=0.1, teacher_temperature=4.0)
    torch.testing.assert_close(found, preference_divergence(student * 10, teacher / 4))
    for loss in (list_mle, pro):
        torch.testing.assert_close(loss(student, teacher, temperature=0.1), loss(student * 10, teacher))


def test_the_teacher_receives_no_gradient():
    student, teacher = scores().requires_grad_(), scores(seed=1).requires_grad_()
    for loss in (preference_divergence, *RANKING_LOSSES.values()):
        loss(student, teacher).sum().backward()
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


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_list_mle_is_the_likelihood_of_the_sorted_scores(n):
    """Sorted by the teacher and drawn without replacement (Plackett-Luce)."""
    student, teacher = scores(n=n), scores(n=n, seed=1)
    ordered = student.gather(-1, teacher.argsort(-1, descending=True))
    torch.testing.assert_close(list_mle(student, teacher), -ranking_log_prob(ordered))
    torch.testing.assert_close(pro(student, teacher, gaps="unit"), -ranking_log_prob(ordered))


def authors_pro(p, rewards):
    """PRO's sum in plain Python: sorted by reward, each response against all after it."""
    order = sorted(range(len(p)), key=lambda index: -rewards[index])
    total = 0.0
    for place, k in enumerate(order[:-1]):
        after = order[place + 1 :]
        temperature = max(rewards[k] - rewards[i] for i in after)
        chosen = math.exp(temperature * p[k])
        rivals = sum(math.exp((rewards[k] - rewards[i]) * p[i]) for i in after)
        total -= math.log(chosen / (chosen + rivals))
    return total


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_pro_equals_its_formula_in_plain_python(n):
    student, teacher = -scores(n=n).abs(), scores(n=n, seed=1)
    pairs = list(zip(student.tolist(), teacher.tolist(), strict=True))
    expected = [authors_pro(*pair) for pair in pairs]
    assert pro(student, teacher, gaps="scores").tolist() == pytest.approx(expected, abs=1e-12)
    expected = [authors_pro(p, [sorted(r).index(one) for one in r]) for p, r in pairs]
    assert pro(student, teacher).tolist() == pytest.approx(expected, abs=1e-12)


def test_pro_by_hand():
    """Scores 3, 1, 0 of log-probabilities -ln 2, -ln 4, -ln 8.

    First: T = 3, gaps 2 and 3: 2^-3 / (2^-3 + 4^-2 + 8^-3) = 64 / (64 + 32 + 1); second: T = 1, 4^-1 / (4^-1 + 8^-1)
    = 2/3; so ln(97/64) + ln(3/2). By ranks T = 2, gaps 1 and 2: 2^-2 / (2^-2 + 4^-1 + 8^-2) = 16/33.
    """
    student = -torch.tensor([[8.0, 2.0, 4.0]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.0, 3.0, 1.0]])
    second = math.log(3 / 2)
    assert pro(student, teacher, gaps="scores").item() == pytest.approx(math.log(97 / 64) + second, abs=1e-12)
    assert pro(student, teacher).item() == pytest.approx(math.log(33 / 16) + second, abs=1e-12)


def test_equal_scores_share_the_mean_of_their_ranks():
    """Of 5, 5, 1 the ranks are 1.5, 1.5 and 3: both gaps are 1.5."""
    student, teacher = -scores(n=3).abs(), torch.tensor([[5.0, 1.0, 5.0]]).expand(5, 3)
    shared = torch.tensor([[1.5, 0.0, 1.5]]).expand(5, 3)
    torch.testing.assert_close(pro(student, teacher), pro(student, shared, gaps="scores"))


def test_rrhf_by_hand():
    """The teacher ranks 1, 2, 0; the student says -3, -2, -1 in that order, which is short by 1, 2 and 1."""
    student, teacher = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[0.0, 9.0, 4.0]])
    assert rrhf(student, teacher).tolist() == [4.0]
    assert rrhf(-student, teacher).tolist() == [0.0]
    assert rrhf(student, torch.tensor([[0.0, 9.0, 9.0]])).tolist() == [3.0]


def test_rrhf_equals_a_double_loop():
    student, teacher = scores(n=6), scores(n=6, seed=1).round()
    expected = [
        sum(max(0.0, p[i] - p[j]) for i, j in itertools.permutations(range(6), 2) if r[i] < r[j])
        for p, r in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert rrhf(student, teacher).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("wrong", "temperature"), [(0.1, 1.0), (0.3, 1.0), (0.3, 0.1)])
def test_where_a_teacher_that_errs_leads_two_responses(wrong, temperature):
    """ListMLE rests where sigmoid(gap / T) = 1 - q, the gap T ln((1 - q) / q); RRHF's mean is q max(0, gap), rising."""
    rest = temperature * math.log((1 - wrong) / wrong)
    right, reverse = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])

    def slope(loss, gap):
        student = torch.tensor([[gap, 0.0]], dtype=torch.float64, requires_grad=True)
        ((1 - wrong) * loss(student, right) + wrong * loss(student, reverse)).backward()
        return student.grad[0, 0].item()

    sharp = functools.partial(list_mle, temperature=temperature)
    assert slope(sharp, rest) == pytest.approx(0, abs=1e-12)
    assert slope(sharp, 0.9 * rest) < 0 < slope(sharp, 1.1 * rest)
    assert slope(rrhf, 0.01) == slope(rrhf, rest) == pytest.approx(wrong)


def test_the_likelihood_of_the_best_by_hand():
    """One best; the mean over two; and none where nothing is told apart."""
    student = torch.tensor([[-1.0, -2.0, -4.0]]).expand(3, 3)
    teacher = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    assert best_nll(student, teacher).tolist() == [2.0, 2.5, 0.0]


@ranking_losses
def test_gradients_of_ranking_losses_equal_finite_differences(loss):
    student = (-scores(4).abs()).requires_grad_()
    teacher = torch.cat([scores(2, seed=1), torch.tensor([[2.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])])
    assert torch.autograd.gradcheck(lambda p: loss(p, teacher), student)


@ranking_losses
def test_the_order_in_which_responses_come_changes_nothing(loss):
    """Also not with equal scores, where a sort would rank by position."""
    student, teacher = -scores(n=5).abs(), scores(n=5, seed=1).round()
    assert any(len(set(row)) < 5 for row in teacher.tolist())
    for order in itertools.permutations(range(5)):
        found = loss(student[:, order], teacher[:, order])
        torch.testing.assert_close(found, loss(student, teacher), rtol=0, atol=1e-12)


@ranking_losses
def test_responses_that_are_all_equal_teach_nothing(loss):
    student = scores().requires_grad_()
    found = loss(student, torch.full((5, 4), 7.0))
    found.sum().backward()
    assert not found.any()
    assert not student.grad.any()


@pytest.mark.parametrize("loss", [rrhf, list_mle, pro])
def test_a_tie_is_the_sum_of_its_members_without_each_other(loss):
    """Scores 1, 1, 0: the loss is that of the first with the third, plus that of the second with the third."""
    student = -scores(n=3).abs()
    teacher = torch.tensor([[1.0, 1.0, 0.0]]).expand(5, 3)
    gaps = {"gaps": "scores"} if loss is pro else {}
    pairs = [loss(student[:, [one, 2]], teacher[:, [one, 2]], **gaps) for one in (0, 1)]
    torch.testing.assert_close(loss(student, teacher, **gaps), sum(pairs))


@ranking_losses
def test_ranking_losses_stay_finite_and_never_below_zero(loss):
    student = (-1e4 * scores(64).abs()).requires_grad_()
    found = loss(student, 1e4 * scores(64, seed=1))
    found.sum().backward()
    assert found.isfinite().all()
    assert found.min() >= 0
    assert student.grad.isfinite().all()


@ranking_losses
def test_ranking_losses_are_computed_in_float64(loss):
    student, teacher = -scores().abs().to(torch.bfloat16), scores(seed=1)
    found = loss(student, teacher)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, loss(student.double(), teacher), rtol=0, atol=0)


def test_unknown_gaps_are_refused():
    with pytest.raises(ValueError, match="gaps='rank'; allowed: 'ranks', 'scores', 'unit'"):
        pro(scores(), scores(), gaps="rank")


def test_half_precision_scores_are_computed_in_float64():
    student, teacher = scores().to(torch.bfloat16), scores(seed=1).to(torch.bfloat16)
    loss = preference_divergence(student, teacher)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, preference_divergence(student.double(), teacher.double()))


@pytest.mark.parametrize("n", [1, 9])
def test_too_few_or_too_many_responses_are_refused(n):
    with pytest.raises(ValueError, match=f"got {n} responses per prompt"):
        plackett_luce_log_probs(torch.zeros(1, n))
