"""Models and tokenizers by id or path; code in a repo is never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(source: str, revision: str | None = None, *, encoder_decoder: bool = False) -> PreTrainedModel:
    """A causal LM on the GPU where there is one, in eval mode.

    Args:
        source: Model id or path.
        revision: Commit, tag or branch.
        encoder_decoder: Load models of the T5 family too, where the caller can use them.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    _check_source(source)
    kind: type[AutoModelForCausalLM | AutoModelForSeq2SeqLM] = AutoModelForCausalLM
    if encoder_decoder and _is_encoder_decoder(source, revision):
        kind = AutoModelForSeq2SeqLM
    model: PreTrainedModel = kind.from_pretrained(source, revision=revision)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    model.eval()
    return model


def _is_encoder_decoder(source: str, revision: str | None) -> bool:
    """Of a model, or of the base model of an adapter, which has no configuration of its own."""
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    adapter = find_adapter_config_file(source, revision=revision)
    if adapter is not None:
        source, revision = (
            json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"],
            None,
        )
    return bool(AutoConfig.from_pretrained(source, revision=revision).is_encoder_decoder)


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    _check_source(source)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, revision=revision)
    return tokenizer


def _check_source(source: str) -> None:
    """Raises FileNotFoundError for what is neither a folder nor could be a repo's id."""
    if Path(source).is_dir():
        return
    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise FileNotFoundError(
            f"there is no folder {source!r}, and it is no id of a Hub repo, like 'owner/name', either"
        ) from error
