"""Directions attached to a model: what is written, `generate` from a script, and a real `transformers serve`."""

import contextlib
import copy
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, UnknownError
from transformers import AutoModelForCausalLM, TextIteratorStreamer, pipeline
from transformers.utils.import_utils import is_serve_available

import hf_icon2
from hf_icon2 import DEFAULT_CRITERIA, DirectionVectors, extract_directions
from hf_icon2.toy import assistant_path

QUESTION = "What is the capital of France?"
STEERINGS = [None, {"honesty": 0.3}, {"honesty": -0.3}, {"harmlessness": -0.4, "honesty": 0.1}]
GREEDY = {"max_new_tokens": 16, "do_sample": False}


@pytest.fixture(scope="module")
def directions(toy_assistant, toy_tokenizer) -> DirectionVectors:
    instructions = [QUESTION, "Why is the sky blue?", "How do I bake bread?", "Tell me about cats."]
    model = copy.deepcopy(toy_assistant)
    found = extract_directions(model, toy_tokenizer, instructions, DEFAULT_CRITERIA[1:], show_progress=False)
    return found.with_control_layers({name: [3, 4] for name in found.names})


@pytest.fixture(scope="module")
def folder(directions, tmp_path_factory) -> Path:
    """The bundled assistant with directions attached."""
    copied = shutil.copytree(assistant_path(), tmp_path_factory.mktemp("served") / "assistant")
    return directions.attach_to(copied)


def load(folder, **kwargs):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs).eval()


