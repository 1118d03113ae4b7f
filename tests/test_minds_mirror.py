"""Both stages of Mind's Mirror over real HTTP: figures by hand, who trains on what, kills at every file, other arms."""

import copy
import itertools
import json
import re
import signal
from collections import Counter

import pytest
import torch
from faulty_server import FaultyServer
from killing import killed_at
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from hf_icon2 import ChatClient, MindsMirror, MirrorRecipe, answer_questions, same_answer, self_evaluate
from hf_icon2.cli import main
from hf_icon2.commands import distill_minds_mirror
from hf_icon2.distillation.mirror_figures import Examination, examination, recall_of_each
from hf_icon2.distillation.mirror_recipe import Evaluation, Split, Teacher, Training
from hf_icon2.distillation.mirror_rows import epochs_over_rows, reasoning_rows, verdict_rows, with_replay
from hf_icon2.distillation.question_files import read_questions
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.judges.chat.budget import Budget
from hf_icon2.judges.evaluation_wording import evaluation_prompt
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.storage import locked, read_json, read_json_lines
from hf_icon2.toy import student_path
from hf_icon2.toy.reasoner import ReasoningRule, read_prompt
from hf_icon2.toy.reasoning import sums

ROWS = [{"question": one.text, "answer": f"#### {one.result}"} for one in sums("train", 30)]
RULE = ReasoningRule(error=0.3, unfinished=0.1, malformed=0.05)
STAGES = ("self-evaluation", "reasoning")


def settings(training=(), **changes):
    teacher = Teacher(endpoint="http://127.0.0.1:1/v1", chains=3, evaluations=2, reply_tokens=99)
    trained = {
        "learning_rate": 3e-3,
        "epochs": 4,
        "evaluation_epochs": 3,
        "replay": 0.2,
        "measurements": 3,
        "label_prefix": "answer : ",
    }
    return MirrorRecipe(
        **{
            "questions": "questions.jsonl",
            "split": Split(validation=0.2, test=0.1),
            "teacher": teacher,
            "training": Training(**trained | dict(training)),
            "evaluation": Evaluation(max_new_tokens=6),
            **changes,
        }
    )


def by_rule(payload):
    """The reply of the toy's teacher."""
    texts = read_prompt(payload["messages"][-1]["content"])
    return (RULE.chain if len(texts) == 1 else RULE.evaluation)(*texts, payload["seed"])


@pytest.fixture(scope="module")
def endpoint():
    with FaultyServer(by_rule) as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The questions as a file of GSM8K's form."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def questions(file):
    return read_questions(str(file), "gsm8k")


def mirror(output, questions, endpoint, recipe=None, student=None, **client):
    chat = ChatClient(endpoint.url, **client)
    return MindsMirror(
        student or student_path(), questions, chat, output, recipe or settings(), show_progress=False
    )


@pytest.fixture(scope="module")
def finished(endpoint, questions, tmp_path_factory):
    """The folder of both stages, and what the teacher was asked."""
    folder = tmp_path_factory.mktemp("mirror") / "run"
    first = len(endpoint.seen)
    assert mirror(folder, questions, endpoint).run() == folder / "reasoning" / "model"
    return folder, [seen.payload for seen in endpoint.seen[first:]]


def asked_of(endpoint, first):
    return Counter(json.dumps(seen.payload, sort_keys=True) for seen in endpoint.seen[first:])


