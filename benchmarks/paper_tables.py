"""The paper's tables in miniature, on the bundled assistant with its truth table as the judge.

    python benchmarks/paper_tables.py                 # three seeds, writes docs/evidence.md
    python benchmarks/paper_tables.py --quick         # one seed, fewer arms, into runs/evidence-quick
    python benchmarks/paper_tables.py --page-only     # the page and its pictures again, from docs/evidence

Cells lie in `--folder` and are not measured twice; a run that was interrupted is taken up by the same command.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two processes share the cores
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PYTHONWARNINGS"] = "ignore"
warnings.simplefilter("ignore")

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a part of the arms, a smaller budget, six minutes"
    )
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page again")
    parser.add_argument("--folder", type=Path, help="of the cells; runs/evidence by default")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    arguments = parser.parse_args()
    folder = arguments.folder or Path("runs/evidence-quick" if arguments.quick else "runs/evidence")
    docs = folder if arguments.quick else HERE.parent / "docs"
    figures = docs / "evidence" / "figures.json"
    if not arguments.page_only:
        from evidence.collect import collect, save
        from evidence.plan import measure

        scale = measure(folder, SEEDS[:1] if arguments.quick else SEEDS, arguments.quick, arguments.workers)
        save(collect(folder) | {"scale": scale}, figures)
    from evidence.page import write

    write(docs / "evidence.md", figures)


if __name__ == "__main__":
    main()
