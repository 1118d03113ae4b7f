"""Overlap of data with prompts: against brute force, on every kind of row, and in the command's report."""

import gzip
import json
import random
import unicodedata

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hf_icon2 import save_pairs
from hf_icon2.cli import main
from hf_icon2.evaluation.contamination import Contamination, contamination, decontaminate
from hf_icon2.evaluation.contamination_ngrams import words

LONG = "Draft a professional email that asks your supervisor for feedback on the quarterly report in time."
HIT = "draft a professional email that asks your supervisor for feedback on the quarterly"


def ngrams_by_hand(prompt: str, n: int) -> set[tuple[str, ...]]:
    split = words(prompt)
    grams = {tuple(split[start : start + n]) for start in range(len(split) - n + 1)}
    return grams or ({tuple(split)} if split else set())


def stands_in(gram: tuple[str, ...], text: str) -> bool:
    split = words(text)
    return any(tuple(split[start : start + len(gram)]) == gram for start in range(len(split) - len(gram) + 1))


def by_hand(texts: list[str], prompts: list[str], n: int) -> dict[str, object]:
    """Every n-gram of every prompt against every place of every text."""
    hits = [
        [any(stands_in(gram, text) for gram in ngrams_by_hand(prompt, n)) for prompt in prompts]
        for text in texts
    ]
    short = [len(words(prompt)) < n for prompt in prompts]
    found = [any(row[place] for row in hits) for place in range(len(prompts))]
    return {
        "found": [place for place in range(len(prompts)) if found[place]],
        "rows_of": [sum(row[place] for row in hits) for place in range(len(prompts)) if found[place]],
        "contaminated": sum(found[place] and not short[place] for place in range(len(prompts))),
        "short_found": sum(found[place] and short[place] for place in range(len(prompts))),
        "rows": sum(
            any(hit and not is_short for hit, is_short in zip(row, short, strict=True)) for row in hits
        ),
        "rows_short": sum(
            any(hit and is_short for hit, is_short in zip(row, short, strict=True)) for row in hits
        ),
    }


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_brute_force_finds(n, seed):
    """Few words, so that n-grams repeat words, overlap and share their rarest word; Unicode, empty texts."""
    rng = random.Random(f"{n}/{seed}")
    vocabulary = [
        "a",
        "b",
        "B",
        "ﬁ",
        "fi",
        "ß",
        "ss",
        "Ä",
        "A\u0308",
        "語",
        "は",
        "don't",
        "—",
        "...",
        "7",
        "हिन्दी",
    ]

    def text(most):
        return rng.choice([" ", ", ", "\n"]).join(rng.choices(vocabulary, k=rng.randint(0, most)))

    texts, prompts = [text(20) for _ in range(60)], [text(8) for _ in range(25)] + ["", "!"]
    report, wanted = contamination(texts, prompts, n=n, progress=None), by_hand(texts, prompts, n)
    assert [item.prompt for item in report.overlaps] == wanted["found"]
    assert [item.rows for item in report.overlaps] == wanted["rows_of"]
    assert (report.contaminated_prompts, report.short_prompts_found) == (
        wanted["contaminated"],
        wanted["short_found"],
    )
    assert (report.contaminated_rows, report.rows_with_short) == (wanted["rows"], wanted["rows_short"])
    assert report.prompts + report.short_prompts + report.empty_prompts == len(prompts) == 27
    for item in report.overlaps:
        gram = tuple(item.ngram.split())
        assert stands_in(gram, texts[item.row]) and gram in ngrams_by_hand(prompts[item.prompt], n)
        assert not any(
            stands_in(other, earlier)
            for earlier in texts[: item.row]
            for other in ngrams_by_hand(prompts[item.prompt], n)
        )


