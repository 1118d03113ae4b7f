"""The datasets builder: one config, one dataset, from cache or as a stream."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from hf_icon2 import Icon2PreferenceBuilder, extract_directions

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def settings(tiny_llama, tiny_llama_dir, tiny_tokenizer, tmp_path_factory):
    from hf_icon2 import Criterion

    criterion = Criterion("honesty", "You are honest.", "You are dishonest.")
    folder = tmp_path_factory.mktemp("directions")
    directions = extract_directions(
        tiny_llama,
        tiny_tokenizer,
        ["What is the sky?", "Bake bread.", "Tell me."],
        [criterion],
        show_progress=False,
    )
    directions.with_control_layers({"honesty": (1, 2)}).save_pretrained(folder)
    return {
        "model": str(tiny_llama_dir),
        "directions": str(folder),
        "number": 12,
        "shard_size": 5,
        "sampling": {"max_new_tokens": 8},
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
    }


def build(settings, **changes):
    builder = Icon2PreferenceBuilder(**(settings | changes))
    builder.download_and_prepare()
    return builder


def arrow_bytes(builder) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in Path(builder.cache_dir).glob("*.arrow")
    }


def test_same_config_gives_the_same_bytes_from_cache(settings) -> None:
    first = build(settings)
    before = arrow_bytes(first)
    again = build(settings)
    assert before
    assert arrow_bytes(again) == before  # same content and same modification time: nothing was built
    assert again.as_dataset(split="train").features == first.info.features


def test_a_fresh_cache_gives_the_same_content(settings, tmp_path) -> None:
    rows = build(settings).as_dataset(split="train").to_list()
    assert build(settings, cache_dir=str(tmp_path)).as_dataset(split="train").to_list() == rows


def test_a_changed_config_is_a_new_build(settings) -> None:
    first = build(settings)
    other = build(settings, seed=1)
    assert other.cache_dir != first.cache_dir
    assert other.as_dataset(split="train").to_list() != first.as_dataset(split="train").to_list()


def test_changed_directions_behind_the_same_path_are_a_new_build(settings, tmp_path) -> None:
    from hf_icon2 import DirectionVectors

    directions = DirectionVectors.from_pretrained(settings["directions"])
    directions.save_pretrained(tmp_path)
    first = Icon2PreferenceBuilder(**(settings | {"directions": str(tmp_path)}))
    (-directions).save_pretrained(tmp_path)
    second = Icon2PreferenceBuilder(**(settings | {"directions": str(tmp_path)}))
    assert first.cache_dir != second.cache_dir


def test_streaming_gives_the_cached_rows_in_shards(settings) -> None:
    rows = build(settings).as_dataset(split="train").to_list()
    stream = Icon2PreferenceBuilder(**settings).as_streaming_dataset(split="train")
    assert stream.num_shards == 3  # 12 instructions in shards of 5
    assert list(stream) == rows


def test_rows_train_in_trl_unchanged(settings, tiny_tokenizer, tmp_path) -> None:
    from trl import DPOConfig, DPOTrainer

    pairs = build(settings).as_dataset(split="train")
    arguments = DPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, logging_steps=1,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        settings["model"], args=arguments, train_dataset=pairs, processing_class=tiny_tokenizer
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_model_and_directions_are_required(settings) -> None:
    with pytest.raises(ValueError, match="needs directions=..., an id on the Hub or a path"):
        Icon2PreferenceBuilder(model=settings["model"], cache_dir=settings["cache_dir"])


def test_all_settings_are_in_the_config(settings) -> None:
    config = Icon2PreferenceBuilder(**settings).config
    assert {item.name for item in dataclasses.fields(config)} >= {
        "model",
        "directions",
        "seed",
        "noise",
        "sampling",
    }
