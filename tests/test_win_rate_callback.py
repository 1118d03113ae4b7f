"""The win rate during training: it rises where answers get better, and watching changes nothing."""

import copy
import json
import random
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from faulty_server import FaultyServer
from transformers import (
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForSequenceClassification,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hf_icon2 import (
    Icon2DPOConfig,
    Icon2DPOTrainer,
    PADConfig,
    PADTrainer,
    PairwiseJudge,
    RewardJudge,
    RewardModel,
    make_steerable,
    steer,
)
from hf_icon2.steering.decoding import Sampling
from hf_icon2.toy import instructions, reward
from hf_icon2.toy.answers import Behaviours, answer
from hf_icon2.trainers.win_rate_callback import REFERENCE_FILE, WinRateCallback
from hf_icon2.trainers.win_rate_points import WinRatePoint, hacking_signs
from tests.training import settings_for

PROMPTS = ["What is number 9?", "What is the sky?", [{"role": "user", "content": "Tell me."}]]
SHORT = Sampling(max_new_tokens=6, temperature=1.0)
BY_LETTERS = RewardJudge(
    lambda prompts, answers: [float(text.count("e") - text.count("o")) for text in answers]
)
TRUTH = RewardJudge(lambda prompts, answers: [reward(*both) for both in zip(prompts, answers, strict=True)])


def pairs(number=8):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"What is number {index}?"}],
                "chosen": [{"role": "assistant", "content": f"It is {index}, of course."}],
                "rejected": [{"role": "assistant", "content": "No idea" + "!" * (index % 3)}],
            }
            for index in range(number)
        ]
    )


def settings(folder, kind=Icon2DPOConfig, **changes):
    plain = {"bf16": False, "gradient_checkpointing": False, "max_length": 64, "max_steps": 4, "seed": 3}
    return kind(**settings_for(folder, **plain | changes))


@pytest.fixture
def watched(tiny_llama_dir, tiny_tokenizer, tmp_path):
    """A trainer of a tiny model and its callback, not yet trained."""

    def build(
        folder="run", *, trainer=Icon2DPOTrainer, config=Icon2DPOConfig, every=2, judge=BY_LETTERS, **changes
    ):
        lora, reference = changes.pop("lora", None), changes.pop("reference", None)
        prompts = changes.pop("prompts", PROMPTS)
        held_out = pairs(2) if "eval_strategy" in changes else None
        built = trainer(
            model=str(tiny_llama_dir),
            args=settings(tmp_path / folder, config, **changes),
            train_dataset=pairs(),
            eval_dataset=held_out,
            processing_class=tiny_tokenizer,
            peft_config=lora,
        )
        callback = WinRateCallback(
            judge, prompts, built, every=every, sampling=SHORT, samples=2, reference=reference
        )
        built.add_callback(callback)
        return built, callback

    return build


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.5)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_rises_where_training_makes_answers_better(toy, tmp_path):
    """Good answers against bad ones of the little world, by its truth table, on prompts that are not trained on."""
    rng = random.Random(0)
    bad = Behaviours(honesty=False, harmlessness=False, helpfulness=False)
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": item.text}],
                "chosen": [{"role": "assistant", "content": answer(item, Behaviours(), rng)}],
                "rejected": [{"role": "assistant", "content": answer(item, bad, rng)}],
            }
            for item in rng.sample(instructions("train"), 64)
        ]
    )
    args = settings(tmp_path, DPOConfig, max_steps=12, learning_rate=3e-4, per_device_train_batch_size=8)
    model = copy.deepcopy(toy[0])
    trainer = DPOTrainer(model, copy.deepcopy(toy[0]), args=args, train_dataset=rows, processing_class=toy[1])
    held_out = [item.text for item in rng.sample(instructions("test"), 24)]
    callback = WinRateCallback(TRUTH, held_out, trainer, every=6, sampling=Sampling(48, 1.0))
    trainer.add_callback(callback)
    trainer.train()
    before, _, after = callback.history
    assert (before.step, before.win_rate, before.train_accuracy) == (0, 0.5, None)
    assert after.step == 12
    assert after.win_rate > after.low > 0.5
    assert after.train_accuracy > 0.9  # of steps 7 to 12, not of a log before
    assert json.loads(json.dumps(callback.figures()))[2]["win_rate"] == after.win_rate
    assert callback.summary().startswith(f"After 12 steps the policy wins {after.win_rate:.2f} [")


