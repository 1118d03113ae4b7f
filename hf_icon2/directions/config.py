"""The record that makes directions usable elsewhere: what they were measured on and how. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hf_icon2.criteria import Criterion, named
from hf_icon2.directions.record import build
from hf_icon2.storage import parse_json, read_json, shortened

Method = Literal["pca", "mean_difference", "centred_pca"]
Scale = Literal["residual", "contrast", "unit"]
Pooling = Literal["last", "response"]

CONFIG_NAME = "direction_vector_config.json"
FORMAT_VERSION = 2
"""Format 2 names the vectors' SHA-256 in the file; format 1 did not."""


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
    instructions: Mapping[str, int | str]
    chat_template_sha256: str | None
    base_model_revision: str | None = None
    strengths: Mapping[str, StrengthRange] = field(default_factory=dict)
    evidence: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    imported: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        names = list(named(self.criteria))
        self._check_known("method", self.method, get_args(Method))
        self._check_known("scale", self.scale, get_args(Scale))
        self._check_lengths(set(names))
        if list(self.layers) != sorted(set(self.layers)) or not self.layers:
            raise ValueError(f"layers must be ascending and unique, got {shortened(self.layers)}")
        if not 0 <= self.layers[0] <= self.layers[-1] < self.num_layers:
            raise ValueError(
                f"layers {shortened(self.layers)} do not fit a model of {shortened(self.num_layers)} blocks"
            )
        for name in names:
            chosen = self.control_layers.get(name)
            if not chosen or set(chosen) - set(self.layers) or len(set(chosen)) < len(chosen):
                raise ValueError(
                    f"control layers of {name!r} are {shortened(chosen)}; choose at least one out of "
                    f"{shortened(self.layers)}, each once"
                )
            self._check_known(f"pooling of {name!r}", self.pooling.get(name), get_args(Pooling))
        known = (*map(self.instructions.get, ("number", "fingerprint")), self.chat_template_sha256)
        if [type(value) for value in known] != [int, str, str] and not self.imported:
            raise ValueError(
                "the number and fingerprint of the instructions and the fingerprint of the chat template must be "
                f"known of directions that were measured, got {shortened(known)}"
            )

    def _check_known(self, what: str, value: object, allowed: tuple[str, ...]) -> None:
        if value is not None or not self.imported:
            check_choice(what, value, allowed)

    def _check_lengths(self, names: set[str]) -> None:
        """Raises ValueError for values of unknown criteria, and lists that are not one value per layer."""
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {self.hidden_size}")
        for what in ("control_layers", "strengths", "pooling", "contrast_norms", "evidence"):
            if unknown := set(getattr(self, what)) - names:
                raise ValueError(f"{what} names unknown criteria {shortened(sorted(unknown))}")
        lists: dict[str, Sequence[float]] = {
            "residual_norms": self.residual_norms,
            **{f"contrast_norms of {name!r}": norms for name, norms in self.contrast_norms.items()},
        }
        for name, found in self.evidence.items():
            lists |= {f"{kind} of {name!r}": values for kind, values in found.items()}
        for what, values in lists.items():
            if len(values) != len(self.layers) and (values or not self.imported):
                raise ValueError(f"{what} has {len(values)} values for {len(self.layers)} layers")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the criteria, in the order of the vectors."""
        return tuple(criterion.name for criterion in self.criteria)

    def to_json(self, vectors_sha256: str | None = None) -> str:
        """The record as indented JSON text.

        Args:
            vectors_sha256: Fingerprint of the file of vectors that the record is written beside.
        """
        beside = {} if vectors_sha256 is None else {"vectors_sha256": vectors_sha256}
        return json.dumps(dataclasses.asdict(self) | beside, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> DirectionVectorConfig:
        """Reads `to_json`.

        Raises:
            ValueError: If it is not JSON or of a newer format, or if a field is missing, unknown or impossible.
        """
        return _config_and_digest(parse_json(text if isinstance(text, bytes) else text.encode()))[0]

    @classmethod
    def from_file(cls, folder: Path) -> DirectionVectorConfig:
        """Reads the record in a folder."""
        return read_record(folder)[0]


def read_record(folder: Path) -> tuple[DirectionVectorConfig, str | None]:
    """The record in a folder, and the SHA-256 of its vectors; None if the record is of format 1.

    Raises:
        OSError: If there is no record or it is unreadable.
        ValueError: If the record is damaged.
    """
    path = folder / CONFIG_NAME
    data = read_json(path)
    try:
        config, digest = _config_and_digest(data)
    except ValueError as error:
        raise ValueError(f"{path} describes no directions: {error}") from error
    if digest is None and data["format_version"] != 1:
        raise ValueError(f"{path} lacks ['vectors_sha256']; the file is incomplete")
    return config, digest


def _config_and_digest(data: Any) -> tuple[DirectionVectorConfig, str | None]:  # noqa: ANN401
    """A record from plain data, as one of the present format."""
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"format_version is {shortened(version)}, this library reads 1 to {FORMAT_VERSION}; upgrade hf_icon2"
        )
    digest = data.get("vectors_sha256")
    if not isinstance(digest, (str, type(None))):
        raise ValueError(f"vectors_sha256 must be text, got {shortened(digest)}")
    fields = {name: value for name, value in data.items() if name != "vectors_sha256"}
    return build(DirectionVectorConfig, fields | {"format_version": FORMAT_VERSION}), digest


def check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{what} is {shortened(value)}; allowed: {', '.join(allowed)}")
