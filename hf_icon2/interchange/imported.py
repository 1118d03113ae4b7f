"""From another library's vectors to directions: what is known is recorded, what is not is said to be unknown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_icon2.blocks import number_of_blocks
from hf_icon2.criteria import Criterion
from hf_icon2.directions.config import DirectionVectorConfig
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.interchange.fixed import OPERATION
from hf_icon2.interchange.gguf_parser import HINT, OWN, read_gguf

Model = PreTrainedModel | PreTrainedConfig | str
"""A model, its config, or its Hub id or path, of which only the config is read."""

_SAID = (
    "operation",
    "site",
    "positions",
    "steering",
    "base_model",
    "base_model_revision",
    "directions_sha256",
)


def import_gguf(
    path: str | os.PathLike[str], model: Model | None = None, *, name: str | None = None
) -> DirectionVectors:
    """Reads a control vector, written by `export_gguf`, repeng, llama.cpp or another library, as directions.

    Strength 1 adds the vectors as they are in the file. What the file does not say (prompts, evidence, norms,
    chat template) stays unknown in the record.

    Args:
        path: The file.
        model: The model that the vectors belong to, its config, or its id or path; may be left out for a file
            of `export_gguf`, which names it.
        name: Name of the criterion; that of the export, or else the file's name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, no control vector, or does not fit the model.
    """
    source = Path(path)
    metadata, vectors = read_gguf(source)
    own = {key: metadata[OWN + key] for key in _SAID if OWN + key in metadata}
    if own.get("operation", OPERATION) != OPERATION:
        raise ValueError(f"{source} is to be applied by {own['operation']!r}; directions can only be added")
    hint = {"model_hint": metadata[HINT]} if HINT in metadata else {}
    return import_vectors(
        vectors,
        model,
        name=name or _harmless(str(metadata.get(f"{OWN}criteria") or source.stem)),
        said={
            "format": "gguf",
            "file": source.name,
            **{key: str(text)[:1000] for key, text in (hint | own).items()},
        },
        num_layers=metadata.get(f"{OWN}num_layers"),
    )


def _harmless(text: str) -> str:
    """A criterion's name from what a stranger wrote."""
    return re.sub(r"[^\w .,+-]", "-", text).lstrip("_ .,+-")[:100] or "imported"


def import_repeng(vector: Any, model: Model, *, name: str) -> DirectionVectors:  # noqa: ANN401
    """Takes over a `repeng.ControlVector`; repeng itself is not needed.

    repeng keys its directions by 0-based block, reads them from that block's output and adds them there
    (`repeng/extract.py`, `repeng/control.py`; 0.4.0 and main), so that the layers are ours. Strength 1 is its
    coefficient 1.

    Args:
        vector: Anything with `directions` (block to array of D numbers) and `model_type`.
        model: The model that the vector was trained on, its config, or its id or path.
        name: Name of the criterion.

    Raises:
        ValueError: If the vector was trained on another type of model, or does not fit it.
    """
    config = _config(model)
    if vector.model_type != config.model_type:
        raise ValueError(
            f"this vector was trained on a {vector.model_type!r} model, {config.name_or_path or 'the given one'} "
            f"is {config.model_type!r}; pass the model it belongs to"
        )
    vectors = {int(layer): torch.tensor(row) for layer, row in vector.directions.items()}
    return import_vectors(
        vectors, model, name=name, said={"format": "repeng", "model_type": vector.model_type}
    )


def import_vectors(
    vectors: Mapping[int, Tensor],
    model: Model | None,
    *,
    name: str,
    said: Mapping[str, Any],
    num_layers: Any = None,  # noqa: ANN401  (whatever a stranger's file says)
) -> DirectionVectors:
    """Directions of one criterion, steered at every layer that has a vector.

    Args:
        vectors: Per 0-based block the vector for its output, (D,).
        model: The model, its config, or its id or path; None if `num_layers` is known.
        name: Name of the criterion.
        said: What the source said, for the record.
        num_layers: Number of blocks according to the source, if it said so.

    Raises:
        ValueError: If the vectors do not fit the model, or nobody says which model that is.
    """
    layers, shapes = tuple(sorted(vectors)), sorted({tuple(vector.shape) for vector in vectors.values()})
    base_model, width = str(said.get("base_model", "")), shapes[0][-1] if shapes else 0
    if model is not None:
        config = _config(model)
        base_model, num_layers = config.name_or_path or base_model, number_of_blocks(config)
        width = config.get_text_config(decoder=True).hidden_size
    if not isinstance(num_layers, int):
        raise ValueError(
            "the source does not say which model it belongs to; pass the model, its config, or its id or path"
        )
    if not layers or layers[0] < 0 or layers[-1] >= num_layers or shapes != [(width,)]:
        raise ValueError(
            f"vectors of shape {shapes} for blocks {list(layers)} do not fit a model of {num_layers} blocks and "
            f"hidden size {width}; pass the model they belong to"
        )
    record = DirectionVectorConfig(
        base_model=base_model or None,
        base_model_revision=said.get("base_model_revision") or None,
        hidden_size=width,
        num_layers=num_layers,
        layers=layers,
        criteria=(Criterion(name, f"(unknown: {name} was imported)", f"(unknown: the opposite of {name})"),),
        control_layers={name: layers},
        pooling={},
        method=None,
        scale=None,
        residual_norms=(),
        contrast_norms={},
        instructions={},
        chat_template_sha256=None,
        imported=dict(said),
    )
    return DirectionVectors(record, torch.stack([vectors[layer].float() for layer in layers])[None])


def _config(model: Model) -> PreTrainedConfig:
    if isinstance(model, str):
        found: PreTrainedConfig = AutoConfig.from_pretrained(model)
        return found
    return model.config if isinstance(model, PreTrainedModel) else model