def files_of(folder):
    """Everything that a run leaves, as bytes by name, but the recipe, the cache and what is left of files in which a
    kill came. What the teacher was asked for is left out of the figures: an attempt that was killed took its count
    with it."""
    return {
        str(path.relative_to(folder)): without_usage(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("recipe.json", "usage.json")
        and "sqlite" not in path.name
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
    }


def without_usage(path):
    if path.name not in ("collection.json", "history.json"):
        return path.read_bytes()
    data = read_json(path)
    assert data.get("collection", data).pop("usage")["requests"] >= 0
    return json.dumps(data)


def rows_of(folder, stage, name):
    return read_json_lines(folder / stage / f"{name}.jsonl")


def sides(folder):
    """The questions by side of the split."""
    found = {"train": [], "validation": [], "test": []}
    for row in read_json_lines(folder / "questions.jsonl"):
        found[row["split"]].append(row)
    return found


def test_questions_to_measure_with_are_on_no_side_that_is_trained_on(finished):
    folder, asked = finished
    parts = sides(folder)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [21, 6, 3]
    held = [row["text"] for name in ("validation", "test") for row in parts[name]]
    ids = {name: {row["id"] for row in part} for name, part in parts.items()}
    for stage in STAGES:
        train, validation = rows_of(folder, stage, "train"), rows_of(folder, stage, "validation")
        assert {row["id"] for row in train} <= ids["train"]
        assert {row["id"] for row in validation} <= ids["validation"]
        assert not any(text in row["prompt"] for text in held for row in train)
    prompts = [payload["messages"][-1]["content"] for payload in asked]
    assert not any(row["text"] in prompt for row in parts["test"] for prompt in prompts)
    assert all(any(row["text"] in prompt for prompt in prompts) for row in parts["validation"])


def test_the_rows_of_both_stages_are_what_the_teacher_said(finished):
    """Every evaluation in the first stage; every chain, and a fifth of verdict rows, in the second."""
    folder, asked = finished
    chains, evaluations = (read_json_lines(folder / f"{name}.jsonl") for name in ("chains", "evaluations"))
    train = {row["id"] for row in sides(folder)["train"]}
    first, second = (rows_of(folder, stage, "train") for stage in STAGES)
    assert [(row["prompt"], row["label"], row["rationale"]) for row in first] == [
        (
            evaluation_prompt(row["prompt"], row["rationale"], row["label"]),
            row["verdict"],
            row["evaluation"],
        )
        for row in evaluations
        if row["id"] in train
    ]
    own = [(row["prompt"], row["label"], row["rationale"]) for row in second if row["kind"] == "reasoning"]
    assert own == [(row["prompt"], row["label"], row["rationale"]) for row in chains if row["id"] in train]
    replayed = [row for row in second if row["kind"] == "verdict"]
    assert len(replayed) == round(len(own) / 4) >= 12
    assert all(row in first for row in replayed)
    assert len({json.dumps(row) for row in replayed}) == len(replayed)
    report = read_json(folder / "collection.json")
    assert len(asked) == report["usage"]["requests"] == 27 * 3 + 2 * len(chains)
    assert len(chains) == report["chains"]["kept"] < 27 * 3
    history = read_json(folder / "history.json")
    assert history["stages"][0]["replayed"] == 0
    assert history["stages"][1]["replayed"] == len(replayed)
    assert history["stages"][1]["rows"] == len(second)
    assert 3 * 21 / 8 <= history["stages"][0]["steps"] <= 3 * 21 / 8 + 2


def chat(tokenizer, text):
    return tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)[
        "input_ids"
    ]


