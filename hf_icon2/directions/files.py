"""Where directions lie: a folder, or a repo of the Hub. Only JSON and safetensors are ever read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError

from hf_icon2.cards import CARD_NAME, LIBRARY, directions_card
from hf_icon2.directions.config import CONFIG_NAME
from hf_icon2.directions.pair import VECTORS_NAME, write_pair
from hf_icon2.hub.transfer import card_metadata, download, make_repo, push_folder
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from hf_icon2.directions.vectors import DirectionVectors
    from hf_icon2.hub.errors import Token


def find_folder(source: str | os.PathLike[str], subfolder: str = "", **hub: Any) -> Path:
    """The folder itself, or the local copy of a Hub repo's files, which are downloaded if needed.

    Args:
        source: Folder, or `owner/name` on the Hub.
        subfolder: Folder in either.
        **hub: For the Hub, see `hf_icon2.hub.transfer.download`.

    Raises:
        FileNotFoundError: If there is no such folder or repo, or it holds no directions.
    """
    names = (CONFIG_NAME, VECTORS_NAME)
    if not Path(source).is_dir():
        return _download(str(source), names, subfolder, hub)
    folder = Path(source) / subfolder
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; save directions there with save_pretrained()")
    return folder


def write_directions(directions: DirectionVectors, folder: Path, card: str | None) -> Path:
    """Writes record, vectors and card, each whole or not at all; without a given card one that is there stays."""
    write_pair(folder, directions.config, directions.tensor)
    if card is not None or not (folder / CARD_NAME).exists():
        text = directions_card(directions.config, sha256=directions.sha256) if card is None else card
        write_atomic(folder / CARD_NAME, text)
    return folder


def push_directions(
    directions: DirectionVectors,
    repo_id: str,
    card: str | None,
    *,
    path_in_repo: str = "",
    private: bool | None = None,
    token: Token = None,
    revision: str | None = None,
    commit_message: str = "Upload directions",
    create_pr: bool = False,
) -> CommitInfo:
    """Uploads directions; see `DirectionVectors.push_to_hub`."""
    branch = None if create_pr else revision
    repo_id = make_repo(repo_id, private=private, token=token, revision=branch)
    there = card_metadata(repo_id, path_in_repo=path_in_repo, revision=revision, token=token)
    foreign = there is not None and there.get("library_name") != LIBRARY
    with tempfile.TemporaryDirectory() as folder:
        ours = directions_card(directions.config, source=repo_id, sha256=directions.sha256)
        directions.save_pretrained(folder, card=ours if card is None else card)
        return push_folder(
            Path(folder),
            repo_id,
            commit_message=commit_message,
            path_in_repo=path_in_repo,
            token=token,
            revision=revision,
            create_pr=create_pr,
            ignore=[CARD_NAME] if foreign and card is None else (),
        )


def _download(source: str, names: tuple[str, ...], subfolder: str, hub: dict[str, Any]) -> Path:
    try:
        return download(source, names, subfolder=subfolder, **hub)
    except (FileNotFoundError, ConnectionError) as error:
        raise type(error)(f"there is no folder {source!r}, and on the Hub: {error}") from error
    except ValueError as error:
        if not isinstance(error.__cause__, HFValidationError):
            raise
        raise FileNotFoundError(f"{source!r} is neither a folder nor a Hub repo id") from error
