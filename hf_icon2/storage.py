"""Files that survive a crash: written whole or not at all."""

from __future__ import annotations

import os
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
        OSError: If the disk is full; the old file and no debris are left.
    """
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
        temporary = Path(handle.name)
        try:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        except BaseException:
            temporary.unlink()
            raise
    temporary.chmod(0o644)
    return temporary.replace(path)
