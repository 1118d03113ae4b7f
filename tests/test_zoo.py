"""Every model type of the installed transformers does what docs/architectures.md says; see tests/zoo.py."""

import gc
import logging

import pytest
import zoo

TYPES = (*zoo.CAUSAL, *zoo.MULTIMODAL)
ROWS = {line.split(" | ")[0][2:]: line for line in zoo.PAGE.read_text(encoding="utf-8").splitlines()}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Odd configurations make transformers talk."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_does_what_the_page_says(model_type):
    if zoo.MISSING in ROWS[model_type]:
        pytest.skip(zoo.MISSING)
    found = zoo.row(zoo.examine(model_type))
    zoo.forget_models()
    assert ROWS[model_type] == found, "the page is out of date: python tests/zoo.py --write"


def test_the_page_has_the_head_and_the_types_of_the_installed_transformers():
    entries = [zoo.entry(ROWS[model_type]) for model_type in TYPES]
    assert zoo.PAGE.read_text(encoding="utf-8") == zoo.page(entries)


def test_at_least_150_types_work():
    assert sum(" | works | " in ROWS[model_type] for model_type in zoo.CAUSAL) >= 150