@pytest.fixture(scope="module")
def prompt(toy_tokenizer):
    messages = [{"role": "user", "content": QUESTION}]
    return toy_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def decoded_by_hand(model, tokenizer, ids, directions, steering, steps=16):
    """Greedy answer of an untouched model, without a cache, its layers hooked here; the oracle."""
    start, added = ids.shape[1] - 1, {}
    for name, strength in (steering or {}).items():
        for layer in directions.config.control_layers[name]:
            added[layer] = added.get(layer, 0) + strength * directions.at(name, layer)

    def hook(layer):
        def add(_module, _args, hidden):
            return torch.cat([hidden[:, :start], hidden[:, start:] + added[layer]], dim=1)

        return add

    handles = [model.model.layers[layer].register_forward_hook(hook(layer)) for layer in added]
    try:
        for _ in range(steps):
            with torch.no_grad():
                chosen = model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, chosen], dim=1)
            if chosen.item() == tokenizer.eos_token_id:
                break
    finally:
        for handle in handles:
            handle.remove()
    return tokenizer.decode(ids[0, start + 1 :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def expected(folder, toy_tokenizer, prompt, directions) -> list[str]:
    """The answer to `QUESTION` under each of `STEERINGS`, by hand."""
    plain = load(assistant_path())
    texts = [decoded_by_hand(plain, toy_tokenizer, prompt["input_ids"], directions, s) for s in STEERINGS]
    assert len(set(texts)) == len(texts)
    return texts


# what is written


def test_attaching_adds_its_files_and_keeps_the_models(folder):
    ours = {"direction_vectors.safetensors", "direction_vector_config.json", "custom_generate"}
    before = {path.name: path.read_bytes() for path in Path(assistant_path()).iterdir() if path.is_file()}
    assert {path.name for path in folder.iterdir()} == set(before) | ours
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    requirements = (folder / "custom_generate" / "requirements.txt").read_text()
    assert requirements == f"hf_icon2>={hf_icon2.__version__}\n"


def test_directions_load_from_the_models_folder(folder, directions):
    loaded = DirectionVectors.from_pretrained(folder)
    assert loaded.config == directions.config
    assert torch.equal(loaded.tensor, directions.tensor)


def test_attaching_again_replaces_the_directions(folder, directions, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    (2 * directions).attach_to(again)
    assert torch.equal(DirectionVectors.from_pretrained(again).tensor, 2 * directions.tensor)


def test_directions_are_attached_only_to_a_model_they_fit(folder, directions, tiny_llama_dir, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no model \(there is no config.json\); save one there"
    ):
        directions.attach_to(tmp_path)
    with pytest.raises(ValueError, match="hidden size 128, this model has 64; extract directions for this"):
        directions.attach_to(tiny_llama_dir)
    other = shutil.copytree(assistant_path(), tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ValueError, match="under another chat template than this tokenizer's"):
        directions.attach_to(other)
    assert not (other / "custom_generate").exists()


def test_a_model_with_code_of_its_own_is_not_run_when_attached_to(directions, tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}'
    )
    (tmp_path / "odd.py").write_text("raise SystemExit('was run')")
    assert (directions.attach_to(tmp_path) / "custom_generate" / "generate.py").is_file()
    assert not (tmp_path / "README.md").exists()  # the directions' card is not the model's


def test_another_authors_generate_is_not_replaced(directions, tmp_path):
    model = shutil.copytree(assistant_path(), tmp_path / "model")
    (model / "custom_generate").mkdir()
    code = model / "custom_generate" / "generate.py"
    code.write_text("def generate(model, **kwargs): ...")
    with pytest.raises(FileExistsError, match="is another's code, which attaching would replace; move it"):
        directions.attach_to(model)
    assert code.read_text() == "def generate(model, **kwargs): ..."


# from a script


@pytest.fixture(scope="module")
def attached(folder):
    return load(folder, trust_remote_code=True)


def test_a_loaded_model_steers_like_a_hand_made_hook(attached, toy_tokenizer, prompt, expected):
    for steering, text in zip(STEERINGS, expected, strict=True):
        found = attached.generate(**prompt, **GREEDY, steering=steering)
        assert (
            toy_tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True) == text
        )


def test_rows_of_a_batch_have_their_own_steering(attached, toy_tokenizer, prompt, expected):
    rows = {name: value.repeat(len(STEERINGS), 1) for name, value in prompt.items()}
    found = attached.generate(**rows, **GREEDY, steering=STEERINGS)
    answers = found[:, prompt["input_ids"].shape[1] :]
    assert toy_tokenizer.batch_decode(answers, skip_special_tokens=True) == expected


def test_ids_may_be_positional_and_beams_and_streamers_work(
    attached, folder, toy_tokenizer, prompt, expected
):
    ids, steering = prompt["input_ids"], STEERINGS[1]
    assert torch.equal(
        attached.generate(ids, **GREEDY, steering=steering),
        attached.generate(**prompt, **GREEDY, steering=steering),
    )
    streamer = TextIteratorStreamer(toy_tokenizer, skip_prompt=True, skip_special_tokens=True)
    attached.generate(**prompt, **GREEDY, steering=steering, streamer=streamer)
    assert "".join(streamer) == expected[1]
    steerable = hf_icon2.make_steerable(load(folder), DirectionVectors.from_pretrained(folder))
    beams = {"max_new_tokens": 16, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(
        attached.generate(**prompt, **beams, steering=steering),
        steerable.generate(**prompt, **beams, steering=steering),
    )


def test_without_steering_scores_are_bit_identical_to_the_plain_model(attached, prompt):
    settings = {"output_scores": True, "return_dict_in_generate": True, "max_new_tokens": 16}
    outputs = []
    for model in (attached, load(assistant_path())):
        torch.manual_seed(0)
        outputs.append(model.generate(**prompt, **settings))
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert all(torch.equal(a, b) for a, b in zip(outputs[0].scores, outputs[1].scores, strict=True))


def test_without_trust_the_model_is_plain(folder, prompt, toy_tokenizer, expected):
    model = load(folder)
    found = model.generate(**prompt, **GREEDY)
    assert "generate" not in vars(model)
    assert (
        toy_tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        == expected[0]
    )
    with pytest.raises(ValueError, match=r"not used by the model: \['steering'\]"):
        model.generate(**prompt, **GREEDY, steering=STEERINGS[1])


def test_pipelines_and_adapters_around_the_model_steer_too(folder, toy_tokenizer, prompt, expected):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")  # changes nothing until trained
    wrapped = get_peft_model(load(folder, trust_remote_code=True), config)
    found = wrapped.generate(**prompt, **GREEDY, steering=STEERINGS[2])
    answer = toy_tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == expected[2]
    pipe = pipeline(
        "text-generation", model=load(folder, trust_remote_code=True), tokenizer=toy_tokenizer, device="cpu"
    )
    messages = [{"role": "user", "content": QUESTION}]
    found = pipe(messages, **GREEDY, steering=STEERINGS[2], return_full_text=False)
    assert found[0]["generated_text"] == expected[2]


def test_any_model_can_borrow_the_function(folder, prompt, toy_tokenizer, expected):
    found = load(folder).generate(
        **prompt, **GREEDY, custom_generate=str(folder), trust_remote_code=True, steering=STEERINGS[2]
    )
    assert (
        toy_tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        == expected[2]
    )


def test_directions_are_read_once_and_copies_keep_them(folder, prompt, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    model = load(moved, trust_remote_code=True)
    first = model.generate(**prompt, **GREEDY, steering=STEERINGS[1])
    shutil.rmtree(moved)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(**prompt, **GREEDY, steering=STEERINGS[1]), first)
        assert other.generate.keywords["model"] is other


def test_threads_that_call_first_together_all_get_the_answer(folder, prompt):
    model = load(folder, trust_remote_code=True)
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(model.generate, **prompt, **GREEDY, steering=STEERINGS[i % 4]) for i in range(16)
        ]
        found = [call.result() for call in calls]
    for i, tokens in enumerate(found):
        assert torch.equal(tokens, model.generate(**prompt, **GREEDY, steering=STEERINGS[i % 4]))


def test_a_model_whose_folder_is_gone_says_so(folder, prompt, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    model = load("here", trust_remote_code=True)
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError, match="loaded from 'here', and no such folder is in /; load it by"):
        model.generate(**prompt)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "direction_vectors.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="here holds no direction_vectors.safetensors"):
        model.generate(**prompt)


def test_a_steering_in_the_generation_config_is_the_default(folder, prompt, tmp_path, attached):
    steered = shutil.copytree(folder, tmp_path / "steered")
    settings = json.loads((steered / "generation_config.json").read_text()) | {"steering": STEERINGS[1]}
    (steered / "generation_config.json").write_text(json.dumps(settings))
    found = load(steered, trust_remote_code=True).generate(**prompt, **GREEDY)
    assert torch.equal(found, attached.generate(**prompt, **GREEDY, steering=STEERINGS[1]))
    assert torch.equal(load(steered).generate(**prompt, **GREEDY), attached.generate(**prompt, **GREEDY))


def test_a_model_that_came_from_no_folder_says_so(folder, toy_assistant, prompt):
    model = copy.deepcopy(toy_assistant)
    model.config.name_or_path = model.name_or_path = ""
    with pytest.raises(FileNotFoundError, match="the model was loaded from '', and no such folder"):
        model.generate(**prompt, custom_generate=str(folder), trust_remote_code=True, steering={})


PUSH_AND_LOAD = """
import json, sys
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

def push(folder):
    HfApi().upload_folder(repo_id="me/assistant", folder_path=folder)

def load(**options):
    return AutoModelForCausalLM.from_pretrained("me/assistant", trust_remote_code=True, **options)

folders, (prompt, settings) = sys.argv[1:3], json.loads(sys.argv[3])
HfApi().create_repo("me/assistant", private=True)
push(folders[0])
pinned = load()
push(folders[1])  # somebody pushes before the directions are read
answers = [model.generate(torch.tensor(prompt), **settings).tolist() for model in (pinned, load())]
print("\\n" + json.dumps(answers))
"""


@pytest.mark.slow
def test_from_the_hub_the_directions_are_those_of_the_models_commit(
    folder, directions, attached, prompt, tmp_path
):
    stronger = shutil.copytree(folder, tmp_path / "stronger")
    (2 * directions).attach_to(stronger)
    ids, steering = prompt["input_ids"], {"honesty": -0.3}
    order = json.dumps([ids.tolist(), {**GREEDY, "steering": steering}])
    hub = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("hub_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with hub:
        try:
            environment = {
                **os.environ,
                "HF_ENDPOINT": json.loads(hub.stdout.readline())["address"],
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_TOKEN": "hf_token_of_me",
                "PYTHONPATH": str(Path(hf_icon2.__file__).parents[1]),
            }
            result = subprocess.run(
                [sys.executable, "-c", PUSH_AND_LOAD, folder, stronger, order],
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
        finally:
            hub.kill()
    assert result.returncode == 0, result.stderr
    expected = [
        attached.generate(ids, **GREEDY, steering={"honesty": strength}).tolist() for strength in (-0.3, -0.6)
    ]
    assert expected[0] != expected[1]
    assert json.loads(result.stdout.splitlines()[-1]) == expected


# served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder: Path, home: Path, *flags: str) -> Iterator[str]:
    """Address of a `transformers serve` of its own process, which ends with the block."""
    (home / "hub").mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    options = ["--trust-remote-code", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port), *flags]
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(hf_icon2.__file__).parents[1]),
    }
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(folder), *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, home / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(address, timeout=10).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"no answer at {address}:\n{log.read_text()}")


