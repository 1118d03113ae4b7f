"""Mind's Mirror's trainer: its loss by hand, label-only fine-tuning, its steps, its rows, what it logs and refuses."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training import settings_for
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

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
        before, after = tokenizer(f"{prompt}\n")["input_ids"], [*tokenizer(target)["input_ids"], 2]
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


@pytest.mark.parametrize("micro", [1, 2])
def test_a_step_does_not_depend_on_how_it_is_accumulated(student, tmp_path, micro):
    """Five rows one or two at a time, the last alone, against all five at once."""
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


STEPS = {"alpha": 1.0, "num_train_epochs": 2, "max_grad_norm": 1.0, "lr_scheduler_type": "linear"}


def test_alpha_of_one_is_label_only_fine_tuning_of_an_encoder_decoder(tiny_tokenizer, tmp_path):
    """Against transformers' own trainer of such models, with dropout: losses, gradients and weights of six steps."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template, tokenizer.padding_side = None, "right"
    model, data = tiny_t5(dropout=0.1), rows(6)
    run = trainer((model, tokenizer), tmp_path / "a", data.remove_columns("rationale"), **STEPS)
    settings = settings_for(tmp_path / "b", **STEPS)
    del settings["alpha"]
    plain = copy.deepcopy(model)
    theirs = Seq2SeqTrainer(
        plain,
        Seq2SeqTrainingArguments(**settings),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": tokenizer("predict: " + row["prompt"])["input_ids"],
                    "labels": [*tokenizer(row["label"])["input_ids"], 2],
                }
                for row in data
            ]
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer, plain, label_pad_token_id=-100),
    )
    assert_same_training(run, theirs)


def test_alpha_of_one_is_label_only_fine_tuning_of_a_decoder(tiny_llama, tiny_tokenizer, tmp_path):
    """Against TRL's SFTTrainer on prompts and completions, two micro-batches a step."""
    data = rows(6)
    steps = {**STEPS, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
    run = trainer((tiny_llama, tiny_tokenizer), tmp_path / "a", data.remove_columns("rationale"), **steps)
    settings = settings_for(tmp_path / "b", **steps)
    del settings["alpha"]
    theirs = SFTTrainer(
        copy.deepcopy(tiny_llama),
        SFTConfig(**settings, completion_only_loss=True, gradient_checkpointing=False, bf16=False),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": "predict: " + row["prompt"]}],
                    "completion": [{"role": "assistant", "content": row["label"]}],
                }
                for row in data
            ]
        ),
        processing_class=tiny_tokenizer,
    )
    assert_same_training(run, theirs)


def assert_same_training(run, theirs):
    for one in (run, theirs):
        set_seed(0)  # of the dropout
        one.train()
    ours, others = ([log for log in one.state.log_history if "grad_norm" in log] for one in (run, theirs))
    assert len(ours) == 6
    for mine, other in zip(ours, others, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert_same_weights(run.model, theirs.model, rtol=1e-4, atol=1e-5)


def test_a_batch_weighs_its_tokens_alike_whatever_padding_it_needs(student, tmp_path):
    """Rows of different lengths, one at a time without padding between them, against all at once."""
    run = trainer(student, tmp_path, alpha=0.3)
    with torch.no_grad():
        together = run.compute_loss(run.model, batch_of(run))
        singles = [batch_of(run, index) for index in range(4)]
        counts = torch.stack([run._target_tokens([single]) for single in singles])
        alone = [run.compute_loss(run.model, one, num_items_in_batch=counts.sum(0)) for one in singles]
        wide = batch_of(run, 0)
        for part in wide.values():
            part["input_ids"] = torch.nn.functional.pad(part["input_ids"], (0, 40))
            part["attention_mask"] = torch.nn.functional.pad(part["attention_mask"], (0, 40))
            part["labels"] = torch.nn.functional.pad(part["labels"], (0, 40), value=-100)
        widened = run.compute_loss(run.model, wide, num_items_in_batch=counts.sum(0))
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(widened, alone[0], rtol=1e-5, atol=1e-6)


def test_no_logits_are_made_for_what_all_prompts_share(tiny_llama, tiny_tokenizer, tmp_path):
    run = trainer((tiny_llama, tiny_tokenizer), tmp_path)
    batch, shapes = batch_of(run), []
    run.model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape[1]))
    run.compute_loss(run.model, batch)
    for part, width in zip(batch.values(), shapes, strict=True):
        shortest = int((part["input_ids"] == 5).int().argmax(1).min()) + 1  # up to <|assistant|>
        assert width == part["labels"].shape[1] + 1 == part["input_ids"].shape[1] - shortest + 1


