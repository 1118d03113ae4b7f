"""Preference-aligned distillation in the manner of TRL's scripts.

Score a student's responses first (`sample_candidates` and `score_candidates`; `hf-icon2 distill` does all), or give a
teacher, which then scores them by their likelihood while training:

    python examples/train_pad.py --model_name_or_path path/to/student --dataset_name scored.jsonl --output_dir pad
    python examples/train_pad.py --model_name_or_path path/to/student --teacher path/to/teacher \
        --dataset_name responses.jsonl --output_dir pad --use_peft

Rows hold `prompt`, `responses` and, without a teacher, `scores`. Every field of `PADConfig` and of TRL's `ModelConfig`
is a flag and a key of `--config`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config

from hf_icon2 import PADConfig, PADTrainer


@dataclass
class ScriptArguments:
    """What the trainer itself does not need to know."""

    dataset_name: str = field(metadata={"help": "JSON(L) or Parquet file, or Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    teacher: str | None = field(
        default=None, metadata={"help": "Id or path of a model that scores the rows."}
    )
    eval_split: float = field(default=0.0, metadata={"help": "Share of the rows to hold out, 0 to 1."})


def main() -> None:
    parser = TrlParser((ScriptArguments, PADConfig, ModelConfig))
    script, training, model_config = parser.parse_args_and_config()
    path = Path(script.dataset_name)
    if path.is_file():
        kind = "parquet" if path.suffix == ".parquet" else "json"
        rows = load_dataset(kind, data_files=str(path), split=script.dataset_split)
    else:
        rows = load_dataset(script.dataset_name, split=script.dataset_split)
    held_out = None
    if script.eval_split:
        parts = rows.train_test_split(test_size=script.eval_split, seed=training.seed)
        rows, held_out = parts["train"], parts["test"]

    source = model_config.model_name_or_path
    trainer = PADTrainer(
        AutoModelForCausalLM.from_pretrained(source, dtype=model_config.dtype),
        script.teacher,
        training,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(source),
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    trainer.create_model_card()
    print(f"saved to {training.output_dir}")


if __name__ == "__main__":
    main()
