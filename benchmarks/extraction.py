"""Extraction of directions: time, CPU time and memory beside repeng and steering-vectors.

    python benchmarks/extraction.py

128 instructions of 32 tokens under 2 system prompts of 32 tokens through a chat template, layers 1 to 7 of `mid`
(repeng's default: all but the first), batch 32 for everybody. Directions are compared before times: centred PCA with
repeng's default, the mean difference with steering-vectors'. repeng reads the last layer after the final norm.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import protocol
from protocol import Sample, Worker

INSTRUCTIONS, WORDS, BATCH, LAYERS = 128, 32, 32, range(1, 8)

Vectors = list[list[float]]


def texts() -> tuple[list[str], str, str]:
    """Instructions, positive and negative system prompt."""
    words = [protocol.random_text(seed, WORDS) for seed in range(INSTRUCTIONS + 2)]
    return words[2:], words[0], words[1]


def ours(folder: str) -> Callable[..., Vectors]:
    from transformers import AutoTokenizer

    from hf_icon2 import Criterion, extract_directions

    model, tokenizer = protocol.load_model(folder), AutoTokenizer.from_pretrained(folder)
    instructions, positive, negative = texts()

    def run(method: str = "pca") -> Vectors:
        directions = extract_directions(
            model,
            tokenizer,
            instructions,
            [Criterion("c", positive, negative)],
            layers=LAYERS,
            method=method,  # type: ignore[arg-type]
            batch_size=BATCH,
            show_progress=False,
        )
        result: Vectors = directions["c"].tolist()
        return result

    return run


def rendered(folder: str) -> tuple[Any, list[tuple[str, str]]]:
    """The tokenizer and the same prompts as text, for peers that know no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    instructions, *systems = texts()

    def render(system: str, text: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return tokenizer, [(render(systems[0], text), render(systems[1], text)) for text in instructions]


def repeng(folder: str) -> Callable[..., Vectors]:
    from repeng import ControlVector, DatasetEntry

    model = protocol.load_model(folder)
    tokenizer, pairs = rendered(folder)
    dataset = [DatasetEntry(positive, negative) for positive, negative in pairs]

    def run(**_: object) -> Vectors:
        vector = ControlVector.train(model, tokenizer, dataset, batch_size=BATCH)
        return [vector.directions[layer].tolist() for layer in LAYERS]

    return run


def steering_vectors(folder: str) -> Callable[..., Vectors]:
    from steering_vectors import train_steering_vector

    model = protocol.load_model(folder)
    tokenizer, pairs = rendered(folder)

    def run(**_: object) -> Vectors:
        vector = train_steering_vector(model, tokenizer, pairs, layers=list(LAYERS), batch_size=BATCH)
        return [vector.layer_activations[layer].tolist() for layer in LAYERS]

    return run


CONTENDERS = {"ours": ours, "repeng": repeng, "steering-vectors": steering_vectors}


def cosines(left: Vectors, right: Vectors) -> list[float]:
    import torch

    return torch.cosine_similarity(torch.tensor(left), torch.tensor(right), dim=-1).abs().tolist()  # type: ignore[no-any-return]


def compare(workers: dict[str, Worker], samples: dict[str, list[Sample]]) -> str:
    centred = cosines(workers["ours"].run(method="centred_pca").result, samples["repeng"][0].result)
    mean = cosines(
        workers["ours"].run(method="mean_difference").result, samples["steering-vectors"][0].result
    )
    return (
        f"|cosine| with repeng (centred PCA): layers 1–6 at least {min(centred[:-1]):.6f}, layer 7 (read after the "
        f"final norm there) {centred[-1]:.4f}; with steering-vectors (mean): at least {min(mean):.6f}."
    )


def report(samples: dict[str, list[Sample]], agreed: str) -> str:
    counted = {name: runs[1:] for name, runs in samples.items()}
    rows = []
    for name, runs in counted.items():
        extra = samples[name][0].extra_mb  # of the first extraction in a fresh process
        rows.append(
            [
                name,
                protocol.spread([run.cpu for run in runs]),
                protocol.spread([run.wall for run in runs]),
                f"{extra:.0f}",
                protocol.spread([1 / ratio for ratio in protocol.ratios(counted["ours"], runs, "cpu")]),
                protocol.spread([1 / ratio for ratio in protocol.ratios(counted["ours"], runs, "wall")]),
                f"{samples['ours'][0].extra_mb / extra:.2f}",
            ]
        )
    header = ["contender", "CPU s", "wall s", "peak above the model, MB", "ours / it, CPU", "wall", "memory"]
    peers = [name for name in counted if not name.startswith("ours")]
    best = min(statistics.median(run.cpu for run in counted[name]) for name in peers)
    light = min(samples[name][0].extra_mb for name in peers)
    mine = statistics.median(run.cpu for run in counted["ours"])
    verdict = (
        f"Against the better peer: {mine / best:.2f} of the CPU time (aim ≤ 0.5), "
        f"{samples['ours'][0].extra_mb / light:.2f} of the extra memory (aim ≤ 0.2)."
    )
    return f"### Extraction, `mid`\n\n{agreed}\n\n{protocol.table(header, rows)}\n\n{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        protocol.serve(CONTENDERS[args.worker](args.folder))
        return
    folder = str(protocol.mid_folder())
    workers = {}
    for name in [*CONTENDERS, "ours, again"]:
        peer = {} if name.startswith("ours") else {"python": protocol.PEERS}
        workers[name] = Worker(
            name, __file__, kind="ours" if name == "ours, again" else name, folder=folder, **peer
        )
    samples = protocol.take_turns(list(workers.values()), lambda _worker, _turn: {}, args.repeats)
    agreed = compare(workers, samples)
    for worker in workers.values():
        worker.close()
    protocol.write_section("extraction", report(samples, agreed))


if __name__ == "__main__":
    main()
