"""CycleAlign's trainer: its loss by hand from logits, its steps, what it logs, and what it refuses."""

import copy

import pytest
import torch
from datasets import Dataset

from hf_icon2 import CycleAlignConfig, CycleAlignTrainer

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
    settings = {
        "use_cpu": True,
        "report_to": "none",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "disable_tqdm": True,
    }
    return CycleAlignTrainer(
        copy.deepcopy(model),
        args=CycleAlignConfig(str(folder), **settings | changes),
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
