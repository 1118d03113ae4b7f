"""On a GPU: plain against steered against paired generation on a random model of Qwen2-7B's shape, and extraction.

python benchmarks/gpu.py           # bf16, batch 32, prompt 128, 256 new tokens, 256 contrasts
python benchmarks/gpu.py --tiny    # the same code on a CPU in seconds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import protocol
import torch

from hf_icon2 import Criterion, DirectionVectors, extract_directions, make_steerable
from hf_icon2.steering.decoding import Sampling, generate_variants

QWEN2_7B = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
TINY = {
    "vocab_size": 2_000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Shape:
    """How much of everything; the default is the protocol's."""

    sizes: dict[str, int]
    batch: int = 32
    prompt: int = 128
    new: int = 256
    contrasts: int = 256
    repeats: int = 5


def make_model(sizes: dict[str, int], device: str) -> Any:
    """A random Qwen2 that never ends an answer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    config = Qwen2Config(initializer_range=0.05, max_position_embeddings=1024, **special, **sizes)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device(device):  # 15 GB are made where they stay
        model = Qwen2ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds and peak memory above what was there before, MB (0 on a CPU)."""
    base = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - base) / 2**20
    return time.perf_counter() - start, 0.0


def generation_runs(
    model: Any, directions: DirectionVectors, shape: Shape
) -> dict[str, Callable[[], object]]:
    """What takes turns; each answers the same prompts."""
    name = directions.names[0]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, shape.sizes["vocab_size"], (shape.batch, shape.prompt), generator=generator)
    prompts, device_ids = ids.tolist(), ids.to(model.device)

    def generate(**options: object) -> object:
        mask = torch.ones_like(device_ids)
        options = {"do_sample": False, **options}
        return model.generate(
            device_ids, attention_mask=mask, max_new_tokens=shape.new, pad_token_id=0, **options
        )

    def pairs(temperature: float) -> object:
        seeds = list(range(shape.batch))
        return generate_variants(
            model,
            prompts,
            [[{name: strength}] * shape.batch for strength in (0.1, -0.1)],
            sampling=Sampling(max_new_tokens=shape.new, temperature=temperature),
            seeds=[seeds, seeds],
            pad=0,
            directions=directions,
            batch_size=shape.batch,
        )

    sampled = {"do_sample": True, "top_k": 0, "top_p": 1.0, "num_return_sequences": 5}
    return {
        "plain": lambda: generate(),
        "plain, again": lambda: generate(),
        "steered": lambda: generate(steering={name: 0.1}),
        "two steered passes": lambda: (generate(steering={name: 0.1}), generate(steering={name: -0.1})),
        "pairs": lambda: pairs(0.0),
        "pairs, sampled": lambda: pairs(1.0),
        "five samples": lambda: generate(**sampled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.tiny:
        raise SystemExit("no GPU here; `--tiny` runs the same code on a CPU")
    torch.set_num_threads(protocol.THREADS)
    shape = Shape(TINY, batch=4, prompt=16, new=16, contrasts=16) if args.tiny else Shape(QWEN2_7B)
    model, tokenizer = make_model(shape.sizes, device), protocol.word_tokenizer(shape.sizes["vocab_size"])
    words = shape.sizes["vocab_size"] - 10
    texts = [protocol.random_text(seed, 32, words) for seed in range(shape.contrasts + 2)]
    criterion = Criterion("c", texts[0], texts[1])

    def extract() -> DirectionVectors:
        return extract_directions(model, tokenizer, texts[2:], [criterion], show_progress=False)

    directions = extract()  # the warm-up
    extraction = [timed(extract, device) for _ in range(shape.repeats)]
    make_steerable(model, directions)
    runs = generation_runs(model, directions, shape)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(shape.repeats + 1):
        for name, run in runs.items():
            samples[name].append(timed(run, device))
    counted = {"extraction": extraction, **{name: runs[1:] for name, runs in samples.items()}}
    rows = []
    for name, values in counted.items():
        seconds = [value[0] for value in values]
        plain = [value[0] for value in counted["plain"]]
        relative = [mine / base for mine, base in zip(seconds, plain, strict=True)]
        peak = max(value[1] for value in values)
        rows.append(
            [name, protocol.spread(seconds, 3), protocol.spread(relative, 3), f"{peak:.0f}" if peak else "–"]
        )
    what = f"batch {shape.batch}, prompt {shape.prompt}, {shape.new} new tokens, {shape.contrasts} contrasts"
    figures = protocol.table(["", "wall s", "/ plain, by round", "peak above before, MB"], rows)
    if args.tiny:
        print(f"{what}; a tiny shape shows only that the script runs\n\n{figures}")
    else:
        protocol.write_section("gpu", f"### GPU, `7b`, bf16: {what}\n\n{figures}")


if __name__ == "__main__":
    main()
