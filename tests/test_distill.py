"""`hf-icon2 distill`: rounds of sampling, scoring and training, killed and taken up, and what is refused."""

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from faulty_server import FaultyServer, completion
from killing import killed_at
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_icon2.cli import main
from hf_icon2.commands import distill_pad
from hf_icon2.commands.flags import with_flags
from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.distillation.recipe import DistillationRecipe, Scoring
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.settings import read_settings, sections
from hf_icon2.steering.decoding import Sampling
from hf_icon2.storage import read_json_lines

RECIPES = Path(__file__).parent.parent / "hf_icon2" / "recipes"


@pytest.fixture(scope="module")
def command(tiny_llama_dir, tiny_model, tiny_tokenizer, tmp_path_factory):
    """Arguments of a small distillation between two random models, without its output."""
    folder = tmp_path_factory.mktemp("distil")
    tiny_model("llama", seed=5).save_pretrained(folder / "teacher")
    tiny_tokenizer.save_pretrained(folder / "teacher")
    prompts = [{"prompt": f"Question {number}, please?"} for number in range(6)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    flags = {
        "student": tiny_llama_dir,
        "teacher": folder / "teacher",
        "prompts": folder / "prompts.jsonl",
        "rounds": 2,
        "sampling.samples": 3,
        "sampling.keep": 3,
        "sampling.max_new_tokens": 8,
        "training.learning_rate": 1e-3,
        "training.batch_size": 2,
        "training.student_temperature": 1.0,
    }
    return ["distill", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main([*command, "--output", str(folder)]) == 0
    return folder


def weights(folder):
    return load_file(folder / "round-2" / "model" / "model.safetensors")


def test_each_round_begins_with_the_student_of_the_round_before(finished, command, capsys):
    """The second round's candidates are those that the first round's student gives, sampled here once more."""
    student = finished / "round-1" / "model"
    rows = read_json_lines(finished / "round-2" / "scored.jsonl")
    drawn = sample_candidates(
        load_model(str(student)),
        load_tokenizer(str(student)),
        [f"Question {number}, please?" for number in range(6)],
        samples=3,
        keep=3,
        sampling=Sampling(8, 1.0, 0.95),
        seed=1_000_003,
        show_progress=False,
    )
    assert [row["responses"] for row in rows] == drawn["responses"][:]
    assert all(len(row["scores"]) == len(row["selection"]) == len(row["mean_log_probs"]) == 3 for row in rows)
    model = AutoModelForCausalLM.from_pretrained(finished / "round-2" / "model")
    assert not torch.equal(model.lm_head.weight, load_model(str(student)).lm_head.weight)
    card = (finished / "round-2" / "model" / "README.md").read_text()
    assert "preference-aligned distillation" in card
    assert f"{len(rows)} prompts with 3 responses each" in card


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_with_the_same_student(finished, command, tmp_path):
    names = ["recipe.json", "round-1/scored.jsonl", "round-1/done", "round-2/scored.jsonl"]
    folder = tmp_path / "run"
    killed = killed_at([*command, "--output", str(folder)], names, folder)
    assert {*killed.values()} == {-signal.SIGKILL}
    assert len(killed) >= 3
    ours, theirs = weights(folder), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_recipe_in_the_same_folder_is_refused(finished, command, capsys):
    assert main([*command, "--output", str(finished), "--scoring.alpha", "1.0"]) == 1
    assert "holds a run with another recipe (see scoring.alpha)" in capsys.readouterr().err


def test_what_an_endpoint_answered_is_kept_with_the_run(tmp_path):
    with FaultyServer(lambda _payload: completion("A", alternatives={"A": -0.1, "B": -2.5})) as server:
        recipe = DistillationRecipe(scoring=Scoring(alpha=0.0, endpoint=server.url))
        before, after = (
            distill_pad._judge(recipe, tmp_path / distill_pad.CACHE)(["a or b ?"]) for _ in range(2)
        )
    assert before == after
    assert len(server.seen) == 1


def test_the_token_of_the_hub_is_shown_to_no_other_host(monkeypatch, tmp_path):
    """What a real server on this machine sees of a client whose environment holds a token."""
    seen = []

    class Listener(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        recipe = DistillationRecipe(scoring=Scoring(alpha=0.0, endpoint=address))
        for key in (None, "mine"):
            if key:
                monkeypatch.setenv("HF_ICON2_ENDPOINT_KEY", key)
            with pytest.raises(ConnectionError, match="status 400"):
                distill_pad._judge(recipe, tmp_path / "cache")(["a or b ?"])
        server.shutdown()
    assert seen == ["Bearer -", "Bearer mine"]


def test_a_folder_in_which_nothing_was_scored_takes_a_corrected_recipe(command, tmp_path, capsys):
    folder = ["--output", str(tmp_path / "run")]
    assert main([*command, *folder, "--teacher", "/no/such"]) == 1
    assert main([*command, *folder, "--rounds", "1"]) == 0
    assert "the student is in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--sampling.keep", "9"], "sampling.keep must be 2 to sampling.samples"),
        (
            ["--student", "x", "--scoring.alpha", "0.5"],
            "prompts are needed for a student that is not the toy",
        ),
        (["--number", "0"], "number must be at least 1"),
        (["--training.group_size", "5"], "training.group_size must be 2 to sampling.keep=4"),
        (["--sampling.samples", "9", "--sampling.keep", "9"], "training.group_size must be 2 to 8"),
        (["--training.teacher_temperature", "0"], "must be above 0 and finite"),
        (["--training.learning_rate", "0"], "training.learning_rate and training.epochs must be above 0"),
        (["--training.batch_size", "0"], "must be at least 1"),
        (["--training.lora_rank", "-1"], "training.lora_rank must be 0 or more"),
        (
            ["--student", "x", "--prompts", "x.jsonl"],
            "a teacher is needed unless scoring.alpha is 0 and scoring.endpoint selects",
        ),
        (
            ["--student", "/no/such", "--teacher", "toy", "--prompts", "/no/file.jsonl"],
            "there is no file /no/file.jsonl",
        ),
    ],
)
def test_settings_that_make_no_sense_are_a_sentence(tmp_path, capsys, flags, message):
    assert main(["distill", "--output", str(tmp_path / "run"), *flags]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_bundled_recipe_is_a_recipe_and_every_setting_says_what_it_is():
    recipe = DistillationRecipe.from_dict(read_settings(RECIPES / "pad.yaml"))
    assert recipe.scoring.alpha == 1.0
    assert recipe.training.learning_rate == 3e-4
    for kind in sections(DistillationRecipe).values():
        assert all(item.metadata["help"] for item in kind.__dataclass_fields__.values())


def test_flags_win_over_the_file():
    merged = with_flags({"rounds": 2, "sampling": {"keep": 3}}, {"sampling.samples": 6, "rounds": 1})
    assert merged == {"rounds": 1, "sampling": {"keep": 3, "samples": 6}}
