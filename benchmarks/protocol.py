"""How everything here is measured: the models, one process per contender, strict alternation, one kind of table.

A benchmark script starts one long-lived worker process per contender (itself, with `--worker NAME`). A worker loads
the model once and then runs one command at a time, read as JSON from standard input; the parent lets the contenders
take turns: A B C A B C ... Nothing here imports hf_icon2 at the top, since peers run in an environment without it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = HERE / ".models"
PEERS = HERE / ".peers" / "bin" / "python"
THREADS = 1

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "<s> {% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# models ------------------------------------------------------------------------------------------------------


def mid_folder() -> Path:
    """Folder of `mid`: a random Llama of 58.5M parameters with a word-level tokenizer and directions; made once."""
    folder = MODELS / "mid"
    if not (folder / "directions" / "direction_vectors.safetensors").is_file():
        sizes = {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "intermediate_size": 1408,
        }
        _make_llama(folder, vocabulary=32_000, **sizes)
    return folder


def wide_head_folder() -> Path:
    """Folder of `wide-head`: a random Llama with a vocabulary of 151,936 and little else; made once."""
    folder = MODELS / "wide-head"
    if not (folder / "directions" / "direction_vectors.safetensors").is_file():
        sizes = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
        }
        _make_llama(folder, vocabulary=151_936, **sizes)
    return folder


def model_folder(name: str) -> Path:
    """Folder of a model by name."""
    return {"mid": mid_folder, "toy": toy_folder, "wide-head": wide_head_folder}[name]()


def toy_folder() -> Path:
    """The bundled assistant as it is now, with directions, copied here."""
    from hf_icon2 import extract_directions
    from hf_icon2.criteria import GENERAL
    from hf_icon2.toy import instructions, load_assistant

    folder = MODELS / "toy"
    model, tokenizer = load_assistant()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = [instruction.text for instruction in instructions("train")][:256]
    directions = extract_directions(model, tokenizer, texts, [GENERAL], show_progress=False)
    directions.save_pretrained(folder / "directions")
    return folder


def _make_llama(folder: Path, vocabulary: int, **sizes: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_icon2 import Criterion, extract_directions

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    # 0.3 instead of 0.02: otherwise a random model repeats one token and every comparison of tokens is empty
    config = LlamaConfig(
        vocab_size=vocabulary, initializer_range=0.3, max_position_embeddings=1024, **special, **sizes
    )
    model = LlamaForCausalLM(config).eval()
    tokenizer = word_tokenizer(vocabulary)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    criterion = Criterion("c", random_text(1, 32), random_text(2, 32))
    texts = [random_text(seed, 32) for seed in range(10, 42)]
    extract_directions(model, tokenizer, texts, [criterion], show_progress=False).save_pretrained(
        folder / "directions"
    )


def word_tokenizer(vocabulary: int) -> Any:
    """One token per word `w0`, `w1` ..., and a chat template with a system role."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", *ROLES]
    words = {
        word: index
        for index, word in enumerate([*special, *(f"w{i}" for i in range(vocabulary - len(special)))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(ROLES),
        padding_side="left",
        chat_template=TEMPLATE,
    )


def random_text(seed: int, words: int, vocabulary: int = 30_000) -> str:
    """Words drawn with a seed, for `word_tokenizer`."""
    import random

    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(words))


def load_model(folder: str | Path) -> Any:
    """A saved model on one thread, every weight read into memory, so that it counts as loaded."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    torch.set_num_threads(THREADS)
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for weight in model.parameters():
        weight.sum()
    return model


# workers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall and CPU time, peak memory above the loaded model in MB, and what it returned."""

    wall: float
    cpu: float
    extra_mb: float
    result: Any


class Worker:
    """A contender in a process of its own.

    Args:
        name: In the tables.
        script: What to run as `python script --worker KIND --option value ...`.
        kind: The contender's name in the script, if it differs.
        python: Interpreter of its environment.
        **options: Further flags of the script.
    """

    def __init__(
        self,
        name: str,
        script: str,
        *,
        kind: str | None = None,
        python: str | Path = sys.executable,
        **options: str,
    ) -> None:
        self.name = name
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        root = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {
            "OMP_NUM_THREADS": str(THREADS),
            "PYTHONPATH": root,
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [str(python), script, "--worker", kind or name, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._read()  # it says when it is ready

    def run(self, **command: object) -> Sample:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Sample(**self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # libraries print, too
            if line.startswith("@@"):
                return json.loads(line[2:])
        raise RuntimeError(
            f"the worker {self.name!r} has ended (exit code {self._process.wait()}); see its message above"
        )


def serve(run: Callable[..., Any]) -> None:
    """The worker's side: runs commands until standard input closes."""
    loaded = _memory_mb("VmRSS")
    print("@@" + json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        _reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        result = run(**command)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        extra = _memory_mb("VmHWM") - loaded
        print("@@" + json.dumps({"wall": wall, "cpu": cpu, "extra_mb": extra, "result": result}), flush=True)


def _memory_mb(field: str) -> float:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def take_turns(
    workers: Sequence[Worker], command: Callable[[Worker, int], Mapping[str, object]], repeats: int
) -> dict[str, list[Sample]]:
    """Runs the workers A B C A B C ..., `repeats` times after one warm-up round; the warm-up is sample 0.

    Args:
        workers: Who takes turns.
        command: What worker w does in round r; round 0 is the warm-up.
        repeats: Rounds that count.
    """
    samples: dict[str, list[Sample]] = {worker.name: [] for worker in workers}
    for turn in range(repeats + 1):
        for worker in workers:
            samples[worker.name].append(worker.run(**command(worker, turn)))
        done = "  ".join(f"{name} {runs[-1].cpu:.2f}" for name, runs in samples.items())
        print(f"  round {turn}/{repeats}, CPU s: {done}", file=sys.stderr, flush=True)
    return samples


# tables ------------------------------------------------------------------------------------------------------


class Kept:
    """What was measured so far, in `results.json` of a folder: nothing there is measured twice.

    Args:
        folder: Made if missing; what is measured may leave its own files there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "results.json"
        self.found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of that name, measured if it is not known yet."""
        if key not in self.found:
            self.found[key] = measure()
            self.path.write_text(json.dumps(self.found, indent=1))
            print(key, self.found[key], flush=True)
        return self.found[key]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (min–max)."""
    low, middle, high = (
        f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}–{high})"


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample], field: str) -> list[float]:
    """Theirs / ours, round by round."""
    return [getattr(b, field) / getattr(a, field) for a, b in zip(ours, theirs, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """One line: date, processor, threads, versions."""
    import torch
    import transformers

    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu[1] if cpu else platform.processor()}{gpu}, "
        f"{os.cpu_count()} cores, {THREADS} thread per process, load {load:.1f} at the end; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )


def write_section(name: str, text: str) -> None:
    """Prints a section and puts it into RESULTS.md, in place of the one measured before."""
    command = "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    body = f"<!-- {name} -->\n{text}\n\n`{command}` · {machine()}\n<!-- end of {name} -->"
    print(body)
    path = HERE / "RESULTS.md"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    pattern = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- end of {re.escape(name)} -->", re.DOTALL)
    new = pattern.sub(lambda _match: body, old) if pattern.search(old) else f"{old.rstrip()}\n\n{body}\n"
    path.write_text(new.lstrip(), encoding="utf-8")
