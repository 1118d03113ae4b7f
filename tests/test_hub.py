"""Directions, pairs and models on the Hub: real HTTP against the stand-in of `hub_server.py`, clients are processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from hf_icon2 import DirectionVectors, Recipe, make_steerable

HERE = Path(__file__).parent
FILES = ("direction_vector_config.json", "direction_vectors.safetensors")
MINE, READER, SOMEONE = "hf_token_of_me", "hf_token_of_a_reader", "hf_token_of_someone"


@dataclass
class Job:
    """An order that a process works on."""

    pid: int
    answer: Path

    def wait(self):
        while not self.answer.exists():
            assert self.running(), f"the client died over {self.answer.name}"
            time.sleep(0.02)
        return json.loads(self.answer.read_text())

    def running(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return self.answer.exists()
        return True

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.01)


class Hub:
    """The server, and a client program whose forks carry out orders."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, HERE / "hub_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = json.loads(self.server.stdout.readline())["address"]
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": MINE,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        }
        with (folder / "client.log").open("w") as log:
            self.client = subprocess.Popen(
                [sys.executable, HERE / "hub_client.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
            )
        assert self.client.stdout.readline() == "ready\n", (folder / "client.log").read_text()

    def close(self):
        for process in (self.client, self.server):
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def start(self, what, _token=MINE, /, *arguments, **options):
        self.count += 1
        answer = self.folder / f"answer-{self.count}-{what}.json"
        order = {"do": what, "with": arguments or options, "answer": str(answer), "env": {"HF_TOKEN": _token}}
        self.client.stdin.write(json.dumps(order) + "\n")
        self.client.stdin.flush()
        return Job(int(self.client.stdout.readline()), answer)

    def __call__(self, what, _token=MINE, /, *arguments, **options):
        answer = self.start(what, _token, *arguments, **options).wait()
        assert "error" not in answer, answer["traceback"]
        return answer["result"]

    def refuses(self, what, _token=MINE, /, *arguments, **options):
        """The error's type and sentence; no token may stand in it or in its traceback."""
        answer = self.start(what, _token, *arguments, **options).wait()
        assert "error" in answer, answer
        assert not re.search("hf_token", answer["traceback"])
        return answer["error"], answer["said"]

    def control(self, what, order=None):
        body = None if order is None else json.dumps(order).encode()
        with urllib.request.urlopen(f"{self.address}/_control/{what}", data=body) as answer:
            return json.load(answer)

    def wait_for(self, event, method):
        """Waits until the server has noted something since the last faults were ordered."""
        for _ in range(1000):
            if any(note["event"] == event and note["method"] == method for note in self.news()):
                return
            time.sleep(0.05)
        raise TimeoutError(f"no {method} has {event}; the server saw {self.news()}")

    def news(self):
        return self.control("log")[self.noted :]

    def faults(self, *faults):
        self.noted = len(self.control("log"))
        self.control("faults", list(faults))


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.close()


@pytest.fixture
def hub(running_hub):
    running_hub.faults()
    yield running_hub
    running_hub.control("release", {})
    running_hub.faults()


@pytest.fixture(scope="module")
def directions(tiny_llama, random_directions):
    return random_directions(tiny_llama)


@pytest.fixture
def saved(directions, tmp_path):
    return str(directions.save_pretrained(tmp_path / "directions"))


def digests(folder):
    return [sha256((Path(folder) / name).read_bytes()).hexdigest() for name in FILES]


def test_directions_pushed_by_one_process_steer_in_another(
    hub, saved, directions, tiny_llama, tiny_llama_dir
):
    commit = hub("push_directions", folder=saved, repo="me/first")
    assert commit["url"] == f"{hub.address}/me/first/commit/{commit['oid']}"
    assert hub("files", repo="me/first") == digests(saved)
    steered = hub("steer", repo="me/first", model=str(tiny_llama_dir), strength=2.0)
    here = make_steerable(tiny_llama, directions)
    prompt = torch.arange(3, 9)[None]
    expected = here.generate(prompt, steering={"honesty": 2.0}, max_new_tokens=8, do_sample=False)
    plain = here.generate(prompt, max_new_tokens=8, do_sample=False)
    assert steered == expected.tolist() != plain.tolist()


def test_a_branch_a_tag_and_a_commit_each_load_what_they_held(hub, directions, tmp_path):
    versions = [directions, directions * 2.0, directions * 3.0]
    folders = [
        str(version.save_pretrained(tmp_path / str(number))) for number, version in enumerate(versions)
    ]
    first = hub("push_directions", folder=folders[0], repo="me/pinned")["oid"]
    hub("tag", repo="me/pinned", name="v1")
    hub("push_directions", folder=folders[1], repo="me/pinned", commit_message="Twice as long")
    hub("push_directions", folder=folders[2], repo="me/pinned", revision="trial")
    expected = {None: 1, "main": 1, "v1": 0, first: 0, "trial": 2}
    for revision, number in expected.items():
        loaded = hub("load_directions", repo="me/pinned", revision=revision)
        assert loaded["sha256"] == versions[number].sha256, revision


def test_directions_lie_in_a_folder_of_a_repo(hub, saved, directions):
    hub("push_directions", folder=saved, repo="me/several", path_in_repo="layers/all")
    loaded = hub("load_directions", repo="me/several", subfolder="layers/all")
    assert loaded["sha256"] == directions.sha256
    assert hub("load_directions", repo="me/several", subfolder="./layers/all/") == loaded
    for outside in ("../first", "/etc"):
        error, said = hub.refuses("load_directions", repo="me/several", subfolder=outside)
        assert (error, "leads out of the repo" in said) == ("ValueError", True)
    assert hub.refuses("load_directions", repo="me/several") == (
        "FileNotFoundError",
        "there is no folder 'me/several', and on the Hub: direction_vector_config.json of me/several at revision "
        "main does not exist; the repo has one in 'layers/all', choose it with subfolder",
    )


def test_a_models_card_stays_and_our_own_card_is_renewed(hub, saved, directions, tmp_path):
    hub("upload", repo="me/model", path="README.md", content="---\nlibrary_name: transformers\n---\n# Mine\n")
    hub("upload", repo="me/model", path="config.json", content="{}")
    hub("push_directions", folder=saved, repo="me/model")
    assert hub("text", repo="me/model", name="README.md").endswith("# Mine\n")
    assert {"README.md", "config.json", *FILES} <= set(hub("listing", repo="me/model"))
    hub("push_directions", folder=saved, repo="me/own")
    renamed = replace(directions, config=replace(directions.config, base_model="someone/else"))
    hub("push_directions", folder=str(renamed.save_pretrained(tmp_path / "renamed")), repo="me/own")
    assert "someone/else" in hub("text", repo="me/own", name="README.md")
    hub("push_directions", folder=saved, repo="me/model", card="---\nlicense: mit\n---\n# Given\n")
    assert hub("text", repo="me/model", name="README.md").endswith("# Given\n")


def test_a_private_repo_needs_the_login_of_its_owner(hub, saved, tmp_path):
    hub("push_directions", folder=saved, repo="me/private", private=True)
    assert hub("load_directions", repo="me/private")
    for token in (SOMEONE, ""):
        error, said = hub.refuses("load_directions", token, repo="me/private", cache_dir=str(tmp_path))
        assert error == "FileNotFoundError"
        assert said.endswith(
            "no model repo me/private on the Hub that this login can see; check the name, and if it is private "
            "log in with `hf auth login`, or set HF_TOKEN"
        )
    given = hub("load_directions", "", repo="me/private", token=MINE, cache_dir=str(tmp_path))
    assert given == hub("load_directions", repo="me/private")


def test_nothing_private_goes_to_a_public_repo(hub, saved):
    hub("upload", repo="me/public", path="a.txt", content="a")
    error, said = hub.refuses("push_directions", folder=saved, repo="me/public", private=True)
    assert (error, said[:36]) == ("ValueError", "me/public exists and is public, so n")
    assert hub("listing", repo="me/public") == [".gitattributes", "a.txt"]


def test_what_the_hub_does_not_have_is_named_with_what_it_has(hub, saved):
    hub("push_directions", folder=saved, repo="me/there")
    hub("tag", repo="me/there", name="v1")
    hub("upload", repo="me/data", repo_type="dataset", path="a.txt", content="a")
    hub("upload", repo="me/empty", path="a.txt", content="a")
    cases = {
        ("me/there", "v2"): "me/there has no revision 'v2'; it has main, v1; give a branch",
        (
            "me/data",
            None,
        ): "no model repo me/data on the Hub that this login can see; there is a dataset of that",
        (
            "me/empty",
            None,
        ): "direction_vector_config.json of me/empty at revision main does not exist; the repo has",
    }
    for (repo, revision), sentence in cases.items():
        error, said = hub.refuses("load_directions", repo=repo, revision=revision)
        assert error == "FileNotFoundError"
        assert sentence in said


def test_logins_that_do_not_suffice_are_told_apart(hub, saved):
    hub("push_directions", folder=saved, repo="me/gated")
    hub.control("gate", {"repo": "me/gated"})
    error, said = hub.refuses("load_directions", SOMEONE, repo="me/gated")
    assert (error, "me/gated is gated; ask for access at" in said) == ("PermissionError", True)
    error, said = hub.refuses("load_directions", "hf_token_that_is_old", repo="me/gated")
    assert error == "PermissionError"
    assert said.startswith(
        "the Hub refused the login for me/gated (Invalid credentials in Authorization header)"
    )
    for token in (READER, SOMEONE):
        error, said = hub.refuses("push_directions", token, folder=saved, repo="me/gated")
        assert (error, said[:42]) == ("PermissionError", "this login may not do that with me/gated (")
    error, said = hub.refuses("push_directions", "", folder=saved, repo="me/new")
    assert (error, said[:41]) == ("PermissionError", "the Hub refused the login for me/new (Inv")
    for options in ({"token": "hf_token_of\nme"}, {"_token": "hf_token_öf_me"}):
        token = options.pop("_token", MINE)
        error, said = hub.refuses("load_directions", token, repo="me/gated", **options)
        assert (error, "characters that no token has" in said) == ("ValueError", True)


def test_a_proposal_to_a_repo_of_others_changes_nothing_there(hub, saved, directions):
    hub("push_directions", folder=saved, repo="me/proposed")
    proposed = str((directions * 2.0).save_pretrained(Path(saved).parent / "proposed"))
    commit = hub("push_directions", SOMEONE, folder=proposed, repo="me/proposed", create_pr=True)
    assert hub("load_directions", repo="me/proposed")["sha256"] == directions.sha256
    loaded = hub("load_directions", repo="me/proposed", revision=commit["pr"])
    assert loaded["sha256"] == (directions * 2.0).sha256


def test_an_error_of_the_server_is_waited_out_or_named(hub, saved, directions, tmp_path):
    hub.faults({"method": "POST", "path": "/preupload/", "times": 1, "status": 503})
    hub("push_directions", folder=saved, repo="me/unlucky")
    hub.faults({"method": "HEAD", "path": "/resolve/", "times": 1, "status": 503})
    options = {"repo": "me/unlucky", "cache_dir": str(tmp_path / "cache")}
    assert hub("load_directions", **options)["sha256"] == directions.sha256

    hub.faults({"method": "POST", "path": "/commit/", "status": 503})
    doubled = str((directions * 2.0).save_pretrained(tmp_path / "doubled"))
    error, said = hub.refuses("push_directions", folder=doubled, repo="me/unlucky")
    assert (error, said.startswith("the Hub answered with status 503 for me/unlucky")) == (
        "ConnectionError",
        True,
    )
    hub.faults({"method": "GET", "path": "/resolve/", "status": 500})
    options["cache_dir"] = str(tmp_path / "other cache")
    error, said = hub.refuses("load_directions", **options)
    assert (error, "the Hub answered with status 500" in said) == ("ConnectionError", True)
    hub.faults()
    assert hub("load_directions", **options)["sha256"] == directions.sha256


def test_an_upload_that_is_cut_is_repeated_and_a_refused_one_is_named(hub, large, directions):
    folder, fingerprint = large
    hub.faults({"method": "PUT", "path": "/lfs/", "times": 1, "status": 507})
    error, said = hub.refuses("push_directions", folder=folder, repo="me/cut-up")
    assert (error, said.startswith("the Hub answered with status 507 for me/cut-up")) == (
        "ConnectionError",
        True,
    )
    hub.faults({"method": "PUT", "path": "/lfs/", "times": 1, "cut_after": 1_000_000})
    hub("push_directions", folder=folder, repo="me/cut-up")
    assert [note["method"] for note in hub.news() if "/lfs/" in note["path"]].count("PUT") == 2
    assert hub("load_directions", repo="me/cut-up")["sha256"] == fingerprint


def test_a_cut_connection_is_taken_up_where_it_broke(hub, large, tmp_path):
    folder, _ = large
    hub("push_directions", folder=folder, repo="me/cut")
    hub.faults({"method": "GET", "path": "/lfs/", "times": 1, "cut_after": 12_000_000})
    options = {"repo": "me/cut", "cache_dir": str(tmp_path)}
    assert hub("files", **options) == digests(folder)
    ranges = [note["range"] for note in hub.news() if note["method"] == "GET" and "/lfs/" in note["path"]]
    assert ranges[0] is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])