def label_by_hand(model, tokenizer, question):
    """Greedy decoding without a cache."""
    ids = chat(tokenizer, f"answer : {question}")
    start = len(ids)
    for _ in range(6):
        with torch.no_grad():
            chosen = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if chosen == tokenizer.eos_token_id:
            break
        ids.append(chosen)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def verdict_by_hand(model, tokenizer, row):
    """The likeliest of three continuations, one plain pass each."""
    start = chat(tokenizer, f"answer : {evaluation_prompt(row['prompt'], row['rationale'], row['label'])}")
    likely = {}
    for verdict in ("correct", "wrong", "uncertain"):
        rest = [*tokenizer(verdict, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            scores = model(torch.tensor([start + rest])).logits[0, len(start) - 1 : -1].log_softmax(-1)
        likely[verdict] = float(scores.gather(1, torch.tensor(rest)[:, None]).sum())
    return max(likely, key=likely.get)


@pytest.mark.parametrize("stage", ["before", *STAGES])
def test_the_figures_are_those_of_the_student_on_held_out_questions(finished, stage):
    folder, _ = finished
    source = student_path() if stage == "before" else folder / stage / "model"
    model, tokenizer = load_model(str(source)), load_tokenizer(str(source))
    figures = read_json(folder / ("before.json" if stage == "before" else f"{stage}/figures.json"))
    parts = sides(folder)

    def accuracy(part):
        right = [
            same_answer("gsm8k", label_by_hand(model, tokenizer, row["text"]), row["answer"]) for row in part
        ]
        return sum(right) / len(right)

    assert figures["validation"]["accuracy"] == pytest.approx(accuracy(parts["validation"]))
    if stage == "self-evaluation":
        assert "test" not in figures
    else:
        assert figures["test"] == {"questions": 3, "accuracy": accuracy(parts["test"]), "chains": 0}
    said = {}
    for row in read_json_lines(folder / "evaluations.jsonl"):
        said.setdefault((row["id"], row["chain"]), []).append(row)
    answers = {row["id"]: row["answer"] for row in parts["validation"]}
    hits, truth = {}, {}
    for rows in (rows for (key, _), rows in said.items() if key in answers):
        verdicts = [row["verdict"] for row in rows]
        most = max(verdicts, key=verdicts.count)
        ours = verdict_by_hand(model, tokenizer, rows[0])
        hits.setdefault(most, []).append(ours == most)
        right = int(rows[0]["label"]) == int(answers[rows[0]["id"]])
        truth.setdefault(right, []).append(ours == ("correct" if right else "wrong"))
    found = figures["validation"]["verdicts"]
    recall = {name: sum(part) / len(part) for name, part in hits.items()}
    assert found["recall"] == pytest.approx(recall)
    assert len(recall) >= 2
    assert found["balanced_accuracy"] == pytest.approx(sum(recall.values()) / len(recall))
    assert found["against_answers"] == pytest.approx(
        sum(sum(part) / len(part) for part in truth.values()) / 2
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_checkpoint_is_the_one_that_does_best_on_validation(finished, stage):
    folder, _ = finished
    figures = read_json(folder / stage / "figures.json")
    measured = [row for row in figures["curve"] if "score" in row]
    assert 2 <= len(measured) <= 4
    best = max(measured, key=lambda row: (row["score"], -row["eval_loss"]))
    assert figures["best_step"] == best["step"]
    name = "accuracy" if stage == "reasoning" else "verdicts"
    kept = figures["validation"][name]
    assert best["score"] == (kept if stage == "reasoning" else kept["balanced_accuracy"])
    assert not (folder / stage / "training").exists()


def test_a_run_that_is_done_is_not_done_again(finished, endpoint, questions):
    folder, _ = finished
    before, first = files_of(folder), len(endpoint.seen)
    assert mirror(folder, questions, endpoint).run() == folder / "reasoning" / "model"
    assert files_of(folder) == before
    assert len(endpoint.seen) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": settings(seed=1)}, r"another recipe \(see seed\)"),
        ({"recipe": settings({"alpha": 0.7})}, r"another recipe \(see training.alpha\)"),
        ({"questions": [Question(str(one), one.text) for one in sums("train", 9)]}, "other questions"),
        ({"student": "someone/else"}, "another student"),
    ],
)
def test_a_folder_belongs_to_one_run(changes, message, finished, endpoint, questions):
    folder, _ = finished
    before = files_of(folder)
    with pytest.raises(ValueError, match=message):
        mirror(folder, **{"questions": questions, "endpoint": endpoint} | changes).run()
    assert files_of(folder) == before


def test_two_processes_do_not_work_in_one_folder(tmp_path, questions, endpoint):
    with locked(tmp_path), pytest.raises(ValueError, match="another process works in"):
        mirror(tmp_path, questions, endpoint).run()


KILL_AT = [
    "recipe.json",
    "questions.jsonl",
    "../asked",  # in the midst of the chains
    "chains.jsonl",
    "evaluations.jsonl",
    "collection.json",
    "before.json",
    "self-evaluation/train.jsonl",
    "self-evaluation/training/checkpoint-3",  # a folder: killed while it is filled
    "self-evaluation/training/checkpoint-6/trainer_state.json",
    "self-evaluation/model",
    "self-evaluation/figures.json",
    "reasoning/validation.jsonl",
    "reasoning/training/checkpoint-5/optimizer.pt",
    "reasoning/training/checkpoint-10",
    "reasoning/figures.json",
    "history.json",
]


def test_a_run_that_is_killed_at_every_file_ends_with_the_same_bytes(
    finished, file, endpoint, tmp_path, monkeypatch
):
    """What was asked before a kill is not asked again but for what was in flight."""
    folder, asked = finished
    first = len(endpoint.seen)

    def until_killed(_payload, _attempt):
        if len(endpoint.seen) != first + 40:
            return None
        (tmp_path / "asked").touch()
        return "hold"  # so that the kill comes before all chains are there

    monkeypatch.setattr(endpoint, "plan", until_killed)
    flags = {
        "method": "minds-mirror",
        "output": tmp_path / "run",
        "student": student_path(),
        "questions": file,
        "split.validation": 0.2,
        "split.test": 0.1,
        "teacher.endpoint": endpoint.url,
        "teacher.chains": 3,
        "teacher.evaluations": 2,
        "teacher.reply_tokens": 99,
        "training.learning_rate": 3e-3,
        "training.epochs": 4,
        "training.evaluation_epochs": 3,
        "training.replay": 0.2,
        "training.measurements": 3,
        "training.label_prefix": "answer : ",
        "evaluation.max_new_tokens": 6,
    }
    arguments = (part for name, value in flags.items() for part in (f"--{name}", str(value)))
    killed = killed_at(["distill", *arguments], KILL_AT, tmp_path / "run")
    assert {*killed.values()} == {-signal.SIGKILL}
    assert len(killed) >= len(KILL_AT) - 4
    # The kill before leaves time for these; others are written right after one another.
    assert killed.keys() >= {"../asked", "chains.jsonl", "self-evaluation/figures.json"}
    assert any("checkpoint" in name for name in killed)
    ours, theirs = files_of(tmp_path / "run"), files_of(folder)
    assert ours.keys() == theirs.keys()
    assert {name for name in theirs if ours[name] != theirs[name]} == set()
    requests = asked_of(endpoint, first)
    assert requests.keys() == {json.dumps(payload, sort_keys=True) for payload in asked}
    assert requests.total() <= len(asked) + 2 * 8


def test_a_budget_that_is_spent_ends_before_training_and_a_larger_one_goes_on(
    finished, endpoint, questions, tmp_path
):
    folder, asked = finished
    first = len(endpoint.seen)

    def run(most):
        return mirror(
            tmp_path / "run",
            questions,
            endpoint,
            cache=tmp_path / "cache.sqlite",
            concurrency=1,
            budget=Budget(requests=most),
        ).run()

    with pytest.raises(OSError, match="the budget of 100 requests is spent"):
        run(100)
    assert not (tmp_path / "run" / "collection.json").exists()
    assert read_json(tmp_path / "run" / "usage.json")["requests"] == 100
    run(1000)
    assert asked_of(endpoint, first).total() == len(asked)
    assert read_json(tmp_path / "run" / "collection.json")["usage"] == read_json(folder / "usage.json")
    ours, theirs = files_of(tmp_path / "run"), files_of(folder)
    assert {name for name in theirs if ours[name] != theirs[name]} == set()


def test_settings_of_the_training_may_change_as_long_as_nothing_is_trained(
    finished, endpoint, questions, tmp_path
):
    """An arm without replay on what has been collected; and then no other."""
    folder, _ = finished
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "questions.jsonl", "chains.jsonl", "evaluations.jsonl", "collection.json"):
        (tmp_path / "run" / name).write_bytes((folder / name).read_bytes())
    first = len(endpoint.seen)
    recipe = settings({"replay": 0, "shows": "rationale", "alpha": 1})
    with pytest.raises(ValueError, match=r"see training.self_evaluation"):
        mirror(tmp_path / "run", questions, endpoint, settings({"self_evaluation": False})).run()
    mirror(tmp_path / "run", questions, endpoint, recipe).run()
    assert len(endpoint.seen) == first
    stages = read_json(tmp_path / "run" / "history.json")["stages"]
    assert [stage["replayed"] for stage in stages] == [0, 0]
    assert not any("rationale_loss" in row for stage in stages for row in stage["curve"])
    shown = rows_of(tmp_path / "run", "self-evaluation", "train")
    assert not any("question" in row["prompt"].lower() for row in shown)
    with pytest.raises(ValueError, match=r"see training.alpha"):
        mirror(tmp_path / "run", questions, endpoint, settings({"replay": 0, "shows": "rationale"})).run()


