"""What the card of preference pairs says, counted from the rows and read from directions and recipe."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, concatenate_datasets

from hf_icon2.cards import CARD_NAME
from hf_icon2.cards.rendering import hub_id, spoken
from hf_icon2.hub.transfer import read_metadata
from hf_icon2.synthesis.contamination_figures import Contaminations, contamination_figures
from hf_icon2.synthesis.flags import FLAGS

if TYPE_CHECKING:
    from hf_icon2.directions.vectors import DirectionVectors

Recipe = Mapping[str, Any]
Row = dict[str, Any]

_SECTIONS = ("extraction", "synthesis", "filter", "tuning", "pairs")
_TOY = "the bundled toy assistant"  # has no id on the Hub
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}


def pair_figures(
    splits: Mapping[str, Dataset],
    *,
    source: str,
    directions: DirectionVectors | None,
    recipe: Recipe | None,
    license: str | None,
    licenses: Mapping[str, str],
    left_out: Mapping[str, int] | None,
    language: str | None,
    contamination: Contaminations = (),
) -> dict[str, Any]:
    """The values of `hf_icon2.cards.pairs_card`, plain data.

    Args:
        splits: The pairs.
        source: Folder or repo they are loaded from.
        directions: What they were steered by.
        recipe: Settings of the run.
        license: Of the pairs.
        licenses: Of the model and the instructions' source, by id or path.
        left_out: How many pairs were left out for which flag.
        language: Code of the language.
        contamination: Reports of test prompts in the pairs.

    Raises:
        ValueError: If the pairs were made with other directions.
    """
    rows = concatenate_datasets([split.select_columns(_known(split)) for split in splits.values()])
    digests = (
        sorted(set(rows["directions_sha256"]) - {None}) if "directions_sha256" in rows.column_names else []
    )
    if directions is not None and digests and directions.sha256 not in digests:
        raise ValueError(
            f"these pairs were made with the directions {', '.join(digests)} (SHA-256), not with the given ones "
            f"({directions.sha256}); pass those, for instance the run's folder `tuned`"
        )
    config = directions.config if directions is not None else None
    model = next((name for name, kind in source_names(directions, recipe).items() if kind == "model"), None)
    base = hub_id(model)
    name = spoken(model)
    features = next(iter(splits.values())).features
    return {
        "data": {
            "language": language,
            "size_categories": next(
                (text for most, text in _SIZES.items() if len(rows) < most), "10M<n<100M"
            ),
            "source_datasets": _datasets(recipe) or None,
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits],
                }
            ],
        },
        "license": license,
        "title": source if hub_id(source) else f"Preference pairs of {name}",
        "source": source if hub_id(source) else "path/to/these/files",
        "total": len(rows),
        **_strategies(rows),
        "base": name,
        "link": base and f"https://huggingface.co/{base}",
        "revision": (config.base_model_revision if config else None) or (recipe or {}).get("revision"),
        "splits": [{"name": split, "rows": len(rows)} for split, rows in splits.items()],
        "digests": digests,
        "steered": _steered(directions, rows),
        "noises": sorted(set(rows["noise"]) - {None}) if "noise" in rows.column_names else [],
        "columns": [{"name": name, "type": _type(feature)} for name, feature in features.items()],
        "settings": _settings(recipe),
        "sources": _sources(directions, recipe, licenses),
        "left_out": []
        if not left_out
        else [{"name": name, "rows": left_out[name]} for name in sorted(left_out)],
        "contamination": contamination_figures(contamination),
        "tuned_on": ((recipe or {}).get("tuning") or {}).get("instructions"),
        **_counts(rows),
    }


def source_names(directions: DirectionVectors | None, recipe: Recipe | None) -> dict[str, str]:
    """What the pairs were made from: id or path, and `model`, `dataset` or `file`."""
    settings = recipe or {}
    model = (directions.config.base_model if directions is not None else None) or settings.get("model")
    names = {_TOY if model == "toy" else str(model): "model"} if model else {}
    for section in ("extraction", "synthesis"):
        if source := (settings.get(section) or {}).get("instructions"):
            names[str(source)] = "file" if Path(source).suffix in (".json", ".jsonl") else "dataset"
    return names


def _datasets(recipe: Recipe | None) -> list[str]:
    return [name for name, kind in source_names(None, recipe).items() if kind == "dataset" and hub_id(name)]


def _sources(
    directions: DirectionVectors | None, recipe: Recipe | None, licenses: Mapping[str, str]
) -> list[Row]:
    kinds = {"model": "model, answers", "dataset": "dataset, instructions", "file": "file, instructions"}
    found = [
        {
            "name": hub_id(name) or Path(name).name,
            "kind": kinds[kind],
            "license": licenses.get(name) or _local_license(Path(name)),
        }
        for name, kind in source_names(directions, recipe).items()
    ]
    if recipe and not (recipe.get("synthesis") or {}).get("instructions"):
        found[0]["kind"] = "model, instructions and answers"
    return found or [{"name": "unknown", "kind": "model, answers", "license": None}]


def _local_license(folder: Path) -> str | None:
    """What the card in a local folder says."""
    data = read_metadata(folder / CARD_NAME) if (folder / CARD_NAME).is_file() else {}
    return str(data["license"]) if data.get("license") else None


def _known(rows: Dataset) -> list[str]:
    wanted = {
        *(
            "prompt",
            "chosen",
            "rejected",
            "criterion",
            "strategy",
            "strength_chosen",
            "strength_rejected",
            "directions_sha256",
        ),
        *("noise", "flags", "tokens_chosen", "tokens_rejected", "tokens_generated"),
        *("finish_chosen", "finish_rejected"),
    }
    return [name for name in rows.column_names if name in wanted]


def _counts(rows: Dataset) -> dict[str, Any]:
    """Everything that is counted over the rows; None where its column is missing."""
    names = rows.column_names
    prompts = {_digest(prompt) for prompt in rows["prompt"]}
    texts = {_digest([row["prompt"], row["chosen"], row["rejected"]]) for row in rows}
    flags = Counter(flag for row in rows["flags"] for flag in row) if "flags" in names else None
    return {
        "tokens": sum(_values(rows, "tokens_generated", list(range(len(rows))))) or None,
        "distinct_prompts": len(prompts),
        "repeated": len(rows) - len(texts),
        "criteria": _criteria(rows) if "criterion" in names else [],
        "truncated": {
            side: sum(reason == "length" for reason in rows[f"finish_{side}"])
            for side in ("chosen", "rejected")
        }
        if {"finish_chosen", "finish_rejected"} <= set(names)
        else None,
        "flags": None
        if flags is None
        else [{"name": name, "rows": flags[name], "meaning": FLAGS.get(name)} for name in sorted(flags)],
    }


def _strategies(rows: Dataset) -> dict[str, Any]:
    """How many pairs were made in which way; rows that do not say are taken to be steered."""
    names = rows["strategy"] if "strategy" in rows.column_names else [None] * len(rows)
    counts = Counter("icon2" if name is None else str(name) for name in names)
    unsteered = [name for name in sorted(counts) if not name.startswith("icon2")]
    return {
        "strategies": [{"name": name, "rows": counts[name]} for name in sorted(counts)],
        "unsteered": unsteered,
        "steers": len(unsteered) < len(counts),
    }


def _digest(value: object) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()


def _criteria(rows: Dataset) -> list[Row]:
    """Number, strengths and mean lengths per criterion."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(rows["criterion"]):
        groups.setdefault("none" if name is None else str(name), []).append(index)
    return [
        {
            "name": name,
            "rows": len(group),
            "chosen": _span(rows, "strength_chosen", group),
            "rejected": _span(rows, "strength_rejected", group),
            "tokens_chosen": _mean(rows, "tokens_chosen", group),
            "tokens_rejected": _mean(rows, "tokens_rejected", group),
        }
        for name, group in sorted(groups.items())
    ]


