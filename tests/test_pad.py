"""PAD's trainer: its loss and steps against naive log-softmax and brute force, its data, and what it refuses."""

import copy
import json
import math

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from training import settings_for

from hf_icon2.trainers.pad import PADConfig, PADTrainer
from hf_icon2.trainers.rankings import kendall_tau, list_mle, preference_divergence

ANSWERS = [
    "The sky is blue.",
    "Blue, and wide.",
    "I do not know that.",
    "Bake the bread first.",
    "Wait.",
    "No!",
]


def rows(count=6, responses=4):
    """Prompts with responses of different lengths, and made-up scores."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Question {row}?"}],
                "responses": [
                    [{"role": "assistant", "content": f"{row} {ANSWERS[index]}"}]
                    for index in range(responses)
                ],
                "scores": [math.sin(3.0 * row + index) for index in range(responses)],
            }
            for row in range(count)
        ]
    )


def trainer(model, tokenizer, folder, data=None, **changes):
    kwargs = {
        name: changes.pop(name)
        for name in ("eval_dataset", "peft_config", "teacher_model", "teacher_processing_class")
        if name in changes
    }
    return PADTrainer(
        copy.deepcopy(model),
        args=PADConfig(**settings_for(folder, **changes)),
        train_dataset=rows() if data is None else data,
        processing_class=tokenizer,
        **kwargs,
    )


def naive_scores(model, tokenizer, row):
    """Mean log-probability of each response by a plain log-softmax, one at a time."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    values = []
    for response in row["responses"]:
        ids = tokenizer.apply_chat_template(row["prompt"] + response, return_dict=True)["input_ids"]
        logits = model(torch.tensor([ids])).logits[0].double()
        logps = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        values.append(logps[len(prompt) - 1 :].mean())
    return torch.stack(values)


@pytest.mark.parametrize("loss_type", ["ppd", "vpd"])
def test_the_loss_is_that_of_naive_log_probabilities(tiny_llama, tiny_tokenizer, tmp_path, loss_type):
    data = rows()
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, data, loss_type=loss_type, teacher_temperature=0.5)
    batch = pad.data_collator([pad.train_dataset[index] for index in range(6)])
    with torch.no_grad():
        loss = pad.compute_loss(pad.model, batch)
        student = torch.stack([naive_scores(tiny_llama, tiny_tokenizer, row) for row in data])
    teacher = torch.tensor(data["scores"], dtype=torch.float64)
    expected = (
        preference_divergence(student / 0.1, teacher / 0.5)
        if loss_type == "ppd"
        else list_mle(student / 0.1, teacher)
    )
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_step_does_not_depend_on_how_it_is_accumulated(tiny_llama, tiny_tokenizer, tmp_path, micro):
    """Five rows in micro-batches of 1, 2 or 3 (the last one smaller) against all five at once."""
    whole = trainer(
        tiny_llama, tiny_tokenizer, tmp_path / "a", rows(5), per_device_train_batch_size=5, max_steps=1
    )
    parts = trainer(
        tiny_llama,
        tiny_tokenizer,
        tmp_path / "b",
        rows(5),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(5 / micro),
        max_steps=1,
    )
    norms = []
    for one in (whole, parts):
        one.train()
        norms.append(one.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert parts.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=1e-4)


def test_training_moves_the_students_ranking_towards_the_teachers(tiny_llama, tiny_tokenizer, tmp_path):
    """At temperature 1: at 0.1 a random model's orderings are almost certain, and the divergence is flat there."""
    data = rows()
    settings = {"student_temperature": 1.0, "teacher_temperature": 0.2, "num_train_epochs": 20}
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, data, eval_dataset=data, **settings)
    before = pad.evaluate()
    pad.train()
    after = pad.evaluate()
    assert after["eval_kendall_tau"] > before["eval_kendall_tau"] + 0.3
    assert after["eval_loss"] < before["eval_loss"] / 2


def test_a_teacher_on_the_fly_equals_its_scores_given_as_a_column(
    tiny_llama, tiny_model, tiny_tokenizer, tmp_path
):
    teacher = tiny_model("llama", seed=5)
    data = rows()
    with torch.no_grad():
        scores = [naive_scores(teacher, tiny_tokenizer, row).tolist() for row in data]
    given = data.remove_columns("scores").add_column("scores", scores)
    live = trainer(
        tiny_llama, tiny_tokenizer, tmp_path / "a", data.remove_columns("scores"), teacher_model=teacher
    )
    column = trainer(tiny_llama, tiny_tokenizer, tmp_path / "b", given)
    losses = []
    for pad in (live, column):
        batch = pad.data_collator([pad.train_dataset[index] for index in range(6)])
        with torch.no_grad():
            losses.append(pad.compute_loss(pad.model, batch))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)