needs_serving = pytest.mark.skipif(not is_serve_available(), reason="needs hf_icon2[serve]")


@pytest.fixture(scope="module")
def client(folder, tmp_path_factory) -> Iterator[InferenceClient]:
    with serving(folder, tmp_path_factory.mktemp("server")) as address:
        yield InferenceClient(base_url=address, timeout=60)


def ask(client, folder, steering, *, stream=False, **settings):
    """The served answer to `QUESTION`, or the pieces of its stream."""
    config = {**GREEDY, **settings} | ({} if steering is None else {"steering": steering})
    found = client.chat_completion(
        [{"role": "user", "content": QUESTION}],
        model=str(folder),
        stream=stream,
        extra_body={"generation_config": json.dumps(config)},
    )
    if stream:
        return [piece.choices[0].delta.content or "" for piece in found]
    return found.choices[0].message.content


@needs_serving
def test_every_request_is_answered_under_its_own_steering(client, folder, expected):
    assert [ask(client, folder, steering) for steering in STEERINGS] == expected


@needs_serving
def test_requests_at_the_same_time_do_not_mix(client, folder, expected):
    order = [0, 1, 2, 3] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ask(client, folder, STEERINGS[i]), order))
    assert found == [expected[i] for i in order]


@needs_serving
def test_a_streamed_answer_is_steered_and_comes_in_pieces(client, folder, expected):
    for steering, text in zip(STEERINGS, expected, strict=True):
        pieces = ask(client, folder, steering, stream=True)
        assert "".join(pieces) == text
        assert len([piece for piece in pieces if piece]) > 3


