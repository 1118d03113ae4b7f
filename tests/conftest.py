"""Tiny models and tokenizers built in memory, the bundled toy, and the data folder.

Session fixtures are shared by all tests: do not change them. A test that installs hooks for good, trains, or
edits a config or a chat template works on `copy.deepcopy(fixture)` or builds its own with `tiny_model`.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_icon2 import DirectionVectors

# Before anything imports huggingface_hub, which reads these once: no telemetry, caches of our own.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")
# These models are too small for two cores: on a busy machine a second thread made tests ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_HF_HOME = tempfile.TemporaryDirectory(prefix="hf_icon2-tests-")
os.environ["HF_HOME"] = _HF_HOME.name

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CORPUS = [
    "You are a helpful and honest assistant. You are a careless assistant.",
    "What is the colour of the sky? The colour of the sky is blue.",
    "Tell me how to bake bread. First mix the flour and the water, then wait.",
]

# What each architecture calls its sizes, where AutoConfig does not translate the Llama names.
SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far above the usual 0.02, so that prompts and layers change what is generated
}
GROUPED = {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "mistral": GROUPED | {"head_dim": 16, "sliding_window": None},
    # Gemma multiplies embeddings by sqrt(D); a tied head would then only repeat the last token.
    "gemma2": GROUPED | {"head_dim": 16, "sliding_window": 16, "tie_word_embeddings": False},
    "gemma3_text": GROUPED | {"head_dim": 16, "sliding_window": 16, "tie_word_embeddings": False},
    "phi3": GROUPED,
    "gpt2": {"n_inner": 128},
    "gpt_neox": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": 0.3},
    "falcon": {"ffn_hidden_size": 128},
    "mixtral": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}


def pytest_unconfigure() -> None:
    _HF_HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections that leave this machine, so that no test depends on one."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(
                f"a test tried to reach {address[0]}; tests are offline, serve from 127.0.0.1 instead"
            )
        connect(self, address)

    socket.socket.connect = connect_locally
    yield
    socket.socket.connect = connect


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most 320 tokens; its chat template has a system role."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=SIZES["max_position_embeddings"],
        chat_template=CHAT_TEMPLATE,
    )


def build_model(model_type: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random four-layer model of hidden size 64 in float32 and eval mode; `overrides` go to its config."""
    sizes = SIZES | SPECIAL_IDS | ARCHITECTURES[model_type] | overrides
    config = AutoConfig.for_model(model_type, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Shared, do not change: a byte-level tokenizer with a chat template and left padding."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    """Shared, do not change: a random Llama of four layers and hidden size 64."""
    return build_model("llama")


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_llama, tiny_tokenizer, tmp_path_factory) -> Path:
    """Shared, do not change: folder with `tiny_llama` and `tiny_tokenizer`, for what takes a path."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    tiny_llama.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Factory for a model of one's own: `tiny_model("gpt2", seed=1, num_hidden_layers=2)`."""
    return build_model


def build_directions(
    model: PreTrainedModel, *, names: tuple[str, ...] = ("honesty", "helpfulness"), seed: int = 0
) -> "DirectionVectors":
    """Random directions at all layers; the first criterion steers layers 1 and 2, the others 2 and 3."""
    from hf_icon2 import Criterion, DirectionVectorConfig, DirectionVectors

    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    config = DirectionVectorConfig(
        base_model="tiny",
        hidden_size=width,
        num_layers=layers,
        layers=tuple(range(layers)),
        criteria=tuple(Criterion(name, f"Show {name}.", f"Avoid {name}.") for name in names),
        control_layers={
            name: tuple(layer for layer in ((1, 2) if name == names[0] else (2, 3)) if layer < layers)
            for name in names
        },
        pooling=dict.fromkeys(names, "last"),
        method="pca",
        scale="residual",
        residual_norms=(width**0.5,) * layers,
        contrast_norms={name: (1.0,) * layers for name in names},
        instructions={"number": 2, "fingerprint": "0" * 64},
        chat_template_sha256="0" * 64,
    )
    generator = torch.Generator().manual_seed(seed)
    return DirectionVectors(config, torch.randn(len(names), layers, width, generator=generator))


@pytest.fixture(scope="session")
def random_directions() -> Callable[..., "DirectionVectors"]:
    """Factory for directions that nothing was measured for: `random_directions(model, names=("a", "b"))`."""
    return build_directions


def greedy_by_hand(
    model: PreTrainedModel,
    directions: "DirectionVectors",
    prompt: list[int],
    steering: dict[str, float] | None,
    *,
    new: int = 8,
    start: int | None = None,
) -> list[int]:
    """Greedy decoding of one prompt without cache, padding or early end, under hooks written here.

    They steer from column `start` on, by default from the last prompt token.
    """
    start = len(prompt) - 1 if start is None else start

    def adder(layer: int) -> Callable[..., torch.Tensor]:
        def hook(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for name, strength in (steering or {}).items():
                if layer in directions.config.control_layers[name]:
                    output[:, start:] += (strength * directions.at(name, layer)).to(output.dtype)
            return output

        return hook

    handles = [block.register_forward_hook(adder(layer)) for layer, block in enumerate(model.model.layers)]
    ids = list(prompt)
    try:
        with torch.no_grad():
            for _ in range(new):
                scores = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                scores[SPECIAL_IDS["eos_token_id"]] = -torch.inf
                ids.append(int(scores.argmax()))
    finally:
        for handle in handles:
            handle.remove()
    return ids[len(prompt) :]


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., list[int]]:
    """The oracle of steered generation, for a Llama that the library never touched: see `greedy_by_hand`."""
    return greedy_by_hand


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Runs the test once per architecture; pass it to `tiny_model`."""
    return request.param


@pytest.fixture(scope="session")
def toy() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from hf_icon2.toy import load_assistant

    return load_assistant()


@pytest.fixture(scope="session")
def toy_assistant(toy) -> PreTrainedModel:
    """Shared, do not change: the bundled assistant."""
    return toy[0]


@pytest.fixture(scope="session")
def toy_tokenizer(toy) -> PreTrainedTokenizerBase:
    """Shared, do not change: the bundled assistant's tokenizer."""
    return toy[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with downloaded models and datasets; the test is skipped where there is none."""
    folder = Path(os.environ.get("HF_ICON2_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set HF_ICON2_DATA to one")
    return folder