def test_without_self_evaluation_there_is_one_stage_and_nobody_is_asked_for_verdicts(
    endpoint, questions, tmp_path
):
    first = len(endpoint.seen)
    recipe = settings({"self_evaluation": False, "labels": "gold", "lora_rank": 2})
    run = mirror(tmp_path / "run", questions, endpoint, recipe)
    assert run.stages == ["reasoning"]
    student = run.run()
    assert not list(student.glob("adapter*"))  # it is merged into the student
    assert not (tmp_path / "run" / "self-evaluation").exists()
    assert asked_of(endpoint, first).total() == 27 * 3
    answers = {row["id"]: row["answer"] for row in read_json_lines(tmp_path / "run" / "questions.jsonl")}
    chains = read_json_lines(tmp_path / "run" / "chains.jsonl")
    train = rows_of(tmp_path / "run", "reasoning", "train")
    ids = {row["id"] for row in sides(tmp_path / "run")["train"]}
    right = [row for row in chains if row["id"] in ids and row["label"] == answers[row["id"]]]
    assert 0 < len(right) < len([row for row in chains if row["id"] in ids])
    assert [(row["id"], row["chain"]) for row in train] == [(row["id"], row["chain"]) for row in right]
    (stage,) = read_json(tmp_path / "run" / "history.json")["stages"]
    assert stage["replayed"] == 0
    assert "verdicts" not in stage["validation"]