def greedy(student, prompt, new):
    model, tokenizer = student
    if model.config.is_encoder_decoder:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
    else:
        ids = tokenizer(f"<bos><|user|>{prompt}<eos><|assistant|>", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=new, do_sample=False, attention_mask=torch.ones_like(ids))
    return tokenizer.decode(out[0] if model.config.is_encoder_decoder else out[0, ids.shape[1] :])


@pytest.mark.parametrize(("kind", "steps"), [("t5", 40), ("llama", 20)])
def test_evaluation_is_the_loss_by_hand_and_the_accuracy_of_greedy_decoding(
    kind, steps, tiny_llama, tiny_tokenizer, tmp_path
):
    """Trained on half of what it is evaluated on, so that some labels are said and some are not."""
    student = (tiny_t5() if kind == "t5" else tiny_llama), tiny_tokenizer
    data = rows(8)
    run = trainer(
        student,
        tmp_path,
        data.select(range(3)),
        eval_dataset=data,
        alpha=0.6,
        max_steps=steps,
        per_device_eval_batch_size=3,
        per_device_train_batch_size=3,
        logging_steps=50,
        learning_rate=1e-2 if kind == "t5" else 3e-3,
    )
    run.train()
    found = run.evaluate()
    model = run.model.eval()
    with torch.no_grad():
        expected = by_hand((model, tiny_tokenizer), data, 0.6)
    said = [greedy((model, tiny_tokenizer), "predict: " + row["prompt"], 20) for row in data]
    exact = [
        text.removeprefix("<pad>") == row["label"] + "<eos>" for text, row in zip(said, data, strict=True)
    ]
    assert 3 <= sum(exact) < 8
    assert found["eval_label_accuracy"] == sum(exact) / 8
    assert found["eval_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert found["eval_loss"] == pytest.approx(
        0.6 * found["eval_label_loss"] + 0.4 * found["eval_rationale_loss"]
    )


def test_each_of_several_evaluation_sets_has_its_own_figures(student, tmp_path):
    parts = {"one": rows(3), "two": rows(8).select([5, 6])}
    run = trainer(student, tmp_path, eval_dataset=parts)
    together = run.evaluate()
    run.predict(run.eval_dataset["two"])  # which must not enter the next evaluation
    for name, part in parts.items():
        alone = run.evaluate(part, metric_key_prefix="test")
        for figure in ("loss", "label_loss", "rationale_loss", "label_accuracy"):
            assert together[f"eval_{name}_{figure}"] == pytest.approx(alone[f"test_{figure}"])


