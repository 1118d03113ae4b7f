"""GGUF control vectors, the files that llama.cpp reads with `--control-vector`.

The rule of llama.cpp, read in its source at commit 0c1e570 (see docs/interchange.md):

- `common_control_vector_load_one` (common/common.cpp) puts `direction.N` at offset `(N - 1) * n_embd` of one buffer,
  and refuses the whole file for a `direction.0`, a tensor of another name, or one that is not 1-D float32.
- `llama_adapter_cvec::apply` (src/llama-adapter.cpp) fills block `il` from offset `(il - 1) * n_embd`, il >= 1.
- `build_cvec(cur, il)` (src/llama-graph.cpp) adds it after the last residual sum of block `il`, at every position.

So `direction.N` is added to the output of the 0-based block N, and block 0 cannot be steered there.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

from gguf import GGUFWriter
from torch import Tensor

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.interchange.fixed import describe, fixed_vectors
from hf_icon2.interchange.gguf_parser import ARCHITECTURE, HINT, OWN
from hf_icon2.steering.plans import RowSteering
from hf_icon2.storage import write_atomic


def export_gguf(
    directions: DirectionVectors,
    steering: RowSteering,
    path: str | os.PathLike[str],
    *,
    model_hint: str | None = None,
) -> Path:
    """Writes one steering as a control vector for llama.cpp.

    In llama.cpp it equals `generate(..., steering=steering, positions="all")`, up to the arithmetic of its own
    kernels and quantisation. Strength and sign are in the vectors: use `--control-vector FILE`, whose scale is 1.

    Args:
        directions: Measured on the model that was converted to GGUF.
        steering: Strength per criterion.
        path: File to write; its folder is made.
        model_hint: What `controlvector.model_hint` says, which llama.cpp does not read; the base model's id if
            not given.

    Returns:
        The path.

    Raises:
        ValueError: For an unknown criterion, or if nothing is left without block 0.

    Warns:
        UserWarning: If the steering touches block 0, which the file must leave out.
    """
    vectors = _without_block_0(fixed_vectors(directions, steering))
    record = describe(directions, steering) | {
        "layers": "direction.N is added to the output of 0-based block N",
        "criteria": "+".join(name for name, strength in steering.items() if strength),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    hint = model_hint or directions.config.base_model or "unknown"
    return write_atomic(target, _encode(vectors, record, directions.config.num_layers, hint))


def _without_block_0(vectors: dict[int, Tensor]) -> dict[int, Tensor]:
    if 0 not in vectors:
        return vectors
    kept = {layer: vector for layer, vector in vectors.items() if layer}
    if not kept:
        raise ValueError(
            "this steering touches block 0 only, which llama.cpp cannot steer; choose other control layers "
            "with directions.with_control_layers()"
        )
    lost, total = float(vectors[0].norm()), sum(float(vector.norm()) for vector in vectors.values())
    warnings.warn(
        f"llama.cpp cannot steer block 0: the vector added there (norm {lost:.3g} of {total:.3g} over all blocks) "
        f"is left out, and the file steers blocks {', '.join(map(str, kept))} only",
        stacklevel=3,
    )
    return kept


def _encode(vectors: dict[int, Tensor], record: dict[str, str], num_layers: int, hint: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.gguf"
        writer = GGUFWriter(path, ARCHITECTURE)
        writer.add_string(HINT, hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for key, value in record.items():
            writer.add_string(OWN + key, value)
        writer.add_uint32(f"{OWN}num_layers", num_layers)
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