@pytest.fixture(scope="module")
def t5_dir(tiny_tokenizer, tmp_path_factory):
    """Folder with a random T5 v1.1 and a tokenizer without a chat template."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        initializer_factor=4.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain_dir(tiny_llama, tiny_tokenizer, tmp_path_factory):
    """Folder with a decoder-only model and a tokenizer without a chat template."""
    folder = tmp_path_factory.mktemp("plain")
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    tiny_llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5_dir", "plain_dir"])
def test_students_without_a_chat_template_run_through_both_stages(
    kind, request, endpoint, questions, tmp_path, caplog
):
    """An encoder-decoder, which stays one, and a decoder; that they guess at first is no news."""
    source = request.getfixturevalue(kind)
    given = {"epochs": 0.5, "evaluation_epochs": 0.5, "measurements": 2}
    folder = mirror(tmp_path / "run", questions, endpoint, settings(given), student=source).run()
    assert folder == tmp_path / "run" / "reasoning" / "model"
    students = [source, tmp_path / "run" / "self-evaluation" / "model", folder]
    weights = [load_file(student / "model.safetensors") for student in students]
    for before, after in itertools.pairwise(weights):
        assert any(not torch.equal(before[name], after[name]) for name in before)
    student = load_model(str(folder), encoder_decoder=True)
    assert student.config.is_encoder_decoder == (kind == "t5_dir")
    assert len(read_json(tmp_path / "run" / "history.json")["stages"]) == 2
    assert "guesses" not in caplog.text


def test_a_label_that_could_grow_together_with_the_question_is_learned_all_the_same(plain_dir, tmp_path):
    """Without a chat template "s" and "ky" would become one token; a line break keeps them apart, in use as well."""
    questions = [Question(str(number), f"{number}. What is above? The s") for number in range(4)]

    def says_ky(payload):
        judged = "Rationale:" in payload["messages"][-1]["content"]
        return f"It is blue.\n{'Evaluation result: the given answer is correct.' if judged else 'The answer is ky.'}"

    given = {"epochs": 20, "evaluation_epochs": 0.5, "measurements": 2, "learning_rate": 1e-2}
    with FaultyServer(says_ky) as server:
        folder = mirror(tmp_path / "run", questions, server, settings(given), student=plain_dir).run()
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    asked = [question.text for question in questions]
    assert answer_questions(model, tokenizer, asked) == ["ky"] * 4


@pytest.mark.parametrize("kind", ["t5_dir", "plain_dir"])
def test_a_student_may_be_an_adapter_and_ends_as_a_model(kind, request, endpoint, questions, tmp_path):
    source = request.getfixturevalue(kind)
    model = load_model(str(source), encoder_decoder=True)
    task = "SEQ_2_SEQ_LM" if kind == "t5_dir" else "CAUSAL_LM"
    adapter = get_peft_model(model, LoraConfig(r=2, task_type=task, target_modules="all-linear"))
    adapter.save_pretrained(tmp_path / "adapter")
    load_tokenizer(str(source)).save_pretrained(tmp_path / "adapter")
    recipe = settings({"self_evaluation": False, "epochs": 0.5, "measurements": 2})
    folder = mirror(tmp_path / "run", questions, endpoint, recipe, student=tmp_path / "adapter").run()
    before, after = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    layers = [
        name for name in before if "layer_norm" not in name and not torch.equal(before[name], after[name])
    ]
    assert len(layers) > len(before) / 2  # of all weights, those below the adapter too


def test_the_likeliest_answers_are_those_of_one_question_at_a_time(t5_dir, plain_dir):
    texts = ["what is 3 plus 4 ?", "tell me what 1 plus 2 minus 3 is .", "how much is 2 minus 1 ?"]
    for folder in (t5_dir, plain_dir, student_path()):
        model, tokenizer = load_model(str(folder), encoder_decoder=True), load_tokenizer(str(folder))
        together = answer_questions(model, tokenizer, texts, max_new_tokens=9, batch_size=2)
        alone = [answer_questions(model, tokenizer, [text], max_new_tokens=9)[0] for text in texts]
        assert together == alone
        assert any(together)


QUESTIONS = {
    key: Question(key, f"what is {key} ?", answer, "gsm8k") for key, answer in (("a", "7"), ("b", None))
}
CHAINS = [
    {"id": key, "chain": chain, "prompt": f"what is {key} ?", "rationale": f"r{chain}", "label": label}
    for key, chain, label in (("a", 0, "7.0"), ("a", 1, "8"), ("b", 0, "5"), ("c", 0, "1"))
]


def test_a_student_knows_its_prefixes_and_others_are_reported(finished, caplog):
    folder = str(finished[0] / "reasoning" / "model")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for prefix in ("answer : ", "explain: "):
        answer_questions(model, tokenizer, ["what is 1 plus 2 ?"], prefix=prefix, max_new_tokens=2)
    self_evaluate(model, tokenizer, "what is 1 plus 2 ?", "1 plus 2 is 3 .", "3", label_prefix="answer : ")
    assert "trained with" not in caplog.text
    answer_questions(model, tokenizer, ["what is 1 plus 2 ?"], max_new_tokens=2)
    known = "is none that the model was trained with; it knows 'answer : ' for a label, 'explain: ' for a rationale"
    assert f"prefix='predict: ' {known}" in caplog.text
    self_evaluate(model, tokenizer, "what is 1 plus 2 ?", "1 plus 2 is 3 .", "3")
    assert f"label_prefix='predict: ' {known}" in caplog.text


def test_a_student_is_measured_in_the_words_it_was_trained_with(plain_dir):
    asked = []

    def wording(*said, shows="all"):
        asked.append((*said, shows))
        return "Is it right?"

    row = {"id": "0", "prompt": "Q?", "rationale": "R.", "label": "7", "verdict": "correct"}
    model, tokenizer = load_model(str(plain_dir)), load_tokenizer(str(plain_dir))
    Examination([], [row], settings(), wording).verdicts(model, tokenizer)
    assert asked == [("Q?", "R.", "7", "all")]


def test_one_text_or_an_empty_one_is_no_list_of_questions(plain_dir):
    model, tokenizer = load_model(str(plain_dir)), load_tokenizer(str(plain_dir))
    with pytest.raises(TypeError, match=r"got one string; pass \[text\]"):
        answer_questions(model, tokenizer, "How many?")
    with pytest.raises(ValueError, match="an instruction is empty"):
        answer_questions(model, tokenizer, ["How many?", " "])


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({}, [("a", 0, "7.0"), ("a", 1, "8"), ("b", 0, "5")]),
        ({"labels": "gold"}, [("a", 0, "7"), ("b", 0, "5")]),
        ({"labels": "gold", "keep_wrong": True}, [("a", 0, "7"), ("a", 1, "7"), ("b", 0, "5")]),
    ],
)
def test_labels_are_the_teachers_or_gold_and_chains_that_contradict_gold_are_dropped(given, labels):
    """Question a is known to be 7, b is not known, c is no question to train on."""
    rows = reasoning_rows(CHAINS, QUESTIONS, Training(**given))
    assert [(row["id"], row["chain"], row["label"]) for row in rows] == labels
    assert all(row["rationale"] == f"r{row['chain']}" for row in rows)


def test_where_no_answer_is_known_the_most_frequent_label_stands_for_it():
    """Of a, "7.0" and "7" are the same number and more than "8"; of b, gold stands; c has no chains."""
    held = [
        Question("a", "?", None, "gsm8k"),
        Question("b", "?", "1", "gsm8k"),
        Question("c", "?", None, "gsm8k"),
    ]
    chains = [{"id": "a", "label": label} for label in ("8", "7.0", "7")] + [{"id": "b", "label": "2"}]
    found = examination(held, chains, (), MirrorRecipe())
    assert [(one.id, one.answer) for one in found.questions] == [("a", "7.0"), ("b", "1")]
    assert found.known == {"b"}


def test_updates_do_not_grow_with_the_chains():
    """6 passes over 2 questions with 3 and 1 chains are 12 rows: 3 epochs of 4 rows. Replayed rows come on top."""
    rows = [{"id": key, "kind": "reasoning"} for key in "aaab"]
    assert epochs_over_rows(6, rows) == 3
    assert epochs_over_rows(6, [*rows, {"id": "c", "kind": "verdict"}]) == 3


def test_the_replay_is_a_share_of_all_rows_and_each_row_at_most_once():
    """A tenth of 20 rows are 2 beside 18; of 5 verdict rows there are no more than 5."""
    rows = [{"id": str(index)} for index in range(18)]
    verdicts = [{"id": f"v{index}"} for index in range(5)]
    mixed = with_replay(rows, verdicts, 0.1, 0)
    assert mixed[:18] == rows
    assert len(mixed) == 20
    assert with_replay(rows, verdicts, 0.1, 0) == mixed
    assert len({row["id"] for row in with_replay(rows, verdicts, 0.5, 0)[18:]}) == 5
    assert with_replay(rows, verdicts, 0, 0) == rows


def test_recall_counts_each_class_alike():
    """Three of four "correct" found, one of two "wrong", no "uncertain": always saying "correct" would be 1 and 0."""
    right = ["correct"] * 4 + ["wrong"] * 2
    said = ["correct", "correct", "correct", "wrong", "wrong", "uncertain"]
    assert recall_of_each(said, right) == {"correct": 0.75, "wrong": 0.5}


def test_a_teacher_that_is_always_wrong_leaves_nothing_to_learn_from(questions, tmp_path):
    wrong = ReasoningRule(error=1, unfinished=0, malformed=0)
    answer = lambda payload: wrong.chain(*read_prompt(payload["messages"][-1]["content"]), payload["seed"])  # noqa: E731
    recipe = settings({"self_evaluation": False, "labels": "gold"})
    with (
        FaultyServer(answer) as server,
        pytest.raises(ValueError, match="nothing that the teacher said can be used in the stage reasoning"),
    ):
        mirror(tmp_path / "run", questions, server, recipe).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": Split(validation=0)}, "split.validation must be above 0"),
        ({"split": Split(validation=0.5, test=0.5)}, "must leave questions to train on"),
        ({"teacher": Teacher(chains=0)}, "teacher.chains must be at least 1"),
        ({"teacher": Teacher(evaluations=0)}, "teacher.evaluations must be at least 1"),
        ({"teacher": Teacher(temperature=0)}, "teacher.temperature must be above 0"),
        ({"teacher": Teacher(budget_cost=1)}, "teacher.budget_cost needs teacher.price_input"),
        ({"teacher": Teacher(concurrency=0)}, "teacher.concurrency must be 1 to 100"),
        ({"training": Training(alpha=1.1)}, "training.alpha must be 0 to 1"),
        ({"training": Training(replay=1)}, "training.replay must be at least 0 and below 1"),
        ({"training": Training(measurements=1)}, "training.measurements must be at least 2"),
        ({"training": Training(keep_wrong=True)}, "training.keep_wrong is for training.labels gold"),
        ({"training": Training(label_prefix="explain: ")}, "must differ"),
        ({"student": "a/b"}, "questions are needed for a student that is not the toy"),
        ({"questions": "some.jsonl"}, "teacher.endpoint or teacher.endpoint_model is needed"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_they_cost_anything(changes, message):
    with pytest.raises(ValueError, match=message):
        MirrorRecipe(**changes)
    assert MirrorRecipe.from_dict(MirrorRecipe().to_dict()) == MirrorRecipe()


def test_questions_come_from_json_and_from_json_lines(file, tmp_path):
    one = tmp_path / "rows.json"
    one.write_text(json.dumps(ROWS))
    found = read_questions(str(one), "gsm8k")
    assert found == read_questions(str(file), "gsm8k")
    assert [(each.text, each.answer) for each in found] == [
        (row["question"], row["answer"].removeprefix("#### ")) for row in ROWS
    ]
    some = read_questions(str(file), "gsm8k", number=5, seed=3)
    assert len({each.id for each in some}) == 5
    assert some == read_questions(str(file), "gsm8k", number=5, seed=3)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_questions(str(tmp_path / "none.jsonl"), "gsm8k")


def test_questions_of_any_other_form_are_answered_as_text(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Where is the tower?", "answer": "in Paris."}\n')
    assert read_questions(str(rows), "text") == [Question("questions-0", "Where is the tower?", "in Paris")]
    assert MirrorRecipe(task="text").task == "text"


def test_files_that_cannot_be_read_are_refused_with_a_sentence(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("question,answer\n")
    with pytest.raises(
        ValueError, match=r"rows.csv is neither .jsonl nor .json; write its rows as JSON lines"
    ):
        read_questions(str(table), "text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.json").write_text('{"question": "x"}\n{"question')
    with pytest.raises(ValueError, match="the rows of .*folder cannot be read"):
        read_questions(str(tmp_path / "folder"), "text")


def test_the_command_tells_how_good_the_bundled_student_became(tmp_path, capsys, monkeypatch):
    """The bundled teacher over HTTP, few sums; held-out ones with a right, a wrong and an unfinished rationale each."""
    monkeypatch.setattr(distill_minds_mirror, "HELD_OUT_SUMS", 8)
    small = {"number": 12, "teacher.chains": 1, "teacher.evaluations": 1}
    short = {"training.epochs": 4, "training.evaluation_epochs": 4, "training.measurements": 2}
    flags = (part for name, value in (small | short).items() for part in (f"--{name}", str(value)))
    folder = tmp_path / "run"
    assert main(["distill", "--method", "minds-mirror", "--output", str(folder), *flags]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"right labels of 8 held-out sums: 0\.\d{3} before, \d\.\d{3} after; balanced accuracy", said
    )
    recipe = MirrorRecipe.from_dict(read_json(folder / "recipe.json"))
    held_out = distill_minds_mirror.held_out_sums(recipe, 8)
    verdicts = Counter(row["verdict"] for row in held_out.chains)
    assert verdicts == {"correct": 8, "wrong": 8, "uncertain": 8}
    texts = {question.text for question in held_out.questions}
    assert not texts & {row["text"] for row in read_json_lines(folder / "questions.jsonl")}
    prompts = [row["prompt"] for row in rows_of(folder, "self-evaluation", "train")]
    assert all(prompt.startswith("problem : ") for prompt in prompts)  # in words of the toy


def test_what_cannot_be_a_student_or_a_question_is_refused_at_once(questions, endpoint, tmp_path):
    with pytest.raises(TypeError, match="student must be a model id or path, got object"):
        MindsMirror(object(), questions, ChatClient(endpoint.url), tmp_path / "run")
    with pytest.raises(TypeError, match="questions must be of the class Question"):
        mirror(tmp_path / "run", ["what is 1 plus 1 ?"], endpoint)
    assert not (tmp_path / "run").exists()


def test_a_student_that_is_not_there_is_noticed_before_the_teacher_is_asked(questions, endpoint, tmp_path):
    first = len(endpoint.seen)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        mirror(tmp_path / "run", questions, endpoint, student=tmp_path / "none").run()
    assert len(endpoint.seen) == first


def test_rows_that_are_too_long_are_left_out_and_counted(endpoint, questions, tmp_path):
    """Rationales of two steps have more than 12 tokens with their end, those of one have not."""
    given = {"self_evaluation": False, "max_target_length": 12, "epochs": 0.5}
    folder = mirror(tmp_path / "run", questions, endpoint, settings(given)).run()
    (stage,) = read_json(tmp_path / "run" / "history.json")["stages"]
    tokenizer = load_tokenizer(str(folder))
    lengths = [
        len(tokenizer(row["rationale"])["input_ids"]) + 1
        for row in rows_of(tmp_path / "run", "reasoning", "train")
    ]
    assert stage["left_out"] == sum(length > 12 for length in lengths)
    assert 0 < stage["left_out"] < len(lengths)


def test_verdict_rows_ask_in_the_words_that_the_student_is_asked_in():
    row = {
        "id": "a",
        "chain": 0,
        "number": 1,
        "prompt": "q",
        "rationale": "r",
        "label": "7",
        "evaluation": "because",
        "verdict": "wrong",
    }
    (all_of_it,) = verdict_rows([row, {**row, "id": "b"}], {"a"}, "all")
    assert all_of_it["prompt"] == evaluation_prompt("q", "r", "7")
    assert (all_of_it["label"], all_of_it["rationale"]) == ("wrong", "because")
    (alone,) = verdict_rows([row], {"a"}, "rationale")
    assert alone["prompt"] == evaluation_prompt("q", "r", "7", "rationale")
