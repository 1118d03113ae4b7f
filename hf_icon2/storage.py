"""Files that survive a crash, written whole or not at all, and files of strangers, read up to a limit."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


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
