"""What steering costs: steered against plain `model.generate`, beside plain against plain.

    python benchmarks/steering.py --model mid
    python benchmarks/steering.py --model toy

Greedy, 64 prompt and 64 new tokens; `mid` with batch 8 and 1, 4 or 7 steered layers, `toy` with batch 1 and its
control layers and 5. All run in one process and take turns. "Plain" is a model without our hooks, and the steered model
shares its weights with it. Each number is the shorter of `--best-of` runs, since other work only ever adds time.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import protocol
import torch
from protocol import Sample

NEW_TOKENS = 64


def make_runs(folder: Path, model_name: str) -> dict[str, Callable[[], list[list[int]]]]:
    """What takes turns: plain twice, the hooked model unsteered, and it steered at several layers."""
    from pairs import make_prompts

    from hf_icon2 import DirectionVectors, make_steerable

    plain = protocol.load_model(folder)
    plain.generation_config.eos_token_id = None
    memo = {id(weight): weight for weight in (*plain.parameters(), *plain.buffers())}
    directions = DirectionVectors.from_pretrained(folder / "directions")
    name = directions.names[0]
    batch = 8 if model_name == "mid" else 1
    prompts = torch.tensor(make_prompts(model_name, folder)[:batch])

    def generate(model: Any, **steering: object) -> list[list[int]]:
        mask = torch.ones_like(prompts)
        output = model.generate(
            prompts,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            **steering,
        )
        tokens: list[list[int]] = output[:, prompts.shape[1] :].tolist()
        return tokens

    def hooked(layers: Sequence[int]) -> Any:
        # the same weights in modules of its own: nobody else's hooks
        chosen = directions.with_control_layers({name: layers})
        return make_steerable(copy.deepcopy(plain, dict(memo)), chosen)

    def steered(layers: Sequence[int]) -> Callable[[], list[list[int]]]:
        model = hooked(layers)
        return lambda: generate(model, steering={name: 0.2})

    layers = directions.config.layers
    choices = {1: layers[3:4], 4: layers[2:6], 7: layers[1:]} if model_name == "mid" else {}
    own = directions.config.control_layers[name]
    idle = hooked(own)
    choices |= {} if model_name == "mid" else {len(own): own, len(layers) - 1: layers[1:]}
    return {
        "plain": lambda: generate(plain),
        "plain, again": lambda: generate(plain),
        "steerable, not steered": lambda: generate(idle),
        **{f"steered, {number} layers": steered(chosen) for number, chosen in choices.items()},
    }


def measure(run: Callable[[], object], best_of: int) -> Sample:
    """The shortest of a few runs."""
    samples = []
    for _ in range(best_of):
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        samples.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (min(column) for column in zip(*samples, strict=True))
    return Sample(wall, cpu, 0.0, result)


def report(model_name: str, samples: dict[str, list[Sample]]) -> str:
    plain = samples["plain"]
    rows = [
        [
            name,
            protocol.spread([1000 * run.cpu for run in runs], 1),
            protocol.spread([1000 * run.wall for run in runs], 1),
            protocol.spread(protocol.ratios(plain, runs, "cpu"), 3),
            protocol.spread(protocol.ratios(plain, runs, "wall"), 3),
        ]
        for name, runs in samples.items()
    ]
    header = ["", "CPU ms", "wall ms", "CPU / plain, by round", "wall / plain, by round"]
    changed = plain[0].result != samples[list(samples)[-1]][0].result
    same = plain[0].result == samples["steerable, not steered"][0].result
    aim = "≤ 1.01" if model_name == "mid" else "≤ 1.03"
    facts = f"Unsteered tokens identical with and without hooks: {same}; steered tokens differ: {changed}."
    batch = len(plain[0].result)
    title = f"### Steered / plain `generate`, `{model_name}`, batch {batch} (aim {aim})"
    return f"{title}\n\n{facts}\n\n{protocol.table(header, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mid", "toy"], default="mid")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--best-of", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(protocol.THREADS)
    folder = protocol.mid_folder() if args.model == "mid" else protocol.toy_folder()
    runs = make_runs(folder, args.model)
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for turn in range(args.repeats + 1):
        names = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]  # nobody is always first
        for name in names:
            samples[name].append(measure(runs[name], args.best_of))
    protocol.write_section(
        f"steering {args.model}", report(args.model, {k: v[1:] for k, v in samples.items()})
    )


if __name__ == "__main__":
    main()