def test_a_server_that_always_breaks_off_ends_in_a_sentence(hub, saved, tmp_path):
    hub("push_directions", folder=saved, repo="me/broken")
    hub.faults({"method": "GET PUT", "path": "/resolve/|/lfs/", "cut_after": 0})
    error, said = hub.refuses("load_directions", repo="me/broken", cache_dir=str(tmp_path))
    assert (error, "connection to the Hub failed while working on me/broken" in said) == (
        "ConnectionError",
        True,
    )


@pytest.fixture
def large(directions, tmp_path):
    """Directions of 17 MB: more than sockets hold, and than the 10 MB that the client writes at once.

    They differ from test to test, for the Hub asks for no large file twice.
    """
    layers, width = 32, 65536
    config = replace(
        directions.config,
        hidden_size=width,
        num_layers=layers,
        layers=tuple(range(layers)),
        residual_norms=(1.0,) * layers,
        contrast_norms=dict.fromkeys(directions.names, (1.0,) * layers),
    )
    seed = int(sha256(str(tmp_path).encode()).hexdigest()[:8], 16)
    tensor = torch.randn(2, layers, width, generator=torch.Generator().manual_seed(seed))
    vectors = DirectionVectors(config, tensor)
    return str(vectors.save_pretrained(tmp_path / "large")), vectors.sha256


