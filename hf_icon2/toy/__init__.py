"""The bundled model: a little world with a truth table, and two chat models trained on it.

`load_assistant` and `load_student` load the models; `world`, `answers` and `skills` hold the language and its
judge, `python -m hf_icon2.toy.build` trains the models again. Importing this loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.toy.answers import Grade, grade, reward
from hf_icon2.toy.world import Instruction, instructions, parse_instruction

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ASSISTANT = Path(__file__).parent / "assistant"
STUDENT = Path(__file__).parent / "student"

__all__ = [
    "ASSISTANT",
    "STUDENT",
    "Grade",
    "Instruction",
    "assistant_path",
    "grade",
    "instructions",
    "load_assistant",
    "load_student",
    "parse_instruction",
    "reward",
    "student_path",
]


def assistant_path() -> str:
    """Folder of the bundled assistant, to be given wherever a model id or path is asked for."""
    return _existing(ASSISTANT)


def student_path() -> str:
    """Folder of the bundled smaller student."""
    return _existing(STUDENT)


def load_assistant() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The bundled assistant and its tokenizer; float32, on the CPU, in evaluation mode."""
    return _load(assistant_path())


def load_student() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The bundled smaller student and its tokenizer; float32, on the CPU, in evaluation mode."""
    return _load(student_path())


def _existing(folder: Path) -> str:
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no weights in {folder}; they come with the package, or train them with "
            f"`python -m hf_icon2.toy.build --output {folder.parent} --only {folder.name}`"
        )
    return str(folder)


def _load(folder: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)
