"""Model, direction and dataset cards from templates; the templates are the `.md` files beside this one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from hf_icon2.directions.config import DirectionVectorConfig

CARD_NAME = "README.md"
LIBRARY = "hf_icon2"
"""The `library_name` of cards whose repo holds nothing but our files."""

_TITLE = "Icon2: Aligning Large Language Models Using Self-Synthetic Preference Data via Inherent Regulation"
PAPER = {
    "title": _TITLE,
    "id": "2509.05605",  # arXiv
    "citation": f"""\
@misc{{chen2025icon2,
    title         = {{{{{_TITLE}}}}},
    author        = {{Qiyuan Chen and Hongsen Huang and Qian Shao and Jiahe Chen and Jintai Chen
                     and Hongxia Xu and Renjie Hua and Chuan Ren and Jian Wu}},
    year          = 2025,
    eprint        = {{2509.05605}},
    archivePrefix = {{arXiv}},
}}""",
}


def template(name: str) -> str:
    """Text of a card template, for instance `directions`."""
    return files(__package__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def directions_card(config: DirectionVectorConfig) -> str:
    """The card of a set of directions: what, where added, in which unit, how well supported."""
    data = ModelCardData(
        base_model=config.base_model if config.base_model and "/" in config.base_model.strip("/") else None,
        library_name="hf_icon2",
        tags=["activation-steering", "direction-vectors", "icon2"],
    )
    return str(
        ModelCard.from_template(
            data,
            template_str=template("directions"),
            config=config,
            rows=[_evidence_row(config, name) for name in config.names],
            versions=", ".join(f"{name} {number}" for name, number in config.versions.items()),
        )
    )


def adapter_card(base_model: str | None, record: Mapping[str, str], modules: Sequence[str]) -> str:
    """The card of a PEFT adapter that adds a fixed steering: what it adds, where, and what it is not.

    Args:
        base_model: Id or path of the model it belongs to.
        record: `steering`, `directions_sha256` and what else `hf_icon2.interchange` says of an export.
        modules: Names of the linear layers that get a bias.
    """
    data = ModelCardData(
        base_model=base_model if base_model and "/" in base_model.strip("/") else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["activation-steering", "direction-vectors", "icon2", "beft"],
    )
    text = template("steering_adapter")
    return str(
        ModelCard.from_template(
            data, template_str=text, base_model=base_model, record=record, modules=modules
        )
    )


def _evidence_row(config: DirectionVectorConfig, name: str) -> dict[str, object]:
    """One line of the card's table: means over the criterion's control layers."""
    record, layers = config.evidence.get(name, {}), config.control_layers[name]
    columns = [config.layers.index(layer) for layer in layers]

    def mean(key: str) -> str:
        values = record.get(key)
        return f"{sum(values[column] for column in columns) / len(columns):.2f}" if values else "not measured"

    return {
        "name": name,
        "layers": ", ".join(map(str, layers)),
        "pooling": config.pooling.get(name, "unknown"),
        "strengths": config.strengths.get(name),
        "accuracy": mean("held_out_accuracy"),
        "control": mean("random_accuracy"),
        "stability": mean("split_half_cosine"),
    }


def model_card(
    *,
    model_name: str | None,
    base_model: str | None,
    tags: Sequence[str],
    dataset_name: str | None,
    provenance: Mapping[str, Any],
    training: Mapping[str, Any],
) -> str:
    """The card of a model trained on steered pairs: from what, on which pairs, how, and how it went.

    Args:
        model_name: Title; None writes a neutral one.
        base_model: Id or path of the model that was trained, None if it has neither.
        tags: Tags for the Hub.
        dataset_name: Id of the pairs on the Hub, if they are there.
        provenance: `rows`, `columns`, `directions`, `criteria` (each `name`, `pairs`, `chosen`, `rejected`).
        training: `settings` (name to value), `monitor` (a sentence) and `versions`.
    """
    local = (
        base_model is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base_model) or Path(base_model).exists()
    )
    data = ModelCardData(
        model_name=model_name,
        base_model=None if local else base_model,
        datasets=dataset_name,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["generated_from_trainer", *tags],
    )
    return str(
        ModelCard.from_template(
            data,
            template_str=template("dpo_model"),
            local=local,
            base_model=base_model and (Path(base_model).name if local else base_model),
            dataset_name=dataset_name,
            paper=PAPER,
            **provenance,
            **training,
        )
    )
