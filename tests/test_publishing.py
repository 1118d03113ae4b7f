"""Pairs as a dataset for others, and what its card says."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from datasets import DatasetDict, load_dataset

from hf_icon2 import Criterion, Recipe, save_pairs
from hf_icon2.cards import adapter_card, directions_card, model_card
from hf_icon2.evaluation.contamination import contamination
from hf_icon2.synthesis.pairs import pair_dataset, pair_features

# Would open a table cell, a code span, HTML, a template, a second metadata block and a heading.
EVIL = "a|b `x` ``y`` {{ 1234567 * 9 }} {% if %} <b>\n---\nlicense: mit\n---\n# boom\n```\n"
FENCE = re.compile(r" *```+[^`]*")  # with a backtick behind it, it is no fence


def row(number, criterion="honesty", *, flags=(), digest="a" * 64, **changes):
    return {
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "id": str(number),
        "criterion": criterion,
        "strength_chosen": 0.2,
        "strength_rejected": -0.1,
        "directions_sha256": digest,
        "noise": "shared",
        "seed": number,
        "flags": list(flags),
        "tokens_chosen": 2 + number,
        "tokens_rejected": 4,
        "finish_chosen": "length" if number == 1 else "stop",
        "finish_rejected": "stop",
        **changes,
    }


def pairs(*rows):
    return pair_dataset(rows, chat=True)


@pytest.fixture
def some():
    return pairs(row(0), row(1, flags=["length_only"]), row(2, "help", strength_chosen=0.3), row(2, "help"))


def metadata(card):
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(match[1])


def test_plain_datasets_loads_what_was_saved_with_its_types(some, tmp_path):
    folder = save_pairs(some, tmp_path / "pairs")
    loaded = load_dataset(str(folder), split="train", cache_dir=tmp_path / "cache")
    assert loaded.to_list() == some.to_list()
    assert loaded.features == pair_features()
    splits = save_pairs(DatasetDict(train=some, test=some.select([0])), tmp_path / "splits")
    loaded = load_dataset(str(splits), cache_dir=tmp_path / "cache")
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 4, "test": 1}


def test_large_pairs_are_cut_into_files_that_make_one_split(some, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_icon2.synthesis.publishing.SHARD_BYTES", some.data.nbytes // 2)
    folder = save_pairs(some, tmp_path / "pairs")
    assert len(list((folder / "data").iterdir())) > 1
    assert load_dataset(str(folder), split="train", cache_dir=tmp_path).to_list() == some.to_list()


def test_the_card_counts_what_is_there(some, tmp_path):
    card = (save_pairs(some, tmp_path / "pairs", license="cc0-1.0", language="en") / "README.md").read_text()
    for line in (
        "| train | 4 |",
        "| help | 2 | +0.2 to +0.3 | -0.1 | 4.0 | 4.0 |",
        "| honesty | 2 | +0.2 | -0.1 | 2.5 | 4.0 |",
        "- Distinct prompts: 3 of 4; rows that repeat another row's prompt and both answers: 1.",
        "- Answers cut off at the longest length allowed: 1 chosen, 0 rejected.",
        "  - `length_only`: 1 (one answer is the other one cut short, or with words repeated)",
        f"- Directions: SHA-256 `{'a' * 64}`.",
        "| `prompt` | `list of {role, content}` |",
        "Licence of the pairs: cc0-1.0.",
        "| unknown | model, answers | unknown |",
    ):
        assert line in card, line
    data = metadata(card)
    assert (data["license"], data["language"], data["size_categories"]) == ("cc0-1.0", "en", "n<1K")
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert {"hf_icon2", "dpo", "trl"} <= set(data["tags"])


def test_the_card_says_how_the_pairs_were_made_and_of_what(tiny_llama, random_directions, tmp_path):
    base = tmp_path / "secret" / "base"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: llama3\n---\n")
    directions = random_directions(tiny_llama)
    directions = replace(directions, config=replace(directions.config, base_model=str(base)))
    recipe = Recipe.from_dict({"synthesis": {"instructions": "someone/questions"}, "seed": 7}).to_dict()
    folder = save_pairs(
        pairs(row(0, digest=directions.sha256)),
        tmp_path / "pairs",
        directions=directions,
        recipe=recipe,
        licenses={"someone/questions": "odc-by"},
    )
    card = (folder / "README.md").read_text()
    for line in (
        "1 preference pairs that the local model base made by itself.",
        "| base | model, answers | llama3 |",
        "| someone/questions | dataset, instructions | odc-by |",
        "- honesty is steered at layers 1, 2 (outputs of these blocks, counted from 0), direction by `pca` from",
        "| seed | 7 |",
        "| filter.score | standardized |",
        "No licence was chosen for the pairs.",
    ):
        assert line in card, line
    assert "secret" not in card and "helpfulness is steered" not in card
    assert metadata(card)["source_datasets"] == ["someone/questions"]
    assert "license" not in metadata(card)


def test_pairs_of_other_directions_are_refused(some, tiny_llama, random_directions, tmp_path):
    with pytest.raises(ValueError, match="these pairs were made with the directions aaaa"):
        save_pairs(some, tmp_path / "pairs", directions=random_directions(tiny_llama))
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.remove_columns("chosen"), "pairs lack chosen in split train"),
        (lambda rows: rows.select([]), "there are no pairs in split train"),
        (lambda rows: DatasetDict(), "there are no pairs; generate some first"),
    ],
)
def test_what_is_no_set_of_pairs_is_refused(some, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        save_pairs(change(some), tmp_path / "pairs")


def test_a_folder_with_files_is_left_alone(some, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files already"):
        save_pairs(some, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_pairs_without_provenance_are_published_too(tmp_path):
    plain = pairs(row(0)).select_columns(["prompt", "chosen", "rejected"])
    card = (save_pairs(plain, tmp_path / "pairs") / "README.md").read_text()
    assert "1 preference pairs that a local model made by itself" in card
    assert "flag" not in card.split("## Limits")[0]


def test_no_text_breaks_a_card(tiny_llama, random_directions, tmp_path):
    """Tables keep their columns, fences come in pairs, and there is one block of metadata, on top."""
    directions = random_directions(tiny_llama, names=("honesty", "plain"))
    config = replace(
        directions.config,
        criteria=(Criterion("honesty", EVIL, EVIL + "not"), directions.config.criteria[1]),
        base_model=EVIL,
        base_model_revision=EVIL,
        versions={EVIL: EVIL},
    )
    directions = replace(directions, config=config)
    recipe = Recipe.from_dict({"synthesis": {"instructions": EVIL}}).to_dict()
    samples = [{"criterion": EVIL, "prompt": EVIL, "answers": [("+0.1", EVIL)]}]
    cards = [
        directions_card(config, source=EVIL, license="mit", samples=samples),
        (
            save_pairs(
                pairs(row(0, digest=directions.sha256), row(1, EVIL, digest=directions.sha256, flags=[EVIL])),
                tmp_path / "pairs",
                directions=directions,
                recipe=recipe,
            )
            / "README.md"
        ).read_text(),
    ]
    criterion = {"name": EVIL, "pairs": 1, "chosen": EVIL, "rejected": EVIL}
    cards.append(
        model_card(
            model_name=EVIL,
            base_model=EVIL,
            tags=[EVIL],
            dataset_name=None,
            provenance={
                "rows": 1,
                "columns": [EVIL],
                "directions": [EVIL],
                "criteria": [criterion],
                "strategies": [EVIL],
            },
            settings={EVIL: EVIL},
            monitor=EVIL,
            versions=EVIL,
        )
    )
    record = {"steering": json.dumps({EVIL: 1.0}), "directions_sha256": EVIL}
    cards.append(adapter_card(EVIL, record, [EVIL]))
    for card in cards:
        check_form(card)
    assert metadata(cards[0])["license"] == "mit" and "license" not in metadata(cards[1])


def check_form(card):
    """What a reader of Markdown relies on."""
    head = card.splitlines()
    end = head.index("---", 1)
    assert [number for number, line in enumerate(head) if line.rstrip() == "---"] == [0, end]
    assert isinstance(metadata(card), dict)
    lines = head[end + 1 :]
    fences = [line for line in lines if FENCE.fullmatch(line)]
    assert fences[1::2] == ["```"] * (len(fences) // 2) and len(fences) % 2 == 0
    assert [line for line in lines if line.startswith("# ")] == [lines[1]]
    width = 0
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells
    assert str(1234567 * 9) not in card
    text = [line for number, line in enumerate(lines) if not _in_fence(lines[:number])]
    assert not any(re.search(r"(?<!\\)<b", re.sub(r"(`+) .*? \1", "", line)) for line in text)


def _in_fence(before):
    return sum(FENCE.fullmatch(line) is not None for line in before) % 2 == 1


def test_a_card_of_pairs_fits_the_rows_of_a_streamed_reader(some, tmp_path):
    """The Hub's viewer reads the files one by one, without the card."""
    folder = save_pairs(some, tmp_path / "pairs")
    stream = load_dataset("parquet", data_files=str(folder / "data" / "*"), split="train", streaming=True)
    assert json.dumps(list(stream)) == json.dumps(some.to_list())


def test_the_card_says_which_test_prompts_the_pairs_hold_if_that_was_looked_for(some, tmp_path):
    """Of three prompts of two words, `question 2` is in rows 3 and 4; of two shorter ones, `yes` is in all four."""
    prompts = ["Question 2", "Question 9?", "No yes", "Yes!", "never"]
    report = contamination(some, prompts, n=2, prompt_set="a|b `x`", progress=None)
    first = save_pairs(some, tmp_path / "one", contamination=report) / "README.md"
    plain = json.loads(json.dumps(report.to_dict()))
    second = save_pairs(some, tmp_path / "two", contamination=[plain, report]) / "README.md"
    line = "| a\\|b \\`x\\` | 2 | 1 of 3 (0.3333) | 1 of 2 (0.5000) | 2 of 4 (0.5000) |\n"
    assert first.read_text().count(line) == 1
    assert second.read_text().count(line) == 2
    assert "## Overlap with test prompts" in first.read_text()
    unasked = (save_pairs(some, tmp_path / "none") / "README.md").read_text()
    assert "verlap" not in unasked and "contamination" not in unasked
