"""Model, direction and dataset cards from templates; the templates are the `.md` files beside this one."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from hf_icon2.directions.config import DirectionVectorConfig


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
        "pooling": config.pooling[name],
        "strengths": config.strengths.get(name),
        "accuracy": mean("held_out_accuracy"),
        "control": mean("random_accuracy"),
        "stability": mean("split_half_cosine"),
    }
