"""Tries every model type of the installed transformers, and writes docs/architectures.md from what it finds.

    python tests/zoo.py [TYPE ...]  compare with the page
    python tests/zoo.py --write     write it

Oracles are hooks that add to a clone of a block's output, on a copy of the model that the library has never touched
and that runs whole texts without a cache.
"""

import copy
import gc
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent))
from zoo_models import CAUSAL, MULTIMODAL, zoo_model

from hf_icon2 import Criterion, DirectionVectorConfig, DirectionVectors
from hf_icon2.blocks import Blocks, find_blocks, read_states
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.hooks import steer, steered_trunk
from hf_icon2.steering.padding import try_padding
from hf_icon2.steering.separate_runs import rows_are_independent, shares_prefill

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
IDS = torch.tensor(
    [[55, 59, 61, 80, 57, 90, 71, 64, 52, 83, 66], [58, 91, 81, 54, 76, 60, 70, 93, 85, 51, 62]]
)
ALL = {"attention_mask": torch.ones_like(IDS), "use_cache": False}
PROMPTS = [[55, 59, 91, 81, 58, 77, 62], [77, 62, 90], [70, 71, 72]]
NEW_TOKENS = 6
LAYERS = (0, 1, 3)  # each steered alone; all together when generating
SIGNS = (0.5, -0.5, 0.0)
MISSING = "it needs a package that is not installed here"


@dataclass(frozen=True)
class Entry:
    """One row of the page."""

    model_type: str
    block: str
    result: str
    pairs: str = ""


def examine(model_type: str) -> Entry:
    """Builds a model of this type, and tries all that steering needs of it.

    Raises:
        AssertionError: If the library takes the model and is wrong about it.
    """
    try:
        model = zoo_model(model_type)
    except ImportError:
        return Entry(model_type, "", f"not tried: {MISSING}")
    except Exception as error:
        return Entry(model_type, "", f"not tried: {_brief(error)}")
    plain = copy.deepcopy(model)
    try:
        blocks = find_blocks(model)
    except ValueError as error:
        return Entry(model_type, "", f"refused: {_brief(error).partition(': ')[2]}")
    names = ", ".join(dict.fromkeys(f"`{type(block).__name__}`" for block in blocks.layers))
    places = {id(module): name for name, module in model.named_modules()}
    plain_blocks = [plain.get_submodule(places[id(block)]) for block in blocks.layers]
    try:
        with torch.no_grad(), hooked(plain_blocks) as outputs:
            unsteered = plain(input_ids=IDS, **ALL).logits
    except Exception as error:
        return Entry(model_type, names, f"not tried: it does not run on text alone ({_brief(error)})")
    check_capture(blocks, outputs)
    directions = random_directions(outputs)
    for layer in LAYERS:
        check_adding(model, blocks, plain, plain_blocks, directions, layer, unsteered)
    check_variants(model, plain, plain_blocks, directions)
    return Entry(model_type, names, "works", way_of_pairs(model))


def forget_models() -> None:
    """Frees what cycles of hooks and modules keep, and has later calls look at new objects only."""
    gc.collect()
    gc.freeze()


def way_of_pairs(model: PreTrainedModel) -> str:
    """How two answers to one prompt are decoded."""
    if not shares_prefill(model):
        return "two passes" if rows_are_independent(model) else "two passes, row by row"
    trunk, _ = steered_trunk(model)
    return "shared prefill" if try_padding(model, trunk, 0).harmless else "shared prefill, equal lengths"


def check_capture(blocks: Blocks, outputs: Sequence[Tensor]) -> None:
    """`read_states` reads what the blocks of the untouched copy put out, (B, T, D) each."""
    read = read_states(blocks, range(len(blocks.layers)), lambda states: states, input_ids=IDS, **ALL)
    for layer, output in enumerate(outputs):
        assert close(read[:, layer], output), f"captured states of layer {layer} differ"


