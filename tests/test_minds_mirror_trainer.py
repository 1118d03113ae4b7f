"""Mind's Mirror's trainer: its loss by hand, label-only fine-tuning, its steps, its rows, what it logs and refuses."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
)

from hf_icon2 import MindsMirrorConfig, MindsMirrorTrainer

QUESTIONS = ("What is 3 + 4?", "A bed holds ten seeds. How many seeds do 45 beds hold?", "Is it 12?", "Why?")
LABELS = ("7", "( 10.0 * 45.0 )", "wrong", "no one knows")
RATIONALES = ("Three and four make 7.", "Ten seeds, 45 times: 450.", "No: 7 is not 12.", "It is.")
STUDENTS = ("t5", "llama", "plain llama")


def rows(count=4):
    """Prompts, labels and rationales of different lengths."""
    return Dataset.from_list(
        [
            {
                "prompt": QUESTIONS[row % 4] + " Please." * (row // 4),
                "label": LABELS[row % 4],
                "rationale": RATIONALES[row % 4],
            }
            for row in range(count)
        ]
    )


def tiny_t5(dropout=0.0):
    """A random T5 v1.1 of two layers; its logits depend on the encoder's input."""
    config = T5Config(
        vocab_size=320,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=dropout,
        initializer_factor=1.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return T5ForConditionalGeneration(config).eval()


@pytest.fixture(params=STUDENTS)
def student(request, tiny_llama, tiny_tokenizer):
    """Model and tokenizer: an encoder-decoder, a decoder with a chat template, and one without."""
    if request.param == "llama":
        return tiny_llama, tiny_tokenizer
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    return (tiny_t5() if request.param == "t5" else tiny_llama), plain


def settings_for(folder, **changes):
    settings = {
        "use_cpu": True,
        "report_to": "none",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "disable_tqdm": True,
    }
    return {"output_dir": str(folder), **settings, **changes}


def trainer(student, folder, data=None, *, eval_dataset=None, peft_config=None, **changes):
    model, tokenizer = student
    return MindsMirrorTrainer(
        copy.deepcopy(model),
        args=MindsMirrorConfig(**settings_for(folder, **changes)),
        train_dataset=rows() if data is None else data,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def batch_of(run, *indices):
    return run.data_collator([run.train_dataset[index] for index in indices or range(len(run.train_dataset))])


def log_probs(student, prompt, target):
    """Log-probability of each token of a target and its end, (T, V) and ids, from one row without padding."""
    model, tokenizer = student
    if model.config.is_encoder_decoder:
        ids = [*tokenizer(target)["input_ids"], 2]
        source = torch.tensor([tokenizer(prompt)["input_ids"]])
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0]
        return logits.double().log_softmax(-1), ids
    if tokenizer.chat_template is None:
        before, after = tokenizer(prompt)["input_ids"], [*tokenizer(target)["input_ids"], 2]
    else:
        before = tokenizer(f"<bos><|user|>{prompt}<eos><|assistant|>")["input_ids"]
        after = tokenizer(f"{target}<eos>")["input_ids"]
    logits = model(torch.tensor([before + after])).logits[0]
    return logits[len(before) - 1 : -1].double().log_softmax(-1), after


def cross_entropy(student, pairs):
    """Mean over all tokens of all targets."""
    found = [log_probs(student, prompt, target) for prompt, target in pairs]
    losses = [-logps[at, token] for logps, ids in found for at, token in enumerate(ids)]
    return sum(losses) / len(losses)


def by_hand(student, data, alpha):
    label = cross_entropy(student, [("predict: " + row["prompt"], row["label"]) for row in data])
    rationale = cross_entropy(student, [("explain: " + row["prompt"], row["rationale"]) for row in data])
    return alpha * label + (1 - alpha) * rationale


def assert_same_weights(first, second, **tolerances):
    for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, **tolerances)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 1.0, 0.0])
def test_loss_and_gradient_are_those_by_hand_from_an_untouched_copy(student, tmp_path, alpha):
    untouched = copy.deepcopy(student[0]), student[1]
    run = trainer(student, tmp_path, alpha=alpha)
    loss = run.compute_loss(run.model, batch_of(run))
    loss.backward()
    expected = by_hand(untouched, rows(), alpha)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for (name, ours), theirs in zip(run.model.named_parameters(), untouched[0].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_step_does_not_depend_on_how_it_is_accumulated(student, tmp_path, micro):
    """Five rows in micro-batches of 1, 2 or 3, the last one smaller, against all five at once."""
    sizes = {"a": (5, 1), "b": (micro, math.ceil(5 / micro))}
    logs = []
    for name, (size, accumulation) in sizes.items():
        run = trainer(
            student,
            tmp_path / name,
            rows(5),
            alpha=0.3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
        )
        run.train()
        logs.append(run.state.log_history[0])
    for figure in ("loss", "grad_norm", "label_loss", "rationale_loss"):
        assert logs[1][figure] == pytest.approx(logs[0][figure], rel=1e-4), figure
    assert logs[0]["loss"] == pytest.approx(0.3 * logs[0]["label_loss"] + 0.7 * logs[0]["rationale_loss"])
