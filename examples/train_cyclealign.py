"""CycleAlign's training in the manner of TRL's scripts: one pass over responses that somebody ranked.

`hf-icon2 distill --method cyclealign` runs the whole cycle, which samples and has a black box rank; this trains on
rankings that exist, such as those of one cycle:

    python examples/train_cyclealign.py --model_name_or_path path/to/student --dataset_name ranked.jsonl \
        --output_dir cyclealign --loss_type pro --learning_rate 2e-5

Rows hold `prompt`, `responses` and `scores`, higher is better; equal scores are not told apart. Every field of
`CycleAlignConfig` and of TRL's `ModelConfig` is a flag and a key of `--config`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config

from hf_icon2 import CycleAlignConfig, CycleAlignTrainer


@dataclass
class ScriptArguments:
    """What the trainer itself does not need to know."""

    dataset_name: str = field(metadata={"help": "JSON(L) or Parquet file, or Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})


def main() -> None:
    parser = TrlParser((ScriptArguments, CycleAlignConfig, ModelConfig))
    script, training, model_config = parser.parse_args_and_config()
    path = Path(script.dataset_name)
    if path.is_file():
        kind = "parquet" if path.suffix == ".parquet" else "json"
        rows = load_dataset(kind, data_files=str(path), split=script.dataset_split)
    else:
        rows = load_dataset(script.dataset_name, split=script.dataset_split)

    source = model_config.model_name_or_path
    trainer = CycleAlignTrainer(
        AutoModelForCausalLM.from_pretrained(source, dtype=model_config.dtype),
        args=training,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(source),
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    trainer.create_model_card()
    print(f"saved to {training.output_dir}")


if __name__ == "__main__":
    main()
