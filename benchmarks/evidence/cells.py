"""What was measured so far, one file per cell: nothing there is measured twice, and two processes share the work."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Args:
        name: Unique; names its file too.
        measure: Called with `arguments`; at the top of a module, so that other processes find it.
        arguments: Plain.
        needs: Names of the cells to be measured before.
    """

    name: str
    measure: Callable[..., Figures]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()


def path_of(folder: Path, name: str) -> Path:
    return folder / "cells" / f"{name.replace('/', '.').replace(' ', '-')}.json"


def read(folder: Path, name: str) -> Figures:
    return dict(json.loads(path_of(folder, name).read_text(encoding="utf-8")))


def measure_all(folder: Path, cells: Sequence[Cell], workers: int) -> None:
    """Measures what is missing, in the given order as far as `needs` allow.

    Raises:
        RuntimeError: If a cell failed; the others are measured first.
    """
    waiting = [cell for cell in cells if not path_of(folder, cell.name).is_file()]
    done = {cell.name for cell in cells} - {cell.name for cell in waiting}
    failed: list[str] = []
    started, total = time.time(), len(waiting)
    running: dict[Future[str | None], Cell] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            for cell in list(_ready(waiting, done))[: workers - len(running)]:
                waiting.remove(cell)
                running[pool.submit(_measure, folder, cell)] = cell
            if not running:  # what is left needs what failed
                failed += [f"{cell.name}: needs {', '.join(cell.needs)}" for cell in waiting]
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, problem = running.pop(future), future.result()
                if problem is None:
                    done.add(cell.name)
                else:
                    failed.append(f"{cell.name}: {problem}")
                left = len(waiting) + len(running)
                minutes = (time.time() - started) / 60
                print(f"{minutes:6.1f} min, {total - left} of {total}: {cell.name}", flush=True)
    if failed:
        raise RuntimeError("\n".join(["these cells failed; the same command tries them again:", *failed]))


def _ready(waiting: Sequence[Cell], done: set[str]) -> Iterator[Cell]:
    return (cell for cell in waiting if set(cell.needs) <= done)


def _measure(folder: Path, cell: Cell) -> str | None:
    """Measures a cell in this process; None, or what went wrong."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        figures = cell.measure(folder, *cell.arguments)
    except Exception:
        return traceback.format_exc()
    spent: Mapping[str, float] = {
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
    }
    path = path_of(folder, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps({"cell": cell.name, **figures, **spent}, indent=1), encoding="utf-8")
    scratch.replace(path)
    return None