def check_adding(
    model: PreTrainedModel,
    blocks: Blocks,
    plain: PreTrainedModel,
    plain_blocks: Sequence[nn.Module],
    directions: DirectionVectors,
    layer: int,
    unsteered: Tensor,
) -> None:
    """Steers row 0 at one layer: logits and outputs equal those under a hook, and row 1 stays as it was."""
    name = f"layer {layer}"
    delta = torch.stack([directions.at(name, layer), torch.zeros(directions.config.hidden_size)])[:, None]
    with torch.no_grad(), hooked(plain_blocks, {layer: lambda output: output + delta}) as expected_outputs:
        expected = plain(input_ids=IDS, **ALL).logits
    with (
        torch.no_grad(),
        steer(model, directions, [{name: 1.0}, None]),
        hooked(blocks.layers) as found_outputs,
    ):
        found = model(input_ids=IDS, **ALL).logits
    assert close(found, expected), f"logits differ by {far(found, expected):.2g} at layer {layer}"
    for place, (output, other) in enumerate(zip(found_outputs, expected_outputs, strict=True)):
        assert close(output, other), f"output of block {place} differs when layer {layer} is steered"
    assert close(found[1], unsteered[1]), f"row 1 moves by {far(found[1], unsteered[1]):.2g} at layer {layer}"
    assert not close(found[0], unsteered[0], 1e-2), f"steering layer {layer} has no effect"


def check_variants(
    model: PreTrainedModel,
    plain: PreTrainedModel,
    plain_blocks: Sequence[nn.Module],
    directions: DirectionVectors,
) -> None:
    """Both signs and no steering of ragged prompts at once: each token is the likeliest after those before it."""
    variants = [[dict.fromkeys(directions.names, sign) if sign else None] * len(PROMPTS) for sign in SIGNS]
    found = generate_variants(
        model,
        PROMPTS,
        variants,
        sampling=Sampling(max_new_tokens=NEW_TOKENS, temperature=0),
        seeds=[[0] * len(PROMPTS)] * len(SIGNS),
        pad=0,
        directions=directions,
    )
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    for sign, answers in zip(SIGNS, found, strict=True):
        for prompt, (ids, reason) in zip(PROMPTS, answers, strict=True):
            added = {layer: sign * directions.at(f"layer {layer}", layer) for layer in LAYERS}
            likeliest = likeliest_tokens(plain, plain_blocks, [*prompt, *ids], len(prompt) - 1, added)
            assert ids == likeliest[: len(ids)], f"{prompt} under {sign}: {ids}, expected {likeliest}"
            assert likeliest[-1] in ends if reason == "stop" else len(ids) == NEW_TOKENS


def likeliest_tokens(
    plain: PreTrainedModel,
    plain_blocks: Sequence[nn.Module],
    text: list[int],
    start: int,
    added: dict[int, Tensor],
) -> list[int]:
    """After each token from `start` on, in one pass over the text alone that is steered from there on."""

    def add(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda output: torch.cat([output[:, :start], output[:, start:] + vector], dim=1)

    ids = torch.tensor([text])
    with torch.no_grad(), hooked(plain_blocks, {layer: add(vector) for layer, vector in added.items()}):
        logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0, start:].argmax(-1).tolist()


