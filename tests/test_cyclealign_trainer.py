"""CycleAlign's trainer: its loss by hand from logits, its steps, what it logs, and what it refuses."""

import copy
import json
import math

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from training import settings_for

from hf_icon2 import CycleAlignConfig, CycleAlignTrainer
from hf_icon2.toy import grade, instructions, load_student
from hf_icon2.toy.answers import Behaviours, variants

ANSWERS = ("The sky is blue.", "Blue, and wide.", "I do not know that, so ask again.", "Wait.")
SCORES = ([0.0, 1.0, 2.0, 3.0], [2.5, 0.5, 2.5, 0.5], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 1.0, 3.0])
"""Distinct scores, two ties, nothing but a tie, and a tie for the best."""


def rows(count=4):
    """Prompts with responses of different lengths."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Question {row}?" + " Please." * row}],
                "responses": [[{"role": "assistant", "content": f"{row} {answer}"}] for answer in ANSWERS],
                "scores": SCORES[row % 4],
            }
            for row in range(count)
        ]
    )


def trainer(model, tokenizer, folder, data=None, *, eval_dataset=None, peft_config=None, **changes):
    return CycleAlignTrainer(
        copy.deepcopy(model),
        args=CycleAlignConfig(**settings_for(folder, **changes)),
        train_dataset=rows() if data is None else data,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def batch_of(run, *indices):
    return run.data_collator([run.train_dataset[index] for index in indices or range(len(run.train_dataset))])


def mean_log_probs(model, tokenizer, row):
    """Mean log-probability of each response by a plain log-softmax, one at a time."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
    values = []
    for response in row["responses"]:
        ids = tokenizer.apply_chat_template(row["prompt"] + response, return_dict=True)["input_ids"]
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        own = range(len(prompt["input_ids"]), len(ids))
        values.append(sum(logps[at - 1, ids[at]] for at in own) / len(own))
    return values


