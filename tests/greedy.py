"""Random prompts and greedy answers of one length, for tests that compare `generate` with a loop by hand."""

import torch

from hf_icon2.prompts import pad_batch

STEERINGS = [{"honesty": 3.0}, None, {"honesty": -3.0, "helpfulness": 2.0}]
NEW = 8


def prompts_of(*lengths, seed=3):
    """Token ids, one list per length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(6, 300, (length,), generator=generator).tolist() for length in lengths]


def generate(model, prompts, **kwargs):
    """Answers of a left-padded batch as lists of NEW tokens."""
    ids, mask = pad_batch(prompts, 0, side="left")
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **kwargs}
    return model.generate(input_ids=ids, attention_mask=mask, **settings)[:, ids.shape[1] :].tolist()