@contextmanager
def hooked(
    blocks: Sequence[nn.Module], changes: dict[int, Callable[[Tensor], Tensor]] | None = None
) -> Iterator[list[Tensor]]:
    """Collects clones of the blocks' outputs; `changes` replace an output by a new tensor first."""
    outputs: list[Tensor] = []

    def watch(layer: int) -> Callable[..., object]:
        def hook(_module, _args, output):
            states = output[0] if isinstance(output, tuple) else output
            if changes and layer in changes:
                states = changes[layer](states.clone())
            outputs.append(states.clone())
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    handles = [block.register_forward_hook(watch(layer)) for layer, block in enumerate(blocks)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def random_directions(outputs: Sequence[Tensor]) -> DirectionVectors:
    """One criterion per layer of LAYERS; its direction is random and as long as the states there."""
    names = [f"layer {layer}" for layer in LAYERS]
    width, count = outputs[0].shape[-1], len(outputs)
    norms = torch.stack([output.norm(dim=-1).mean() for output in outputs])
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(
        torch.randn(len(names), count, width, generator=generator), dim=-1
    )
    config = DirectionVectorConfig(
        base_model="zoo",
        hidden_size=width,
        num_layers=count,
        layers=tuple(range(count)),
        criteria=tuple(Criterion(name, f"Show {name}.", f"Avoid {name}.") for name in names),
        control_layers={name: (layer,) for name, layer in zip(names, LAYERS, strict=True)},
        pooling=dict.fromkeys(names, "last"),
        method="pca",
        scale="residual",
        residual_norms=tuple(norms.tolist()),
        contrast_norms={name: (1.0,) * count for name in names},
        instructions={"number": 2, "fingerprint": "0" * 64},
        chat_template_sha256="0" * 64,
    )
    return DirectionVectors(config, vectors * norms[:, None])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether no entry differs by more than `tolerance` of the largest."""
    return far(found, expected) <= tolerance


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


HEAD = """# Which models can be steered

Made by `python tests/zoo.py --write` with transformers {version}; `pytest tests/test_zoo.py` finds the same again.

For every causal-LM type of the installed transformers, and every multimodal type that writes text, a tiny random
model of {layers} layers is made and tried: its blocks are found and probed; the states read from them are compared
with those of a hook of our own; one layer of one row is steered, and logits and all blocks' outputs are compared with
those of an untouched copy under a hook that adds to a clone; the other row must stay as it was; and three prompts of
different lengths are answered under two signs and unsteered, all together, and compared with the untouched copy
running each text alone without a cache. So "works" is about the architecture, not about weights, quantisation or
images.

No list of supported models is kept. `find_blocks` runs a few tokens through each model it meets
(`hf_icon2/blocks/probe.py`) and refuses what it cannot steer rightly, with the reason below.

| Result | Causal | Multimodal |
|---|---:|---:|
{counts}

How pairs are made: *shared prefill* reads a prompt once for all its variants; with *equal lengths*, only prompts of
equal length share a batch, because the model counts positions over padding; *two passes* reads it once per variant,
because the model keeps its past in a form of its own; *row by row*, because transformers lets the rows of a batch
disturb each other.

| Type | Block | Result | Pairs |
|---|---|---|---|
"""


def row(entry: Entry) -> str:
    """The entry as a line of the page's table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in astuple(entry)) + " |"


def entry(line: str) -> Entry:
    """The entry that a line of the page's table shows."""
    return Entry(*(cell.strip().replace("\\|", "|") for cell in line[1:-1].split(" | ")))


def page(entries: Sequence[Entry]) -> str:
    """The whole page."""
    found = Counter((entry.model_type in CAUSAL, entry.result.partition(":")[0]) for entry in entries)
    counts = [
        f"| {result} | {found[True, result]} | {found[False, result]} |"
        for result in ("works", "refused", "not tried")
    ]
    head = HEAD.format(version=transformers.__version__, layers=len(LAYERS) + 1, counts="\n".join(counts))
    return head + "\n".join(map(row, sorted(entries, key=lambda entry: entry.model_type))) + "\n"


def main(arguments: list[str]) -> int:
    """Examines the types named, or all; 0 if the page says the same, or now does."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    named = [name for name in arguments if name != "--write"]
    entries = []
    for model_type in named or (*CAUSAL, *MULTIMODAL):
        try:
            entries.append(examine(model_type))
        except AssertionError as wrong:
            entries.append(Entry(model_type, "", f"wrong: {wrong}"))
        print(row(entries[-1]), flush=True)
        forget_models()
    if "--write" in arguments and not named and not any(entry.result[:5] == "wrong" for entry in entries):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(entries), encoding="utf-8")
    said = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    return int(not {row(entry) for entry in entries} <= set(said))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
