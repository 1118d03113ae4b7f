"""Agreement of two rankings: against brute force over all subsequences, and by hand."""

import itertools
import random

import pytest

from hf_icon2.distillation.agreement import agreement, longest_common


def is_common(chain, first, second):
    """Whether both rankings put each answer of a chain strictly before the next."""
    return all(
        first[better] > first[worse] and second[better] > second[worse]
        for better, worse in itertools.pairwise(chain)
    )


def longest_by_brute_force(first, second):
    """Length of the longest common sequence, all ordered choices of answers tried."""
    return max(
        size
        for size in range(len(first) + 1)
        for chain in itertools.permutations(range(len(first)), size)
        if is_common(chain, first, second)
    )


def test_the_longest_common_subsequence_of_every_two_permutations_of_four():
    for first in itertools.permutations(range(4)):
        for second in itertools.permutations(range(4)):
            found = longest_common(first, second)
            assert is_common(found, first, second)
            assert len(found) == longest_by_brute_force(first, second)


def test_answers_that_one_ranking_does_not_tell_apart_are_never_together_in_it():
    draw = random.Random(0)
    for _ in range(200):
        first, second = ([draw.randrange(3) / 2 for _ in range(5)] for _ in "ab")
        found = longest_common(first, second)
        assert is_common(found, first, second)
        assert len(found) == longest_by_brute_force(first, second)


def test_an_agreement_by_hand():
    """First ranking a b c d, second a c b d with steps of 0.5, 0.25 and 1.

    Only b and c are swapped: 5 of 6 pairs alike, tau = (5 - 1) / 6. The longest common sequences are a b d and a c d;
    both begin with a, and b stands higher in the first ranking. Its steps in the second are 0.75 and 1.
    """
    found = agreement([4, 3, 2, 1], [1.75, 1.0, 1.25, 0.0])
    assert found.tau == pytest.approx(4 / 6)
    assert found.common == (0, 1, 3)
    assert found.margin == 0.75


def test_opposite_rankings_have_one_answer_in_common_and_no_margin():
    found = agreement([3, 2, 1], [1, 2, 3])
    assert (found.tau, len(found.common), found.margin) == (-1.0, 1, 0.0)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_rankings_of_different_or_too_few_answers_are_refused(first, second):
    with pytest.raises(ValueError, match="two rankings of the same 2 or more answers are compared"):
        agreement(first, second)
