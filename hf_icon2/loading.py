"""Models and tokenizers by id or path; code in a repo is never run."""

from __future__ import annotations

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
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    _check_source(source)
    kind: type[AutoModelForCausalLM | AutoModelForSeq2SeqLM] = AutoModelForCausalLM
    if encoder_decoder and AutoConfig.from_pretrained(source, revision=revision).is_encoder_decoder:
        kind = AutoModelForSeq2SeqLM
    model: PreTrainedModel = kind.from_pretrained(source, revision=revision)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    model.eval()
    return model


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
