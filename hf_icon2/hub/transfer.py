"""Transfers with the Hub: a folder goes up in one commit, files come down from one commit.

Nothing but files is fetched: code in a repo is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

import yaml
from huggingface_hub import HfApi, hf_hub_download, metadata_load

from hf_icon2.hub.errors import RepoType, Request, Token, sentences

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class Download(TypedDict, total=False):
    """Keyword arguments of what loads from the Hub; see `download`."""

    subfolder: str
    revision: str | None
    token: Token
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool


class Upload(TypedDict, total=False):
    """Keyword arguments of what is pushed to the Hub; see `make_repo` and `push_folder`."""

    private: bool | None
    token: Token
    path_in_repo: str
    revision: str | None
    commit_message: str
    create_pr: bool


def download(
    repo_id: str,
    names: Sequence[str],
    *,
    subfolder: str = "",
    repo_type: RepoType = "model",
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of the cache with the named files of a repo, all of one commit.

    The first file settles which commit a branch or tag means; the others are asked for by that commit. What lies in
    the cache is used when the Hub cannot be reached.

    Args:
        repo_id: `owner/name`.
        names: Files, relative to `subfolder`.
        subfolder: Folder in the repo.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; the main branch by default.
        token: Hub token; the logged-in one by default, False sends none.
        cache_dir: Cache; the Hub client's by default.
        local_files_only: Look into the cache only.
        force_download: Download again what the cache holds.

    Raises:
        FileNotFoundError: If there is no such repo, revision or file, or the cache does not hold it.
        PermissionError: If the token is refused, or the repo is gated.
        ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
        ValueError: If `subfolder` leads out of the repo.
    """
    steps = PurePosixPath(subfolder).parts
    if ".." in steps or "/" in steps:
        raise ValueError(f"subfolder {subfolder!r} leads out of the repo; give a folder in it, like 'a/b'")
    subfolder, commit = "/".join(steps), revision
    for name in names:
        with sentences(Request(repo_id, repo_type, revision, subfolder, name, token)):
            path = Path(
                hf_hub_download(
                    repo_id,
                    name,
                    subfolder=subfolder or None,
                    repo_type=repo_type,
                    revision=commit,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                    force_download=force_download,
                    dry_run=False,
                )
            )
        commit = path.parents[len(steps)].name  # .../snapshots/COMMIT/SUBFOLDER/NAME
    return path.parent


def make_repo(
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    private: bool | None = None,
    token: Token = None,
    revision: str | None = None,
) -> str:
    """Makes a repo, and a branch of it, where they are missing.

    Args:
        repo_id: `owner/name`, or `name` for the one who is logged in.
        repo_type: "model" or "dataset".
        private: Visibility of a new repo; True refuses one that exists and is public.
        token: Hub token; the logged-in one by default.
        revision: Branch, made from the main branch if missing; a `refs/...` must exist.

    Returns:
        `owner/name`.

    Raises:
        PermissionError: If nobody is logged in, or the login may not write there.
        ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
        ValueError: If the repo should be private and is public.
    """
    api = HfApi(token=token)
    with sentences(Request(repo_id, repo_type, revision, token=token)):
        name = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if private and not api.repo_info(name, repo_type=repo_type).private:
            raise ValueError(
                f"{name} exists and is public, so nothing private was uploaded; choose another name, or make it "
                "private in its settings first"
            )
        if revision and not revision.startswith("refs/"):
            api.create_branch(name, repo_type=repo_type, branch=revision, exist_ok=True)
    return name


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    repo_type: RepoType = "model",
    path_in_repo: str = "",
    token: Token = None,
    revision: str | None = None,
    create_pr: bool = False,
    ignore: Sequence[str] = (),
    delete: Sequence[str] = (),
) -> CommitInfo:
    """Uploads a folder to an existing repo in one commit, so that a repo never holds half of it.

    Args:
        folder: What to upload.
        repo_id: `owner/name`.
        commit_message: First line of the commit.
        repo_type: "model" or "dataset".
        path_in_repo: Folder in the repo.
        token: Hub token; the logged-in one by default.
        revision: Branch; the main branch by default.
        create_pr: Propose the commit instead of making it, for repos of others.
        ignore: Patterns of files that stay here.
        delete: Patterns of files in the repo that go in the same commit, unless they are uploaded again.

    Returns:
        The commit; as a string it is the commit's address.

    Raises:
        PermissionError: If nobody is logged in, or the login may not write there.
        ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
    """
    with sentences(Request(repo_id, repo_type, revision, token=token)):
        return HfApi(token=token).upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            path_in_repo=path_in_repo or None,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            ignore_patterns=list(ignore) or None,
            delete_patterns=list(delete) or None,
        )


def card_metadata(
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    path_in_repo: str = "",
    revision: str | None = None,
    token: Token = None,
) -> dict[str, Any] | None:
    """Metadata of the card in a repo or one of its folders; None where there is no card, or nothing to see.

    Raises:
        PermissionError: If the token is refused.
        ConnectionError: If the Hub cannot be reached, answers with an error, or breaks off.
    """
    try:
        folder = download(
            repo_id,
            ["README.md"],
            subfolder=path_in_repo,
            repo_type=repo_type,
            revision=revision,
            token=token,
        )
    except FileNotFoundError:
        return None
    return read_metadata(folder / "README.md")


def read_metadata(card: Path) -> dict[str, Any]:
    """The metadata on top of a card; empty where there is none, or none that can be read."""
    try:
        return metadata_load(card) or {}
    except (ValueError, yaml.YAMLError):
        return {}
