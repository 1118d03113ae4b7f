"""The finished cards in `model_cards/` are what the templates make of the measured figures beside them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "model_cards"
if not FOLDER.is_dir():
    pytest.skip("model_cards/ is in the repository only", allow_module_level=True)

specification = importlib.util.spec_from_file_location("build_model_cards", FOLDER / "build.py")
build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build)
CARDS = build.render(json.loads(build.FIGURES.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_what_its_template_makes_of_the_figures(name):
    made = CARDS[name]
    assert (FOLDER / name).read_text(encoding="utf-8") == made, "run: python model_cards/build.py --render"


@pytest.mark.parametrize("name", CARDS)
def test_a_card_names_licence_and_library_and_has_no_gaps(name):
    text = CARDS[name]
    data = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert data["license"] == "apache-2.0"
    assert "hf_icon2" in (data.get("library_name"), *data["tags"])
    assert not re.search(r"\{\{ |\{% |\bNone\b|Undefined|/tmp/|/home/", text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(
        link.startswith("https://huggingface.co/papers/") or (FOLDER / link).exists() for link in links
    )


def test_the_cards_speak_of_the_same_directions():
    digest = json.loads(build.FIGURES.read_text(encoding="utf-8"))["sha256"]
    assert digest in CARDS["toy-assistant-directions.md"]
    assert digest in CARDS["toy-assistant-pairs.md"]


def test_strengths_and_evidence_of_the_record_stand_in_the_card():
    figures = json.loads(build.FIGURES.read_text(encoding="utf-8"))
    card = CARDS["toy-assistant-directions.md"]
    for name, strengths in figures["directions"]["strengths"].items():
        layers = figures["directions"]["control_layers"][name]
        row = f"| {name} | {', '.join(map(str, layers))} | last | {strengths['positive']:g} / "
        assert f"{row}{strengths['negative']:g} | {strengths['maximum']:g} |" in card
        values = [figures["directions"]["evidence"][name]["held_out_accuracy"][layer] for layer in layers]
        assert f"| {name} | {sum(values) / len(values):.2f} |" in card