@needs_serving
def test_sampling_by_a_seed_and_beams_equal_generate(client, folder, attached, toy_tokenizer, prompt):
    def here(**settings):
        torch.manual_seed(7)
        found = attached.generate(**prompt, max_new_tokens=16, **settings)
        return toy_tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)

    messages = [{"role": "user", "content": QUESTION}]
    sampled = client.chat_completion(
        messages,
        model=str(folder),
        seed=7,
        extra_body={"generation_config": json.dumps({"max_new_tokens": 16, "steering": STEERINGS[1]})},
    )
    assert sampled.choices[0].message.content == here(steering=STEERINGS[1])
    assert ask(client, folder, STEERINGS[2], num_beams=3) == here(
        steering=STEERINGS[2], num_beams=3, do_sample=False
    )
    # without a generation_config the model's own sampling holds, and nothing is steered
    plain = client.chat_completion(messages, model=str(folder), seed=7, max_tokens=16)
    assert plain.choices[0].message.content == here()


BAD_STEERINGS = {
    "criterion": ({"mind": 1.0}, "unknown criterion 'mind'; these directions have: honesty, harmlessness, "),
    "nan": ({"honesty": float("nan")}, "strength of 'honesty' must be finite, got nan"),
    "infinity": ({"honesty": float("inf")}, "strength of 'honesty' must be finite, got inf"),
    "huge": ({"honesty": 10**400}, "strength of 'honesty' must be finite, got 1000"),
    "text": ({"honesty": "much"}, "strength of 'honesty' must be a number, got 'much'"),
    "rows": ([{}, {}], "steering has 2 entries for 1 rows; give one entry per row"),
    "name": ("honesty", "steering must map criteria to strengths, like {'honesty': 0.1}, or list"),
    "quotes": (
        {"a'b\x00\ud800": 1.0},
        'unknown criterion "a\'b\\x00\\ud800"; these directions have: honesty',
    ),
}


@needs_serving
@pytest.mark.parametrize("case", BAD_STEERINGS)
def test_a_bad_steering_is_refused_by_a_sentence_and_the_server_goes_on(client, folder, expected, case):
    steering, message = BAD_STEERINGS[case]
    with pytest.raises(HfHubHTTPError) as refused:
        ask(client, folder, steering)
    assert refused.value.response.status_code == 422
    assert refused.value.response.json()["detail"].startswith(message)
    with pytest.raises(UnknownError) as refused:
        ask(client, folder, steering, stream=True)
    assert str(refused.value).startswith(message)
    assert ask(client, folder, STEERINGS[1]) == expected[1]


@needs_serving
def test_a_client_that_hangs_up_leaves_nothing_steered(client, folder, expected):
    for _ in range(3):
        stream = client.chat_completion(
            [{"role": "user", "content": QUESTION}],
            model=str(folder),
            stream=True,
            extra_body={
                "generation_config": json.dumps(
                    {"max_new_tokens": 200, "min_new_tokens": 200, "steering": {"honesty": -3}}
                )
            },
        )
        next(iter(stream))
        stream.close()
        assert ask(client, folder, None) == expected[0]


def test_continuous_batching_refuses_rather_than_answer_unsteered(folder, prompt):
    sentence = "could not steer its requests one by one; serve it without --continuous-batching, in a script"
    model = load(folder, trust_remote_code=True)
    with pytest.raises(ValueError, match=sentence):
        model.generate_batch([prompt["input_ids"][0].tolist()], steering=STEERINGS[1])


@needs_serving
@pytest.mark.slow
def test_a_server_of_continuous_batches_refuses_too(folder, tmp_path):
    with serving(folder, tmp_path / "server", "--continuous-batching") as address:
        client = InferenceClient(base_url=address, timeout=60)
        for stream in (False, True):
            with pytest.raises(HfHubHTTPError) as refused:
                ask(client, folder, STEERINGS[1], stream=stream)
            assert refused.value.response.status_code == 422
            assert "continuous batching passes by the directions" in refused.value.response.json()["detail"]
