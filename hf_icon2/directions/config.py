"""The record that makes directions usable elsewhere: what they were measured on and how. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hf_icon2.criteria import Criterion, named

Method = Literal["pca", "mean_difference", "centred_pca"]
Scale = Literal["residual", "contrast", "unit"]
Pooling = Literal["last", "response"]

CONFIG_NAME = "direction_vector_config.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StrengthRange:
    """Recommended strengths of one criterion; None where nothing was tuned.

    Args:
        positive: Strength of the chosen side.
        negative: Strength of the rejected side, usually below zero.
        maximum: Largest absolute strength that keeps the text intact (KL bound); the library warns above it.
    """

    positive: float | None = None
    negative: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class DirectionVectorConfig:
    """Where directions come from and where they may be added; saved as JSON beside the vectors.

    Args:
        base_model: Hub id or path of the model that was measured.
        base_model_revision: Its commit, if known.
        hidden_size: Width D of the residual stream.
        num_layers: Number of decoder blocks of the model.
        layers: The L blocks that have a direction; a direction is added to that block's output.
        criteria: The C criteria with the texts of both sides.
        control_layers: Per criterion, the layers steered by default.
        strengths: Per criterion, recommended strengths.
        pooling: Per criterion, the token states the contrast was read from.
        method: How the direction is found in the contrasts.
        scale: Norm of the stored vectors: mean residual norm at the layer, mean contrast norm, or 1; None for
            imported vectors that kept the norm they came with.
        residual_norms: Mean norm of the residual stream per layer, (L,).
        contrast_norms: Per criterion, norm of the mean contrast per layer, (L,).
        instructions: `number` and `fingerprint` (SHA-256) of the instructions measured on.
        chat_template_sha256: Fingerprint of the chat template.
        evidence: Per criterion, held-out accuracy, split-half cosine and random control per layer.
        versions: Library versions used.
        imported: What another library's file or object said of these vectors; empty if measured here. Only
            imported vectors may lack what the file did not say: method, scale and template are then None, and
            pooling, norms and instructions empty.
        format_version: Version of this file format.
    """

    base_model: str | None
    hidden_size: int
    num_layers: int
    layers: tuple[int, ...]
    criteria: tuple[Criterion, ...]
    control_layers: Mapping[str, tuple[int, ...]]
    pooling: Mapping[str, Pooling]
    method: Method | None
    scale: Scale | None
    residual_norms: tuple[float, ...]
    contrast_norms: Mapping[str, tuple[float, ...]]
    instructions: Mapping[str, Any]
    chat_template_sha256: str | None
    base_model_revision: str | None = None
    strengths: Mapping[str, StrengthRange] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    imported: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        names = list(named(self.criteria))
        self._check_known("method", self.method, get_args(Method))
        self._check_known("scale", self.scale, get_args(Scale))
        if list(self.layers) != sorted(set(self.layers)) or not self.layers:
            raise ValueError(f"layers must be ascending and unique, got {self.layers}")
        if not 0 <= self.layers[0] <= self.layers[-1] < self.num_layers:
            raise ValueError(f"layers {self.layers} do not fit a model of {self.num_layers} blocks")
        for name in names:
            missing = set(self.control_layers.get(name, ())) - set(self.layers)
            if missing or not self.control_layers.get(name):
                raise ValueError(
                    f"control layers of {name!r} are {self.control_layers.get(name)}; choose at least one "
                    f"out of {self.layers}"
                )
            self._check_known(f"pooling of {name!r}", self.pooling.get(name), get_args(Pooling))

    def _check_known(self, what: str, value: object, allowed: tuple[str, ...]) -> None:
        if value is not None or not self.imported:
            check_choice(what, value, allowed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the criteria, in the order of the vectors."""
        return tuple(criterion.name for criterion in self.criteria)

    def to_json(self) -> str:
        """The record as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DirectionVectorConfig:
        """Reads `to_json`; refuses files of a newer format or with missing fields."""
        data = json.loads(text)
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{CONFIG_NAME} has format_version {version!r}, this library reads {FORMAT_VERSION}; upgrade "
                "hf_icon2"
            )
        known = {item.name for item in dataclasses.fields(cls)}
        required = {
            item.name
            for item in dataclasses.fields(cls)
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        }
        if missing := required - set(data):
            raise ValueError(f"{CONFIG_NAME} lacks {sorted(missing)}; the file is incomplete")
        if unknown := set(data) - known:
            raise ValueError(f"{CONFIG_NAME} has unknown fields {sorted(unknown)}; known: {sorted(known)}")
        data["criteria"] = tuple(Criterion(**item) for item in data["criteria"])
        data["strengths"] = {name: StrengthRange(**item) for name, item in data["strengths"].items()}
        for name in ("layers", "residual_norms"):
            data[name] = tuple(data[name])
        for name in ("control_layers", "contrast_norms"):
            data[name] = {key: tuple(value) for key, value in data[name].items()}
        return cls(**data)

    @classmethod
    def from_file(cls, folder: Path) -> DirectionVectorConfig:
        """Reads the record in a folder."""
        path = folder / CONFIG_NAME
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is truncated or not JSON ({error}); download or extract it again"
            ) from error


def check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; allowed: {', '.join(allowed)}")