def _values(rows: Dataset, column: str, group: list[int]) -> list[float]:
    values = rows[column] if column in rows.column_names else []
    return [values[index] for index in group if values and values[index] is not None]


def _span(rows: Dataset, column: str, group: list[int]) -> str:
    values = _values(rows, column, group)
    if not values:
        return "none" if column in rows.column_names else "unknown"
    return " to ".join(f"{value:+g}" for value in sorted({min(values), max(values)}))


def _mean(rows: Dataset, column: str, group: list[int]) -> str:
    values = _values(rows, column, group)
    return f"{sum(values) / len(values):.1f}" if values else "unknown"


def _steered(directions: DirectionVectors | None, rows: Dataset) -> list[Row]:
    """How the directions of the criteria that occur were measured, and where they steer."""
    if directions is None:
        return []
    config = directions.config
    found: Iterable[str] = set(rows["criterion"]) if "criterion" in rows.column_names else directions.names
    return [
        {
            "name": name,
            "layers": ", ".join(map(str, config.control_layers[name])),
            "method": config.method or "unknown",
            "instructions": config.instructions.get("number", "unknown"),
            "scale": config.scale or "as imported",
        }
        for name in directions.names
        if name in found
    ]


def _settings(recipe: Recipe | None) -> dict[str, str]:
    """The recipe's settings as text; of a path only its name."""
    if not recipe:
        return {}
    return {"seed": str(recipe.get("seed", "unknown"))} | {
        f"{section}.{name}": _shown(value)
        for section in _SECTIONS
        for name, value in (recipe.get(section) or {}).items()
    }


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value if hub_id(value) else Path(value).name
    return json.dumps(value)


def _type(feature: object) -> str:
    """`List of {role, content}`, `string`, `float64` ..."""
    dtype = getattr(feature, "dtype", None)
    if isinstance(dtype, str) and dtype not in ("list", "dict"):
        return dtype
    inner = getattr(feature, "feature", None)
    if isinstance(inner, Mapping):
        return f"list of {{{', '.join(inner)}}}"
    return f"list of {_type(inner)}" if inner is not None else str(feature)