def test_the_checkpoint_is_chosen_on_validation(tiny_llama, tiny_tokenizer, tmp_path):
    """Steps so long that the last is not the best."""
    run = trainer(
        (tiny_llama, tiny_tokenizer),
        tmp_path,
        eval_dataset=rows(12).select(range(8, 12)),
        num_train_epochs=6,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_label_loss",
    )
    run.train()
    history = {
        log["step"]: log["eval_label_loss"] for log in run.state.log_history if "eval_label_loss" in log
    }
    best = min(history, key=history.get)
    assert best != max(history)
    assert Path(run.state.best_model_checkpoint).name == f"checkpoint-{best}"
    assert run.evaluate()["eval_label_loss"] == pytest.approx(history[best])


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_wrapped_student_and_virtual_tokens_learn_too(kind, tiny_llama, tiny_tokenizer, tmp_path):
    model, task = (tiny_t5(), "SEQ_2_SEQ_LM") if kind == "t5" else (tiny_llama, "CAUSAL_LM")
    adapter = LoraConfig(r=4, target_modules=["q"] if kind == "t5" else ["q_proj"], task_type=task)
    wrapped = get_peft_model(copy.deepcopy(model), adapter)
    prompt = PromptTuningConfig(num_virtual_tokens=3, task_type=task)
    for student, config in ((wrapped, None), (model, prompt)):
        run = trainer((student, tiny_tokenizer), tmp_path, peft_config=config, max_steps=1)
        run.train()
        assert run.state.log_history[0]["grad_norm"] > 0


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_an_adapter_is_trained_in_the_place_of_the_weights(kind, tiny_llama, tiny_tokenizer, tmp_path):
    student = (tiny_t5() if kind == "t5" else tiny_llama), tiny_tokenizer
    modules = ["q", "v"] if kind == "t5" else ["q_proj", "v_proj"]
    adapter = LoraConfig(r=4, target_modules=modules, task_type="CAUSAL_LM")  # TRL's default, right or not
    run = trainer(student, tmp_path, peft_config=adapter, max_steps=2, gradient_checkpointing=True)
    first = run.compute_loss(run.model, batch_of(run))
    with torch.no_grad():
        torch.testing.assert_close(first.double(), by_hand(student, rows(), 0.5), rtol=1e-5, atol=1e-6)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.train()
    moved = {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora" in name for name in moved)
    run.save_model()
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["task_type"] == ("SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM")


def test_a_training_taken_up_again_ends_with_the_same_weights(tiny_tokenizer, tmp_path):
    student = tiny_t5(dropout=0.1), tiny_tokenizer
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(student, tmp_path / "a", rows(6), **settings)
    whole.train()
    again = trainer(student, tmp_path / "b", rows(6), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert_same_weights(whole.model, again.model, rtol=0, atol=0)


def test_what_is_logged_can_be_written_as_json(student, tmp_path):
    run = trainer(
        student,
        tmp_path,
        num_train_epochs=1,
        train_sampling_strategy="group_by_length",
        include_num_input_tokens_seen="non_padding",
    )
    run.train()
    assert {"loss", "label_loss", "rationale_loss", "label_accuracy"} <= set(
        json.loads(json.dumps(run.state.log_history[0]))
    )
    assert run.state.total_flos > 0
    parts = ("prompt",) if student[0].config.is_encoder_decoder else ("prompt", "target")
    names = [f"{task}_{part}_ids" for task in ("label", "rationale") for part in parts]
    read = sum(len(row[name]) for row in run.train_dataset for name in names)
    assert run.state.num_input_tokens_seen == read


def test_prompts_may_be_conversations(tiny_llama, tiny_tokenizer, tmp_path):
    """The prefix belongs to the last turn, and text is the conversation of one turn."""
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    row, end = rows()[0], [{"role": "user", "content": QUESTIONS[0]}]
    data = [{**row, "prompt": end}, {**row, "prompt": turns + end}]
    run, text = (
        trainer((tiny_llama, tiny_tokenizer), tmp_path, Dataset.from_list(part)) for part in (data, [row])
    )
    assert run.train_dataset[0] == text.train_dataset[0]
    assert tiny_tokenizer.decode(run.train_dataset[1]["rationale_prompt_ids"]) == (
        f"<bos><|user|>Hi.<eos><|assistant|>Hello.<eos><|user|>explain: {QUESTIONS[0]}<eos><|assistant|>"
    )


def test_an_encoder_reads_what_its_tokenizer_makes_of_a_text(tiny_tokenizer, tmp_path):
    """T5's closes every text with its end; a target's is not doubled, and the chat template is not used."""
    closing = copy.deepcopy(tiny_tokenizer)
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 2)]
    )
    row = trainer((tiny_t5(), closing), tmp_path).train_dataset[0]
    assert closing.decode(row["label_prompt_ids"]) == f"predict: {QUESTIONS[0]}<eos>"
    assert closing.decode(row["label_target_ids"]) == f"{LABELS[0]}<eos>"
    assert closing.decode(row["rationale_target_ids"]) == f"{RATIONALES[0]}<eos>"