@pytest.mark.parametrize(("method", "path"), [("PUT", "/lfs/"), ("POST", "/commit/")])
def test_a_killed_upload_leaves_nothing_that_loads_and_the_next_one_completes(hub, large, method, path):
    folder, fingerprint = large
    repo = f"me/killed-{method.lower()}"
    hub.faults({"method": method, "path": path, "times": 1, "stall_after": 100})
    job = hub.start("push_directions", folder=folder, repo=repo)
    hub.wait_for("stalled", method)
    job.kill()
    assert hub("listing", repo=repo) == [".gitattributes"]
    error, said = hub.refuses("load_directions", repo=repo)
    assert (error, "does not exist; the repo has none" in said) == ("FileNotFoundError", True)
    hub("push_directions", folder=folder, repo=repo)
    assert hub("load_directions", repo=repo)["sha256"] == fingerprint
    hub.control("release", {})


def test_a_killed_download_leaves_nothing_that_loads_and_the_next_one_completes(hub, large, tmp_path):
    folder, fingerprint = large
    cache = tmp_path / "cache"
    options = {"repo": "me/big", "cache_dir": str(cache)}
    hub("push_directions", folder=folder, repo="me/big")
    hub.faults({"method": "GET", "path": "/lfs/", "times": 1, "stall_after": 12_000_000})
    job = hub.start("load_directions", **options)
    hub.wait_for("stalled", "GET")
    job.kill()
    assert list(cache.rglob("*.incomplete"))
    assert not list(cache.rglob("direction_vectors.safetensors"))
    error, said = hub.refuses("load_directions", **options, local_files_only=True)
    assert error == "FileNotFoundError"
    assert "direction_vectors.safetensors of me/big at revision main is not in the cache" in said
    assert hub("load_directions", **options)["sha256"] == fingerprint
    assert hub("load_directions", **options, local_files_only=True)["sha256"] == fingerprint


