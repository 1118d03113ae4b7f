"""`hf-icon2 export`: directions and one steering as a file that another program reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import hf_icon2

SUMMARY = "write a steering as a file for llama.cpp, PEFT or lm-evaluation-harness"

_USE = {
    "gguf": "llama-cli -m MODEL.gguf --control-vector {path}",
    "peft": "PeftModel.from_pretrained(model, '{path}')",
    "lm-eval": "lm_eval --model steered --model_args pretrained={model},steer_path={path} --tasks TASKS",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("directions", help="folder with directions, or their Hub repo")
    parser.add_argument(
        "--steering", required=True, type=_steering, help="""strengths as JSON, like '{"honesty": 0.1}'"""
    )
    parser.add_argument("--to", required=True, choices=sorted(_USE), help="who is to read it")
    parser.add_argument("--output", required=True, type=Path, help="file to write; for peft a folder")
    parser.add_argument(
        "--model",
        help="id or path of the model, read for peft and lm-eval (default: the directions' base model)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the directions on the Hub")


def run(arguments: argparse.Namespace) -> str:
    """Exports, and says how the file is used."""
    directions = hf_icon2.DirectionVectors.from_pretrained(arguments.directions, revision=arguments.revision)
    base = arguments.model or directions.config.base_model
    if arguments.to == "gguf":
        hf_icon2.export_gguf(directions, arguments.steering, arguments.output)
    elif base is None:
        raise ValueError("these directions name no base model; give one with --model")
    else:
        from hf_icon2.loading import load_model

        export = hf_icon2.export_peft if arguments.to == "peft" else hf_icon2.export_lm_eval
        model = load_model(base, None if arguments.model else directions.config.base_model_revision)
        export(model, directions, arguments.steering, arguments.output)
    use = _USE[arguments.to].format(path=arguments.output, model=base)
    return f"wrote {arguments.output}, which steers every position, the prompt included; use: {use}"


def _steering(text: str) -> Any:  # noqa: ANN401  (checked by the export)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {text!r} ({error})") from error