def broken(row, **changes):
    data = rows().to_list()
    data[row] |= changes
    return Dataset.from_list(data)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (broken(2, label=" "), {}, "train_dataset, row 2: its label is blank"),
        (broken(1, rationale=None), {}, "train_dataset, row 1: its rationale is blank"),
        (broken(3, rationale="\n"), {}, "row 3: its rationale is blank"),
        (broken(3, label=""), {"alpha": 1.0}, "row 3: its label is blank"),
        (
            rows().remove_columns("label").add_column("label", [1, 2, 3, 4]),
            {},
            "row 0: its label is 1; allowed",
        ),
        (broken(0, prompt="  "), {}, "row 0: an instruction is empty"),
        (broken(0, prompt=None), {}, "row 0: an instruction is text or a list of messages"),
        (
            rows().remove_columns("rationale"),
            {},
            "lacks the column.s. rationale.*alpha=1 needs no rationales",
        ),
        (rows().remove_columns("label"), {}, "lacks the column.s. label.*alpha=0 needs no labels"),
        (rows().select([]), {}, "train_dataset has no rows"),
        (rows(), {"max_target_length": 1}, "4 of 4 rows .*so none is left; raise them"),
        (rows(), {"alpha": 1.5}, "alpha=1.5; allowed: 0"),
        (rows(), {"alpha": math.nan}, "alpha=nan; allowed"),
        (rows(), {"rationale_prefix": "predict: "}, "are both 'predict: '"),
        (rows(), {"max_prompt_length": 0}, "max_prompt_length=0; allowed: 1 or more"),
        (rows(), {"label_smoothing_factor": 0.1}, "is not part of this loss"),
    ],
)
def test_rows_and_settings_that_make_no_sense_are_refused(student, tmp_path, data, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(student, tmp_path, data, **changes)


def test_a_blank_target_that_is_not_trained_on_does_no_harm(student, tmp_path):
    run = trainer(student, tmp_path, broken(1, rationale=" "), alpha=1.0, max_steps=1)
    run.train()
    assert {name for name in run.state.log_history[0] if "rationale" in name} == set()


def test_a_target_that_grows_together_with_its_prompt_is_refused(tiny_llama, tiny_tokenizer, tmp_path):
    """Where the two become one token, the student would be trained on a prompt that it never sees in use. The line
    break at the end of a prompt keeps "s" and "ky" apart, but not itself and another one."""
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    assert len(plain("sky")["input_ids"]) < len(plain("s")["input_ids"] + plain("ky")["input_ids"])
    for prompt in ("What is s", "What is s\n"):
        row = trainer((tiny_llama, plain), tmp_path, broken(2, prompt=prompt, label="ky")).train_dataset[2]
        assert row["label_prompt_ids"] == plain("predict: What is s\n")["input_ids"]
        assert row["label_target_ids"] == [*plain("ky")["input_ids"], 2]
    plain.add_tokens("\n\n")
    with pytest.raises(ValueError, match="row 2: .*become one token.*white space at its start"):
        trainer((tiny_llama, plain), tmp_path, broken(2, label="\nky"))


def test_rows_that_would_be_cut_are_left_out_and_counted(student, tmp_path, caplog):
    data = broken(2, rationale="No. " * 40)
    run = trainer(student, tmp_path, data, max_target_length=50)
    assert run.train_dataset["row"][:] == [0, 1, 3]
    assert "1 of 4 rows of train_dataset would be cut at" in caplog.text
    assert "the first is row 2" in caplog.text
    assert len(trainer(student, tmp_path, data, max_target_length=None).train_dataset) == 4
    assert len(trainer(student, tmp_path, data, max_target_length=50, alpha=1.0).train_dataset) == 4


def test_held_out_prompts_that_are_trained_on_are_reported(student, tmp_path, caplog):
    trainer(student, tmp_path, rows(4), eval_dataset=rows(6).select([3, 4, 5]))
    assert "1 of 3 rows of eval_dataset have a prompt that is trained on" in caplog.text


def test_targets_the_tokenizer_cannot_write_are_reported(tiny_tokenizer, tmp_path, caplog):
    """A word-level vocabulary without the word `12`."""
    words = {"<pad>": 0, "<unk>": 1, "<eos>": 2, "a": 3, "b": 4}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    data = Dataset.from_list(
        [
            {"prompt": "a", "label": "b", "rationale": "a b"},
            {"prompt": "b", "label": "b", "rationale": "a 12"},
        ]
    )
    trainer((tiny_t5(), tokenizer), tmp_path, data)
    assert (
        "1 of 2 rows of train_dataset have a rationale with characters that the tokenizer does not"
        in caplog.text
    )
    assert "the first is row 1" in caplog.text


def test_a_student_is_loaded_by_its_path(tiny_tokenizer, tmp_path):
    tiny_t5().save_pretrained(tmp_path / "t5")
    tiny_tokenizer.save_pretrained(tmp_path / "t5")
    run = MindsMirrorTrainer(
        str(tmp_path / "t5"), MindsMirrorConfig(**settings_for(tmp_path, max_steps=1)), train_dataset=rows()
    )
    run.train()
    run.save_model()
    assert T5ForConditionalGeneration.from_pretrained(tmp_path).config.d_model == 64


def test_the_card_says_what_was_trained_how(tiny_llama, tiny_tokenizer, tmp_path):
    run = trainer((tiny_llama, tiny_tokenizer), tmp_path, alpha=0.25, max_steps=1)
    run.train()
    run.create_model_card(model_name="mine", dataset_name="me/reasoning", tags="kind")
    text = (tmp_path / "README.md").read_text()
    assert {"trl", "minds-mirror", "distillation", "kind", "arxiv:2311.09214"} <= set(
        ModelCard(text).data.tags
    )
    assert "4 rows of a prompt with its label and rationale, of [me/reasoning]" in text
    assert "| alpha | 0.25 |" in text
    assert "| prefix of labels | 'predict: ' |" in text
    assert "| longest prompt, target | 1024 tokens, 256 tokens |" in text
    assert "2024.naacl-long.376" in text