def test_both_files_come_from_one_commit_even_if_somebody_pushes_in_between(hub, directions, tmp_path):
    """The record is loaded, then another commit changes both files, then the vectors are loaded."""
    folders = [
        str(version.save_pretrained(tmp_path / str(number)))
        for number, version in enumerate((directions, directions.select(["honesty"])))
    ]
    hub("push_directions", folder=folders[0], repo="me/busy")
    hub.faults({"method": "GET", "path": "config.json", "times": 1, "stall_after": 10})
    job = hub.start("load_directions", repo="me/busy", cache_dir=str(tmp_path / "cache"))
    hub.wait_for("stalled", "GET")
    hub("push_directions", folder=folders[1], repo="me/busy")
    hub.control("release", {})
    assert job.wait()["result"]["sha256"] == directions.sha256
    loaded = hub("load_directions", repo="me/busy", cache_dir=str(tmp_path / "cache"))
    assert loaded["names"] == ["honesty"]


def test_a_fresh_process_pulls_over_http_and_later_loads_without_it(hub, saved, directions):
    hub("push_directions", folder=saved, repo="me/fresh")
    code = "from hf_icon2 import DirectionVectors; print(DirectionVectors.from_pretrained('me/fresh').sha256)"
    environment = {**hub.environment, "HF_HOME": str(Path(saved).parent / "home")}
    for offline in ("0", "1"):
        hub.noted = len(hub.control("log"))
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == directions.sha256, done.stderr
        assert bool(hub.news()) == (offline == "0")