def test_a_teacher_whose_scores_overflow_stops_the_training(tiny_llama, tiny_tokenizer, tmp_path):
    """Trainer would log a loss of 0 and go on with weights that are not numbers."""
    teacher = copy.deepcopy(tiny_llama)
    teacher.lm_head.weight.data.fill_(math.nan)
    pad = trainer(
        tiny_llama, tiny_tokenizer, tmp_path, rows().remove_columns("scores"), teacher_model=teacher
    )
    with pytest.raises(ValueError, match="score of the teacher is not finite"):
        pad.train()


def test_a_teacher_may_have_another_tokenizer(tiny_llama, toy, tiny_tokenizer, tmp_path):
    teacher, words = toy
    data = rows(2)
    pad = trainer(
        tiny_llama,
        tiny_tokenizer,
        tmp_path,
        data.remove_columns("scores"),
        teacher_model=copy.deepcopy(teacher),
        teacher_processing_class=words,
    )
    batch = pad.data_collator([pad.train_dataset[index] for index in range(2)])
    found = pad._teacher_scores(batch).view(2, 4)
    with torch.no_grad():
        expected = torch.stack([naive_scores(teacher, words, row) for row in data])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_trained_in_the_place_of_the_weights(tiny_llama, tiny_tokenizer, tmp_path):
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, peft_config=adapter, max_steps=2)
    before = {name: value.clone() for name, value in pad.model.named_parameters()}
    pad.train()
    moved = {name for name, value in pad.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora" in name for name in moved)


def test_more_responses_are_split_into_other_groups_each_epoch(tiny_llama, tiny_tokenizer, tmp_path):
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, rows(3, responses=6), group_size=3)
    collator, examples = pad.data_collator, [pad.train_dataset[index] for index in range(3)]
    epochs = []
    for epoch in (0, 1, 0):
        collator.epoch = epoch
        batch = collator(examples)
        assert batch["scores"].shape == (6, 3)  # two groups of three for each of three rows
        assert batch["input_ids"].shape[0] == 18
        epochs.append(batch["scores"])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    for row in range(3):
        assert sorted(epochs[0][2 * row : 2 * row + 2].flatten().tolist()) == sorted(examples[row]["scores"])


def test_scores_stay_with_their_responses_in_groups(tiny_llama, tiny_tokenizer, tmp_path):
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, rows(1, responses=6), group_size=3)
    example = pad.train_dataset[0]
    batch = pad.data_collator([example])
    for index, score in enumerate(batch["scores"].flatten().tolist()):
        ids = batch["input_ids"][index][batch["completion_mask"][index] == 1].tolist()
        assert example["responses_ids"][example["scores"].index(score)] == ids


def test_a_training_taken_up_again_ends_with_the_same_weights(tiny_llama, tiny_tokenizer, tmp_path):
    data = rows(6, responses=6)
    settings = {"group_size": 3, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(tiny_llama, tiny_tokenizer, tmp_path / "a", data, **settings)
    whole.train()
    again = trainer(tiny_llama, tiny_tokenizer, tmp_path / "b", data, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_text_rows_end_with_the_end_token(tiny_llama, tiny_tokenizer, tmp_path):
    data = Dataset.from_list(
        [{"prompt": "The sky is", "responses": [" blue.", " bread."], "scores": [1.0, 0.0]}]
    )
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    pad = trainer(tiny_llama, plain, tmp_path, data)
    row = pad.train_dataset[0]
    assert plain.decode(row["prompt_ids"] + row["responses_ids"][1]) == "The sky is bread.<eos>"


def broken(row, **changes):
    data = rows().to_list()
    data[row] |= changes
    return Dataset.from_list(data)


SCORES = [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(2, responses=rows()[2]["responses"][:3]), "row 2: has 3 responses, the first row has 4"),
        (
            broken(1, responses=[*rows()[1]["responses"][:3], [{"role": "assistant", "content": " "}]]),
            "row 1: response 3 is empty",
        ),
        (broken(3, scores=[*SCORES, math.nan]), "row 3: score 3 is nan"),
        (broken(3, scores=[*SCORES, None]), "row 3: score 3 is None"),
        (broken(3, scores=SCORES), "row 3: has 3 scores for 4 responses"),
        (rows().remove_columns("scores"), "lacks the column.* scores.*teacher_model="),
        (rows().select([]), "no rows"),
        (broken(1, prompt=[{"role": "assistant", "content": "Hm."}]), "row 1: a conversation must end with"),
        (
            broken(2, responses=[*rows()[2]["responses"][:3], rows()[2]["responses"][3] * 2]),
            "row 2: a response has the messages assistant, assistant; allowed: text, or one",
        ),
        (broken(0, responses=None), "row 0: has 0 responses"),
    ],
)
def test_bad_rows_are_refused_by_their_number(tiny_llama, tiny_tokenizer, tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        trainer(tiny_llama, tiny_tokenizer, tmp_path, data)


def test_rows_that_would_be_cut_are_left_out_and_counted(tiny_llama, tiny_tokenizer, tmp_path, caplog):
    long = [{"role": "assistant", "content": "blue " * 60}]
    data = broken(2, responses=[*rows()[2]["responses"][:3], long])
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, data, max_length=64)
    assert pad.train_dataset["row"][:] == [0, 1, 3, 4, 5]
    assert "1 of 6 rows of train_dataset" in caplog.text
    assert "the first is row 2" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "dpo"}, "loss_type='dpo'; allowed"),
        ({"student_temperature": 0.0}, "must be above 0"),
        ({"teacher_temperature": math.nan}, "must be above 0 and finite"),
        (
            {"group_size": 4, "eval_dataset": rows(2, responses=3)},
            "every row of eval_dataset has 3 responses",
        ),
        ({"group_size": 9}, "allowed: 2 to 8"),
        (
            {"group_size": 2, "dataloader_num_workers": 1, "dataloader_persistent_workers": True},
            "set dataloader_persistent_workers=False",
        ),
        ({"group_size": 5}, "every row of train_dataset has 4 responses"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_llama, tiny_tokenizer, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tiny_llama, tiny_tokenizer, tmp_path, **changes)


