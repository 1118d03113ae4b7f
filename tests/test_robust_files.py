"""Files of strangers: whatever is in them, directions load as they were meant or are refused by a sentence."""

import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

import hf_icon2
from hf_icon2 import Criterion, DirectionVectorConfig, DirectionVectors, Recipe
from hf_icon2.cards import directions_card
from hf_icon2.directions.config import CONFIG_NAME, StrengthRange
from hf_icon2.directions.pair import VECTORS_NAME
from hf_icon2.storage import read_json_lines, read_limited, write_atomic

SHAPE = (2, 3, 5)
NAMES = ("honesty", "helpfulness")


@pytest.fixture(scope="module")
def directions() -> DirectionVectors:
    """A small set in which every field of the record says something."""
    per_layer = (1.5, 2.5, 3.0)
    config = DirectionVectorConfig(
        base_model="owner/model",
        base_model_revision="0" * 40,
        hidden_size=5,
        num_layers=4,
        layers=(0, 2, 3),
        criteria=tuple(Criterion(name, f"Show {name}.", f"Avoid {name}.") for name in NAMES),
        control_layers={"honesty": (0, 2), "helpfulness": (3,)},
        strengths={"honesty": StrengthRange(0.2, -0.1, 0.5), "helpfulness": StrengthRange(maximum=1.0)},
        pooling={"honesty": "last", "helpfulness": "response"},
        method="pca",
        scale="residual",
        residual_norms=per_layer,
        contrast_norms=dict.fromkeys(NAMES, per_layer),
        instructions={"number": 7, "fingerprint": "f" * 64},
        chat_template_sha256="0" * 64,
        evidence={name: {"held_out_accuracy": [0.5, 0.75, 1.0]} for name in NAMES},
        versions={"torch": "2"},
    )
    return DirectionVectors(config, torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def saved(directions, tmp_path) -> Path:
    return directions.save_pretrained(tmp_path / "saved")


def edit_record(folder: Path, change) -> None:
    data = json.loads((folder / CONFIG_NAME).read_text())
    change(data)
    (folder / CONFIG_NAME).write_text(json.dumps(data))


def as_format_1(data: dict) -> None:
    """What was written before records named their vectors."""
    del data["vectors_sha256"]
    data["format_version"] = 1


def refused(call) -> str | None:
    """The sentence with which a call refuses; None if it does not. Any other error is not caught."""
    try:
        call()
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), error
        assert len(str(error)) < 2000
        return str(error)
    return None


# damage, by a seed: safetensors and JSON, as bytes and by their structure

LENGTHS = [0, 1, 2, 7, 8, 2**31, 2**32, 10 * 2**30, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
SCALARS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    -0.0,
    1e308,
    "",
    "x",
    "F32",
    [],
    {},
    [[]],
    {"": 0},
    2**70,
    -(2**63),
]
LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "9" * 400,
    "9" * 5000,
    '"\\ud800"',
    '"\\u0000"',
]
TEXTS = [
    "../../x",
    "a/b",
    "/etc/passwd",
    "\u0000",
    "x" * 300,
    "a|b",
    "<script>",
    "{{ 7 }}",
    "[a](b)",
    "`a`\n# b",
    "‮a",
]
DTYPES = [
    "F64",
    "F16",
    "BF16",
    "I32",
    "U32",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E8M0",
    "F4",
    "C64",
    "I64",
    "f32",
    "",
]


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """Cut, extended, flipped, moved or repeated somewhere."""
    at, end = sorted(random.choices(range(len(data) + 1), k=2))
    piece = random.randbytes(random.choice([1, 1, 2, 8, 100]))
    return random.choice(
        [
            data[:at],
            data[at:],
            data + piece,
            piece + data,
            data[:at] + piece + data[at:],
            data[:at] + data[end:],
            data[:at] + data[at:end] * 2 + data[end:],
            data[:at] + piece + data[at + len(piece) :],
            data[:at]
            + bytes([(data or b"x")[at % max(1, len(data))] ^ (1 << random.randrange(8))])
            + data[at + 1 :],
            data[:at] + bytes(end - at) + data[end:],
            data.replace(b'"', b"'"),
            b"\xef\xbb\xbf" + data,
            b"",
        ]
    )