@pytest.mark.parametrize("adapter", [False, True])
def test_a_training_ends_the_same_with_and_without_it(watched, adapter):
    """Weights and losses to the last bit, dropout included; modules are in the mode they were in."""
    runs = []
    for watching in (False, True):
        trainer, callback = watched(f"{watching}", lora=lora() if adapter else None)
        if not watching:
            trainer.remove_callback(callback)
        trainer.train()
        runs.append(
            (weights(trainer), losses(trainer), [module.training for module in trainer.model.modules()])
        )
    for name, value in runs[0][0].items():
        torch.testing.assert_close(runs[1][0][name], value, rtol=0, atol=0)
    assert runs[1][1:] == runs[0][1:]
    assert [point.step for point in callback.history] == [0, 2, 4]
    assert callback.history[0].win_rate == 0.5


def test_trl_s_own_figures_are_logged_as_without_it(watched):
    """Its log averages what was noted since the last one; a log between would take from it."""
    kept = []
    for watching in (False, True):
        trainer, callback = watched(f"{watching}", every=1, logging_steps=2)
        if not watching:
            trainer.remove_callback(callback)
        trainer.train()
        kept.append(
            [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
        )
    assert kept[0] == kept[1] and len(kept[0]) == 2


class Spy(TrainerCallback):
    """What an integration such as TensorBoard's sees."""

    def __init__(self):
        self.seen, self.metrics = [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append({**logs, "step": state.global_step})

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.metrics.append(dict(metrics))


def test_evaluations_carry_it_for_the_best_model_and_early_stopping(watched):
    """A judge for whom longer answers are always worse: the reference is empty, so the policy never wins."""
    spy = Spy()
    shorter = RewardJudge(lambda prompts, answers: [-len(text) for text in answers])
    trainer, callback = watched(
        every=None, judge=shorter, reference=[""] * len(PROMPTS), eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True, metric_for_best_model="win_rate",
        greater_is_better=True, max_steps=8,
    )  # fmt: skip
    trainer.add_callback(spy)
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.train()
    assert trainer.state.global_step == 3  # the best at step 1, then twice no better
    assert trainer.state.best_metric == 0.0
    assert [point.step for point in callback.history] == [0, 1, 2, 3]
    assert all(point.win_rate == 0.0 for point in callback.history)
    assert [metrics["eval_win_rate"] for metrics in spy.metrics] == [0.0] * 3
    logged = [entry for entry in spy.seen if "eval_win_rate" in entry]
    assert [entry["step"] for entry in logged] == [0, 1, 2, 3]
    assert logged[1]["eval_win_rate_reference_length"] == 0.0
    before = len(callback.history)
    trainer.evaluate()
    assert len(callback.history) == before


def test_without_evaluations_it_must_be_told_when(watched):
    trainer, _ = watched(every=None)
    with pytest.raises(ValueError, match="eval_strategy is 'no'; set it, or every=... steps"):
        trainer.train()


def test_an_interrupted_training_goes_on_with_its_reference_and_history(watched, tmp_path):
    whole, one = watched("whole", save_strategy="steps", save_steps=2)
    whole.train()
    again, other = watched("whole", save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert [point.step for point in other.history] == [0, 2, 4]
    assert [point.win_rate for point in other.history] == [point.win_rate for point in one.history]
    assert other.history[-1] == one.history[-1]

    changed, callback = watched("whole", save_strategy="steps", save_steps=2)
    callback.seed = 9
    with pytest.raises(ValueError, match="holds answers made with other seed"):
        changed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    (tmp_path / "whole" / REFERENCE_FILE).unlink()
    lost, _ = watched("whole", save_strategy="steps", save_steps=2)
    with pytest.raises(FileNotFoundError, match="pass reference=..., one answer per prompt"):
        lost.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))


def test_the_reference_is_the_model_as_it_was_not_as_it_is(watched, tmp_path):
    trainer, callback = watched(learning_rate=0.05)
    trainer.train()
    answers = json.loads((tmp_path / "run" / REFERENCE_FILE).read_text())["answers"]
    assert len(answers) == 2 * len(PROMPTS)
    assert callback._answers() != answers


def test_sft_and_ranked_trainers_have_no_reward_accuracy(tiny_llama, tiny_tokenizer, tmp_path):
    texts = Dataset.from_list([{"messages": [*row["prompt"], *row["chosen"]]} for row in pairs()])
    ranked = Dataset.from_list([{"prompt": "Why?", "responses": ["a.", "b."], "scores": [1.0, 0.0]}] * 4)
    sft = SFTTrainer(
        copy.deepcopy(tiny_llama), args=settings(tmp_path / "sft", SFTConfig, max_steps=2), train_dataset=texts,
        processing_class=tiny_tokenizer,
    )  # fmt: skip
    pad = PADTrainer(
        copy.deepcopy(tiny_llama), args=settings(tmp_path / "pad", PADConfig, max_steps=2), train_dataset=ranked,
        processing_class=tiny_tokenizer,
    )  # fmt: skip
    for trainer in (sft, pad):
        callback = WinRateCallback(BY_LETTERS, PROMPTS, trainer, every=2, sampling=SHORT)
        trainer.add_callback(callback)
        trainer.train()
        assert [(point.step, point.train_accuracy) for point in callback.history] == [(0, None), (2, None)]


def test_steering_around_the_training_does_not_reach_the_answers(watched, tiny_llama, random_directions):
    trainer, callback = watched()
    directions = random_directions(tiny_llama)
    plain = callback._answers()
    make_steerable(trainer.model, directions)
    with steer(trainer.model, directions, {"honesty": 3.0}):
        assert callback._answers() == plain


POINT = WinRatePoint(0, 0.5, 0.45, 0.55, 10.0, 10.0, 0.0, 0.0, 0.0)


def test_falling_win_rates_with_rising_accuracy_are_called_out():
    good = replace(POINT, step=10, win_rate=0.7, low=0.6, high=0.8, train_accuracy=0.7)
    fallen = replace(POINT, step=20, win_rate=0.55, low=0.45, high=0.65, train_accuracy=0.9)
    assert "has fallen since step 10 while accuracy has not" in hacking_signs([POINT, good, fallen])[0]
    assert not hacking_signs([POINT, good, replace(fallen, high=0.75)])  # may be chance
    assert not hacking_signs(
        [POINT, good, replace(fallen, train_accuracy=0.6)]
    )  # the training as a whole got worse
    assert not hacking_signs([POINT, good])


def test_accuracy_near_1_without_better_answers_is_called_out():
    flat = replace(POINT, step=20, train_accuracy=0.98)
    assert "told apart almost always" in hacking_signs([POINT, flat])[0]
    assert not hacking_signs([POINT, replace(flat, win_rate=0.6, low=0.52, high=0.68)])
    assert not hacking_signs([POINT, replace(flat, train_accuracy=None)])


def test_a_win_rate_of_no_verdict_is_no_number_and_no_sign(watched):
    nothing = RewardJudge(lambda prompts, answers: [float("nan")] * len(answers))
    trainer, callback = watched(judge=nothing)
    trainer.train()
    assert callback.figures()[-1]["win_rate"] is None
    assert callback.figures()[-1]["failed"] == 1.0
    assert "without a verdict" in callback.summary() or "no verdict" in callback.summary()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompts": []}, "there are no prompts"),
        ({"reference": ["one"]}, "not one answer to each of 3 prompts"),
        ({"every": 0}, "every=0 is too small"),
        ({"samples": 0}, "samples=0 is too small"),
    ],
)
def test_what_cannot_be_reported_is_refused(watched, change, match):
    trainer, _ = watched()
    with pytest.raises(ValueError, match=match):
        WinRateCallback(BY_LETTERS, change.pop("prompts", PROMPTS), trainer, **change)