def pair(number, criterion="honesty", digest="a" * 64, flags=()):
    """A row as a run stores it."""
    return {
        "prompt": [{"role": "user", "content": f"What is {number} and {number}?"}],
        "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
        "rejected": [{"role": "assistant", "content": "Who cares."}],
        "id": str(number),
        "criterion": criterion,
        "strategy": "icon2",
        "strength_chosen": 0.2,
        "strength_rejected": -0.1,
        "directions_sha256": digest,
        "noise": "shared",
        "seed": number,
        "flags": list(flags),
        "tokens_chosen": 5,
        "tokens_rejected": 4,
        "tokens_generated": 9,
        "finish_chosen": "stop",
        "finish_rejected": "stop",
        "reward_chosen": None,
        "reward_rejected": None,
        "questions_asked": None,
    }


def test_pairs_are_loaded_by_plain_datasets_and_replace_earlier_ones(hub, tmp_path):
    first, second = [pair(number) for number in range(4)], [pair(number) for number in range(5, 7)]
    hub("push_pairs", rows=first, repo="me/pairs", splits=True, license="cc0-1.0")
    assert hub("rows", repo="me/pairs", cache_dir=str(tmp_path)) == {"train": first, "test": first}
    hub("push_pairs", rows=second, repo="me/pairs")
    assert hub("rows", repo="me/pairs", cache_dir=str(tmp_path)) == {"train": second}
    assert hub("listing", repo="me/pairs", repo_type="dataset") == [
        *(".gitattributes", "README.md", "data/train-00000-of-00001.parquet")
    ]
    card = hub("text", repo="me/pairs", name="README.md", repo_type="dataset")
    assert 'load_dataset("me/pairs", split="train")' in card and "# me/pairs" in card