def test_thirteen_words_are_a_hit_and_twelve_are_none():
    """LONG has 16 words; its first 13 are one n-gram, its first 12 none."""
    report = contamination([HIT, HIT.rpartition(" ")[0]], [LONG], progress=None)
    assert (report.n, report.contaminated_rows, report.share_of_rows) == (13, 1, 0.5)
    assert report.share_of_prompts == 1.0
    assert report.overlaps[0].ngram == HIT
    assert contamination([HIT.rpartition(" ")[0]], [LONG], progress=None).share_of_prompts == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't -- stop, NOW!", ["don", "t", "stop", "now"]),
        ("Don’t stop", ["don", "t", "stop"]),
        ("snake_case_2 x=1", ["snake", "case", "2", "x", "1"]),
        ("Straße ﬁne ＡＢ", ["strasse", "fine", "ab"]),
        ("東京は", ["東", "京", "は"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("서울 시", [unicodedata.normalize("NFKC", "서울"), "시"]),
        ("", []),
        (" \t\n…!? ", []),
    ],
)
def test_words_are_what_stands_between_punctuation_and_spaces(text, expected):
    assert words(text) == expected


def test_composed_and_decomposed_letters_are_one_word():
    assert words("Caf\u00e9") == words("cafe\u0301")


PAIR = {
    "prompt": [{"role": "user", "content": "Hello."}],
    "chosen": [{"role": "assistant", "content": "Hi."}],
    "rejected": [{"role": "assistant", "content": "Go away."}],
    "flags": ["same"],
    "strength_chosen": 0.2,
    "noise": None,
}


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize(
    "make", [Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset(), list]
)
def test_all_three_columns_of_pairs_count(make, column):
    pair = {**PAIR, column: [{**PAIR[column][0], "content": f"Well: {LONG.upper()}"}]}
    report = contamination(make([PAIR, pair]), [LONG], progress=None)
    assert (report.rows, report.contaminated_rows) == (2, 1)
    assert (report.overlaps[0].row, report.overlaps[0].rows) == (1, 1)
    others = [name for name in ("prompt", "chosen", "rejected") if name != column]
    assert contamination(make([PAIR, pair]), [LONG], columns=others, progress=None).contaminated_rows == 0
    with pytest.raises(ValueError, match="a row has no column 'text'"):
        contamination(make([PAIR]), [LONG], columns=["text"], progress=None)


def test_texts_of_two_columns_or_turns_make_no_common_n_gram():
    half = HIT.split()
    rows = [{"prompt": " ".join(half[:7]), "chosen": " ".join(half[7:])}]
    assert contamination(rows, [LONG], progress=None).contaminated_rows == 0


def test_roles_of_messages_are_no_text():
    report = contamination([PAIR["prompt"], PAIR], ["user", "assistant"], progress=None)
    assert report.short_prompts_found == 0


@pytest.mark.parametrize(
    "prompt",
    [
        {"uid": "1", "prompt": LONG},
        {"instruction": "Do it.", "input": LONG, "output": "no"},
        {"question_id": 81, "turns": ["Hello.", LONG]},
        {"turns": [{"content": LONG}]},
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": LONG}],
        {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "No."}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
    ],
)
def test_prompts_of_every_benchmark_are_read(prompt):
    report = contamination([LONG, "Be kind.", "No.", "nothing"], [prompt], progress=None)
    assert (report.prompts, report.contaminated_prompts, report.contaminated_rows) == (1, 1, 1)


def test_a_column_of_prompts_can_be_named_and_an_unknown_one_is_refused():
    rows = [{"task": LONG, "text": "x"}]
    assert contamination([LONG], rows, prompt_column="task", progress=None).contaminated_prompts == 1
    assert contamination([LONG], rows, progress=None).contaminated_prompts == 0
    with pytest.raises(ValueError, match="none of the columns query; it has task, text"):
        contamination([LONG], rows, prompt_column="query", progress=None)


def test_short_prompts_are_found_as_a_whole_and_counted_apart():
    report = contamination(
        ["Tell me, what is the capital of France?", "the capital of"],
        ["What is the capital of France?"],
        progress=None,
    )
    assert (report.prompts, report.short_prompts, report.short_prompts_found) == (0, 1, 1)
    assert (report.contaminated_rows, report.rows_with_short) == (0, 1)
    assert report.share_of_prompts is None and report.share_of_short_prompts == 1.0
    assert report.overlaps[0].short


