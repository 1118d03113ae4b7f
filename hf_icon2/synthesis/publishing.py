"""Preference pairs for others: a folder or dataset repo with parquet files, and a card that says how they were made.

`datasets.load_dataset` loads the result without our library, and TRL's trainers take it as it is.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from datasets import Dataset, DatasetDict, load_dataset

from hf_icon2.cards import CARD_NAME, LIBRARY, pairs_card
from hf_icon2.hub.transfer import card_metadata, make_repo, push_folder
from hf_icon2.synthesis.contamination_figures import Contaminations
from hf_icon2.synthesis.flags import DROPPED_FLAGS
from hf_icon2.synthesis.pair_figures import Recipe, pair_figures, source_names
from hf_icon2.synthesis.pairs import pair_dataset

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from hf_icon2.directions.vectors import DirectionVectors
    from hf_icon2.hub.errors import Token
    from hf_icon2.hub.transfer import Upload

Pairs: TypeAlias = Dataset | DatasetDict

SHARD_BYTES = 500_000_000
"""Largest parquet file before compression."""


def save_pairs(
    pairs: Pairs,
    folder: str | os.PathLike[str],
    *,
    directions: DirectionVectors | None = None,
    recipe: Recipe | None = None,
    license: str | None = None,
    licenses: Mapping[str, str] | None = None,
    left_out: Mapping[str, int] | None = None,
    language: str | None = None,
    contamination: Contaminations = (),
    card: str | None = None,
) -> Path:
    """Writes pairs as a dataset that `datasets.load_dataset(folder)` loads, whole or not at all.

    Args:
        pairs: Rows with `prompt`, `chosen` and `rejected`, as from `generate_pairs`, or splits of such rows.
        folder: New or empty.
        directions: What the pairs were steered by; the card then says how they were measured, and on what.
        recipe: Settings of the run (`Recipe.to_dict()`), for the card.
        license: Licence of the pairs, as the Hub spells it (`apache-2.0`); the card says so if none was chosen.
        licenses: Licences of the model and of the source of the instructions, by their id or path. The card of a local
            model folder is read by itself, `push_pairs_to_hub` reads those on the Hub.
        left_out: How many pairs were left out for which flag, for the card.
        language: Code of the language, for instance `en`.
        contamination: What `evaluation.contamination` found of prompts in the pairs, for the card: one report or
            several, or their `to_dict()`.
        card: Text of README.md; None writes one.

    Returns:
        The folder.

    Raises:
        ValueError: For no rows, missing columns, directions that other pairs were made with, or a folder with files.
    """
    return _write(
        _splits(pairs),
        Path(folder),
        source=str(folder),
        card=card,
        directions=directions,
        recipe=recipe,
        license=license,
        licenses=licenses or {},
        left_out=left_out,
        language=language,
        contamination=contamination,
    )


def push_pairs_to_hub(
    pairs: Pairs,
    repo_id: str,
    *,
    directions: DirectionVectors | None = None,
    recipe: Recipe | None = None,
    license: str | None = None,
    licenses: Mapping[str, str] | None = None,
    left_out: Mapping[str, int] | None = None,
    language: str | None = None,
    contamination: Contaminations = (),
    card: str | None = None,
    **hub: Unpack[Upload],
) -> CommitInfo:
    """Uploads pairs and their card to a dataset repo of their own, in one commit; `load_dataset(repo_id)` loads them.

    Args:
        pairs: As for `save_pairs`.
        repo_id: `owner/name`; created if missing. Earlier pairs there are replaced.
        directions: As for `save_pairs`.
        recipe: As for `save_pairs`.
        license: As for `save_pairs`.
        licenses: As for `save_pairs`; what is not given is read from the cards on the Hub, else said to be unknown.
        left_out: As for `save_pairs`.
        language: As for `save_pairs`.
        contamination: As for `save_pairs`.
        card: As for `save_pairs`.
        **hub: `private` (for a new repo), `token`, `revision` (a branch, made if missing), `commit_message`,
            `create_pr`.

    Returns:
        The commit (`oid`, `commit_url`, `pr_url`); as a string it is its address.

    Raises:
        ValueError: As for `save_pairs`, or if the repo holds a dataset that was not written here.
        PermissionError: If nobody is logged in, or the login may not write there.
        ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
    """
    if hub.pop("path_in_repo", ""):
        raise ValueError(
            "pairs have no path_in_repo: datasets finds them at the top; choose another repo or branch"
        )
    splits, token = _splits(pairs), hub.get("token")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _write(
            splits,
            Path(scratch) / "pairs",
            source=repo_id,
            card=card,
            directions=directions,
            recipe=recipe,
            license=license,
            licenses={**_licenses_on_hub(source_names(directions, recipe), token), **(licenses or {})},
            left_out=left_out,
            language=language,
            contamination=contamination,
        )
        revision, create_pr = hub.get("revision"), hub.get("create_pr", False)
        branch = None if create_pr else revision
        repo_id = make_repo(
            repo_id, repo_type="dataset", private=hub.get("private"), token=token, revision=branch
        )
        _check_ours(repo_id, revision, token)
        return push_folder(
            folder,
            repo_id,
            repo_type="dataset",
            commit_message=hub.get("commit_message", "Upload pairs"),
            token=token,
            revision=revision,
            create_pr=create_pr,
            delete=["data/*.parquet"],
        )


def load_pairs(folder: Path) -> Pairs:
    """Pairs of a folder: of `save_pairs`, or the `*.jsonl` files of a run, flagged ones included.

    Raises:
        FileNotFoundError: If there are none.
    """
    files = sorted(folder.glob("*.jsonl"))
    if files:
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return pair_dataset(rows, chat=bool(rows) and not isinstance(rows[0]["prompt"], str))
    if not list((folder / "data").glob("*.parquet")):
        raise FileNotFoundError(
            f"{folder} holds no pairs (*.jsonl of a run, or data/*.parquet of save_pairs)"
        )
    pairs: DatasetDict = load_dataset(str(folder))
    return pairs


def run_pairs(folder: Path) -> tuple[Dataset, dict[str, int]]:
    """The usable pairs of a run's folder `pairs`, and how many were left out for which flag."""
    rows = load_pairs(folder)
    good = [index for index, flags in enumerate(rows["flags"]) if not set(flags) & set(DROPPED_FLAGS)]
    counts = Counter(flag for flags in rows["flags"] for flag in flags if flag in DROPPED_FLAGS)
    return rows.select(good), dict(counts)


