"""The whole preference dataset from one config, as a `datasets` builder: cached, typed, streamable.

```python
builder = Icon2PreferenceBuilder(model="path/or/id", directions="path/or/id", number=1000)
builder.download_and_prepare()
pairs = builder.as_dataset(split="train")  # or builder.as_streaming_dataset(split="train")
```

The module's name is part of the cache path, so it stays as it is; a change that alters rows raises `VERSION`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.judges.reward_models import RewardModel
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.steering.decoding import Sampling
from hf_icon2.synthesis.consistency import Score, filter_instructions, score_consistency
from hf_icon2.synthesis.instructions import synthesize_instructions
from hf_icon2.synthesis.pairs import generate_pairs, pair_features
from hf_icon2.synthesis.strategies.choosing import StrategyName, check_name
from hf_icon2.synthesis.strategies.steered import Noise

_RECORD_COLUMNS = ("prompt", "id", "criterion")


@dataclass
class Icon2PreferenceConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Everything the rows depend on.

    Args:
        model: Model id or path.
        revision: Its commit, tag or branch.
        directions: Folder or Hub repo of `DirectionVectors` measured on that model.
        number: Instructions the model writes.
        keep: Best instructions to keep per criterion; None keeps all.
        score: How consistency is scored.
        criteria_per_instruction: How many criteria one instruction may serve.
        strategy: How the two answers come about; see `generate_pairs`. The directions choose the instructions in any
            case.
        noise: Follows from the strategy; see `generate_pairs`.
        samples: Answers per instruction, where the strategy draws several.
        reward: Id or path of the reward model of `sampling-ranking`.
        sampling: Of the answers, as `{"max_new_tokens": ..., "temperature": ..., "top_p": ...}`.
        seed: Of everything that is random.
        batch_size: Instructions per batch.
        shard_size: Instructions per shard, the unit of streaming and of worker processes.
    """

    model: str = ""
    revision: str | None = None
    directions: str = ""
    number: int = 1000
    keep: int | None = None
    score: Score = "cosine"
    criteria_per_instruction: int = 1
    strategy: StrategyName = "icon2"
    noise: Noise | None = None
    samples: int | None = None
    reward: str | None = None
    sampling: dict[str, float] | None = None
    seed: int = 0
    batch_size: int = 32
    shard_size: int = 512

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:  # noqa: ANN401
        """Name and a hash of all settings and of the files behind local paths.

        datasets' own id knows only the settings that were overridden, so that a folder whose directions or weights
        have changed would be served from the cache of the old ones.
        """
        settings = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name in _SETTINGS
        }
        key = json.dumps(
            [settings, *map(_files, (self.model, self.directions, self.reward or "")), repr(custom_features)],
            sort_keys=True,
        )
        return f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


_SETTINGS = {item.name for item in dataclasses.fields(Icon2PreferenceConfig)} - {
    item.name for item in dataclasses.fields(datasets.BuilderConfig)
}


class Icon2PreferenceBuilder(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """Builds preference pairs: self-written instructions, kept by consistency, made into pairs."""

    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = Icon2PreferenceConfig
    config: Icon2PreferenceConfig
    _loaded: tuple[Any, Any, DirectionVectors] | None = None

    def _info(self) -> datasets.DatasetInfo:
        for name in ("model", "directions"):
            if not getattr(self.config, name):
                raise ValueError(f"Icon2PreferenceBuilder needs {name}=..., an id on the Hub or a path")
        strategy = check_name(self.config.strategy, self.config.noise)
        if strategy == "sampling-ranking" and self.config.reward is None:
            raise ValueError(
                "Icon2PreferenceBuilder needs reward=..., the id or path of a reward model, for strategy="
                "'sampling-ranking'"
            )
        chat = self._tokenizer().chat_template is not None
        return datasets.DatasetInfo(
            description=f"Preference pairs that {self.config.model} made by itself ({strategy}).",
            features=pair_features(chat),
            citation="@misc{chen2025icon2, eprint={2509.05605}, archivePrefix={arXiv}}",
        )

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        rows = [{name: row[name] for name in _RECORD_COLUMNS} for row in self._instructions()]
        size = self.config.shard_size
        shards = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={"shards": shards})]

    def _generate_examples(self, shards: list[list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        config, (model, tokenizer, directions) = self.config, self._load()
        reward = None if config.reward is None else RewardModel.from_pretrained(config.reward)
        for shard in shards:
            pairs = generate_pairs(
                model,
                tokenizer,
                directions,
                Dataset.from_list(shard),
                sampling=Sampling(**(config.sampling or {})),  # type: ignore[arg-type]
                strategy=config.strategy,
                noise=config.noise,
                samples=config.samples,
                reward=reward,
                seed=config.seed,
                batch_size=config.batch_size,
            )
            for row in pairs:
                yield row["id"], dict(row)

    def _instructions(self) -> Dataset:
        config, (model, tokenizer, directions) = self.config, self._load()
        written = synthesize_instructions(model, tokenizer, config.number, seed=config.seed)
        scored = score_consistency(model, tokenizer, directions, written, score=config.score)
        return filter_instructions(
            scored, keep=config.keep, criteria_per_instruction=config.criteria_per_instruction
        )

    def _tokenizer(self) -> Any:  # noqa: ANN401
        return load_tokenizer(self.config.model, self.config.revision)

    def _load(self) -> tuple[Any, Any, DirectionVectors]:
        """Model, tokenizer and directions; loaded once per process."""
        if self._loaded is None:
            model = load_model(self.config.model, self.config.revision)
            directions = DirectionVectors.from_pretrained(self.config.directions)
            self._loaded = (model, self._tokenizer(), directions)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        # worker processes get the config and load the model themselves
        return {**self.__dict__, "_loaded": None}


def _files(source: str) -> list[tuple[str, str]]:
    """Names and SHA-256 of the files in a local folder; nothing for a Hub id, which its revision pins."""
    folder = Path(source)
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(
        item for item in folder.iterdir() if item.suffix in (".json", ".safetensors", ".jinja")
    ):
        with path.open("rb") as handle:
            found.append((path.name, hashlib.file_digest(handle, "sha256").hexdigest()))
    return found
