"""What the page docs/architectures.md says about each model type, found by trying it; the page is made of it.

Oracles are plain hooks that add to a clone of a block's output, on a copy of the model that this library has never
touched, and decoding without any cache.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from zoo_models import zoo_model

from hf_icon2 import Criterion, DirectionVectorConfig, DirectionVectors
from hf_icon2.blocks import find_blocks, read_states
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.hooks import steer
from hf_icon2.steering.separate_runs import shares_prefill

IDS = torch.tensor(
    [[55, 59, 61, 80, 57, 90, 71, 64, 52, 83, 66], [58, 91, 81, 54, 76, 60, 70, 93, 85, 51, 62]]
)
PROMPTS = [[55, 59, 91, 81, 58, 77, 62], [77, 62, 90], [70, 71, 72]]
NEW_TOKENS = 6
LAYERS = (0, 1, 3)  # each steered alone; together when generating


@dataclass(frozen=True)
class Entry:
    """One line of the page."""

    model_type: str
    block: str = ""
    result: str = "works"
    pairs: str = ""


def examine(model_type: str) -> Entry:
    """Builds a model of this type, and tries all that steering needs of it.

    Raises:
        AssertionError: If the library is silently wrong.
    """
    try:
        model = zoo_model(model_type)
    except Exception as error:
        return Entry(model_type, result=f"not tried: {_brief(error)}")
    plain = copy.deepcopy(model)
    try:
        blocks = find_blocks(model)
    except ValueError as error:
        return Entry(model_type, result=f"refused: {_brief(error)}")
    names = list(dict.fromkeys(type(block).__name__ for block in blocks.layers))
    plain_blocks = [dict(plain.named_modules())[_name(model, block)] for block in blocks.layers]
    outputs = check_capture(model, plain, plain_blocks)
    directions = random_directions(outputs)
    for layer in LAYERS:
        check_adding(model, plain, plain_blocks, directions, layer)
    check_variants(model, plain, plain_blocks, directions)
    pairs = "shared prefill" if shares_prefill(model) else "two passes"
    return Entry(model_type, ", ".join(names), pairs=pairs)


def check_capture(
    model: PreTrainedModel, plain: PreTrainedModel, plain_blocks: Sequence[nn.Module]
) -> list[Tensor]:
    """`read_states` reads what the blocks of an untouched copy put out; returns that, (B, T, D) per block."""
    with torch.no_grad(), hooked(plain_blocks) as outputs:
        plain(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False)
    blocks = find_blocks(model)
    read = read_states(
        blocks,
        range(len(blocks.layers)),
        lambda states: states,
        input_ids=IDS,
        attention_mask=torch.ones_like(IDS),
        use_cache=False,
    )
    for layer, output in enumerate(outputs):
        assert close(read[:, layer], output), f"captured states of layer {layer} differ"
    return outputs


def check_adding(model, plain, plain_blocks, directions: DirectionVectors, layer: int) -> None:
    """Steering one layer of one row: logits and outputs equal those of a hook, and the other row's stay."""
    name = f"layer {layer}"
    mask = torch.ones_like(IDS)

    def run(which: PreTrainedModel) -> Tensor:
        with torch.no_grad():
            return which(input_ids=IDS, attention_mask=mask, use_cache=False).logits

    delta = torch.stack([directions.at(name, layer), torch.zeros(directions.config.hidden_size)])[:, None]
    unsteered = run(plain)
    with hooked(plain_blocks, {layer: lambda output: output + delta}) as expected_outputs:
        expected = run(plain)
    blocks = find_blocks(model)
    with steer(model, directions, [{name: 1.0}, None]), hooked(blocks.layers) as found_outputs:
        found = run(model)
    assert close(found, expected), f"logits differ at layer {layer}: {far(found, expected)}"
    for place, (output, other) in enumerate(zip(found_outputs, expected_outputs, strict=True)):
        assert close(output, other), f"output of block {place} differs when layer {layer} is steered"
    assert close(found[1], unsteered[1]), f"row 1 moved by {far(found[1], unsteered[1])} at layer {layer}"
    assert not close(found[0], unsteered[0], 1e-2), f"steering layer {layer} has no effect"


def check_variants(model, plain, plain_blocks, directions: DirectionVectors) -> None:
    """Both signs and no steering of ragged prompts together, against one run each without a cache."""
    names = directions.names
    signs = (0.5, -0.5, 0.0)
    variants = [[dict.fromkeys(names, sign) if sign else None] * len(PROMPTS) for sign in signs]
    found = generate_variants(
        model,
        PROMPTS,
        variants,
        sampling=Sampling(max_new_tokens=NEW_TOKENS, temperature=0),
        seeds=[[0] * len(PROMPTS)] * len(signs),
        pad=0,
        directions=directions,
    )
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for sign, answers in zip(signs, found, strict=True):
        added = {layer: sign * directions.at(f"layer {layer}", layer) for layer in LAYERS}
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            expected = decode_plainly(plain, plain_blocks, prompt, added, ends)
            assert answer.ids == expected, f"{prompt} under {sign}: {answer.ids}, expected {expected}"


def decode_plainly(
    plain, plain_blocks, prompt: list[int], added: dict[int, Tensor], ends: set[int]
) -> list[int]:
    """Greedy decoding of one prompt that runs the whole text at every step, steered from its last token on."""
    start = len(prompt) - 1

    def add(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda output: torch.cat([output[:, :start], output[:, start:] + vector], dim=1)

    ids = list(prompt)
    with torch.no_grad(), hooked(plain_blocks, {layer: add(vector) for layer, vector in added.items()}):
        for _ in range(NEW_TOKENS):
            row = torch.tensor([ids])
            logits = plain(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    return ids[len(prompt) :]


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


def _name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
