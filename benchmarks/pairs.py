"""Preference pairs: one ± batch over one prefill against two passes and against five samples.

    python benchmarks/pairs.py --model mid --batch 8 --lengths equal

Contenders answer the same 64 prompts of 64 token ids. All decode greedily, except the five samples, which have to be
sampled, and the row that says so. A turn is one batch, and 64 / batch turns cover the prompts; only ours answers all
64 in a turn of ragged lengths, since waiting prompts take the place of rows that have ended. There each answer ends
after a drawn number of tokens: `generate` learns it through a stopping criterion that answers per row, ours through
`limits`. Before times are looked at, tokens are compared: ours = two passes of our own, and repeng, which steers the
whole prompt too, = two passes of our own that do so.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import protocol
from protocol import Sample, Worker

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, LONGEST, MEAN = 64, 64, 64, 256, 64
STRENGTH = 0.2
TARGETS = {"equal": (1.4, 2.5), "ragged": (2.0, 4.0)}


def drawn_length(row: int, sample: int) -> int:
    """Tokens of one answer: geometric with mean 64, cut at 256; the same for all contenders."""
    draw = random.Random(1000 * row + sample)
    length = 1
    while length < LONGEST and draw.random() > 1 / MEAN:
        length += 1
    return length


def load(folder: str) -> Any:
    """The model, without an end token of its own: lengths are what the benchmark says."""
    model = protocol.load_model(folder)
    model.generation_config.eos_token_id = None
    return model


# contenders: each gets the model's folder and returns a function of one batch ------------------------------------

Answers = list[list[list[int]]]  # per side, per prompt
Answer = Callable[..., Answers]


def ours(folder: str, sampled: bool = False) -> Answer:
    """`generate_variants` with the two signs as its variants."""
    from hf_icon2 import DirectionVectors
    from hf_icon2.steering.decoding import Sampling, generate_variants

    model, directions = (
        load(folder),
        DirectionVectors.from_pretrained(Path(folder) / "directions"),
    )
    name = directions.names[0]

    def run(prompts: list[list[int]], rows: list[int], lengths: str, batch: int, **_: object) -> Answers:
        sides = generate_variants(
            model,
            prompts,
            [[{name: sign * STRENGTH}] * len(prompts) for sign in (1, -1)],
            sampling=Sampling(LONGEST, temperature=float(sampled)),
            seeds=[rows, rows],
            limits=[[wanted(row, side, lengths) for row in rows] for side in (0, 1)],
            pad=0,
            directions=directions,
            batch_size=batch,
        )
        return [[completion.ids for completion in side] for side in sides]

    return run


def two_passes(folder: str) -> Answer:
    """`model.generate(steering=...)` once per sign."""
    from hf_icon2 import DirectionVectors, make_steerable, steer

    directions = DirectionVectors.from_pretrained(Path(folder) / "directions")
    model, name = make_steerable(load(folder), directions), directions.names[0]

    def run(
        prompts: list[list[int]], rows: list[int], lengths: str, batch: int, whole_prompt: bool = False
    ) -> Answers:
        sides = []
        for side, strength in enumerate((STRENGTH, -STRENGTH)):
            steering = {name: strength}
            with steer(model, directions, steering) if whole_prompt else nullcontext():
                extra = {} if whole_prompt else {"steering": steering}
                limits = [wanted(row, side, lengths) for row in rows]
                sides.append(generate(model, prompts, limits, batch, do_sample=False, **extra))
        return sides

    return run


def repeng(folder: str) -> Answer:
    """repeng's ControlModel, once per sign; it steers the whole prompt."""
    from repeng import ControlModel, ControlVector
    from safetensors.numpy import load_file

    config = json.loads((Path(folder) / "directions" / "direction_vector_config.json").read_text())
    tensor = load_file(Path(folder) / "directions" / "direction_vectors.safetensors")["directions"][0]
    model, layers = load(folder), next(iter(config["control_layers"].values()))
    control = ControlVector("llama", {layer: tensor[config["layers"].index(layer)] for layer in layers})
    controlled = ControlModel(model, layers)

    def run(prompts: list[list[int]], rows: list[int], lengths: str, batch: int, **_: object) -> Answers:
        sides = []
        for side, sign in enumerate((1, -1)):
            controlled.set_control(control, sign * STRENGTH)
            limits = [wanted(row, side, lengths) for row in rows]
            sides.append(generate(controlled, prompts, limits, batch, do_sample=False))
        return sides

    return run


