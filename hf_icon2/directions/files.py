"""Where directions lie: a folder, or a repo of the Hub. Only JSON and safetensors are ever read."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hf_icon2.directions.config import CONFIG_NAME
from hf_icon2.storage import write_atomic

VECTORS_NAME = "direction_vectors.safetensors"
_TENSOR = "directions"


def find_folder(source: str | os.PathLike[str], revision: str | None, token: str | None) -> Path:
    """The folder itself, or the local copy of a Hub repo's files, which are downloaded if needed.

    Raises:
        FileNotFoundError: If there is no such folder or repo, or it holds no directions.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source), revision, token)
    for name in (CONFIG_NAME, VECTORS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; save directions there with save_pretrained()")
    return folder


def write_tensor(folder: Path, tensor: Tensor) -> None:
    """Writes the vectors whole or not at all."""
    write_atomic(folder / VECTORS_NAME, save({_TENSOR: tensor.contiguous()}, {"format": "pt"}))


def read_tensor(folder: Path) -> Tensor:
    """Reads the vectors of a folder.

    Raises:
        ValueError: If the file is truncated or holds something else.
    """
    path = folder / VECTORS_NAME
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); download or extract it again"
        ) from error
    if set(tensors) != {_TENSOR}:
        raise ValueError(f"{path} holds tensors {sorted(tensors)}, expected one named {_TENSOR!r}")
    return tensors[_TENSOR]


def _download(repo_id: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        for name in (CONFIG_NAME, VECTORS_NAME):
            path = hf_hub_download(repo_id, name, revision=revision, token=token)
    except HFValidationError as error:
        raise FileNotFoundError(f"{repo_id!r} is neither a folder nor a Hub repo id") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(
            f"there is no folder {repo_id!r}, and no directions were found at that name on the Hub: {error}"
        ) from error
    return Path(path).parent