def test_a_dataset_of_somebody_else_is_not_overwritten(hub):
    card = "---\nconfigs:\n- config_name: default\n  data_files: data/mine.parquet\n---\n# Mine\n"
    hub("upload", repo="me/foreign", repo_type="dataset", path="README.md", content=card)
    error, said = hub.refuses("push_pairs", rows=[pair(0)], repo="me/foreign")
    assert (error, said[:61]) == (
        "ValueError",
        "me/foreign holds a dataset that was not written here (its car",
    )
    assert hub("listing", repo="me/foreign", repo_type="dataset") == [".gitattributes", "README.md"]


def test_a_killed_upload_of_pairs_leaves_the_earlier_ones(hub, tmp_path):
    old, new = [pair(number) for number in range(3)], [pair(number) for number in range(10, 12)]
    hub("push_pairs", rows=old, repo="me/steady")
    hub.faults({"method": "PUT", "path": "/lfs/", "times": 1, "stall_after": 100})
    job = hub.start("push_pairs", rows=new, repo="me/steady")
    hub.wait_for("stalled", "PUT")
    job.kill()
    assert hub("rows", repo="me/steady", cache_dir=str(tmp_path)) == {"train": old}
    hub("push_pairs", rows=new, repo="me/steady")
    assert hub("rows", repo="me/steady", cache_dir=str(tmp_path)) == {"train": new}