def damaged_json(text: str, random: Random) -> bytes:
    """JSON with a value, a key or the text itself changed; often still JSON."""
    kind = random.randrange(8)
    if kind == 0:
        return damaged_bytes(text.encode(), random)
    if kind == 1:  # a literal that Python's parser takes, and JSON does not or cannot hold
        return _with_literal(
            text, random.choice([*LITERALS, "[" * 2000, "[" * 200000, "[" * 20 + "]" * 20])
        ).encode()
    data = json.loads(text)
    holder, key = _place(data, random)
    if kind == 2:
        del holder[key]
    elif kind == 3 and isinstance(holder, dict):
        holder[random.choice([*TEXTS, "format_version", f"{key} ", key.upper()])] = holder[key]
    elif kind == 4 and isinstance(holder, dict):
        name, value = json.dumps(key), json.dumps(random.choice([holder[key], *SCALARS]))
        return text.replace(f"{name}:", f"{name}: {value}, {name}:", 1).encode()
    elif kind == 5 and isinstance(holder, list):
        holder.insert(random.randrange(len(holder) + 1), random.choice([holder[key], *SCALARS]))
    elif kind == 6:
        other, elsewhere = _place(data, random)
        holder[key] = other[elsewhere]
    else:
        holder[key] = random.choice([*SCALARS, *TEXTS])
    try:
        return json.dumps(data).encode()
    except ValueError:  # a value was put into itself
        return b"{}"