def by_hand(loss_type, p, scores):
    """The three ranking losses over pairs of one row, word by word."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(4):
        below = [i for i in range(4) if scores[i] < scores[k]]
        if loss_type == "rrhf":
            total = total + sum(max(p[i] - p[k], 0 * p[k]) for i in below)
        elif below:
            gap = {i: scores[k] - scores[i] if loss_type == "pro" else 1.0 for i in below}
            chosen = (max(gap.values()) * p[k]).exp()
            total = total - (chosen / (chosen + sum((gap[i] * p[i]).exp() for i in below))).log()
    return total


def sft_by_hand(p, scores):
    best = [p[k] for k in range(4) if scores[k] == max(scores)]
    return torch.zeros(()) if len(best) == 4 else -sum(best) / len(best)


@pytest.mark.parametrize("loss_type", ["rrhf", "pro", "listmle"])
def test_loss_and_gradient_are_those_by_hand_from_an_untouched_copy(
    tiny_llama, tiny_tokenizer, tmp_path, loss_type
):
    data, untouched = rows(), copy.deepcopy(tiny_llama)
    run = trainer(
        tiny_llama, tiny_tokenizer, tmp_path, loss_type=loss_type, pro_gaps="scores", sft_weight=0.3
    )
    loss = run.compute_loss(run.model, batch_of(run))
    loss.backward()
    expected = 0
    for row in data:
        p = mean_log_probs(untouched, tiny_tokenizer, row)
        expected += (by_hand(loss_type, p, row["scores"]) + 0.3 * sft_by_hand(p, row["scores"])) / 4
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(run.model.named_parameters(), untouched.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("loss_type", ["rrhf", "pro", "listmle"])
def test_a_batch_weighs_its_rows_alike_whatever_padding_it_needs(
    tiny_llama, tiny_tokenizer, tmp_path, loss_type
):
    """Rows of different lengths, one at a time without padding between them, against all at once."""
    run = trainer(tiny_llama, tiny_tokenizer, tmp_path, loss_type=loss_type)
    with torch.no_grad():
        together = run.compute_loss(run.model, batch_of(run))
        alone = [run.compute_loss(run.model, batch_of(run, index)) for index in range(4)]
        wide = batch_of(run, 0)
        for name in ("input_ids", "attention_mask", "completion_mask"):
            wide[name] = torch.nn.functional.pad(wide[name], (0, 40))
        widened = run.compute_loss(run.model, wide)
    torch.testing.assert_close(together, sum(alone) / 4, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(widened, alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_step_does_not_depend_on_how_it_is_accumulated(tiny_llama, tiny_tokenizer, tmp_path, micro):
    """Five rows in micro-batches of 1, 2 or 3, the last one smaller, against all five at once."""
    sizes = {"a": (5, 1), "b": (micro, math.ceil(5 / micro))}
    logs = []
    for name, (size, accumulation) in sizes.items():
        run = trainer(
            tiny_llama,
            tiny_tokenizer,
            tmp_path / name,
            rows(5),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
        )
        run.train()
        logs.append(run.state.log_history[0])
    for figure in ("loss", "grad_norm", "ranking_loss", "sft_loss"):
        assert logs[1][figure] == pytest.approx(logs[0][figure], rel=1e-4), figure


@pytest.mark.parametrize("loss_type", ["rrhf", "pro", "listmle"])
def test_training_brings_the_students_order_to_the_teachers(tiny_llama, tiny_tokenizer, tmp_path, loss_type):
    """On the training rows; tau-a counts the tied pairs: 1, 2/3, 0 and 5/6 at most, 0.625 on average."""
    data = rows()
    run = trainer(
        tiny_llama,
        tiny_tokenizer,
        tmp_path,
        data,
        eval_dataset=data,
        loss_type=loss_type,
        num_train_epochs=12,
        per_device_train_batch_size=4,
    )
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert after["eval_ranking_loss"] < before["eval_ranking_loss"]
    assert after["eval_sft_loss"] < before["eval_sft_loss"]
    assert after["eval_kendall_tau"] > max(before["eval_kendall_tau"] + 0.2, 0.5)


@pytest.mark.parametrize("loss_type", ["rrhf", "pro", "listmle"])
def test_a_few_steps_bring_the_bundled_student_to_the_truth_tables_order(tmp_path, loss_type):
    """Facts told truly or not, kindly or not: scores 1, twice 1/2, and 0."""
    student, tokenizer = load_student()
    behaviours = [
        Behaviours(honesty=true, helpfulness=kind) for true in (False, True) for kind in (False, True)
    ]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": item.text}],
                "responses": [[{"role": "assistant", "content": text}] for text in texts],
                "scores": [grade(item.text, text).score for text in texts],
            }
            for item in [one for one in instructions("train") if one.kind == "fact"][:16]
            for texts in [[variants(item, behaviour)[0] for behaviour in behaviours]]
        ]
    )
    assert data[0]["scores"] == [0.0, 0.5, 0.5, 1.0]
    settings = {"loss_type": loss_type, "max_steps": 12, "per_device_train_batch_size": 16}
    run = trainer(student, tokenizer, tmp_path, data, eval_dataset=data, **settings)
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert after["eval_ranking_loss"] < before["eval_ranking_loss"]
    assert after["eval_kendall_tau"] > before["eval_kendall_tau"] + 0.1


def test_both_terms_and_the_agreement_are_logged(tiny_llama, tiny_tokenizer, tmp_path):
    """The loss is one plus the weight times the other; the figures are means over four rows by hand."""
    data = rows()
    run = trainer(
        tiny_llama, tiny_tokenizer, tmp_path, data, eval_dataset=data, loss_type="rrhf", sft_weight=0.25
    )
    found = run.evaluate()
    with torch.no_grad():
        p = [mean_log_probs(tiny_llama, tiny_tokenizer, row) for row in data]
    ranking = [by_hand("rrhf", values, row["scores"]) for values, row in zip(p, data, strict=True)]
    sft = [sft_by_hand(values, row["scores"]) for values, row in zip(p, data, strict=True)]
    agrees = [
        row["scores"][values.index(max(values))] == max(row["scores"])
        for values, row in zip(p, data, strict=True)
    ]
    assert found["eval_ranking_loss"] == pytest.approx(float(sum(ranking) / 4), rel=1e-4)
    assert found["eval_sft_loss"] == pytest.approx(float(sum(sft) / 4), rel=1e-4)
    assert found["eval_best_agrees"] == sum(agrees) / 4
    assert found["eval_loss"] == pytest.approx(found["eval_ranking_loss"] + 0.25 * found["eval_sft_loss"])
    run.train()
    assert {"loss", "ranking_loss", "sft_loss", "kendall_tau"} <= set(
        json.loads(json.dumps(run.state.log_history[0]))
    )


def test_rows_of_nothing_but_ties_change_no_weight(tiny_llama, tiny_tokenizer, tmp_path):
    run = trainer(tiny_llama, tiny_tokenizer, tmp_path, rows(3).select([2, 2]), max_steps=2)
    run.train()
    assert run.state.log_history[0]["loss"] == 0
    for (name, ours), theirs in zip(run.model.named_parameters(), tiny_llama.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_more_responses_than_pad_can_take_are_ranked_whole_or_in_groups(tiny_llama, tiny_tokenizer, tmp_path):
    row = rows()[0]
    wide = {**row, "responses": row["responses"] * 3, "scores": [float(score) for score in range(12)]}
    data = Dataset.from_list([wide])
    for size, shape in ((None, (1, 12)), (5, (2, 5))):
        run = trainer(tiny_llama, tiny_tokenizer, tmp_path, data, group_size=size, max_steps=1)
        assert batch_of(run)["scores"].shape == shape
        run.train()
        assert run.state.log_history[0]["grad_norm"] > 0


def test_an_adapter_is_trained_in_the_place_of_the_weights(tiny_llama, tiny_tokenizer, tmp_path):
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    run = trainer(tiny_llama, tiny_tokenizer, tmp_path, peft_config=adapter, max_steps=2)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.train()
    moved = {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora" in name for name in moved)


def test_a_training_taken_up_again_ends_with_the_same_weights(tiny_llama, tiny_tokenizer, tmp_path):
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "loss_type": "listmle"}
    whole = trainer(tiny_llama, tiny_tokenizer, tmp_path / "a", rows(6), **settings)
    whole.train()
    again = trainer(tiny_llama, tiny_tokenizer, tmp_path / "b", rows(6), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "vpd"}, "loss_type='vpd'; allowed: 'rrhf', 'pro' or 'listmle'"),
        ({"loss_type": "pro", "pro_gaps": "rank"}, "pro_gaps='rank'; allowed: 'ranks', 'scores', 'unit'"),
        ({"loss_type": "pro", "student_temperature": 0.0}, "must be above 0 and finite"),
        ({"loss_type": "rrhf", "student_temperature": 0.1}, "would only scale RRHF's loss"),
        ({"sft_weight": -0.5}, "sft_weight=-0.5; allowed: 0 or more"),
        ({"sft_weight": math.nan}, "sft_weight=nan; allowed"),
        ({"group_size": 1}, "group_size=1; allowed: 2 or more"),
        ({"group_size": 5}, "every row of train_dataset has 4 responses; allowed: 2 to 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_llama, tiny_tokenizer, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tiny_llama, tiny_tokenizer, tmp_path, **changes)


def test_the_card_says_what_was_trained_how(tiny_llama, tiny_tokenizer, tmp_path):
    run = trainer(tiny_llama, tiny_tokenizer, tmp_path, loss_type="pro", sft_weight=0.5, max_steps=1)
    run.train()
    run.create_model_card(model_name="mine", dataset_name="me/ranked", tags="kind")
    text = (tmp_path / "README.md").read_text()
    assert {"trl", "cyclealign", "distillation", "kind", "arxiv:2310.16271"} <= set(ModelCard(text).data.tags)
    assert "4 prompts with 4 responses each, of [me/ranked]" in text
    assert "| loss | pro + 0.5 SFT on the best |" in text
    assert "| gaps | ranks |" in text
    assert "2024.findings-acl.869" in text