def test_a_report_is_plain_data_and_sentences():
    report = contamination(
        [LONG, "x", "hello"], [LONG, "Hello!", "", "Z"], prompt_set="my test", progress=None
    )
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["n"], found["prompts"], found["short_prompts"], found["empty_prompts"]) == (13, 1, 2, 1)
    assert (found["share_of_prompts"], found["share_of_short_prompts"]) == (1.0, 0.5)
    assert found["share_of_rows"] == pytest.approx(1 / 3)
    assert found["overlaps"][1] == {"prompt": 1, "short": True, "rows": 1, "row": 2, "ngram": "hello"}
    assert found["prompt_set"] == "my test"
    lines = str(report).splitlines()
    assert lines[0] == "1 of 1 (1.0000) prompts of 13 words or more share 13 words in a row with the data"
    assert f'prompt 0 in row 0: "{HIT}"' in lines
    assert "1 prompts have no words" in str(report)


def test_decontaminated_data_overlap_no_more():
    rows = [{"text": text} for text in (LONG, "hello you", "fine")]
    prompts = [LONG, "Hello!"]
    for make in (Dataset.from_list, lambda rows: IterableDataset.from_generator(lambda: iter(rows))):
        kept = decontaminate(make(rows), prompts)
        assert [row["text"] for row in kept] == ["fine"]
        assert not contamination(kept, prompts, progress=None).overlaps
        assert [row["text"] for row in decontaminate(make(rows), prompts, short=False)] == [
            "hello you",
            "fine",
        ]


@pytest.mark.parametrize(
    ("data", "prompts", "error", "match"),
    [
        ("one text", [LONG], TypeError, "dataset is one text; give a list"),
        (["a"], "one text", TypeError, "prompts is one text"),
        (DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}), [LONG], TypeError, "give one split"),
        (["a"], [], ValueError, "there are no prompts"),
    ],
)
def test_what_is_no_data_or_no_prompts_is_refused(data, prompts, error, match):
    with pytest.raises(error, match=match):
        contamination(data, prompts, progress=None)


def test_less_than_one_word_is_no_n_gram():
    with pytest.raises(ValueError, match="allowed: 1 or more"):
        contamination(["a"], ["b"], n=0, progress=None)


def test_no_rows_have_no_share():
    report = contamination([], [LONG], progress=None)
    assert isinstance(report, Contamination)
    assert (report.share_of_rows, report.share_of_prompts) == (None, 0.0)


TEXTS = [{"text": "nothing", "other": LONG}, {"text": f"so: {LONG}", "other": "x"}]


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".csv":
        Dataset.from_list(rows).to_csv(path)
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.parquet", "d.csv"])
def test_the_command_reads_files_of_every_kind_and_writes_the_report(tmp_path, capsys, name):
    data, prompts = write(tmp_path / name, TEXTS), write(tmp_path / "test.jsonl", [{"prompt": LONG}])
    assert main(["contamination", data, prompts, "--output", str(tmp_path / "report.json")]) == 0
    assert "1 of 1 (1.0000) prompts of 13 words or more" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["prompt_set"], report["rows"], report["contaminated_rows"]) == ("test.jsonl", 2, 2)
    assert main(["contamination", data, prompts, "--column", "text", "--n", "16", "--name", "mine"]) == 0
    assert "1 of 2 (0.5000) rows hold 16 words" in capsys.readouterr().out


def test_the_command_reads_the_folder_of_published_pairs_and_its_report_goes_on_their_card(tmp_path, capsys):
    pairs = Dataset.from_list([{key: PAIR[key] for key in ("prompt", "chosen", "rejected")}])
    folder = save_pairs(pairs, tmp_path / "pairs")
    prompts = write(tmp_path / "hello.jsonl", [{"turns": ["Hello!"]}, {"turns": [LONG]}])
    assert main(["contamination", str(folder), prompts, "--output", str(tmp_path / "report.json")]) == 0
    assert "1 of 1 (1.0000) shorter prompts stand in the data" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    card = (save_pairs(pairs, tmp_path / "again", contamination=report) / "README.md").read_text()
    assert "| hello.jsonl | 13 | 0 of 1 (0.0000) | 1 of 1 (1.0000) | 0 of 1 (0.0000) |" in card


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--column", "answer"], "has no column 'answer'; it has text, other"),
        (["--prompt_column", "query"], "none of the columns query; it has prompt"),
        (["--n", "0"], "allowed: 1 or more"),
        (["--output", "no/such/folder/report.json"], "cannot be written"),
    ],
)
def test_the_command_says_what_it_cannot_use(tmp_path, capsys, flags, match):
    data, prompts = write(tmp_path / "d.jsonl", TEXTS), write(tmp_path / "test.jsonl", [{"prompt": LONG}])
    assert main(["contamination", data, prompts, *flags]) == 1
    assert match in capsys.readouterr().err


