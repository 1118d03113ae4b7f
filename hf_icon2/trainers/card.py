"""What the cards of all trainers say alike, and how they come into the output folder."""

from __future__ import annotations

from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers.trainer_utils import SchedulerType
from trl.trainer.base_trainer import _BaseTrainer

from hf_icon2.trainers.sources import name_of


class CardMixin(_BaseTrainer):
    """A trainer that writes its own card in the place of TRL's."""

    @abstractmethod
    def _card(self, **shared: Any) -> str:
        """The text, from its title, base model, tags, dataset, versions and what the trainer knows itself."""

    def create_model_card(  # type: ignore[override]  # TRL's signature, which differs from Trainer's
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Writes README.md into the output folder: base model, data, settings and versions.

        Args:
            model_name: Title of the card; by default the folder's name.
            dataset_name: Id of the rows on the Hub.
            tags: Tags besides those of this trainer.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        text = self._card(
            model_name=model_name or folder.name,
            base_model=name_of(self.model),
            tags=[*self._tag_names, *([tags] if isinstance(tags, str) else tags or ())],
            dataset_name=dataset_name,
            versions=", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch")),
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(text, encoding="utf-8")

    def _training_settings(self) -> dict[str, object]:
        """What a reader asks of any training, name to value."""
        args, state = self.args, self.state
        schedule = SchedulerType(args.lr_scheduler_type).value
        return {
            "learning rate": f"{args.learning_rate:g}, {schedule} schedule, warm-up {args.warmup_steps:g}",
            "rows per step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "steps": f"{state.global_step} of {state.max_steps}",
            "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
            "trained": "adapter" if is_peft_model(self.model) else "all weights",
            "seed": args.seed,
        }