def _write(splits: Mapping[str, Dataset], folder: Path, *, card: str | None, **facts: Any) -> Path:  # noqa: ANN401
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files already; choose a new or empty folder for the pairs")
    text = pairs_card(**pair_figures(splits, **facts)) if card is None else card
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        partial = Path(scratch) / "pairs"
        (partial / "data").mkdir(parents=True)
        for name, rows in splits.items():
            _write_shards(rows, partial / "data", name)
        (partial / CARD_NAME).write_text(text, encoding="utf-8")
        partial.replace(folder)
    return folder


def _write_shards(rows: Dataset, folder: Path, split: str) -> None:
    number = max(1, math.ceil(rows.data.nbytes / SHARD_BYTES))
    for index in range(number):
        shard = rows.shard(number, index, contiguous=True)
        shard.to_parquet(folder / f"{split}-{index:05d}-of-{number:05d}.parquet")


def _splits(pairs: Pairs) -> dict[str, Dataset]:
    """Splits by name, checked."""
    splits = dict(pairs) if isinstance(pairs, DatasetDict) else {"train": pairs}
    for name, rows in splits.items():
        if missing := [
            column for column in ("prompt", "chosen", "rejected") if column not in rows.column_names
        ]:
            raise ValueError(
                f"pairs lack {', '.join(missing)} in split {name} (they have: {', '.join(rows.column_names)}); pass "
                "the rows of generate_pairs"
            )
        if not len(rows):
            raise ValueError(f"there are no pairs in split {name}; leave it out, or generate some")
    if not splits:
        raise ValueError("there are no pairs; generate some first")
    return splits


def _licenses_on_hub(names: Mapping[str, str], token: Token) -> dict[str, str]:
    """What the cards of models and datasets on the Hub say; nothing of those that cannot be read."""
    found = {}
    for name, kind in names.items():
        if Path(name).exists():
            continue
        try:
            data = card_metadata(name, repo_type="model" if kind == "model" else "dataset", token=token)
        except (OSError, ValueError):
            continue
        if data and data.get("license"):
            found[name] = str(data.get("license_name") or data["license"])
    return found


def _check_ours(repo_id: str, revision: str | None, token: Token) -> None:
    """Refuses a repo with a card that was not written here: its files would be loaded by the other's rules."""
    there = card_metadata(repo_id, repo_type="dataset", revision=revision, token=token)
    if there is not None and LIBRARY not in (there.get("tags") or ()):
        raise ValueError(
            f"{repo_id} holds a dataset that was not written here (its card lacks the tag {LIBRARY}); pairs need a "
            "repo of their own: choose another name, or delete its README.md first"
        )