def test_the_command_says_what_is_no_file_of_rows(tmp_path, capsys):
    prompts = write(tmp_path / "test.jsonl", [{"prompt": LONG}])
    (tmp_path / "rows.doc").write_text("x")
    assert main(["contamination", str(tmp_path / "none.jsonl"), prompts]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert main(["contamination", str(tmp_path / "rows.doc"), prompts]) == 1
    assert "is of no known kind; allowed: .json, .jsonl" in capsys.readouterr().err


def test_real_benchmarks_overlap(data_dir):
    """MT-Bench took two of its questions over from Vicuna's, one nearly word for word."""
    old, new = (
        data_dir / "mt_bench" / name for name in ("vicuna_bench_question.jsonl", "mt_bench_question.jsonl")
    )
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (new, old)]
    report = contamination(*rows, progress=None)
    assert [(item.prompt, item.row) for item in report.overlaps] == [(66, 49), (76, 0)]
    texts = [turn for row in rows[0] for turn in row["turns"]]
    assert (
        report.contaminated_prompts
        == by_hand(texts, [row["turns"][0] for row in rows[1]], 13)["contaminated"]
    )


def in_row(value):
    return Dataset.from_dict({"text": [value]})


@pytest.mark.parametrize("value", [LONG, [LONG], [{"role": "user", "content": LONG}]], ids=str)
def test_rows_of_numpy_hold_their_texts(value):
    rows = in_row(value).with_format("numpy")
    assert contamination(rows, [LONG], progress=None).contaminated_prompts == 1
    assert contamination([LONG], rows, progress=None).contaminated_prompts == 1
    assert len(decontaminate(rows, [LONG])) == 0


@pytest.mark.parametrize(
    "rows",
    [
        in_row(LONG).with_format("pandas"),
        in_row(LONG).with_format("arrow"),
        [{"input_ids": [1, 2, 3]}],
        [LONG.encode()],
        [None, ""],
    ],
    ids=["pandas", "arrow", "ids", "bytes", "nothing"],
)
def test_rows_without_a_text_are_not_called_clean(rows):
    with pytest.raises(ValueError, match="rows holds a text, so nothing was looked at"):
        contamination(rows, [LONG], progress=None)


def test_no_column_and_data_frames_are_not_called_clean():
    frame = in_row(LONG).to_pandas()
    for columns in ([], "text"):
        with pytest.raises(TypeError, match="is no list of names; give \\[name\\]"):
            contamination(in_row(LONG), [LONG], columns=columns, progress=None)
    for both in ((frame, [LONG]), ([LONG], frame)):
        with pytest.raises(TypeError, match="is a DataFrame"):
            contamination(*both, progress=None)
    with pytest.raises(TypeError, match="dataset is a list, which has no filter"):
        decontaminate([LONG], [LONG])


def test_prompts_without_a_word_are_refused_and_columns_without_one_passed_over():
    with pytest.raises(ValueError, match="none of 2 prompts has a word"):
        contamination([LONG], [None, 7], progress=None)
    for row in ({"prompt": "  ", "question": LONG}, {"question": 7, "turns": [LONG]}):
        assert contamination([LONG], [row], progress=None).contaminated_prompts == 1


def test_emoji_between_words_hide_nothing():
    for emoji in (" 😀 ", "🚀 ", " ❤ "):
        assert contamination([LONG.replace(" ", emoji)], [LONG], progress=None).contaminated_prompts == 1
    assert words("𠀀𠀁 one🚀two") == ["𠀀", "𠀁", "one", "two"]


def test_a_report_on_no_rows_says_so():
    assert "no rows, so nothing was looked at" in str(contamination([], [LONG], progress=None))
