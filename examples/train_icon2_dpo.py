"""Train a model on its own steered pairs, in the manner of TRL's scripts.

Make the pairs first (`hf-icon2 pairs`, `generate_pairs(...)` or any preference set with prompt, chosen and rejected):

    python examples/train_icon2_dpo.py \
        --model_name_or_path path/to/model --dataset_name pairs.jsonl --output_dir icon2-dpo
    accelerate launch --num_processes 8 examples/train_icon2_dpo.py --config train.yaml

Every field of `Icon2DPOConfig` and of TRL's `ModelConfig` is a flag (and a key of the YAML file); `--use_peft` trains
an adapter. `--eval_split 0.1 --eval_strategy steps --early_stopping_patience 3` stops on held-out pairs.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, load_dataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from hf_icon2 import Icon2DPOConfig, Icon2DPOTrainer


@dataclass
class ScriptArguments:
    """What the trainer itself does not need to know."""

    dataset_name: str = field(
        metadata={"help": "JSON(L) or Parquet file, folder of save_to_disk, or Hub dataset."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: float = field(default=0.0, metadata={"help": "Share of the pairs to hold out, 0 to 1."})


def load_pairs(name: str, split: str) -> Dataset:
    """Preference pairs from a file, a saved dataset or the Hub."""
    path = Path(name)
    if path.is_dir() and (path / "state.json").is_file():
        return load_from_disk(name)
    if path.is_file():
        kind = "parquet" if path.suffix == ".parquet" else "json"
        return load_dataset(kind, data_files=name, split=split)
    return load_dataset(name, split=split)


def main() -> None:
    parser = TrlParser((ScriptArguments, Icon2DPOConfig, ModelConfig))
    script, training, model_config = parser.parse_args_and_config()

    quantization = get_quantization_config(model_config)
    model = AutoModelForCausalLM.from_pretrained(
        model_config.model_name_or_path,
        revision=model_config.model_revision,
        dtype=model_config.dtype,
        attn_implementation=model_config.attn_implementation,
        **({} if quantization is None else {"quantization_config": quantization}),
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model_config.model_name_or_path, revision=model_config.model_revision
    )
    pairs, held_out = load_pairs(script.dataset_name, script.dataset_split), None
    if script.eval_split:
        parts = pairs.train_test_split(test_size=script.eval_split, seed=training.seed)
        pairs, held_out = parts["train"], parts["test"]

    trainer = Icon2DPOTrainer(
        model,
        args=training,
        train_dataset=pairs,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    if trainer.accelerator.is_main_process:
        print(f"saved to {training.output_dir}; reward hacking: {trainer.monitor.outcome()}")


if __name__ == "__main__":
    main()
