"""Recipes: reading, defaults, and what is said about wrong settings."""

import json
from pathlib import Path

import pytest

import hf_icon2
from hf_icon2 import Criterion, Recipe
from hf_icon2.settings import read_settings, sections

QUICKSTART = Path(hf_icon2.__file__).parent / "recipes" / "quickstart.yaml"


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_empty_recipe_is_the_defaults():
    assert Recipe.from_dict({}) == Recipe()


def test_a_recipe_survives_json():
    recipe = Recipe.from_dict({"seed": 3, "tuning": {"strengths": [0.1, 0.2]}, "criteria": ["honesty"]})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_yaml_and_json_say_the_same(tmp_path):
    yaml = write(tmp_path, "model: some/model\npairs: {noise: independent, shard: 7}\n")
    data = {"model": "some/model", "pairs": {"noise": "independent", "shard": 7}}
    assert Recipe.from_file(yaml) == Recipe.from_file(write(tmp_path, json.dumps(data), "recipe.json"))


def test_the_quickstart_recipe_is_valid_and_about_the_bundled_model():
    assert Recipe.from_file(QUICKSTART).model == "toy"


def test_every_setting_has_a_line_of_help():
    fields = [item for kind in sections(Recipe).values() for item in kind.__dataclass_fields__.values()]
    assert len(fields) > 30
    assert all(item.metadata["help"] for item in fields)


def test_a_section_that_is_written_but_empty_keeps_its_defaults(tmp_path):
    assert Recipe.from_file(write(tmp_path, "training:\nseed: 1\n")) == Recipe(seed=1)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    recipe = Recipe.from_file(write(tmp_path, "training: {learning_rate: 1e-4, beta: 1}"))
    assert recipe.training.learning_rate == 0.0001
    assert recipe.training.beta == 1.0
    assert isinstance(recipe.training.beta, float)


def test_the_fingerprint_follows_every_setting_but_not_the_spelling():
    same = {"seed": 0, "pairs": {"temperature": 1}}
    assert Recipe.from_dict(same).fingerprint == Recipe().fingerprint
    assert Recipe.from_dict({"pairs": {"temperature": 0.9}}).fingerprint != Recipe().fingerprint


def test_criteria_are_named_or_spelt_out():
    own = {"name": "brevity", "positive": "Be brief.", "negative": "Ramble."}
    recipe = Recipe.from_dict({"criteria": ["honesty", own]})
    assert recipe.criteria[1] == Criterion("brevity", "Be brief.", "Ramble.")
    assert [criterion.name for criterion in Recipe.from_dict({"criteria": "honesty"}).criteria] == ["honesty"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"criteria": ["kindness"]}, "unknown criterion 'kindness'; built in are general, honesty"),
        ({"modell": "x"}, r"unknown settings \['modell'\]; known: model, revision, seed"),
        ({"pairs": {"nois": 1}}, r"unknown settings \['pairs.nois'\]; known: pairs.strategy"),
        ({"training": {"beta": "strong"}}, "training.beta must be a number or nothing, got 'strong'; change"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"synthesis": {"near_duplicates": "no"}}, "near_duplicates must be true or false, got 'no'"),
        ({"tuning": {"strengths": ["weak"]}}, "tuning.strengths must be a number, got 'weak'"),
        ({"training": 3}, "training must map settings to values, got 3"),
        (
            {"filter": {"score": "cosinus"}},
            "filter.score must be cosine or dot or standardized, got 'cosinus'",
        ),
        ({"extraction": {"pooling": "first"}}, "extraction.pooling must be last or response, got 'first'"),
        ({"filter": {"keep": 0}}, "filter.keep must be above 0 and at most 1; change the recipe"),
        ({"filter": {"criteria_per_instruction": 4}}, "1 to the number of criteria"),
        ({"pairs": {"noise": "none"}}, "pairs.noise must be shared or independent"),
        (
            {"pairs": {"strategy": "luck"}},
            "pairs.strategy must be icon2 or icon2-independent or direct-prompting",
        ),
        (
            {"pairs": {"strategy": "self-refine", "noise": "independent"}},
            "pairs.noise must be shared .* where pairs.strategy does not begin with icon2",
        ),
        (
            {"pairs": {"strategy": "self-rewarding", "samples": 1}},
            "pairs.samples must be at least 1, and 2 where",
        ),
        (
            {"model": "some/model", "pairs": {"strategy": "sampling-ranking"}},
            "pairs.strategy sampling-ranking needs tuning.reward",
        ),
        ({"training": {"held_out": 1}}, "training.held_out must be at least 0 and below 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(data, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*nowhere.yaml"):
        read_settings(tmp_path / "nowhere.yaml")


def test_broken_yaml_is_a_sentence_with_the_place(tmp_path):
    with pytest.raises(ValueError, match=r"recipe.yaml is not valid YAML: (.|\n)*line 2"):
        read_settings(write(tmp_path, "model: toy\npairs: {noise: shared\n"))


def test_a_list_is_not_a_recipe(tmp_path):
    with pytest.raises(ValueError, match="must map settings to values, got list"):
        read_settings(write(tmp_path, "- model"))
