"""Sampling with noise that is a function of a seed, as a logits processor for plain `model.generate`."""

from __future__ import annotations

from torch import Tensor
from transformers import LogitsProcessor

from hf_icon2.steering.noise import gumbel_noise


class SharedNoise(LogitsProcessor):
    """Turns greedy decoding into sampling; all rows of a batch share their noise.

    Adds Gumbel noise to logits / temperature, so that the arg-max is a sample. The noise depends on the seed
    and on the number of tokens generated, so a row alone and a row of a batch give the same text, and rows
    differ only where their logits do. For one call of `generate(do_sample=False)`.

    Args:
        seed: 0 to 2**63 - 1.
        temperature: Above 0.
    """

    def __init__(self, seed: int, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; leave the noise out for greedy"
            )
        self.seed = seed
        self.temperature = temperature
        self._prompt: int | None = None  # columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Next-token logits (B, V) with noise; `input_ids` (B, T) tell the step."""
        columns = input_ids.shape[1]
        self._prompt = columns if self._prompt is None else self._prompt
        noise = gumbel_noise([self.seed], columns - self._prompt, scores.shape[-1], scores.device)
        return scores / self.temperature + noise
