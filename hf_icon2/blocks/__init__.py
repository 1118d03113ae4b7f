"""The decoder blocks of a causal language model: find them, prove them by a probe, read what they put out.

Nothing here knows about criteria or directions. "Layer" is the 0-based index of a block, and the state at a
layer is that block's output, before any final norm.
"""

from hf_icon2.blocks.finding import Blocks, find_blocks, number_of_blocks, refuse_soft_prompt, unwrap
from hf_icon2.blocks.probe import input_device, ordinary_ids, same_states
from hf_icon2.blocks.reading import block_output, evaluating, read_states

__all__ = [
    "Blocks",
    "block_output",
    "evaluating",
    "find_blocks",
    "input_device",
    "number_of_blocks",
    "ordinary_ids",
    "read_states",
    "refuse_soft_prompt",
    "same_states",
    "unwrap",
]
