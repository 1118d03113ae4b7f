"""`hf-icon2 answer`: prompts in, a file of answers out, in the format that a benchmark's own tool reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.commands.answer_formats import BY_FILE, USE, WRITE, check_questions
from hf_icon2.commands.partial_answers import PartialAnswers
from hf_icon2.recipe import TOY

if TYPE_CHECKING:
    from hf_icon2.evaluation.dialogues import Question, Replies
    from hf_icon2.steering.decoding import Sampling

SUMMARY = "answer prompts with a model, as AlpacaEval, Arena-Hard and MT-Bench read answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Answer prompts with a model. The prompts are a benchmark's question file, any JSON lines (or one JSON list) "
        "with a prompt, instruction, question, turns or messages, or the train split of a dataset on the Hub. Stopped, "
        "the same command goes on."
    )
    parser.epilog = "It samples at temperature 0.7 up to 2048 tokens, as in Icon²; MT-Bench as in FastChat."
    parser.add_argument("model", help=f"id or path of a language model; {TOY}: the bundled one")
    parser.add_argument("--prompts", required=True, help="file of questions, or a dataset's id on the Hub")
    parser.add_argument("--column", default="prompt", help="column of a dataset on the Hub (default: prompt)")
    parser.add_argument("--output", type=Path, required=True, help="file to write; a new one")
    parser.add_argument("--format", choices=list(USE), default="jsonl", help="of the file (default: jsonl)")
    parser.add_argument("--name", help="of the model in the file (default: the file's name, or the model's)")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--limit", type=int, help="answer only so many, the first ones")
    parser.add_argument("--system", help="system prompt")
    steering = parser.add_argument_group("to answer steered")
    steering.add_argument("--directions", help="folder with directions, or their Hub repo")
    steering.add_argument("--steering", type=_steering, help="""strengths as JSON, like '{"honesty": 0.1}'""")
    sampling = parser.add_argument_group("how tokens are chosen")
    sampling.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    sampling.add_argument("--top_p", type=float, default=1.0, help="probability mass kept (default: 1)")
    sampling.add_argument("--max_new_tokens", type=int, help="longest answer")
    sampling.add_argument("--seed", type=int, default=0, help="of all answers (default: 0)")
    sampling.add_argument("--batch_size", type=int, default=32, help="prompts at a time (default: 32)")


def run(arguments: argparse.Namespace) -> str:
    """Answers, writes the file, and says what it is for."""
    _check(arguments)
    questions = _questions(arguments)
    check_questions(arguments.format, questions)
    partial = PartialAnswers(arguments.output, _settings(arguments, questions))
    replies = partial.complete(questions, _answerer(arguments), 8 * arguments.batch_size)
    name = arguments.name or _name(arguments)
    WRITE[arguments.format](arguments.output, questions, replies, name)
    partial.remove()
    turns = [(text, why) for reply in replies for text, why in zip(reply[0], reply[2], strict=True)]
    cut, empty = sum(why == "length" for _, why in turns), sum(not text.strip() for text, _ in turns)
    use = USE[arguments.format].format(path=arguments.output, prompts=arguments.prompts)
    return (
        f"wrote {len(turns)} answers of {name} to {arguments.output}; {cut} were cut at {_longest(arguments)} tokens, "
        f"{empty} are empty\nuse: {use}"
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded."""
    output = arguments.output
    if output.exists():
        raise FileExistsError(f"{output} exists; delete it, or give another --output")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output} cannot be written: give --output a file in a folder that exists")
    if (arguments.directions is None) != (arguments.steering is None):
        raise ValueError("--directions and --steering belong together; give both, or neither")
    for name in ("limit", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} is not allowed; give 1 or more")
    _sampling(arguments)


def _questions(arguments: argparse.Namespace) -> list[Question]:
    from hf_icon2.evaluation.dialogues import Question, read_questions

    path = Path(arguments.prompts)
    if path.is_file() or path.suffix in (".json", ".jsonl"):
        return read_questions(path)[: arguments.limit]
    from hf_icon2.pipeline.subject import read_instructions

    texts = read_instructions(arguments.prompts, arguments.column)[: arguments.limit]
    return [Question(str(place), (text,)) for place, text in enumerate(texts)]


def _answerer(arguments: argparse.Namespace) -> Callable[[Sequence[Question]], list[Replies]]:
    """Answers questions with the model, which is loaded at the first call."""
    loaded: dict[str, Any] = {}

    def answer(questions: Sequence[Question]) -> list[Replies]:
        from hf_icon2.evaluation.dialogues import answer_turns

        loaded.update(loaded or _loaded(arguments))
        return answer_turns(
            **loaded,
            questions=questions,
            sampling=_sampling(arguments),
            temperatures=_temperatures(arguments),
            seed=arguments.seed,
            system=arguments.system,
            steering=arguments.steering,
            batch_size=arguments.batch_size,
        )

    return answer


def _loaded(arguments: argparse.Namespace) -> dict[str, Any]:
    from hf_icon2.loading import load_model, load_tokenizer

    source = arguments.model
    if source == TOY:
        from hf_icon2.toy import assistant_path

        source = str(assistant_path())
    directions = None
    if arguments.directions is not None:
        from hf_icon2.directions.vectors import DirectionVectors

        directions = DirectionVectors.from_pretrained(arguments.directions)
    model = load_model(source, arguments.revision)
    return {
        "model": model,
        "tokenizer": load_tokenizer(source, arguments.revision),
        "directions": directions,
    }


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from hf_icon2.evaluation.answering import BENCHMARK_SAMPLING
    from hf_icon2.steering.decoding import Sampling

    heat = BENCHMARK_SAMPLING.temperature if arguments.temperature is None else arguments.temperature
    return Sampling(_longest(arguments), heat, arguments.top_p)


def _longest(arguments: argparse.Namespace) -> int:
    from hf_icon2.evaluation.answering import BENCHMARK_SAMPLING
    from hf_icon2.evaluation.mt_bench import MAX_NEW_TOKENS

    if arguments.max_new_tokens is not None:
        return int(arguments.max_new_tokens)
    return MAX_NEW_TOKENS if arguments.format == "mt-bench" else BENCHMARK_SAMPLING.max_new_tokens


def _temperatures(arguments: argparse.Namespace) -> dict[str, float] | None:
    from hf_icon2.evaluation.mt_bench import TEMPERATURES

    by_category = arguments.format == "mt-bench" and arguments.temperature is None
    return dict(TEMPERATURES) if by_category else None


def _settings(arguments: argparse.Namespace, questions: Sequence[Question]) -> dict[str, Any]:
    """What the answers depend on."""
    return {
        "model": arguments.model,
        "revision": arguments.revision,
        "files": [
            [path.name, path.stat().st_size, path.stat().st_mtime_ns]
            for source in (arguments.model, arguments.directions or "")
            for path in (sorted(Path(source).iterdir()) if source and Path(source).is_dir() else [])
            if path.is_file()
        ],
        "questions": [list(question) for question in questions],
        "system": arguments.system,
        "directions": arguments.directions,
        "steering": arguments.steering,
        "sampling": vars(_sampling(arguments)),
        "temperatures": _temperatures(arguments),
        "seed": arguments.seed,
    }


def _name(arguments: argparse.Namespace) -> str:
    if arguments.format in BY_FILE:
        return str(arguments.output.stem)
    return Path(arguments.model).name


def _steering(text: str) -> Any:  # noqa: ANN401
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {text!r} ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(value, (int, float)) for value in found.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is no object of criteria and strengths")
    return found
