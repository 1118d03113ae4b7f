"""What a step of PAD costs: memory beside a loss that keeps its logits, time beside DPO on the same responses.

    python benchmarks/training.py memory     # wide-head: vocabulary 151,936, four responses of 512 tokens
    python benchmarks/training.py time       # mid: four responses of 64 tokens; DPO takes them as two pairs

A step is a forward and a backward pass; the optimizer's is the same for all and left out. Losses are compared
before memory: PAD's own with the same computed from kept float32 logits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import protocol
from protocol import Sample, Worker

RESPONSES, SCORES = 4, [0.4, -1.0, 0.1, 0.9]
WORDS = {"wide-head": (8, 512), "mid": (64, 64)}  # of the prompt, of a response


def rows(model: str) -> list[dict[str, Any]]:
    prompt, response = WORDS[model]
    texts = [protocol.random_text(seed, response) for seed in range(2, 2 + RESPONSES)]
    return [
        {
            "prompt": [{"role": "user", "content": protocol.random_text(1, prompt)}],
            "responses": [[{"role": "assistant", "content": text}] for text in texts],
            "scores": SCORES,
        }
    ]


def settings() -> dict[str, Any]:
    return {
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "max_length": 1024,
        "disable_tqdm": True,
    }


def stepper(trainer: Any, batch: dict[str, Any]) -> Callable[..., float]:
    def run() -> float:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        trainer.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run


def pad_trainer(model: str) -> tuple[Any, dict[str, Any]]:
    from datasets import Dataset
    from transformers import AutoTokenizer

    from hf_icon2.trainers.pad import PADConfig, PADTrainer

    folder = protocol.model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = Dataset.from_list(rows(model))
    # At temperature 1 the orderings of a random model are not all but certain, so that gradients flow.
    arguments = PADConfig("unused", student_temperature=1.0, teacher_temperature=1.0, **settings())
    trainer = PADTrainer(
        protocol.load_model(folder), args=arguments, train_dataset=data, processing_class=tokenizer
    )
    return trainer, trainer.data_collator([trainer.train_dataset[0]])


def pad(model: str) -> Callable[..., float]:
    return stepper(*pad_trainer(model))


def logits(model: str) -> Callable[..., float]:
    """The same loss from logits that are kept in float32, as a plain forward pass returns them."""
    import torch

    from hf_icon2.trainers.rankings import preference_divergence

    trainer, batch = pad_trainer(model)
    scores = torch.tensor([SCORES])

    def run() -> float:
        output = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        log_probs = output.logits[:, :-1].float().log_softmax(-1)
        taken = log_probs.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        mask = batch["completion_mask"][:, 1:]
        means = (taken * mask).sum(1) / mask.sum(1)
        loss = preference_divergence(means[None], scores).mean()
        loss.backward()
        trainer.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run


def dpo(model: str) -> Callable[..., float]:
    """TRL's DPO over the same four responses as two pairs, the reference run live."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder = protocol.model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = rows(model)[0]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["responses"][best], "rejected": row["responses"][worst]}
        for best, worst in ((3, 1), (0, 2))
    ]
    trainer = DPOTrainer(
        protocol.load_model(folder),
        protocol.load_model(folder),
        DPOConfig("unused", bf16=False, gradient_checkpointing=False, **settings()),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    return stepper(trainer, trainer.data_collator(list(trainer.train_dataset)))


CONTENDERS = {"pad": pad, "logits": logits, "dpo": dpo}


def worker(kind: str, model: str) -> None:
    step = CONTENDERS[kind](model)
    protocol.serve(lambda times=1: [step() for _ in range(times)][-1])


def memory(repeats: int) -> None:
    found: dict[str, list[Sample]] = {"pad": [], "logits": []}
    for _ in range(repeats):  # a fresh process each time: memory once taken is not given back
        for name, samples in found.items():
            one = Worker(name, sys.argv[0], kind=name, model="wide-head")
            samples.append(one.run())
            one.close()
    difference = abs(found["pad"][0].result - found["logits"][0].result)
    share = [
        ours.extra_mb / theirs.extra_mb for ours, theirs in zip(found["pad"], found["logits"], strict=True)
    ]
    body = protocol.table(
        ["", "peak above the loaded model, MB", "CPU s"],
        [
            [
                name,
                protocol.spread([s.extra_mb for s in samples], 0),
                protocol.spread([s.cpu for s in samples]),
            ]
            for name, samples in found.items()
        ],
    )
    protocol.write_section(
        "training memory",
        "### Memory of a PAD step\n\n`wide-head` (hidden 64, 2 layers, vocabulary 151,936), four responses of 512 "
        f"tokens. Losses differ by {difference:.1e}. Share of the step that keeps logits: "
        f"**{statistics.median(share):.3f}**.\n\n{body}",
    )


def time(repeats: int) -> None:
    workers = [
        Worker("PAD", sys.argv[0], kind="pad", model="mid"),
        Worker("PAD, again", sys.argv[0], kind="pad", model="mid"),
        Worker("DPO, two pairs", sys.argv[0], kind="dpo", model="mid"),
    ]
    samples = protocol.take_turns(workers, lambda _worker, _turn: {"times": 3}, repeats)
    for one in workers:
        one.close()
    kept = {name: runs[1:] for name, runs in samples.items()}
    reference = kept["DPO, two pairs"]
    body = protocol.table(
        ["", "CPU s per step", "CPU / DPO, by round"],
        [
            [
                name,
                protocol.spread([run.cpu / 3 for run in runs]),
                protocol.spread(protocol.ratios(reference, runs, "cpu")),
            ]
            for name, runs in kept.items()
        ],
    )
    protocol.write_section(
        "training time",
        "### Time of a PAD step\n\n`mid`, one prompt of 64 tokens with four responses of 64; DPO (TRL) takes the "
        f"same four as two pairs and runs its reference live.\n\n{body}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "time"], nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=list(WORDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.model)
    elif arguments.what is None:
        parser.error("say what to measure: memory or time")
    else:
        {"memory": memory, "time": time}[arguments.what](arguments.repeats)


if __name__ == "__main__":
    main()