def five_samples(folder: str) -> Answer:
    """What best-of-n pipelines do: five plain samples per prompt, to be judged afterwards (not timed)."""
    model = load(folder)

    def run(prompts: list[list[int]], rows: list[int], lengths: str, batch: int, **_: object) -> Answers:
        import torch

        torch.manual_seed(rows[0])
        limits = [wanted(row, sample, lengths) for row in rows for sample in range(5)]
        sampling = {
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "num_return_sequences": 5,
        }
        return [generate(model, prompts, limits, batch, **sampling)]

    return run


CONTENDERS = {
    "ours": ours,
    "ours, sampled": lambda folder: ours(folder, sampled=True),
    "two passes": two_passes,
    "repeng": repeng,
    "five samples": five_samples,
}


def generate(
    model: Any, prompts: list[list[int]], limits: list[int], batch: int, **options: Any
) -> list[list[int]]:
    """`model.generate`, batch by batch; all prompts have one length, so nothing is padded."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Drawn(StoppingCriteria):
        """Ends each row of a batch at its own length."""

        def __init__(self, wanted: list[int]) -> None:
            self.wanted = torch.tensor(wanted)

        def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
            return input_ids.shape[1] - PROMPT_TOKENS >= self.wanted

    copies = len(limits) // len(prompts)
    answers: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        ids = torch.tensor(prompts[start : start + batch])
        here = limits[start * copies : (start + batch) * copies]
        if len(set(here)) > 1:
            options["stopping_criteria"] = StoppingCriteriaList([Drawn(here)])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max(here),
            pad_token_id=0,
            **options,
        )
        rows = output[:, PROMPT_TOKENS:].tolist()
        answers += [row[:limit] for row, limit in zip(rows, here, strict=True)]
    return answers


def wanted(row: int, sample: int, lengths: str) -> int:
    """Tokens of one answer."""
    return NEW_TOKENS if lengths == "equal" else drawn_length(row, sample)


# the parent's side -----------------------------------------------------------------------------------------------


def make_prompts(model: str, folder: Path) -> list[list[int]]:
    """64 prompts of 64 ids: random words for `mid`; for `toy` the last 64 of a long chat."""
    if model == "mid":
        draw = random.Random(0)
        return [[draw.randrange(10, 32_000) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    from transformers import AutoTokenizer

    from hf_icon2.prompts import encode_prompt
    from hf_icon2.toy import instructions

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [instruction.text for instruction in instructions("train")]
    prompts = []
    for row in range(PROMPTS):
        turns = [
            {"role": ("user", "assistant")[place % 2], "content": texts[(17 * row + place) % len(texts)]}
            for place in range(21)
        ]
        prompts.append(encode_prompt(tokenizer, turns)[-PROMPT_TOKENS:])
    return prompts


def compare(workers: dict[str, Worker], command: dict[str, object]) -> str:
    """Share of greedy tokens that agree, before any time is looked at."""
    runs = {name: workers[name].run(**command).result for name in ("ours", "two passes", "repeng")}
    whole = workers["two passes"].run(**command, whole_prompt=True).result
    same = agreement(runs["ours"], runs["two passes"]), agreement(runs["repeng"], whole)
    differ = 1 - agreement(runs["ours"][:1], runs["ours"][1:])
    return (
        f"Greedy tokens: ours = our two passes {same[0]:.2%}; repeng = our two passes with the whole prompt steered "
        f"{same[1]:.2%}; chosen and rejected differ in {differ:.0%} of the tokens."
    )


def agreement(left: list[list[list[int]]], right: list[list[list[int]]]) -> float:
    pairs = [
        (a, b) for side, other in zip(left, right, strict=True) for a, b in zip(side, other, strict=True)
    ]
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    return same / sum(max(len(a), len(b)) for a, b in pairs)


def report(model: str, batch: int, lengths: str, samples: dict[str, list[Sample]], agreed: str) -> str:
    counted = {name: [_per_pair(name, run) for run in runs[1:]] for name, runs in samples.items()}
    mine = counted["ours"]
    rows = []
    for name, runs in counted.items():
        kept = "–"
        if name != "five samples" and model == "toy" and lengths == "equal":
            pairs = [a != b for run in samples[name][1:] for a, b in zip(*run.result, strict=True)]
            kept = f"{sum(pairs) / len(pairs) / _mean(run.cpu for run in runs):.2f}"
        rows.append(
            [
                name,
                protocol.spread([1000 * run.cpu for run in runs], 0),
                protocol.spread([1000 * run.wall for run in runs], 0),
                f"{1 / _mean(run.cpu for run in runs):.2f}",
                kept,
                f"{_mean(run.cpu for run in runs) / _mean(run.cpu for run in mine):.2f}",
                protocol.spread(protocol.ratios(mine, runs, "cpu")),
                f"{_mean(run.wall for run in runs) / _mean(run.wall for run in mine):.2f}",
            ]
        )
    header = ["contender", "CPU ms / pair", "wall ms / pair", "pairs / CPU s", "kept / CPU s"]
    header += ["CPU / ours", "by round", "wall / ours"]
    goal = TARGETS[lengths]
    aims = f"aim: repeng ≥ {goal[0]}, five samples ≥ {goal[1]}"
    title = f"### Pairs, `{model}`, batch {batch}, {lengths} lengths ({aims})"
    return f"{title}\n\n{agreed}\n\n{protocol.table(header, rows)}"


def _per_pair(name: str, run: Sample) -> Sample:
    """One turn's times, per prompt answered."""
    prompts = len(run.result[0]) // (5 if name == "five samples" else 1)
    return Sample(run.wall / prompts, run.cpu / prompts, run.extra_mb, None)


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mid", "toy"], default="mid")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", choices=["equal", "ragged"], default="equal")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="contenders, beside ours")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        protocol.serve(CONTENDERS[args.worker](args.folder))
        return
    folder = protocol.mid_folder() if args.model == "mid" else protocol.toy_folder()
    prompts = make_prompts(args.model, folder)

    def command(worker: Worker | None, turn: int) -> dict[str, object]:
        whole = args.lengths == "ragged" and turn and worker is not None and worker.name.startswith("ours")
        first, number = (0, PROMPTS) if whole else (turn * args.batch, args.batch)
        rows = [row % PROMPTS for row in range(first, first + number)]
        batch = {"lengths": args.lengths, "batch": args.batch}
        return {"prompts": [prompts[row] for row in rows], "rows": rows, **batch}

    workers = {}
    for name in ["ours", *(args.only if args.only is not None else list(CONTENDERS)[1:]), "ours, again"]:
        peer = {"python": protocol.PEERS} if name == "repeng" else {}
        kind = "ours" if name == "ours, again" else name
        workers[name] = Worker(name, __file__, kind=kind, folder=str(folder), **peer)
    agreed = compare(workers, command(None, 0)) if {"two passes", "repeng"} <= set(workers) else ""
    samples = protocol.take_turns(list(workers.values()), command, args.repeats)
    for worker in workers.values():
        worker.close()
    name = f"pairs {args.model} {args.batch} {args.lengths}"
    protocol.write_section(name, report(args.model, args.batch, args.lengths, samples, agreed))


if __name__ == "__main__":
    main()
