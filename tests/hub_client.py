"""Does things with a Hub in processes of their own; a program, not a test.

    HF_ENDPOINT=http://127.0.0.1:... python tests/hub_client.py

`huggingface_hub` reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, so a test cannot change them in
its own process. Every order, a JSON line `{"do": name, "with": arguments, "env": variables, "answer": path}`, is
carried out in a process forked from this one, which has the libraries loaded: that saves the seconds that each start
takes. Its id is printed, and what became of it is written to `answer`.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch

torch.set_num_threads(1)  # a forked process has no worker threads

import datasets  # noqa: E402
import transformers  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402, F401
from huggingface_hub import HfApi, hf_hub_download  # noqa: E402

from hf_icon2 import DirectionVectors, make_steerable, push_pairs_to_hub  # noqa: E402
from hf_icon2.cli import main  # noqa: E402
from hf_icon2.synthesis.pairs import pair_dataset  # noqa: E402

FILES = ("direction_vector_config.json", "direction_vectors.safetensors")


def push_directions(folder, repo, **options):
    commit = DirectionVectors.from_pretrained(folder).push_to_hub(repo, **options)
    return {"url": str(commit), "oid": commit.oid, "pr": commit.pr_revision}


def load_directions(repo, **options):
    directions = DirectionVectors.from_pretrained(repo, **options)
    return {"sha256": directions.sha256, "names": directions.names}


def files(repo, names=FILES, **options):
    """SHA-256 of files as the Hub has them."""
    paths = [Path(hf_hub_download(repo, name, **options)) for name in names]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def text(repo, name, **options):
    return Path(hf_hub_download(repo, name, **options)).read_text(encoding="utf-8")


def upload(repo, path, content, **options):
    """Somebody else's file."""
    api = HfApi()
    api.create_repo(repo, exist_ok=True, repo_type=options.get("repo_type"))
    api.upload_file(path_or_fileobj=content.encode(), path_in_repo=path, repo_id=repo, **options)


def tag(repo, name):
    HfApi().create_tag(repo, tag=name)


def listing(repo, **options):
    return sorted(HfApi().list_repo_files(repo, **options))


def steer(repo, model, strength, **options):
    """Answer of a model in a folder, steered by directions of the Hub."""
    directions = DirectionVectors.from_pretrained(repo, **options)
    loaded = make_steerable(transformers.LlamaForCausalLM.from_pretrained(model).eval(), directions)
    prompt = torch.arange(3, 9)[None]
    steering = {directions.names[0]: strength}
    return loaded.generate(prompt, steering=steering, max_new_tokens=8, do_sample=False).tolist()


def push_pairs(rows, repo, *, splits=False, **options):
    pairs = pair_dataset(rows, chat=True)
    pairs = datasets.DatasetDict(train=pairs, test=pairs) if splits else pairs
    return {"url": str(push_pairs_to_hub(pairs, repo, **options))}


def train(base, pairs, repo, folder):
    """Two steps of DPO on pairs of the Hub, pushed the way of `Trainer`; the logits of the result."""
    from hf_icon2 import Icon2DPOConfig, Icon2DPOTrainer

    settings = Icon2DPOConfig(
        folder, max_steps=2, report_to="none", use_cpu=True, hub_model_id=repo, learning_rate=1e-3, bf16=False
    )
    rows = datasets.load_dataset(pairs, split="train")
    trainer = Icon2DPOTrainer(base, args=settings, train_dataset=rows)
    trainer.train()
    trainer.push_to_hub(dataset_name=pairs)
    return logits(trainer.model)


def trained(repo, **options):
    """Logits of a model of the Hub, and whether its tokenizer has a chat template."""
    model = transformers.AutoModelForCausalLM.from_pretrained(repo, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo, **options)
    return {"logits": logits(model), "chat": tokenizer.chat_template is not None}


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 9)[None]).logits[0, -1].tolist()


def command(*arguments):
    """Exit status of `hf-icon2`, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(list(arguments))
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def rows(repo, **options):
    """What plain `datasets` loads."""
    loaded = datasets.load_dataset(repo, **options)
    return {name: [dict(row) for row in split] for name, split in loaded.items()}


ACTIONS = {
    action.__name__: action
    for action in (
        *(push_directions, load_directions, files, text, upload, tag, listing, steer, rows),
        *(push_pairs, train, trained),
    )
}


def carry_out(order):
    os.environ.update(order.get("env", {}))
    try:
        if order["do"] == "command":
            answer = {"result": command(*order["with"])}
        else:
            answer = {"result": ACTIONS[order["do"]](**order["with"])}
    except Exception as error:
        answer = {
            "error": type(error).__name__,
            "said": str(error),
            "traceback": traceback.format_exc(),
        }
    partial = Path(order["answer"] + ".partial")
    partial.write_text(json.dumps(answer))
    partial.rename(order["answer"])


def serve():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no one to wait for them
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # libraries may print
            carry_out(json.loads(line))
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