@pytest.mark.parametrize("every", [None, 2])
def test_an_evaluation_before_the_first_step_is_the_first_point(watched, every):
    trainer, callback = watched(every=every, eval_strategy="steps", eval_steps=2, eval_on_start=True)
    trainer.train()
    assert [point.step for point in callback.history] == [0, 2, 4]
    assert callback.history[0].win_rate == 0.5


def test_a_training_that_would_report_nothing_is_refused(watched):
    trainer, _ = watched(every=5)
    with pytest.raises(ValueError, match="every=5 is more than the 4 steps of the training"):
        trainer.train()


def test_a_callback_made_for_another_trainer_is_refused(watched):
    _, callback = watched("one")
    other, _ = watched("other")
    other.add_callback(callback)
    with pytest.raises(ValueError, match="was made for another trainer"):
        other.train()


def test_conversations_in_tuples_are_the_same_prompts_when_training_is_taken_up(watched, tmp_path):
    folder = tmp_path / "run" / "checkpoint-2"
    for checkpoint in (None, str(folder)):
        trainer, callback = watched(save_strategy="steps", save_steps=2)
        callback.sampling = replace(SHORT)
        callback.prompts = [*PROMPTS[:2], [dict(PROMPTS[2][0], parts=("a",))]]
        trainer.train(resume_from_checkpoint=checkpoint)
    assert [point.step for point in callback.history] == [0, 2, 4]


