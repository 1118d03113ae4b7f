"""Models and tokenizers of a trainer, given as objects, ids or paths."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import create_model_from_path


def name_of(model: Any) -> str | None:  # noqa: ANN401 - a model or an adapter around one
    """Id or folder that a model was loaded from, None if it was built in memory."""
    return str(model.config._name_or_path) or None


def loaded(model: str | PreTrainedModel, settings: dict[str, Any] | str | None) -> PreTrainedModel:
    """The model itself, or the one of an id or path, with `settings` for `from_pretrained`."""
    if not isinstance(model, str):
        return model
    options = settings if isinstance(settings, dict) else {}  # TRL's parser makes a dict of a text
    found: PreTrainedModel = create_model_from_path(model, **options)
    return found


def tokenizer_of(model: str | PreTrainedModel, name: str, argument: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Args:
        model: Or its id or path.
        name: What it is, for the message.
        argument: By which a tokenizer can be given.

    Raises:
        ValueError: If the model names no place to load one from.
    """
    source = model if isinstance(model, str) else model.config._name_or_path
    if not source:
        raise ValueError(
            f"the {name} was built in memory and names no folder or Hub id to load a tokenizer from; pass {argument}="
        )
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    return tokenizer


def teacher_tokenizer(
    teacher: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """The teacher's own tokenizer; the student's for a teacher that exists in memory only."""
    if not isinstance(teacher, str) and not teacher.config._name_or_path:
        return tokenizer
    return tokenizer_of(teacher, "teacher", "teacher_processing_class")


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any id will do where there is none: what is padded is masked."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)