@pytest.fixture
def run_folder(directions, tiny_llama_dir, tmp_path):
    """What `hf-icon2 run` leaves, as far as it is pushed."""
    folder = tmp_path / "run"
    based = replace(directions, config=replace(directions.config, base_model="me/base"))
    (based * 2.0).save_pretrained(folder / "directions")
    based.save_pretrained(folder / "tuned")
    shutil.copytree(tiny_llama_dir, folder / "model")
    (folder / "model" / "README.md").write_text("---\nlibrary_name: transformers\n---\n# Aligned\n")
    (folder / "model" / "training_args.bin").write_bytes(b"a pickle")
    (folder / "pairs").mkdir()
    rows = [pair(0, digest=based.sha256), pair(1, digest=based.sha256, flags=["identical"])]
    (folder / "pairs" / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.from_dict({"model": "me/base", "synthesis": {"instructions": "me/questions"}})
    (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    return folder, based, rows


def test_the_command_pushes_what_a_run_has_made(hub, run_folder, tmp_path):
    folder, based, rows = run_folder
    hub("upload", repo="me/base", path="README.md", content="---\nlicense: llama3.2\n---\n")
    card = "---\nlicense: other\nlicense_name: questions-1.0\n---\n"
    hub("upload", repo="me/questions", repo_type="dataset", path="README.md", content=card)

    def push(*arguments):
        done = hub("command", MINE, "push", str(folder), *arguments)
        assert done["status"] == 0, done["err"]
        assert not re.search("hf_token", done["out"] + done["err"])
        return done["out"]

    said = push("--what", "directions", "--repo", "me/run-directions", "--private", "--license", "mit")
    assert said.startswith(f"pushed directions to me/run-directions: {hub.address}/me/run-directions/commit/")
    assert hub("load_directions", repo="me/run-directions")["sha256"] == based.sha256
    assert "license: mit" in hub("text", repo="me/run-directions", name="README.md")
    assert hub.refuses("load_directions", SOMEONE, repo="me/run-directions", cache_dir=str(tmp_path))

    push("--what", "pairs", "--repo", "me/run-pairs", "--message", "Pairs of a run")
    assert hub("rows", repo="me/run-pairs", cache_dir=str(tmp_path)) == {"train": rows[:1]}
    card = hub("text", repo="me/run-pairs", name="README.md", repo_type="dataset")
    for line in (
        "- Model: [me/base](https://huggingface.co/me/base), revision unknown.",
        "| me/base | model, answers | llama3.2 |",
        "| me/questions | dataset, instructions | questions-1.0 |",
        "| pairs.noise | shared |",
        "- Left out: 1 pairs flagged `identical`.",
    ):
        assert line in card, line

    push("--what", "model", "--repo", "me/run-model", "--revision", "trial")
    there = hub("listing", repo="me/run-model", revision="trial")
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(there)
    assert "training_args.bin" not in there
    assert hub("listing", repo="me/run-model") == [".gitattributes"]


def test_the_command_says_what_it_cannot_push(hub, run_folder, tmp_path):
    folder, _, _ = run_folder
    cases = {
        str(folder): "is a run; say with --what which of directions, model, pairs to push",
        str(tmp_path): "holds neither a run (recipe.json), nor directions",
        str(tmp_path / "none"): "there is no folder",
    }
    for path, sentence in cases.items():
        done = hub("command", MINE, "push", path, "--repo", "me/none")
        assert (done["status"], sentence in done["err"]) == (1, True), done["err"]
    done = hub("command", "hf_token_that_is_old", "push", str(folder / "tuned"), "--repo", "me/none")
    assert (done["status"], done["out"]) == (1, "")
    assert done["err"].startswith(
        "error: the Hub refused the login for me/none (Invalid credentials in Authori"
    )


def test_a_trained_model_is_pushed_with_its_card_and_loads_back(hub, tiny_llama_dir, tmp_path):
    hub("push_pairs", rows=[pair(number) for number in range(4)], repo="me/lessons")
    expected = hub(
        "train",
        base=str(tiny_llama_dir),
        pairs="me/lessons",
        repo="me/aligned",
        folder=str(tmp_path / "aligned"),
    )
    assert hub("trained", repo="me/aligned") == {"logits": expected, "chat": True}
    card = hub("text", repo="me/aligned", name="README.md")
    for line in (
        "datasets: me/lessons",
        "4 pairs of [me/lessons](https://huggingface.co/datasets/me/lessons)",
        "| honesty | 4 | 0.2 | -0.1 |",
        "| steps | 2 of 2 |",
    ):
        assert line in card, line


@pytest.fixture
def no_hub(monkeypatch):
    """Something that answers every request with a page of its own, as the login page of a network does."""

    class Page(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"<html>Please log in.</html>")

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
        yield server
        server.shutdown()


def test_what_is_no_hub_is_said_to_be_none(no_hub, directions, tmp_path):
    with pytest.raises(
        ConnectionError, match="127.0.0.1:[0-9]+ does not answer as the Hub does; check HF_ENDPO"
    ):
        DirectionVectors.from_pretrained("me/none", cache_dir=tmp_path)
    with pytest.raises(ConnectionError, match="does not answer as the Hub does"):
        directions.push_to_hub("me/none", token=MINE)


def test_a_hub_that_is_out_of_reach_is_said_to_be_so(no_hub, directions, tmp_path):
    no_hub.shutdown()
    no_hub.server_close()
    with pytest.raises(
        ConnectionError, match=r"could not be reached \(ConnectError\), and me/none is not in the ca"
    ):
        DirectionVectors.from_pretrained("me/none", cache_dir=tmp_path)
    with pytest.raises(
        ConnectionError, match=r"connection to the Hub failed while working on me/none \(ConnectEr"
    ):
        directions.push_to_hub("me/none", token=MINE)
