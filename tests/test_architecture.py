"""The rooms of ARCHITECTURE.md: who may import whom, and where a heavy library may be imported.

Read from the source, so that imports inside functions count; `if TYPE_CHECKING` blocks do not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_icon2

ROOT = Path(hf_icon2.__file__).parent

# Room (first name below hf_icon2) -> rooms it may import, besides itself.
GROUND = {"criteria", "prompts", "blocks", "cards", "hub", "loading", "storage", "prefix", "likelihood"}
MAY_IMPORT: dict[str, set[str]] = {
    "criteria": set(),
    "blocks": set(),
    "cards": set(),
    "hub": set(),
    "loading": set(),
    "storage": set(),
    "prompts": {"criteria"},
    "prefix": {"blocks"},
    "likelihood": {"blocks", "prefix", "prompts"},
    "directions": GROUND,
    "steering": GROUND | {"directions"},
    "interchange": GROUND | {"directions", "steering"},
    "judges": GROUND,
    "evaluation": GROUND | {"directions", "steering", "judges"},
    "synthesis": GROUND | {"directions", "steering", "judges"},
    "trainers": {"blocks", "cards", "storage", "prompts", "directions", "steering", "judges", "evaluation"},
    "toy": set(),
    "settings": {"storage"},
    "distillation": GROUND
    | {"directions", "steering", "synthesis", "judges", "evaluation", "trainers", "recipe", "settings"},
}
ROOMS = set(MAY_IMPORT)
MAY_IMPORT |= {
    "recipe": {"criteria", "storage", "settings"},
    "pipeline": ROOMS | {"recipe"},
    "commands": ROOMS | {"recipe", "pipeline", "playground"},
    "playground": ROOMS,
    "cli": ROOMS | {"recipe", "pipeline", "commands"},
    "__main__": {"cli"},
}

# Heavy library -> the only places (room, or room/module) where it may be imported at run time.
ONLY_IN = {
    "trl": {"trainers"},
    "accelerate": {"trainers"},
    "peft": {"trainers", "interchange/peft_adapter"},
    "datasets": {"synthesis", "trainers", "distillation", "pipeline"}
    | {"evaluation/metric_info", "evaluation/contamination_files"},
    "matplotlib": {"evaluation/plots"},
    "gguf": {"interchange/gguf_files"},
    "gradio": {"playground"},
    "rapidfuzz": {"distillation/diversity"},
    "sklearn": {"evaluation"},
    "evaluate": {"evaluation"},
}
# Loaded by `import hf_icon2` or `hf-icon2 --help`, or promised to be readable without torch.
WITHOUT_TORCH = {
    "__init__",
    "__main__",
    "cli",
    "criteria",
    "recipe",
    "settings",
    "directions/config",
    "distillation/recipe",
    "distillation/claim",
    "distillation/cycle_recipe",
    "distillation/endpoint",
    "distillation/mirror_recipe",
    "distillation/reasoning/answers",
    "distillation/reasoning/arithmetic",
    "distillation/reasoning/asking",
    "distillation/reasoning/collection",
    "distillation/reasoning/figures",
    "distillation/reasoning/parsing",
    "distillation/reasoning/reading",
    "distillation/reasoning/records",
    "distillation/reasoning/splitting",
    "distillation/reasoning/wording",
    "evaluation/arena",
    "evaluation/bradley_terry",
    "evaluation/contamination",
    "evaluation/contamination_ngrams",
    "evaluation/contamination_texts",
    "evaluation/doubts",
    "evaluation/length_control",
    "evaluation/length_regression",
    "evaluation/preferences",
    "evaluation/resampling",
    "evaluation/style",
    "evaluation/win_rate",
    "judges/chat/asking",
    "judges/chat/batch",
    "judges/chat/budget",
    "judges/chat/client",
    "judges/chat/fields",
    "judges/chat/ledger",
    "judges/chat/reading",
    "judges/chat/records",
    "judges/chat/sending",
    "judges/chat/store",
    "judges/chat_verdicts",
    "judges/judging",
    "judges/pairwise",
    "judges/reward_judge",
    "judges/self_evaluation",
}


def runtime_imports(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names imported by the code below `node`, at any depth; `package` resolves relative imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.orelse:
                yield from runtime_imports(ast.Module([statement], []), package)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            start = package[: len(package) - child.level + 1] if child.level else ()
            base = ".".join((*start, *((child.module,) if child.module else ())))
            yield from (f"{base}.{alias.name}" for alias in child.names)
        else:
            yield from runtime_imports(child, package)


def imports_of(path: Path) -> set[str]:
    package = ("hf_icon2", *path.relative_to(ROOT).parent.parts)
    return set(runtime_imports(ast.parse(path.read_text()), package))


def place_of(path: Path) -> str:
    """`directions/config` for hf_icon2/directions/config.py, `directions` for its __init__."""
    relative = path.relative_to(ROOT).with_suffix("")
    return str(relative.parent if relative.name == "__init__" and relative.parent != Path() else relative)


SOURCES = {place_of(path): imports_of(path) for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("place", SOURCES)
def test_a_room_imports_only_rooms_to_its_left(place):
    room = place.split("/")[0]
    if room != "__init__":
        assert room in MAY_IMPORT, f"{room} is a new room: give it a line in MAY_IMPORT"
    allowed = MAY_IMPORT.get(room, set()) | {room, "__version__"}
    imported = {name.split(".")[1] for name in SOURCES[place] if name.startswith("hf_icon2.")}
    assert imported <= allowed, (
        f"{place} may not import {sorted(imported - allowed)}; allowed: {sorted(allowed)}"
    )


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_is_imported_only_in_its_room(library):
    users = {place for place, names in SOURCES.items() if any(n.split(".")[0] == library for n in names)}
    strangers = {p for p in users if not {p, p.split("/")[0]} & ONLY_IN[library]}
    assert not strangers, (
        f"{library} belongs to {sorted(ONLY_IN[library])}, but is imported by {sorted(strangers)}"
    )


@pytest.mark.parametrize("place", sorted(WITHOUT_TORCH & set(SOURCES)))
def test_light_modules_import_no_torch_or_transformers(place):
    assert not {"torch", "transformers"} & {name.split(".")[0] for name in SOURCES[place]}


def test_no_module_is_an_attic():
    attics = {"utils", "util", "common", "helpers", "core", "base", "misc"}
    assert not {place for place in SOURCES if place.split("/")[-1] in attics}


def test_modules_stay_within_300_lines():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in ROOT.rglob("*.py")}
    assert not {path: n for path, n in lengths.items() if n > 300}


def test_the_reader_of_imports_sees_functions_and_relative_imports_but_not_type_checking():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import trl
else:
    import json
def late():
    from ..steering import hooks
    from . import config
"""
    found = set(runtime_imports(ast.parse(source), ("hf_icon2", "directions")))
    assert found == {
        "typing.TYPE_CHECKING",
        "json",
        "hf_icon2.steering.hooks",
        "hf_icon2.directions.config",
    }
