"""`hf-icon2 push`: the directions, pairs or model of a folder to the Hub. The login is the Hub client's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import hf_icon2

SUMMARY = "upload directions, pairs or a model to the Hub"

_DIRECTIONS, _MODEL, _RUN = "direction_vector_config.json", "config.json", "recipe.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of a run, or one with directions, pairs or a model")
    parser.add_argument("--repo", required=True, help="owner/name on the Hub; created if missing")
    parser.add_argument(
        "--what",
        choices=sorted(_PUSH),
        help="what to upload; of a run it must be said (default: what is there)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repo private")
    parser.add_argument("--revision", help="branch to upload to, made if missing (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="propose the change, for repos of others")
    parser.add_argument("--path-in-repo", default="", help="folder in the repo (pairs lie at the top)")
    parser.add_argument("--message", help="first line of the commit")
    parser.add_argument(
        "--license", help="licence for the card of directions or pairs, for instance apache-2.0"
    )
    parser.description = "Upload directions, pairs or a model to the Hub, in one commit."
    parser.epilog = "The login is that of `hf auth login`, or the token in HF_TOKEN."


def run(arguments: argparse.Namespace) -> str:
    """Uploads in one commit, and says where it is."""
    folder = arguments.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    what = arguments.what or _what(folder)
    hub: dict[str, Any] = {
        "private": arguments.private or None,
        "revision": arguments.revision,
        "create_pr": arguments.create_pr,
        "path_in_repo": arguments.path_in_repo,
        **({"commit_message": arguments.message} if arguments.message else {}),
    }
    commit = _PUSH[what](folder, arguments.repo, arguments.license, hub)
    return f"pushed {what} to {arguments.repo}: {commit.pr_url or commit}"


def _what(folder: Path) -> str:
    """What a folder holds; a model's folder may hold directions too, and is then pushed with them."""
    if (folder / _RUN).is_file():
        raise ValueError(f"{folder} is a run; say with --what which of {', '.join(sorted(_PUSH))} to push")
    if (folder / _MODEL).is_file() or (folder / "adapter_config.json").is_file():
        return "model"
    if (folder / _DIRECTIONS).is_file():
        return "directions"
    if list(folder.glob("*.jsonl")) or list((folder / "data").glob("*.parquet")):
        return "pairs"
    raise ValueError(
        f"{folder} holds neither a run ({_RUN}), nor directions ({_DIRECTIONS}), a model ({_MODEL}) or pairs "
        "(*.jsonl, data/*.parquet)"
    )


def _push_directions(folder: Path, repo: str, license: str | None, hub: dict[str, Any]) -> Any:  # noqa: ANN401
    directions = _directions(folder)
    if license is None:
        return directions.push_to_hub(repo, **hub)
    from hf_icon2.cards import directions_card

    card = directions_card(directions.config, source=repo, sha256=directions.sha256, license=license)
    return directions.push_to_hub(repo, card=card, **hub)


def _push_pairs(folder: Path, repo: str, license: str | None, hub: dict[str, Any]) -> Any:  # noqa: ANN401
    from hf_icon2.synthesis.publishing import load_pairs, run_pairs

    record, card = folder / _RUN, folder / "README.md"
    if record.is_file():
        hub["directions"] = _directions(folder)
        hub["recipe"] = json.loads(record.read_text(encoding="utf-8"))
        pairs, hub["left_out"] = run_pairs(folder / "pairs")
    else:
        pairs = load_pairs(folder)
        hub["card"] = card.read_text(encoding="utf-8") if card.is_file() and license is None else None
    return hf_icon2.push_pairs_to_hub(pairs, repo, license=license, **hub)


def _push_model(folder: Path, repo: str, license: str | None, hub: dict[str, Any]) -> Any:  # noqa: ANN401
    from hf_icon2.hub.transfer import make_repo, push_folder

    folder = folder / "model" if (folder / _RUN).is_file() else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder}; the run has not trained a model yet")
    if license is not None:
        raise ValueError(f"--license is for directions and pairs; a model's stands in {folder / 'README.md'}")
    revision, create_pr = hub["revision"], hub["create_pr"]
    repo = make_repo(repo, private=hub["private"], revision=None if create_pr else revision)
    return push_folder(
        folder,
        repo,
        commit_message=hub.get("commit_message", "Upload model"),
        path_in_repo=hub["path_in_repo"],
        revision=revision,
        create_pr=create_pr,
        ignore=["checkpoint-*", "*.bin", "*.pt", "*.pth", ".*"],  # optimiser states and pickles
    )


_PUSH = {"directions": _push_directions, "pairs": _push_pairs, "model": _push_model}


def _directions(folder: Path) -> hf_icon2.DirectionVectors:
    """Those of a folder; of a run the tuned ones, if there are."""
    if (folder / _RUN).is_file():
        folder = folder / ("tuned" if (folder / "tuned" / _DIRECTIONS).is_file() else "directions")
    return hf_icon2.DirectionVectors.from_pretrained(folder)