def test_kendall_tau_by_hand():
    """Of the pairs (1,2), (1,3), (2,3) two are ranked alike and one is not: (2 - 1) / 3; a tie counts as neither."""
    first = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 2.0]])
    second = torch.tensor([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
    assert kendall_tau(first, second).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_metrics_are_means_over_all_rows_however_they_are_batched(tiny_llama, tiny_tokenizer, tmp_path):
    """Five rows in batches of two and the last of one, against the mean over five rows by hand."""
    data = rows(5)
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, eval_dataset=data, per_device_eval_batch_size=2)
    with torch.no_grad():
        student = torch.stack([naive_scores(tiny_llama, tiny_tokenizer, row) for row in data])
    teacher = torch.tensor(data["scores"], dtype=torch.float64)
    found = pad.evaluate()
    assert found["eval_kendall_tau"] == pytest.approx(kendall_tau(student, teacher).mean().item())
    assert found["eval_mean_logp"] == pytest.approx(student.mean().item(), abs=1e-4)
    assert found["eval_loss"] == pytest.approx(
        preference_divergence(student / 0.1, teacher / 0.1).mean().item(), rel=1e-3
    )


def test_each_of_several_evaluation_sets_has_its_own_metrics(tiny_llama, tiny_tokenizer, tmp_path):
    parts = {"one": rows(3), "two": rows(5).select([3, 4])}
    together = trainer(tiny_llama, tiny_tokenizer, tmp_path, eval_dataset=parts).evaluate()
    for name, part in parts.items():
        run = trainer(tiny_llama, tiny_tokenizer, tmp_path, eval_dataset=part)
        alone = run.evaluate()
        given = run.evaluate(part)
        for metric in ("loss", "kendall_tau", "best_agrees", "mean_logp"):
            assert together[f"eval_{name}_{metric}"] == pytest.approx(alone[f"eval_{metric}"])
            assert given[f"eval_{metric}"] == alone[f"eval_{metric}"]


def test_what_is_logged_can_be_written_as_json(tiny_llama, tiny_tokenizer, tmp_path):
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, max_steps=1)
    pad.train()
    assert {"loss", "kendall_tau", "best_agrees", "mean_logp"} <= set(
        json.loads(json.dumps(pad.state.log_history[0]))
    )


def test_the_card_says_what_was_trained_on_what(tiny_llama, tiny_tokenizer, tmp_path):
    pad = trainer(tiny_llama, tiny_tokenizer, tmp_path, max_steps=1)
    pad.train()
    pad.create_model_card(model_name="mine", dataset_name="me/ranked")
    text = (tmp_path / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.datasets == ["me/ranked"] or card.data.datasets == "me/ranked"
    assert {"trl", "pad", "distillation"} <= set(card.data.tags)
    assert "6 prompts with 4 responses each" in text
    assert "| teacher temperature | 0.1 |" in text
    assert "2502.14272" in text
