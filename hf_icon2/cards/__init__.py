"""Model, direction and dataset cards from templates; the templates are the `.md` files beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData, ModelCardData

from hf_icon2.cards.rendering import hub_id, render, spoken

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


def directions_card(
    config: DirectionVectorConfig,
    *,
    source: str = "path/to/these/files",
    model: str = "path/to/model",
    sha256: str | None = None,
    license: str | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a set of directions: of which model, where added, in which unit, how well supported.

    Args:
        config: Their record.
        source: Where they are loaded from, for the example.
        model: Where the model is loaded from, if it has no id on the Hub.
        sha256: Their fingerprint.
        license: Identifier of a licence, as the Hub has it.
        samples: What steering does, each with `criterion`, `prompt` and `answers`, pairs of strength and text.
    """
    base, first = hub_id(config.base_model), config.names[0]
    strength = config.strengths[first].positive if first in config.strengths else None
    data = ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,  # else the Hub lists it as a fine-tune
        library_name=LIBRARY,
        license=license,
        tags=["activation-steering", "steering-vectors", "direction-vectors", "icon2"],
    )
    return render(
        "directions",
        data,
        base=spoken(config.base_model),
        link=base and f"https://huggingface.co/{base}",
        model=base or model,
        revision=config.base_model_revision,
        source=source,
        sha256=sha256,
        license=license,
        samples=samples,
        config=config,
        steering={first: strength or 0.1},
        rows=[_direction_row(config, name) for name in config.names],
        versions=", ".join(f"{name} {number}" for name, number in config.versions.items()),
        paper=PAPER,
    )


def pairs_card(data: Mapping[str, Any], *, license: str | None, steers: bool, **figures: object) -> str:
    """The card of preference pairs; `hf_icon2.synthesis.publishing` collects what it says.

    Args:
        data: Further metadata.
        license: Identifier of a licence, as the Hub has it.
        steers: Whether any of the pairs were made by steering.
        **figures: Values of the template `pairs.md`.
    """
    metadata = DatasetCardData(
        license=license,
        task_categories=["text-generation"],
        annotations_creators=["machine-generated"],
        tags=[
            LIBRARY,
            "preference",
            "dpo",
            "trl",
            "synthetic",
            *(["activation-steering", "icon2"] if steers else []),
        ],
        **data,
    )
    return render("pairs", metadata, license=license, paper=PAPER, steers=steers, **figures)


def adapter_card(base_model: str | None, record: Mapping[str, str], modules: Sequence[str]) -> str:
    """The card of a PEFT adapter that adds a fixed steering: what it adds, where, and what it is not.

    Args:
        base_model: Id or path of the model it belongs to.
        record: `steering`, `directions_sha256` and what else `hf_icon2.interchange` says of an export.
        modules: Names of the linear layers that get a bias.
    """
    data = ModelCardData(
        base_model=hub_id(base_model),
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["activation-steering", "direction-vectors", "icon2", "beft"],
    )
    return render("steering_adapter", data, base_model=base_model, record=record, modules=modules)


def _direction_row(config: DirectionVectorConfig, name: str) -> dict[str, object]:
    """What the card says of one criterion; evidence is the mean over its control layers."""
    record, layers = config.evidence.get(name, {}), config.control_layers[name]
    columns = [config.layers.index(layer) for layer in layers]

    def mean(key: str) -> str:
        values = record.get(key)
        return f"{sum(values[column] for column in columns) / len(columns):.2f}" if values else "not measured"

    strengths = config.strengths.get(name)
    tuned = {
        side: "not tuned" if getattr(strengths, side, None) is None else f"{getattr(strengths, side):g}"
        for side in ("positive", "negative", "maximum")
    }
    return {
        "name": name,
        "layers": ", ".join(map(str, layers)),
        "pooling": config.pooling.get(name, "unknown"),
        **tuned,
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
    **training: Any,
) -> str:
    """The card of a model trained on steered pairs: from what, on which pairs, how, and how it went.

    Args:
        model_name: Title; None writes a neutral one.
        base_model: Id or path of the model that was trained, None if it has neither.
        tags: Tags for the Hub.
        dataset_name: Id of the pairs on the Hub, if they are there.
        provenance: `rows`, `columns`, `directions`, `criteria` (each `name`, `pairs`, `chosen`, `rejected`),
            `strategies` (in which ways the pairs were made).
        **training: `settings` (name to value), `monitor` (a sentence) and `versions`.
    """
    base = hub_id(base_model)
    data = ModelCardData(
        model_name=model_name,
        base_model=base,
        datasets=dataset_name,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["generated_from_trainer", *tags],
    )
    return render(
        "dpo_model",
        data,
        model_name=model_name or "A model trained on its own preferences",
        local=base is None,
        base_model=base or (base_model and Path(base_model).name),
        dataset_name=dataset_name,
        paper=PAPER,
        **provenance,
        **training,
    )


def distilled_model_card(
    *,
    model_name: str,
    base_model: str | None,
    method: str,
    paper: Mapping[str, str],
    tags: Sequence[str],
    dataset_name: str | None,
    **training: Any,
) -> str:
    """The card of a distilled student: from what, on which data, how.

    Args:
        model_name: Title.
        base_model: Id or path of the student before training, None if it has neither.
        method: In words.
        paper: Its `citation` and arXiv `id`.
        tags: Tags for the Hub.
        dataset_name: Id of the data on the Hub, if they are there.
        **training: `lesson` and `seen`, the data, in words, `teacher` (or None), `settings` (name to value) and
            `versions`.
    """
    base = hub_id(base_model)
    data = ModelCardData(
        model_name=model_name,
        base_model=base,
        datasets=dataset_name,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["generated_from_trainer", *tags, f"arxiv:{paper['id']}"],
    )
    return render(
        "distilled_model",
        data,
        model_name=model_name,
        local=base is None,
        base_model=base or (base_model and Path(base_model).name),
        method=method,
        dataset_name=dataset_name,
        paper=paper,
        **training,
    )
