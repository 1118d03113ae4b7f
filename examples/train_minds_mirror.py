"""Mind's Mirror's training in the manner of TRL's scripts: one stage, on labels and rationales that exist.

`hf-icon2 distill --method minds-mirror` collects them from a teacher and runs both stages; this trains on one file:

    python examples/train_minds_mirror.py --model_name_or_path google/t5-v1_1-base --dataset_name chains.jsonl \
        --eval_name validation.jsonl --eval_strategy epoch --save_strategy epoch --load_best_model_at_end true \
        --metric_for_best_model eval_label_accuracy --output_dir minds-mirror --num_train_epochs 60

Rows hold `prompt`, `label` and `rationale`. Split by question before questions are repeated with other chains of
thought, and keep the test set out of both files. Encoder-decoder and decoder-only students are both loaded by their id
or path. Every field of `MindsMirrorConfig` and of TRL's `ModelConfig` is a flag and a key of `--config`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, load_dataset
from trl import ModelConfig, TrlParser, get_peft_config

from hf_icon2 import MindsMirrorConfig, MindsMirrorTrainer


@dataclass
class ScriptArguments:
    """What the trainer itself does not need to know."""

    dataset_name: str = field(metadata={"help": "JSON(L) or Parquet file, or Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_name: str | None = field(
        default=None, metadata={"help": "File or dataset to choose by; not the test set."}
    )
    eval_split: str = field(default="train", metadata={"help": "Its split; of a single file train."})


def rows_of(name: str, split: str) -> Dataset:
    path = Path(name)
    if not path.is_file():
        return load_dataset(name, split=split)
    return load_dataset("parquet" if path.suffix == ".parquet" else "json", data_files=name, split=split)


def main() -> None:
    parser = TrlParser((ScriptArguments, MindsMirrorConfig, ModelConfig))
    script, training, model_config = parser.parse_args_and_config()
    training.model_init_kwargs = {"dtype": model_config.dtype, **(training.model_init_kwargs or {})}
    trainer = MindsMirrorTrainer(
        model_config.model_name_or_path,
        training,
        train_dataset=rows_of(script.dataset_name, script.dataset_split),
        eval_dataset=rows_of(script.eval_name, script.eval_split) if script.eval_name else None,
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    trainer.create_model_card()
    print(f"saved to {training.output_dir}")


if __name__ == "__main__":
    main()
