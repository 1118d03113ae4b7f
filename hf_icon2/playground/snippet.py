"""The Python that gives what the page shows; text only, nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = "DirectionVectors", "extract_directions"


@dataclass(frozen=True)
class Loading:
    """Code that makes `model`, `tokenizer` and `directions`.

    Args:
        imports: Whole lines.
        lines: What follows them, newline included.
    """

    imports: tuple[str, ...]
    lines: str


def toy_loading(directions: str | None, layers: tuple[int, ...]) -> Loading:
    """The bundled assistant.

    Args:
        directions: Folder or repo of its directions; measured if None.
        layers: Control layers where they are measured.
    """
    names = "load_assistant" if directions else "instructions, load_assistant"
    measure = (
        'prompts = [item.text for item in instructions("train")[::3]]\n'
        "directions = extract_directions(model, tokenizer, prompts)\n"
        f"directions = directions.with_control_layers(dict.fromkeys(directions.names, {layers}))\n"
    )
    return Loading(
        (_import(directions), f"from hf_icon2.toy import {names}"),
        "model, tokenizer = load_assistant()\n" + (_stored(directions) if directions else measure),
    )


def model_loading(model: str, directions: str | None, instructions: tuple[str, str]) -> Loading:
    """A model by id or path.

    Args:
        model: Hub id or path.
        directions: Folder or repo of its directions; measured if None.
        instructions: An import and an expression that give the instructions to measure on.
    """
    load = (
        f"tokenizer = AutoTokenizer.from_pretrained({model!r})\n"
        f"model = AutoModelForCausalLM.from_pretrained({model!r})\n"
    )
    hub = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if directions:
        return Loading((_import(directions), hub), load + _stored(directions))
    measure = f"directions = extract_directions(model, tokenizer, {instructions[1]})\n"
    return Loading((_import(None), instructions[0], hub), load + measure)


def snippet(
    loading: Loading,
    prompt: str,
    steering: Mapping[str, float],
    *,
    chat: bool,
    max_new_tokens: int,
    noise: str | None,
) -> str:
    """Python that prints the answer of the + column.

    Args:
        loading: How model and directions are made.
        prompt: The instruction.
        steering: Strength per criterion.
        chat: Whether the tokenizer has a chat template.
        max_new_tokens: Longest answer.
        noise: Expression for the sampling noise, None for greedy decoding.
    """
    imports = list(loading.imports)
    if noise:
        imports.append("from hf_icon2.playground.sampling import SharedNoise")
    render = (
        f'chat = [{{"role": "user", "content": {prompt!r}}}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        ").to(model.device)\n"
        if chat
        else f'inputs = tokenizer({prompt!r}, return_tensors="pt").to(model.device)\n'
    )
    strengths = ", ".join(f"{name!r}: {strength!r}" for name, strength in steering.items() if strength)
    return (
        "\n".join(sorted(imports))
        + f"\n\n{loading.lines}model = make_steerable(model, directions)\n\n{render}"
        + "output = model.generate(\n"
        + f"    **inputs,\n    max_new_tokens={max_new_tokens},\n    do_sample=False,\n"
        + (f"    logits_processor=[{noise}],\n" if noise else "")
        + f"    steering={{{strengths}}},\n)\n"
        + 'answer = output[0, inputs["input_ids"].shape[1] :]\n'
        + "print(tokenizer.decode(answer, skip_special_tokens=True))\n"
    )


def _import(directions: str | None) -> str:
    return f"from hf_icon2 import {_NAMES[0] if directions else _NAMES[1]}, make_steerable"


def _stored(directions: str) -> str:
    return f"directions = DirectionVectors.from_pretrained({directions!r})\n"
