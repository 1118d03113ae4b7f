"""Measure directions of any local model on any instruction set, see how far to trust them, and save them.

python examples/extract_any.py path/to/model seed_tasks.jsonl --output directions
python examples/extract_any.py path/to/model tatsu-lab/alpaca --column instruction --limit 1024
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_icon2 import DEFAULT_CRITERIA, DirectionVectors, extract_directions

COLUMNS = ("instruction", "prompt", "question", "messages")


def read_instructions(source: str, column: str | None, limit: int) -> list:
    """The first `limit` different instructions of a JSON(L) file or a Hub dataset: text, or message lists."""
    file = Path(source).is_file()
    rows = (
        load_dataset("json", data_files=source, split="train")
        if file
        else load_dataset(source, split="train")
    )
    column = column or next((name for name in COLUMNS if name in rows.column_names), None)
    if column not in rows.column_names:
        raise SystemExit(f"{source} has the columns {rows.column_names}; choose one with --column")
    different = {str(value): value for value in rows[column] if value}
    return list(different.values())[:limit]


def show(directions: DirectionVectors) -> None:
    """Prints the evidence per criterion and layer, and which criteria point the same way."""
    config = directions.config
    print("criterion      layer  held out  random  stable  contrast/residual")
    for name in directions.names:
        evidence = config.evidence[name]
        columns = [evidence[key] for key in ("held_out_accuracy", "random_accuracy", "split_half_cosine")]
        norms = zip(config.contrast_norms[name], config.residual_norms, strict=True)
        sizes = [contrast / residual for contrast, residual in norms]
        for layer, right, chance, cosine, size in zip(config.layers, *columns, sizes, strict=True):
            mark = "*" if layer in config.control_layers[name] else " "
            print(f"{name:14} {layer:4}{mark} {right:9.2f} {chance:7.2f} {cosine:7.2f} {size:18.3f}")
    print(
        "held out: share of unseen contrasts that the direction gets right (random: by chance); * steered by default"
    )
    middle = len(config.layers) // 2
    unit = directions.unit()[:, middle]
    print(f"\ncosines between the criteria at layer {config.layers[middle]}:")
    for name, row in zip(directions.names, (unit @ unit.T).tolist(), strict=True):
        print(f"{name:14} " + " ".join(f"{value:6.2f}" for value in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder (or Hub id) of a causal language model")
    parser.add_argument("instructions", help="JSON or JSONL file, or a dataset on the Hub")
    parser.add_argument("--column", help="where the instructions are; found by name if not given")
    parser.add_argument("--limit", type=int, default=256, help="how many instructions; the paper uses 1,024")
    parser.add_argument("--pooling", choices=["last", "response"], default="last")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="directions")
    args = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    instructions = read_instructions(args.instructions, args.column, args.limit)
    directions = extract_directions(
        model, tokenizer, instructions, DEFAULT_CRITERIA, pooling=args.pooling, batch_size=args.batch_size
    )
    show(directions)
    print(f"\n{len(instructions)} instructions; saved to {directions.save_pretrained(args.output)}")


if __name__ == "__main__":
    main()