def damaged_safetensors(data: bytes, random: Random) -> bytes:
    """A safetensors file with its length, header, numbers or bytes changed; sometimes still one."""
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = data[8 : 8 + length].decode(), data[8 + length :]
    kind = random.randrange(9)
    if kind == 0:
        return damaged_bytes(data, random)
    if kind == 1:
        wrong = random.choice([*LENGTHS, length - 1, length + 1, length + 4, len(data), len(data) - 8])
        return struct.pack("<Q", wrong) + data[8:]
    if kind == 2:
        return _joined(damaged_json(header, random), numbers)
    if kind == 3:  # other numbers, perhaps NaN, in a file that is whole
        at = 4 * random.randrange(len(numbers) // 4)
        value = random.choice(
            [random.randbytes(4), struct.pack("<f", random.gauss(0, 1)), b"\0\0\xc0\x7f", b"\0\0\x80\xff"]
        )
        return _joined(header.encode(), numbers[:at] + value + numbers[at + 4 :])
    fields = json.loads(header)
    name, tensor = next((name, field) for name, field in fields.items() if name != "__metadata__")
    if kind == 4:
        tensor["dtype"] = random.choice([*DTYPES, *SCALARS])
    elif kind == 5:
        tensor["shape"] = _other_numbers(tensor["shape"], random)
    elif kind == 6:
        tensor["data_offsets"] = _other_numbers(tensor["data_offsets"], random)
    elif kind == 7:
        _another_tensor(fields, name, random)
    else:
        fields["__metadata__"] = random.choice([*SCALARS, {"format": 1}, {"a": "b" * 5000}, {"format": "pt"}])
        numbers += random.choice([b"", b"", bytes(4)])
    return _joined(json.dumps(fields).encode() + b" " * random.choice([0, 0, 1, 8]), numbers)


def _joined(header: bytes, numbers: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + numbers


def _another_tensor(fields: dict, name: str, random: Random) -> None:
    start, end = fields[name]["data_offsets"]
    kind = random.randrange(4)
    if kind == 0:
        fields[random.choice(["weights", "", "direction", *TEXTS])] = fields.pop(name)
    elif kind == 1:
        fields["other"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    elif kind == 2:
        fields["other"] = dict(fields[name])
    else:
        half = (start + end) // 8 * 4
        fields["other"] = {"dtype": "F32", "shape": [(end - half) // 4], "data_offsets": [half, end]}


def _other_numbers(numbers: list[int], random: Random) -> object:
    """Whole numbers in another order, count, sign, size or kind."""
    changed = list(numbers)
    at = random.randrange(len(changed))
    changed[at] = random.choice(
        [0, 1, -1, changed[at] + 1, changed[at] - 4, 1.5, 2**31, 2**62, 2**63, 2**64, "4", None]
    )
    shuffled = random.sample(numbers, len(numbers))
    product = 1
    for number in numbers:
        product *= number
    return random.choice(
        [changed, changed, shuffled, numbers[1:], [*numbers, 1], [product], [], None, [2**32] * 2, {}]
    )


def _place(data: object, random: Random) -> tuple:
    """Some container in the data, and a key or index of it."""
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(data)
    return random.choice(places)


def _with_literal(text: str, literal: str) -> str:
    """The first number of the text, or the text, replaced."""
    for index, character in enumerate(text):
        if character.isdigit() and text[index - 1] in " [":
            return text[:index] + literal + text[index:].lstrip("0123456789.e-")
    return literal


def put(path: Path, data: bytes) -> None:
    path.unlink()  # some file systems take milliseconds to shorten a file
    path.write_bytes(data)


# fuzzing, each against a reading of its own


def parsed_by_hand(text: str) -> tuple[object, bool]:
    """JSON as Python reads it, the last of equal keys winning, and whether there are equal keys."""
    twice = []

    def pairs(items):
        twice.append(len(items) != len(dict(items)))
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs), any(twice)


def numbers_by_hand(data: bytes) -> tuple[list[float] | None, bool]:
    """The file's numbers by the format's description, None where it is broken or holds something else.

    And whether its header names a key twice, which may be refused.
    """
    twice = False
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header, twice = parsed_by_hand(data[8 : 8 + length].decode("utf-8"))
        metadata, tensor = header.pop("__metadata__", None), header.pop("directions")
        size = 4 * math.prod(SHAPE)
        assert 8 + length + size == len(data)
        assert header == {}
        assert metadata is None or all(isinstance(text, str) for pair in metadata.items() for text in pair)
        assert tensor.keys() >= {"dtype", "shape", "data_offsets"}
        assert json.dumps([tensor["dtype"], tensor["shape"]]) == json.dumps(["F32", SHAPE])
        assert json.dumps(tensor["data_offsets"]) == json.dumps([0, size])
        numbers = list(struct.unpack(f"<{math.prod(SHAPE)}f", data[8 + length :]))
        assert all(map(math.isfinite, numbers))
    except (AssertionError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, twice
    return numbers, twice


@pytest.mark.parametrize(("seed", "cases"), [(1, 300), pytest.param(0, 10_000, marks=pytest.mark.slow)])
def test_damaged_vectors_load_as_their_bytes_say_or_are_refused(directions, saved, seed, cases):
    edit_record(saved, as_format_1)  # else every change would be noticed by the SHA-256 alone
    path, random = saved / VECTORS_NAME, Random(seed)
    good = path.read_bytes()
    assert numbers_by_hand(good) == (directions.tensor.flatten().tolist(), False)
    loaded = 0
    for case in range(cases):
        data = damaged_safetensors(good, random)
        if random.random() < 0.1:
            data = damaged_bytes(data, random)
        put(path, data)
        (expected, twice), found = numbers_by_hand(data), []
        sentence = refused(lambda found=found: found.append(DirectionVectors.from_pretrained(saved)))
        if sentence is None:
            assert found[0].tensor.flatten().tolist() == expected, (case, data)
            assert found[0].config == directions.config
            loaded += 1
        else:
            assert expected is None or twice, (case, sentence, data)
            assert str(saved) in sentence
    assert 0.02 < loaded / cases < 0.5


def record_by_hand(data: bytes) -> dict | None:
    """A record of format 1 as far as its types go; None where it is broken or promises what it cannot hold."""
    try:
        record, twice = parsed_by_hand(data.decode("utf-8"))
        assert not twice
        json.dumps(record, allow_nan=False, ensure_ascii=False).encode()
        names = [item["name"] for item in record["criteria"]]
        layers, per_layer = record["layers"], [record["residual_norms"], *record["contrast_norms"].values()]
        per_layer += [values for found in record.get("evidence", {}).values() for values in found.values()]
        assert record["format_version"] in (1, 2) and (
            record["format_version"] == 1 or record["vectors_sha256"]
        )
        assert len(names) == len(set(names)) == 2 and len(layers) == 3
        assert layers == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < record["num_layers"]
        assert {type(layer) for layer in layers} == {int} and record["hidden_size"] == 5
        assert record.get("imported") or all(len(values) == 3 for values in per_layer)
        assert all(type(number) in (int, float) for values in per_layer for number in values)
        assert all(set(record["control_layers"][name]) <= set(layers) for name in names)
        assert set(record["control_layers"]) == set(names) and all(record["control_layers"].values())
        assert set(record.get("strengths", {})) | set(record.get("evidence", {})) <= set(names)
        assert b"true" not in data and b"false" not in data or record.get("imported")
        for name, strengths in record.get("strengths", {}).items():
            record["strengths"][name] = dict.fromkeys(("positive", "negative", "maximum")) | strengths
        record |= {"format_version": 2}
        record.pop("vectors_sha256", None)
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record


DEFAULTS = {"base_model_revision": None, "strengths": {}, "evidence": {}, "versions": {}, "imported": {}}


@pytest.mark.parametrize(("seed", "cases"), [(1, 300), pytest.param(0, 3_000, marks=pytest.mark.slow)])
def test_a_damaged_record_is_read_as_it_stands_or_refused(saved, seed, cases):
    edit_record(saved, as_format_1)
    path, random = saved / CONFIG_NAME, Random(seed)
    good, loaded = path.read_text(), 0
    for case in range(cases):
        data = damaged_json(good, random)
        put(path, data)
        expected, found = record_by_hand(data), []
        sentence = refused(lambda found=found: found.append(DirectionVectors.from_pretrained(saved)))
        if sentence is None:
            assert expected is not None, (case, data)
            assert json.loads(found[0].config.to_json()) == DEFAULTS | expected, (case, data)
            assert directions_card(found[0].config)
            loaded += 1
        else:
            assert str(saved) in sentence
    assert 0.02 < loaded / cases < 0.5


@pytest.mark.parametrize(
    ("kind", "cases"), [("json", 400), ("yaml", 60)]
)  # YAML is read a hundred times slower
def test_a_damaged_recipe_is_a_recipe_or_refused(tmp_path, kind, cases):
    path, random, loaded = tmp_path / f"recipe.{kind}", Random(2), 0
    path.touch()
    good = json.dumps(Recipe().to_dict())
    for case in range(cases):
        data = damaged_json(good, random)
        put(path, data)
        found = []
        if refused(lambda found=found: found.append(Recipe.from_file(path))) is None:
            assert Recipe.from_dict(found[0].to_dict()) == found[0], (case, data)
            loaded += 1
    assert loaded >= cases / 100


# what fuzzing does not reach


def test_a_pair_of_different_saves_is_refused(directions, saved, tmp_path):
    other = (2 * directions).save_pretrained(tmp_path / "other")
    for name in (CONFIG_NAME, VECTORS_NAME):
        mixed = tmp_path / f"mixed {name}"
        shutil.copytree(saved, mixed)
        shutil.copy(other / name, mixed)
        with pytest.raises(ValueError, match="do not belong together: the record names vectors of SHA-256"):
            DirectionVectors.from_pretrained(mixed)


def test_a_record_names_the_vectors_beside_it(saved):
    digest = hashlib.sha256((saved / VECTORS_NAME).read_bytes()).hexdigest()
    assert json.loads((saved / CONFIG_NAME).read_text())["vectors_sha256"] == digest
    edit_record(saved, lambda data: data.pop("vectors_sha256"))
    with pytest.raises(ValueError, match=r"direction_vector_config.json lacks \['vectors_sha256'\]"):
        DirectionVectors.from_pretrained(saved)


def test_a_pair_of_format_1_loads_and_is_saved_as_format_2(directions, saved, tmp_path):
    edit_record(saved, as_format_1)
    loaded = DirectionVectors.from_pretrained(saved)
    assert (loaded.config, loaded.sha256) == (directions.config, directions.sha256)
    again = json.loads((loaded.save_pretrained(tmp_path / "again") / CONFIG_NAME).read_text())
    assert again["format_version"] == 2
    assert "vectors_sha256" in again


def test_a_save_that_is_killed_leaves_one_set_or_is_refused(directions, tmp_path):
    large = replace(directions.config, hidden_size=2**18)
    for seed, name in enumerate(("first", "second")):
        tensor = torch.randn((*SHAPE[:2], 2**18), generator=torch.Generator().manual_seed(seed))
        DirectionVectors(large, tensor).save_pretrained(tmp_path / name)
    order = {name: str(tmp_path / name) for name in ("first", "second", "target")} | {"kills": 12}
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("saving.py")), json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(hf_icon2.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
    *killed, healed = json.loads(result.stdout.splitlines()[-1])
    assert healed == "second"
    mixed = [found for found in killed if found not in ("first", "second")]
    assert mixed
    assert all("do not belong together" in found for found in mixed), mixed


def test_a_file_of_a_terabyte_is_refused_without_reading_it(saved):
    with (saved / VECTORS_NAME).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"has {2**40} bytes, at most .* were expected"):
        DirectionVectors.from_pretrained(saved)


def test_a_record_that_claims_terabytes_is_refused_by_the_size_of_the_file(saved):
    edit_record(saved, lambda data: data.update(hidden_size=2**40))
    with pytest.raises(ValueError, match=r"it has \d+ bytes, by its record \(2, 3, 1099511627776\) numbers"):
        DirectionVectors.from_pretrained(saved)


def test_a_record_of_gigabytes_is_refused_without_reading_it(saved):
    with (saved / CONFIG_NAME).open("r+b") as file:
        file.truncate(2**34)
    with pytest.raises(ValueError, match=f"has {2**34} bytes, at most {2**23} were expected"):
        DirectionVectors.from_pretrained(saved)


def test_a_header_that_claims_exabytes_allocates_nothing(saved):
    edit_record(saved, as_format_1)
    path = saved / VECTORS_NAME
    good = path.read_bytes()
    for length in (2**63, 2**64 - 1, 10 * 2**30):
        put(path, struct.pack("<Q", length) + good[8:])
        tracemalloc.start()
        with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
            DirectionVectors.from_pretrained(saved)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("name", [CONFIG_NAME, VECTORS_NAME])
def test_what_is_no_ordinary_file_is_refused_without_waiting(saved, name):
    path = saved / name
    for make in (
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
    ):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        make(path)
        with pytest.raises(FileNotFoundError, match=f"holds no {name}; save directions there"):
            DirectionVectors.from_pretrained(saved)
        with pytest.raises((ValueError, OSError)):
            read_limited(path, 100)


def test_links_to_files_are_followed_as_in_the_cache_of_the_hub(directions, saved, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in (CONFIG_NAME, VECTORS_NAME):
        (linked / name).symlink_to(saved / name)
    assert DirectionVectors.from_pretrained(linked).sha256 == directions.sha256


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "a/b",
        "..",
        ".x",
        "a\\b",
        "a\0b",
        "a\nb",
        "",
        " ",
        "x" * 101,
        "a|b",
        "<b>",
        "{{a}}",
        "`a`",
        "_a",
        "a:b",
    ],
)
def test_a_name_that_could_be_a_path_or_markup_is_refused(saved, name):
    with pytest.raises(ValueError, match="Criterion.name must be"):
        Criterion(name, "Yes.", "No.")
    edit_record(saved, lambda data: data["criteria"][0].update(name=name))
    with pytest.raises(ValueError, match=f"{CONFIG_NAME} describes no directions: .*Criterion.name must be"):
        DirectionVectors.from_pretrained(saved)


@pytest.mark.parametrize(
    "name", ["honesty", "Ehrlichkeit-2", "誠実さ", "a.b", "honesty+helpfulness", "be kind, always"]
)
def test_names_of_any_language_are_taken(name):
    assert Criterion(name, "Yes.", "No.").name == name


BAD_RECORDS = {
    "empty": (b"", "is truncated or not JSON"),
    "null": (b"null", "format_version is None, this library reads 1 to 2"),
    "list": (b"[]", "format_version is None"),
    "latin": ('{"ä": 1}'.encode("latin-1"), r"not JSON \('utf-8' codec can't decode"),
    "bom": ("\ufeff{}".encode(), r"not JSON \(Unexpected UTF-8 BOM"),
    "nan": (b'{"format_version": NaN}', r"not JSON \(NaN is not JSON"),
    "infinite": (b'{"format_version": 1e400}', r"not JSON \(it holds a number that is too large"),
    "digits": (b"9" * 5000, "Exceeds the limit"),
    "twice": (b'{"format_version": 1, "format_version": 1}', r"the key 'format_version' stands there twice"),
    "deep": (b"[" * 10**6, r"nested more than 16 deep"),
    "surrogate": (rb'{"a": "\ud800"}', "surrogates not allowed"),
    "true": (b'{"format_version": true}', "format_version is True, this library reads 1 to 2"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_record_that_is_no_record_is_refused_by_a_sentence(saved, case):
    content, message = BAD_RECORDS[case]
    (saved / CONFIG_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        DirectionVectors.from_pretrained(saved)
    assert str(saved / CONFIG_NAME) in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 5.0, "hidden_size must be a whole number, got 5.0"),
        ("hidden_size", -5, "hidden_size must be at least 1, got -5"),
        ("layers", [0, 2.0, 3], r"layers\[1\] must be a whole number, got 2.0"),
        ("layers", "023", "layers must be a list, got '023'"),
        ("criteria", {}, "criteria must be a list"),
        ("criteria", [{"name": "a", "positive": "b"}], r"criteria\[0\] lacks \['negative'\]"),
        ("criteria", [[]], r"criteria\[0\] must be an object"),
        ("residual_norms", [1.0], "residual_norms has 1 values for 3 layers"),
        ("contrast_norms", {"mind": [1.0, 1.0, 1.0]}, r"contrast_norms names unknown criteria \['mind'\]"),
        ("strengths", {"honesty": {"positive": "much"}}, r"strengths\['honesty'\].positive must be a number"),
        (
            "evidence",
            {"honesty": {"held_out_accuracy": [1.0]}},
            "held_out_accuracy of 'honesty' has 1 values",
        ),
        ("instructions", {}, "must be known of directions that were measured"),
        ("chat_template_sha256", None, "must be known of directions that were measured"),
        ("base_model", 7, "base_model must be text, got 7"),
        ("scale", ["unit"], r"scale must be text"),
        ("vectors_sha256", 7, "vectors_sha256 must be text, got 7"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_name(saved, field, value, message):
    edit_record(saved, lambda data: data.update({field: value}))
    with pytest.raises(ValueError, match=message):
        DirectionVectors.from_pretrained(saved)


def test_a_write_that_fails_leaves_no_debris(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


BAD_RECIPES = {
    "cut.json": (b'{"seed": 1', "cut.json is truncated or not JSON"),
    "nan.json": (b'{"filter": {"keep": NaN}}', "nan.json is truncated or not JSON .NaN is not JSON"),
    "twice.json": (b'{"seed": 1, "seed": 2}', "the key 'seed' stands there twice"),
    "nan.yaml": (b"filter: {keep: .nan}", "filter.keep must be a number, got nan; change the recipe"),
    "huge.json": (b'{"filter": {"keep": 1%s}}' % (b"0" * 400), "filter.keep must be a number, got 1000"),
    "latin.yaml": ("model: ä".encode("latin-1"), "latin.yaml is not valid YAML: 'utf-8' codec"),
    "date.yaml": (b"model: 2020-13-45", "date.yaml is not valid YAML: month must be in"),
    "deep.yaml": (b"a: " + b"[" * 1500, "deep.yaml is not valid YAML"),
    "criterion.json": (b'{"criteria": [7]}', "a criterion is the name of a built-in one, or has name, posi"),
    "criteria.json": (
        b'{"criteria": {"name": "a"}}',
        "a criterion is the name of a built-in one, or has name",
    ),
    # ten lists of ten of the one before: a thousand million when written out
    "laughs.yaml": (
        b"seed: [&l0 [0]%s]"
        % b"".join(b", &l%d [%s]" % (i, b",".join([b"*l%d" % (i - 1)] * 10)) for i in range(1, 10)),
        "seed must be a whole number, got ",
    ),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_a_recipe_that_is_no_recipe_is_refused_by_a_sentence(tmp_path, name):
    content, message = BAD_RECIPES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        Recipe.from_file(tmp_path / name)
    assert len(str(refused.value)) < 2000


def test_a_broken_line_is_refused_by_its_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "a\u2028b\x85c"},
        {"text": "\r\n"},
    ]  # what Python takes for ends of lines and JSON does not
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_json_lines(path) == rows
    for broken in (b'{"text": ', b"[" * 10**5, b"\xff"):
        path.write_bytes(b"{}\n{}\n" + broken + b"\n{}\n")
        with pytest.raises(ValueError, match=r"line 3 of .*rows.jsonl is not JSON"):
            read_json_lines(path)
