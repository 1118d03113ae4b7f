"""Icon2DPOTrainer beside TRL's own, on a tiny Llama."""

import json
import math
import warnings

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, TrlParser

from hf_icon2.trainers.dpo import Icon2DPOConfig, Icon2DPOTrainer
from hf_icon2.trainers.losses import dpo_loss

LOSS = {"rtol": 0, "atol": 1e-6}  # one float32 rounding of a number near ln 2, or of a sum of a few


def pairs(number=8, **columns):
    """Pairs with the provenance that generated ones have, and further columns of one value each."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is number {index}?"}],
            "chosen": [{"role": "assistant", "content": f"It is {index}, of course."}],
            "rejected": [{"role": "assistant", "content": "No idea" + "!" * (index % 3)}],
            "id": f"row-{index}",
            "criterion": ("honesty", "helpfulness")[index % 2],
            "strength_chosen": 0.2,
            "strength_rejected": (-0.1, -0.3)[index // 2 % 2],
            "directions_sha256": "ab" * 32,
            "seed": index,
            "flags": ["identical"] if index == 3 else [],
            **columns,
        }
        for index in range(number)
    ]
    return Dataset.from_list(rows)


def lora():
    from peft import LoraConfig

    # Random weights on both sides: with the usual zeros on one, the adapter changes nothing at first.
    return LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )


def config(folder, kind=Icon2DPOConfig, **settings):
    return kind(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "max_length": 64,
            "disable_tqdm": True,
        }
        | settings
    )


@pytest.fixture
def trained(tiny_llama_dir, tiny_tokenizer, tmp_path):
    """Trains and returns the trainer; the model is read from its folder unless given."""

    def train(dataset, *, model=None, trainer=Icon2DPOTrainer, resume=None, peft_config=None, **settings):
        kind = Icon2DPOConfig if trainer is Icon2DPOTrainer else DPOConfig
        eval_dataset = settings.pop("eval_dataset", None)
        built = trainer(
            model=str(tiny_llama_dir) if model is None else model,
            args=config(settings.pop("folder", tmp_path / "run"), kind, **settings),
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=tiny_tokenizer,
            peft_config=peft_config,
        )
        built.train(resume_from_checkpoint=resume)
        return built

    return train


def logged(trainer, name="loss"):
    return torch.tensor([entry[name] for entry in trainer.state.log_history if name in entry])


KINDS = pytest.mark.parametrize(
    ("settings", "adapter"),
    [({}, False), ({"precompute_ref_log_probs": True}, False), ({}, True)],
    ids=["full", "precompute", "peft"],
)


@KINDS
def test_without_the_columns_losses_and_metrics_are_trl_s(trained, settings, adapter):
    runs = [
        trained(pairs(), trainer=kind, peft_config=lora() if adapter else None, **settings)
        for kind in (DPOTrainer, Icon2DPOTrainer)
    ]
    for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "entropy"):
        torch.testing.assert_close(logged(runs[1], name), logged(runs[0], name), **LOSS)


@KINDS
def test_weight_1_and_margin_0_change_nothing(trained, settings, adapter):
    runs = [
        trained(pairs(**columns), peft_config=lora() if adapter else None, **settings)
        for columns in ({}, {"weight": 1.0, "margin": 0.0})
    ]
    torch.testing.assert_close(logged(runs[1]), logged(runs[0]), **LOSS)
    torch.testing.assert_close(logged(runs[1], "rewards/margins"), logged(runs[0], "rewards/margins"), **LOSS)


@KINDS
def test_first_loss_with_weight_and_margin_by_hand(trained, settings, adapter):
    """Policy = reference, so the advantage is 0: -2 ln sigmoid(-0.5) = 2 ln(1 + e^0.5) = 2 * 0.97407698."""
    adapter = lora() if adapter else None
    if adapter is not None:
        adapter.init_lora_weights = True  # the adapter begins as the identity
    dataset = pairs(weight=2.0, margin=0.5)
    run = trained(dataset, peft_config=adapter, max_steps=1, **settings)
    assert logged(run).item() == pytest.approx(2 * 0.97407698, abs=1e-6)
    assert logged(run, "rewards/margins").item() == pytest.approx(0, abs=1e-6)


def test_first_loss_is_ln_2_and_loss_falls(trained):
    run = trained(pairs(), max_steps=8)
    losses = logged(run)
    assert losses[0].item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-2:].mean() < 0.5 * losses[0]


def test_losses_of_a_trained_model_agree_with_the_pure_function(trained, tiny_llama_dir, tiny_tokenizer):
    """TRL's loss, and ours with columns, from log-probabilities computed here without its fused head."""
    run = trained(pairs(4), max_steps=2)
    policy = run.model.eval()
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama_dir).eval()

    def logps(model, side):
        sums = []
        for row in pairs(4):
            start, whole = (
                tiny_tokenizer.apply_chat_template(
                    m, tokenize=True, return_dict=False, add_generation_prompt=add
                )
                for m, add in ((row["prompt"], True), (row["prompt"] + row[side], False))
            )
            with torch.no_grad():
                scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(scores[at - 1, whole[at]] for at in range(len(start), len(whole))))
        return torch.stack(sums)

    sides = [logps(model, side) for model in (policy, reference) for side in ("chosen", "rejected")]
    plain = run.evaluate(pairs(4))["eval_loss"]
    assert plain == pytest.approx(dpo_loss(*sides, beta=0.1).mean().item(), abs=1e-4)
    shaped = run.evaluate(pairs(4, weight=0.5, margin=3.0))["eval_loss"]
    expected = dpo_loss(*sides, beta=0.1, weight=torch.full((4,), 0.5), margin=torch.full((4,), 3.0))
    assert shaped == pytest.approx(expected.mean().item(), abs=1e-4)


