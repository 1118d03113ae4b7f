"""Files that survive a crash, written whole or not at all; files of strangers, read strictly and up to a limit."""

from __future__ import annotations

import json
import math
import os
import reprlib
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DEEPEST = 16


def write_atomic(path: Path, content: bytes | str) -> Path:
    """Writes through a temporary file in the same folder, so that a crash leaves the old file or the new one.

    Args:
        path: Target; its folder must exist.
        content: Bytes, or text to encode as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: If the disk is full, or the target is a folder; the old file and no debris are left.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        return temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder; a lock dies with its process, however that ends.

    Raises:
        ValueError: If another process works in this folder.
    """
    if sys.platform == "win32":  # has no flock; two runs in one folder are then up to the user
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process works in {folder}; wait until it ends, or choose another folder"
            ) from error
        yield


def read_limited(path: Path, most: int) -> bytes:
    """Reads a file of at most `most` bytes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is larger, or no ordinary file: reading a pipe or a device may never end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not an ordinary file")
    if found.st_size > most:
        raise ValueError(f"{path} has {found.st_size} bytes, at most {most} were expected")
    with path.open("rb") as handle:
        return handle.read(found.st_size)


def read_json(path: Path, most: int = 2**23) -> Any:  # noqa: ANN401
    """Plain data of a JSON file of at most `most` bytes; see `parse_json`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large or not strictly JSON.
    """
    try:
        return parse_json(read_limited(path, most))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON ({error}); write it or fetch it again") from error


def read_json_lines(path: Path) -> list[Any]:
    """The rows of a file of JSON lines.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a line is not JSON.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue  # editors and shells leave empty lines
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {path} is not JSON ({error}); write the file again"
            ) from error
    return rows


def write_json_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Writes rows as a file of JSON lines; see `write_atomic`."""
    return write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def parse_json(data: bytes) -> Any:  # noqa: ANN401
    """Plain data of a JSON text.

    Raises:
        ValueError: If it is not UTF-8 or not JSON, names a key twice, holds NaN, infinite numbers or half of a
            surrogate pair, or is nested more than 16 deep.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from None
    _check_plain(value, 0)
    return value


def shortened(value: object) -> str:
    """A value as Python writes it, cut to what fits into a message."""
    text = reprlib.repr(value)
    return text if len(text) <= 150 else f"{text[:150]} ..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shortened(key)} stands there twice")
        result[key] = value
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_plain(value: Any, depth: int) -> None:  # noqa: ANN401
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair cannot be written again: a UnicodeEncodeError, which says so
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is too large")
    elif isinstance(value, (dict, list)):
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            _check_plain(item, depth + 1)
