"""Our metrics, loaded by the library evaluate from the package's files, offline."""

import subprocess
import sys

import pytest

from hf_icon2.evaluation.metrics import metric_path
from hf_icon2.evaluation.preferences import raw_win_rate

evaluate = pytest.importorskip("evaluate", reason="needs hf_icon2[evaluate]")


def test_the_raw_win_rate_is_loaded_and_equals_the_function():
    """(1 + 0 + 1/2 + 1)/4."""
    preferences = [1.0, 0.0, 0.5, 1.0]
    found = evaluate.load(metric_path("raw_win_rate")).compute(predictions=preferences)
    expected = raw_win_rate(preferences)
    assert found == {
        "raw_win_rate": pytest.approx(0.625),
        "raw_win_rate_low": expected.low,
        "raw_win_rate_high": expected.high,
        "raw_win_rate_standard_error": expected.standard_error,
    }


def test_the_length_controlled_win_rate_is_loaded_and_equals_the_function():
    """Longer answers win more often here; both ways must agree on by how much."""
    pytest.importorskip("sklearn", reason="needs hf_icon2[evaluate]")
    from hf_icon2.evaluation.length_control import length_controlled

    lengths = [100.0 + 17 * (n % 11) for n in range(60)]
    baseline = [150.0] * 60
    preferences = [float((n * 7) % 10 < 3 + 4 * (length > 150)) for n, length in enumerate(lengths)]
    metric = evaluate.load(metric_path("length_controlled_win_rate"))
    found = metric.compute(predictions=preferences, lengths=lengths, baseline_lengths=baseline, seed=1)
    expected = length_controlled(preferences, lengths, baseline, seed=1)
    assert found["length_controlled_win_rate"] == pytest.approx(expected.value, abs=1e-12)
    assert found["length_controlled_win_rate_low"] == pytest.approx(expected.low, abs=1e-12)
    assert found["length_controlled_win_rate_standard_error"] == pytest.approx(expected.standard_error)
    assert 0 < found["length_controlled_win_rate"] < 1


def test_the_arena_score_is_loaded_and_equals_the_function():
    """One model wins 3 of 4 games, a clear verdict among them weighing 3: (1 + 3 + 1)/(1 + 3 + 1 + 1) = 5/6."""
    from hf_icon2.evaluation.arena import Battle, arena_scores

    scores, weights, names = [1.0, 1.0, 1.0, 0.0], [1.0, 3.0, 1.0, 1.0], ["a", "b", "c", "d"]
    metric = evaluate.load(metric_path("arena_score"))
    metric.add_batch(predictions=scores, models=["ours"] * 4, questions=names)
    found = metric.compute(weights=weights, baseline="base", seed=2)
    battles = [Battle(name, "ours", *pair) for name, *pair in zip(names, scores, weights, strict=True)]
    expected = arena_scores(battles, "base", seed=2)["ours"]
    assert found["arena_score/ours"] == pytest.approx(5 / 6, abs=1e-6)
    assert found["arena_score/ours_low"] == pytest.approx(expected.low)
    assert found["arena_score/ours_high"] == pytest.approx(expected.high)


def test_batches_add_up_and_prompts_are_drawn_together():
    metric = evaluate.load(metric_path("raw_win_rate"))
    metric.add_batch(predictions=[1.0, 1.0])
    metric.add_batch(predictions=[0.0, 0.0])
    metric.add(predictions=0.5)
    found = metric.compute(prompts=["a", "a", "b", "b", "c"], seed=3)
    expected = raw_win_rate([1, 1, 0, 0, 0.5], prompts=["a", "a", "b", "b", "c"], seed=3)
    assert found["raw_win_rate"] == pytest.approx(0.5)
    assert (found["raw_win_rate_low"], found["raw_win_rate_high"]) == (expected.low, expected.high)


def test_metrics_combine_with_others(tmp_path):
    """Of ours and of anybody's: here a script with the mean of the same column."""
    script = tmp_path / "total" / "total.py"
    script.parent.mkdir()
    script.write_text(
        "import datasets\nimport evaluate\n\n\nclass Total(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        features = datasets.Features({'predictions': datasets.Value('float64')})\n"
        "        return evaluate.MetricInfo(\n"
        "            description='', citation='', inputs_description='', features=features\n        )\n\n"
        "    def _compute(self, predictions):\n        return {'total': sum(predictions)}\n"
    )
    both = evaluate.combine([metric_path("raw_win_rate"), str(script)])
    both.add_batch(predictions=[1.0, 0.0, 1.0])
    found = both.compute()
    assert found["raw_win_rate"] == pytest.approx(2 / 3)
    assert found["total"] == 2.0


def test_a_preference_of_another_scale_is_refused():
    with pytest.raises(ValueError, match="a preference is 2; allowed: 0 to 1"):
        evaluate.load(metric_path("raw_win_rate")).compute(predictions=[2.0])


def test_an_unknown_metric_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="there is no metric 'bleu'; allowed: .*raw_win_rate"):
        metric_path("bleu")


def test_to_name_a_metric_loads_no_evaluate():
    program = (
        "import sys\nfrom hf_icon2.evaluation.metrics import metric_path\nmetric_path('raw_win_rate')\n"
        "print([name for name in ('evaluate', 'datasets', 'torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
