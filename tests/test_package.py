"""The package as a whole: what importing it costs, what it exports, what a missing extra says."""

import ast
import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hf_icon2

HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate", "matplotlib")
REPORT_HEAVY = f"import sys; print('loaded:', *[m for m in {HEAVY} if m in sys.modules])"
MODULES = [
    m.name for m in pkgutil.walk_packages(hf_icon2.__path__, "hf_icon2.") if not m.name.endswith("__main__")
]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "module",
    ["hf_icon2"] + [f"hf_icon2.{name}" for name in ("criteria", "directions.config", "toy", "recipe", "cli")],
)
def test_light_modules_load_no_heavy_library(module):
    result = run_python(f"import {module}; {REPORT_HEAVY}")
    assert result.stdout.strip() == "loaded:", result.stdout + result.stderr


def test_help_is_shown_without_a_heavy_library():
    result = run_python(
        "import atexit, sys; from hf_icon2.cli import main\n"
        f"atexit.register(lambda: exec({REPORT_HEAVY!r}))\n"
        "sys.exit(main(['--help']))"
    )
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()
    assert result.stdout.strip().endswith("loaded:"), result.stdout


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    importlib.import_module(module)


def test_all_is_sorted_and_listed_by_dir():
    assert sorted(hf_icon2.__all__) == hf_icon2.__all__
    assert set(hf_icon2.__all__) <= set(dir(hf_icon2))


@pytest.mark.parametrize("name", hf_icon2.__all__)
def test_every_public_name_resolves(name):
    assert getattr(hf_icon2, name) is not None


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(hf_icon2.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.asname: s.module for s in block.body if isinstance(s, ast.ImportFrom) for a in s.names}
    assert seen == {name: f"hf_icon2.{module}" for name, module in hf_icon2._HOME.items()}


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'stear'; public names: .*steer"):
        _ = hf_icon2.stear


def test_a_missing_extra_gives_the_install_line_where_the_name_is_used():
    result = run_python(
        "import sys; sys.modules['trl'] = None  # what an uninstalled library looks like to import\n"
        "import hf_icon2; hf_icon2.Icon2DPOTrainer"
    )
    assert "ImportError: hf_icon2.Icon2DPOTrainer needs trl" in result.stderr
    assert "pip install 'hf_icon2[train]'" in result.stderr


def test_extras_named_in_messages_exist_in_the_metadata():
    declared = set(importlib.metadata.metadata("hf_icon2").get_all("Provides-Extra"))
    assert set(hf_icon2._EXTRA_OF.values()) <= declared


def test_version_is_that_of_the_distribution():
    assert hf_icon2.__version__ == importlib.metadata.version("hf_icon2")


def test_the_package_says_that_it_is_typed():
    assert (Path(hf_icon2.__file__).parent / "py.typed").is_file()
