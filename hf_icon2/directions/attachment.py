"""Directions beside a model, with the file by which transformers steers that model where it is loaded or served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2 import __version__
from hf_icon2.blocks import number_of_blocks
from hf_icon2.directions.pair import write_pair
from hf_icon2.loading import load_tokenizer
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from hf_icon2.directions.vectors import DirectionVectors

GENERATE = '''\
"""Steers this model by the directions that lie beside it: `generate(..., steering={"criterion": strength})`.

Written by `DirectionVectors.attach_to` of hf_icon2. transformers runs it only under `trust_remote_code=True`.
"""

from functools import partial

from hf_icon2.steering.serving import attached_generate

generate = partial(attached_generate, code=__file__)
'''


def attach(directions: DirectionVectors, folder: Path) -> Path:
    """Writes the directions and `custom_generate/` into a model's folder, the code last; its card is the model's own.

    Args:
        directions: Measured on this model.
        folder: Holds the model, as `save_pretrained` left it.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If the folder holds no model.
        FileExistsError: If it already has a `custom_generate/generate.py` that is not ours.
        ValueError: If the directions were measured on a model of another shape or chat template.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model (there is no config.json); save one there with save_pretrained() first"
        )
    code = folder / "custom_generate" / "generate.py"
    if code.exists() and "hf_icon2.steering.serving" not in code.read_text(
        encoding="utf-8", errors="replace"
    ):
        raise FileExistsError(f"{code} is another's code, which attaching would replace; move it away first")
    _check_fit(directions, folder)
    write_pair(folder, directions.config, directions.tensor)
    code.parent.mkdir(exist_ok=True)
    write_atomic(code.parent / "requirements.txt", f"hf_icon2>={__version__}\n")
    write_atomic(code, GENERATE)
    return folder


def _check_fit(directions: DirectionVectors, folder: Path) -> None:
    if "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        return  # its code is not run here; loading it with trust_remote_code checks the shape
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    width = config.get_text_config(decoder=True).hidden_size
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(str(folder)) if has_tokenizer else None
    directions.check_model(width, number_of_blocks(config), tokenizer)
