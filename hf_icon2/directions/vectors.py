"""The artefact: direction vectors with their record, a value that saves, loads, compares and mixes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from hf_icon2.directions.config import DirectionVectorConfig, Scale, StrengthRange
from hf_icon2.directions.estimation import scale_norms
from hf_icon2.directions.files import find_folder, push_directions, write_directions
from hf_icon2.directions.pair import read_pair
from hf_icon2.prompts import template_fingerprint

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedTokenizerBase

    from hf_icon2.hub.transfer import Download, Upload

_PER_CRITERION = ("control_layers", "pooling", "contrast_norms", "strengths", "evidence")


@dataclass(frozen=True, eq=False)
class DirectionVectors:
    """Directions of C criteria at L layers.

    Args:
        config: What they were measured on; see `DirectionVectorConfig`.
        tensor: The vectors, (C, L, D) float32 on the CPU, with the norm that `config.scale` says.
    """

    config: DirectionVectorConfig
    tensor: Tensor

    def __post_init__(self) -> None:
        config = self.config
        expected = (len(config.criteria), len(config.layers), config.hidden_size)
        if tuple(self.tensor.shape) != expected or self.tensor.dtype != torch.float32:
            raise ValueError(
                f"directions must be float32 of shape {expected} (criteria, layers, hidden), "
                f"got {self.tensor.dtype} of shape {tuple(self.tensor.shape)}"
            )
        bad = ~torch.isfinite(self.tensor).all(-1)
        if bool(bad.any()):
            row, column = (int(index) for index in bad.nonzero()[0])
            raise ValueError(
                f"the direction of {config.names[row]!r} at layer {config.layers[column]} has NaN or "
                "infinite values; the file is damaged or the extraction overflowed, extract again"
            )

    # reading

    def __getitem__(self, name: str) -> Tensor:
        """Vectors of one criterion, (L, D)."""
        return self.tensor[self._row(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the criteria."""
        return self.config.names

    @property
    def sha256(self) -> str:
        """Fingerprint of what steering depends on: numbers, criteria, layers and control layers."""
        key = {
            "criteria": self.names,
            "layers": self.config.layers,
            "control_layers": {name: self.config.control_layers[name] for name in self.names},
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
        digest.update(self.tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def unit(self) -> Tensor:
        """All directions with norm 1, (C, L, D); consistency is measured with these (Icon², Eq. 2)."""
        return torch.nn.functional.normalize(self.tensor, dim=-1)

    def at(self, name: str, layer: int) -> Tensor:
        """The direction of one criterion at one layer, (D,)."""
        if layer not in self.config.layers:
            raise ValueError(f"layer {layer} is not in these directions; available: {self.config.layers}")
        return self[name][self.config.layers.index(layer)]

    def mix(self, steering: Mapping[str, float]) -> dict[int, Tensor]:
        """Sum of strength x direction over the criteria's control layers.

        Args:
            steering: Strength per criterion.

        Returns:
            For each layer that any criterion controls with a strength other than 0, the vector to add, (D,).
        """
        total: dict[int, Tensor] = {}
        for name, strength in steering.items():
            row = self[name]
            if strength == 0:
                continue
            for layer in self.config.control_layers[name]:
                vector = strength * row[self.config.layers.index(layer)]
                total[layer] = total[layer] + vector if layer in total else vector
        return total

    def cosine(self, other: DirectionVectors) -> dict[str, dict[int, float]]:
        """Cosine per criterion and layer that both sets have; -1 to 1."""
        if self.config.hidden_size != other.config.hidden_size:
            raise ValueError(
                f"cannot compare directions of width {self.config.hidden_size} and {other.config.hidden_size}"
            )
        layers = [layer for layer in self.config.layers if layer in other.config.layers]
        return {
            name: {
                layer: float(torch.cosine_similarity(self.at(name, layer), other.at(name, layer), dim=0))
                for layer in layers
            }
            for name in self.names
            if name in other.names
        }

    def check_model(
        self, hidden_size: int, num_layers: int, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        """Raises ValueError if these directions were measured on a model of another shape or template."""
        config, source = self.config, self.config.base_model or "another model"
        for what, ours, theirs in (
            ("hidden size", config.hidden_size, hidden_size),
            ("number of layers", config.num_layers, num_layers),
        ):
            if ours != theirs:
                raise ValueError(
                    f"these directions were measured on {source} with {what} {ours}, this model has "
                    f"{theirs}; extract directions for this model"
                )
        template = config.chat_template_sha256  # None: imported, and not known
        if tokenizer is not None and template not in (None, template_fingerprint(tokenizer)):
            raise ValueError(
                f"these directions were measured on {source} under another chat template than this "
                "tokenizer's; use the tokenizer they were extracted with, or extract again"
            )

    # algebra: each returns new directions, without the recommended strengths, which no longer fit

    def __mul__(self, factor: float) -> DirectionVectors:
        """`2 * d` at strength 1 steers like `d` at strength 2."""
        return DirectionVectors(replace(self.config, strengths={}), self.tensor * factor)

    __rmul__ = __mul__

    def __neg__(self) -> DirectionVectors:
        return self * -1.0

    def __add__(self, other: DirectionVectors) -> DirectionVectors:
        """Sum of two sets over the same criteria and layers."""
        if (self.names, self.config.layers) != (other.names, other.config.layers):
            raise ValueError(
                f"can only add directions of the same criteria and layers, got {self.names} at "
                f"{self.config.layers} and {other.names} at {other.config.layers}"
            )
        return DirectionVectors(replace(self.config, strengths={}), self.tensor + other.tensor)

    def __sub__(self, other: DirectionVectors) -> DirectionVectors:
        return self + (-other)

    def select(self, names: Sequence[str]) -> DirectionVectors:
        """Only the named criteria, in that order."""
        rows = [self._row(name) for name in names]
        kept: dict[str, Any] = {
            field: {name: value for name, value in getattr(self.config, field).items() if name in set(names)}
            for field in _PER_CRITERION
        }
        criteria = tuple(self.config.criteria[row] for row in rows)
        return DirectionVectors(replace(self.config, criteria=criteria, **kept), self.tensor[rows])

    def merge(self, other: DirectionVectors) -> DirectionVectors:
        """These criteria and the other's, measured on the same model; a name may stand on one side only."""
        mine, theirs = self.config, other.config
        if clash := set(self.names) & set(other.names):
            raise ValueError(f"criteria {sorted(clash)} stand on both sides; select() one of them first")
        for field in ("hidden_size", "num_layers", "layers", "scale", "chat_template_sha256"):
            if getattr(mine, field) != getattr(theirs, field):
                raise ValueError(
                    f"cannot merge: {field} is {getattr(mine, field)} and {getattr(theirs, field)}"
                )
        both: dict[str, Any] = {
            field: {**getattr(mine, field), **getattr(theirs, field)} for field in _PER_CRITERION
        }
        config = replace(mine, criteria=mine.criteria + theirs.criteria, **both)
        return DirectionVectors(config, torch.cat([self.tensor, other.tensor]))

    def with_control_layers(self, layers: Mapping[str, Sequence[int]]) -> DirectionVectors:
        """The same directions, steered at other layers."""
        changed = {**self.config.control_layers, **{name: tuple(value) for name, value in layers.items()}}
        self._check_names(layers)
        return replace(self, config=replace(self.config, control_layers=changed))

    def with_strengths(self, strengths: Mapping[str, StrengthRange]) -> DirectionVectors:
        """The same directions with recommended strengths."""
        self._check_names(strengths)
        return replace(self, config=replace(self.config, strengths={**self.config.strengths, **strengths}))

    def rescaled(self, scale: Scale) -> DirectionVectors:
        """The same directions with the norm of another `scale`, without recommended strengths."""
        config = replace(self.config, scale=scale, strengths={})
        return DirectionVectors(config, self.unit() * scale_norms(config)[..., None])

    # disk and Hub

    def save_pretrained(self, folder: str | os.PathLike[str], *, card: str | None = None) -> Path:
        """Writes record, vectors and card into a folder (beside a model's files if it holds a model).

        Each file is written whole or not at all.

        Args:
            folder: Made if missing.
            card: Text of README.md; None writes `directions_card` unless a README.md is already there.
        """
        return write_directions(self, Path(folder), card)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **hub: Unpack[Download]) -> DirectionVectors:
        """Loads directions from a folder or a Hub repo; only JSON and safetensors are read, no code is run.

        Args:
            source: Folder, or `owner/name` on the Hub.
            **hub: `subfolder` of either; for the Hub `revision` (branch, tag or commit; both files come from one
                commit), `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            FileNotFoundError: If there is no such folder or repo, or it holds no directions.
            PermissionError: If the token is refused, or the repo is gated.
            ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
            ValueError: If a file is truncated, holds NaN, or does not fit its record.
        """
        folder = find_folder(source, **hub)
        config, tensor = read_pair(folder)
        try:
            return cls(config, tensor)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def push_to_hub(self, repo_id: str, *, card: str | None = None, **hub: Unpack[Upload]) -> CommitInfo:
        """Uploads record, vectors and card in one commit, to a repo of their own or beside a model.

        A card that somebody else wrote, such as a model's, is left alone; one that was written here is renewed.

        Args:
            repo_id: `owner/name`; created if missing.
            card: Text of README.md, whatever is there; None writes `directions_card`.
            **hub: `private` (for a new repo), `token`, `path_in_repo`, `revision` (a branch, made if missing),
                `commit_message`, `create_pr`.

        Returns:
            The commit (`oid`, `commit_url`, `pr_url`); as a string it is its address.

        Raises:
            PermissionError: If nobody is logged in, or the login may not write there.
            ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
        """
        return push_directions(self, repo_id, card, **hub)

    def attach_to(self, model_dir: str | os.PathLike[str]) -> Path:
        """Saves these directions beside a model, to be steered by when loaded or served; see `attachment.attach`."""
        from hf_icon2.directions.attachment import attach

        return attach(self, Path(model_dir))

    # private

    def _row(self, name: str) -> int:
        self._check_names([name])
        return self.names.index(name)

    def _check_names(self, names: Mapping[str, object] | Sequence[str]) -> None:
        for name in names:
            if name not in self.names:
                known = ", ".join(self.names)
                raise ValueError(f"unknown criterion {name!r}; these directions have: {known}")