def test_each_pair_keeps_its_own_weight(trained):
    """With weight 0 on four of eight pairs, the gradients are those of half the mean over the other four."""
    weights = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    some = trained(
        pairs().add_column("weight", weights), max_steps=1, per_device_train_batch_size=8, max_grad_norm=1e9
    )
    half = trained(pairs().select([0, 2, 4, 6]), max_steps=1, max_grad_norm=1e9)
    torch.testing.assert_close(logged(some, "grad_norm"), 0.5 * logged(half, "grad_norm"), rtol=1e-5, atol=0)
    twice = trained(pairs(weight=2.0).select([0, 2, 4, 6]), max_steps=1, max_grad_norm=1e9)
    torch.testing.assert_close(logged(twice, "grad_norm"), 2 * logged(half, "grad_norm"), rtol=1e-5, atol=0)


def test_accumulated_batches_give_the_loss_of_one_batch(trained):
    dataset = pairs(weight=1.5, margin=0.2)
    whole = trained(dataset, per_device_train_batch_size=8)
    parts = trained(dataset, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    torch.testing.assert_close(logged(parts), logged(whole), rtol=0, atol=2e-6)


def test_precomputed_references_serve_an_evaluation_with_columns(tiny_llama_dir, tiny_tokenizer, tmp_path):
    trainer = Icon2DPOTrainer(
        str(tiny_llama_dir),
        args=config(tmp_path / "run", precompute_ref_log_probs=True),
        train_dataset=pairs(),
        processing_class=tiny_tokenizer,
    )
    assert trainer.evaluate(pairs(weight=3.0))["eval_loss"] == pytest.approx(3 * math.log(2), abs=1e-5)


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(trained, tmp_path):
    dataset = pairs(16, weight=0.7)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine"}
    whole = trained(dataset, folder=tmp_path / "whole", **settings)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = trained(dataset, folder=tmp_path / "resumed", resume=str(checkpoint), **settings)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(logged(resumed), logged(whole), rtol=0, atol=0)


def test_model_built_in_memory_is_its_own_reference(trained, tiny_model):
    """TRL would try to load the reference from the empty name of such a model."""
    model = tiny_model("llama", num_hidden_layers=2)
    run = trained(pairs(), model=model, max_steps=4)
    losses = logged(run)
    assert losses[0].item() == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < losses[0]
    assert run.ref_model is not model and not run.ref_model.training
    untouched = tiny_model("llama", num_hidden_layers=2)
    for name, weight in untouched.state_dict().items():
        torch.testing.assert_close(run.ref_model.state_dict()[name], weight, rtol=0, atol=0)


def test_early_stopping_restores_the_best_checkpoint(trained, tmp_path):
    """Held-out pairs prefer the opposite of what is trained on, so every step makes them worse."""
    swapped = pairs().rename_columns({"chosen": "rejected", "rejected": "chosen"})
    run = trained(
        pairs(),
        eval_dataset=swapped,
        max_steps=20,
        eval_strategy="steps",
        eval_steps=1,
        early_stopping_patience=2,
    )
    assert run.state.global_step == 3 and run.state.best_global_step == 1
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    best = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1").state_dict()
    for name, weight in run.model.state_dict().items():
        torch.testing.assert_close(best[name], weight, rtol=0, atol=0)
    assert run.evaluate()["eval_loss"] == pytest.approx(run.state.best_metric, abs=1e-6)


def test_early_stopping_can_watch_reward_accuracy(trained):
    run = trained(
        pairs(),
        eval_dataset=pairs(4),
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        early_stopping_patience=1,
        metric_for_best_model="eval_rewards/accuracies",
    )
    assert run.state.best_metric == 1.0 and run.state.global_step < 20


def test_card_says_what_was_trained_on_what_and_how(trained, tmp_path):
    run = trained(pairs(weight=1.0), reward_hacking_window=4)
    run.create_model_card(model_name="tiny-icon2", dataset_name="someone/pairs", tags="honest")
    card = (tmp_path / "run" / "README.md").read_text()
    for line in (
        "# tiny-icon2",
        "| helpfulness | 4 | 0.2 | -0.3 to -0.1 |",
        "| honesty | 4 | 0.2 | -0.3 to -0.1 |",
        "8 pairs of [someone/pairs](https://huggingface.co/datasets/someone/pairs)",
        "Directions (SHA-256): `abababababababab`.",
        "| beta | 0.1 |",
        "| learning rate | 0.001, constant schedule, warm-up 0 |",
        "| steps | 3 of 3 |",
        "| per-pair columns | weight |",
        "reward hacking: train reward accuracy was",
        "author        = {Qiyuan Chen",
        "Jian Wu},\n    year          = 2025,\n    eprint        = {2509.05605}",
        "- icon2",
        "- honest",
    ):
        assert line in card, line
    assert str(tmp_path) not in card  # the base model is local: its folder's name only
    assert "base_model:" not in card


def test_card_of_a_base_model_on_the_hub_links_it(trained, tiny_model, tmp_path):
    model = tiny_model("llama", num_hidden_layers=1)
    model.config._name_or_path = "someone/base"
    run = trained(pairs(), model=model, precompute_ref_log_probs=True, max_steps=1)
    run.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "base_model: someone/base" in card and "(https://huggingface.co/someone/base)" in card
    assert "# run" in card and "best held-out metric | not tracked" in card


def test_monitor_reads_the_trainer_s_own_log(trained, caplog):
    """Random pairs that differ in every token are told apart within a few steps."""
    run = trained(pairs(), max_steps=8, learning_rate=3e-3, reward_hacking_window=8)
    assert run.monitor.warned and run.monitor.latest.step == 8
    assert sum("reward hacking" in record.message for record in caplog.records) == 1
    caplog.clear()
    silent = trained(
        pairs(), max_steps=8, learning_rate=3e-3, reward_hacking_window=8, monitor_reward_hacking=False
    )
    assert not silent.monitor.warned and not caplog.records


def test_defaults_are_the_paper_s_and_safe_without_a_gpu(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = Icon2DPOConfig(str(tmp_path), use_cpu=True)
    assert (args.beta, args.learning_rate, args.num_train_epochs) == (0.1, 5e-7, 1.0)
    assert args.lr_scheduler_type == "cosine" and args.get_warmup_steps(766) == 77
    assert not args.bf16 and not args.gradient_checkpointing


def test_settings_come_from_yaml_and_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: {tmp_path}\nbeta: 0.3\nuse_cpu: true\nreward_hacking_tolerance: 0.4\n")
    (args,) = TrlParser((Icon2DPOConfig,)).parse_args_and_config(
        [
            "--config",
            str(recipe),
            "--beta",
            "0.5",
            "--early_stopping_patience",
            "2",
            "--eval_strategy",
            "epoch",
        ]
    )
    assert (args.beta, args.reward_hacking_tolerance, args.early_stopping_patience) == (0.5, 0.4, 2)
    assert args.load_best_model_at_end and args.metric_for_best_model == "eval_loss"
    json.dumps(args.to_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping_patience": 3}, "eval_strategy is 'no'; set eval_strategy='steps'"),
        ({"early_stopping_patience": 0, "eval_strategy": "steps"}, "allowed: 1 or more evaluations"),
        ({"reward_hacking_tolerance": 1.5}, "reward_hacking_tolerance=1.5, allowed: above 0, at most 1"),
        ({"reward_hacking_window": 0}, "set monitor_reward_hacking=False"),
    ],
)
def test_bad_settings_get_a_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("dataset", "settings", "error", "message"),
    [
        (None, {}, TypeError, "train_dataset is a NoneType; give a datasets.Dataset"),
        (pairs().select([]), {}, ValueError, "train_dataset has no rows.*generate more instructions"),
        (
            pairs().remove_columns("rejected"),
            {},
            ValueError,
            r"lacks the column\(s\) rejected; it has chosen, crit",
        ),
        (
            pairs(weight=-1.0),
            {},
            ValueError,
            r"train_dataset\['weight'\] is -1.0 in row 0; allowed: .*0 or more",
        ),
        (
            pairs(margin=float("nan")),
            {},
            ValueError,
            r"\['margin'\] is nan in row 0; allowed: a finite number in",
        ),
        (pairs(weight=1.0), {"loss_type": "ipo"}, ValueError, r"loss_type=\['ipo'\].*dataset.remove_columns"),
        (
            pairs(),
            {"early_stopping_patience": 2, "eval_strategy": "steps"},
            ValueError,
            "needs held-out pairs, but eval_dataset is None; pass one",
        ),
    ],
    ids=["none", "empty", "column", "weight", "margin", "loss", "held-out"],
)
def test_bad_datasets_get_a_sentence(trained, dataset, settings, error, message):
    with pytest.raises(error, match=message):
        trained(dataset, **settings)


def test_bad_evaluation_sets_are_named(trained):
    with pytest.raises(ValueError, match=r"eval_dataset\['hard'\] has no rows"):
        trained(pairs(), eval_dataset={"easy": pairs(), "hard": pairs().select([])})


def test_other_configs_and_missing_tokenizers_get_a_sentence(tiny_model, tmp_path):
    with pytest.raises(TypeError, match="args is a DPOConfig; Icon2DPOTrainer takes an Icon2DPOConfig"):
        Icon2DPOTrainer("any", args=config(tmp_path, DPOConfig), train_dataset=pairs())
    with pytest.raises(ValueError, match="built in memory .* pass processing_class=tokenizer"):
        Icon2DPOTrainer(tiny_model("llama"), args=config(tmp_path), train_dataset=pairs())
