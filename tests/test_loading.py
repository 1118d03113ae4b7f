"""Models and tokenizers by id or path."""

import pytest

from hf_icon2.loading import load_model, load_tokenizer


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("source", ["/no/such/folder", "runs/one/model", "../gone"])
def test_a_folder_that_does_not_exist_is_named(load, source):
    with pytest.raises(FileNotFoundError, match=f"there is no folder '{source}'"):
        load(source)


def test_a_folder_is_loaded(tiny_llama_dir):
    assert load_model(str(tiny_llama_dir)).config.hidden_size == 64
    assert load_tokenizer(str(tiny_llama_dir)).bos_token == "<bos>"
