"""The reward-hacking monitor, fed log entries as the trainer writes them."""

import logging

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_icon2.trainers.monitor import (
    ADVICE,
    METRIC,
    PAPER_STEPS,
    RewardHackingMonitor,
    compare_with_paper,
    paper_accuracies,
)

# Straight from the paper's text: step -> figures of the two base models.
ICON2 = {50: (0.54, 0.56), 100: (0.71, 0.68), 150: (0.76, 0.75), 300: (0.81, 0.83), 600: (0.85, 0.86)}
OPPOSITE = {50: (0.83, 0.87), 100: (0.97, 0.97), 300: (0.98, 0.98), 600: (0.99, 0.99)}


@pytest.fixture
def arguments(tmp_path):
    return TrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, gradient_accumulation_steps=8, report_to="none"
    )


def feed(monitor, accuracies, arguments, *, max_steps=766, every=10):
    """Logs `accuracies(step)` every ten steps, among entries that the monitor has to pass over."""
    state = TrainerState(max_steps=max_steps, is_world_process_zero=True)
    monitor.on_train_begin(arguments, state, TrainerControl())
    for step in range(every, max_steps + 1, every):
        state.global_step = step
        for entry in (
            {"loss": 0.6, METRIC: accuracies(step), "step": step},
            {"eval_loss": 0.6, f"eval_{METRIC}": 1.0, "step": step},
        ):
            state.log_history.append(entry)
            monitor.on_log(arguments, state, TrainerControl(), logs=entry)
    return monitor


def stepwise(figures, index):
    """Accuracy of one base model: constant up to each figure's step, as coarse as the paper's own table."""
    return lambda step: next(
        (figures[at][index] for at in sorted(figures) if step <= at), figures[600][index]
    )


def test_paper_curves_pass_through_the_paper_s_figures():
    assert paper_accuracies(0.0) == (0.5, 0.5)
    assert paper_accuracies(50 / PAPER_STEPS) == pytest.approx((0.55, 0.85))
    assert paper_accuracies(300 / PAPER_STEPS) == pytest.approx((0.82, 0.98))
    assert paper_accuracies(1.0) == (0.855, 0.98)
    for step, (llama, qwen) in ICON2.items():
        assert min(llama, qwen) - 1e-9 <= paper_accuracies(step / PAPER_STEPS)[0] <= max(llama, qwen) + 1e-9


def test_curves_are_linear_between_figures():
    """Halfway between steps 150 (0.755) and 300 (0.82): 0.7875."""
    assert paper_accuracies(225 / PAPER_STEPS)[0] == pytest.approx(0.7875)


@pytest.mark.parametrize("base_model", [0, 1])
def test_the_paper_s_own_runs_do_not_warn(base_model, arguments, caplog):
    monitor = feed(RewardHackingMonitor(), stepwise(ICON2, base_model), arguments)
    assert not caplog.records and not monitor.warned
    assert monitor.latest.accuracy == pytest.approx(ICON2[600][base_model])
    assert "No sign of reward hacking" in monitor.summary()


@pytest.mark.parametrize("base_model", [0, 1])
def test_the_paper_s_reward_hacking_runs_warn_once_and_say_what_to_do(base_model, arguments, caplog):
    monitor = feed(RewardHackingMonitor(), stepwise(OPPOSITE, base_model), arguments)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name == "hf_icon2.trainers.monitor"
    assert "Possible reward hacking" in record.message and ADVICE in record.message
    outcome = monitor.outcome()
    assert outcome["warned"] and outcome["worst"]["accuracy"] > 0.8


def test_shares_not_steps_are_compared(arguments, caplog):
    """A run of a tenth of the paper's length that is as far at each share does not warn."""
    curve = stepwise(ICON2, 0)
    feed(RewardHackingMonitor(), lambda step: curve(10 * step), arguments, max_steps=77, every=1)
    assert not caplog.records


def test_comparison_by_hand():
    """Steps 301 to 600 of 1000 with 4 pairs each, logged twice: accuracy (0.9 + 0.8) / 2 over 1,200 pairs."""
    history = [{METRIC: 0.1, "step": 300}, {METRIC: 0.9, "step": 450}, {"x": 1}, {METRIC: 0.8, "step": 600}]
    found = compare_with_paper(history, max_steps=1000, batch_size=4, window=1200)
    assert (found.step, found.share, found.examples) == (600, 0.6, 1200)
    assert found.accuracy == pytest.approx(0.85)
    icon2 = (paper_accuracies(0.375)[0] + paper_accuracies(0.525)[0]) / 2
    assert (found.icon2, found.opposite) == pytest.approx((icon2, 0.98))
    assert found.excess == pytest.approx((0.85 - icon2) / (0.98 - icon2))


def test_too_few_examples_give_no_verdict(arguments, caplog):
    """Three steps of 128 pairs are fewer than 512; one lucky batch must not alarm anybody."""
    monitor = feed(RewardHackingMonitor(), lambda step: 1.0, arguments, max_steps=3, every=1)
    assert monitor.outcome() == {"warned": False, "latest": None, "worst": None}
    assert not caplog.records and "512" in monitor.summary()


def test_no_verdict_before_the_paper_s_first_figure():
    history = [{METRIC: 1.0, "step": 60}]
    assert compare_with_paper(history, max_steps=1000, batch_size=128, window=1) is None
    assert compare_with_paper([*history, {METRIC: 1.0, "step": 70}], max_steps=1000, batch_size=128, window=1)


def test_a_lower_tolerance_warns_earlier(arguments):
    """0.75 to 0.80 along the run: a third of the way at most, which only a strict monitor minds."""

    def run(step):
        icon2, opposite = paper_accuracies(step / 766)
        return icon2 + (opposite - icon2) / 3

    assert not feed(RewardHackingMonitor(), run, arguments).warned
    assert feed(RewardHackingMonitor(tolerance=0.2), run, arguments).warned