def test_a_chat_judge_that_looks_at_seats_is_called_out(watched):
    """It always says A, over real HTTP: every verdict that could tell the answers apart contradicts itself."""
    with FaultyServer(lambda payload: "A") as server:
        judge = PairwiseJudge.from_endpoint(server.url, "judge")
        prompts = [f"What is number {number}?" for number in range(12)]
        trainer, callback = watched(judge=judge, prompts=prompts, learning_rate=0.05, max_steps=2)
        trainer.train()
    last = callback.history[-1]
    assert (last.win_rate, last.flips) == (0.5, 1.0)
    assert any("judges seats, not answers" in text for text in last.warnings), last.warnings


def test_a_chat_judge_sees_what_a_rule_sees(watched):
    """The chat model, over real HTTP, counts the letter e, and says A in both orders where the counts are equal."""

    def more_of_e(payload):
        first, _, second = payload["messages"][-1]["content"].partition(" | ")
        return "A" if first.count("e") >= second.count("e") else "B"

    points = {}
    with FaultyServer(more_of_e) as server:
        chat = PairwiseJudge.from_endpoint(server.url, "judge", ask=lambda question, a, b: f"{a} | {b}")
        rule = RewardJudge(lambda prompts, answers: [float(text.count("e")) for text in answers])
        for name, judge in {"chat": chat, "rule": rule}.items():
            trainer, callback = watched(name, judge=judge, learning_rate=0.01)
            trainer.train()
            points[name] = [(point.step, point.win_rate, point.length) for point in callback.history]
    assert points["chat"] == points["rule"] and len(points["chat"]) == 3
    assert any(rate != 0.5 for _, rate, _ in points["chat"])


def test_a_reward_model_judges_during_training(watched, tiny_tokenizer):
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=tiny_tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    judge = RewardModel(LlamaForSequenceClassification(config).eval(), tiny_tokenizer)
    trainer, callback = watched(judge=judge, learning_rate=0.05)
    trainer.train()
    assert callback.history[0].win_rate == 0.5 and callback.history[-1].win_rate != 0.5
    assert all(point.flips == 0 or point.flips != point.flips for point in callback.history)
