"""`generate` of a model that directions were attached to; the `custom_generate/generate.py` beside it imports this.

Where the model is loaded with `trust_remote_code=True`, in a script or by `transformers serve`, transformers binds
that file's function as `model.generate`. It knows of no other place: continuous batching, which passes `generate`
by, is made to refuse such a model, lest it answer unsteered.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.generation.continuous_batching import ContinuousMixin

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.generation import Icon2GenerationMixin, make_steerable

_FIRST_CALL = threading.Lock()


def attached_generate(
    *args: Any,  # noqa: ANN401
    model: PreTrainedModel,
    code: str,
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """`Icon2GenerationMixin.generate` with the directions beside the model, which the first call loads.

    Args:
        *args: As for `Icon2GenerationMixin.generate`.
        model: Given by transformers.
        code: Path of the `generate.py` that calls this.
        **kwargs: As for `Icon2GenerationMixin.generate`; `steering` is read from `generation_config` if missing.

    Raises:
        FileNotFoundError: If no directions lie beside the model.
        ValueError: For an unknown criterion, a strength that is not finite, or directions that do not fit.
    """
    with _FIRST_CALL:
        if not isinstance(model, Icon2GenerationMixin):
            make_steerable(model, directions_beside(model, code))
    try:
        # By the class: `model.generate` is this function.
        return type(model).generate(model, *args, **kwargs)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise _answer(error) from error


def directions_beside(model: PreTrainedModel, code: str) -> DirectionVectors:
    """Directions in the folder that a model was loaded from, or in its Hub repo at the commit that was loaded.

    Args:
        model: Loaded with `from_pretrained`.
        code: Path of its `custom_generate/generate.py`. transformers runs a copy; one from the Hub lies in a
            folder named by its commit.

    Raises:
        FileNotFoundError: If there are no directions, or the model's folder is gone.
    """
    source, commit = model.name_or_path or "", Path(code).parents[1].name
    if source and Path(source).is_dir():
        return DirectionVectors.from_pretrained(source)
    if source and re.fullmatch("[0-9a-f]{40}", commit):
        return DirectionVectors.from_pretrained(source, revision=commit)
    raise FileNotFoundError(
        f"the model was loaded from {source!r}, and no such folder is in {Path.cwd()}; load it by its full path"
    )


def _answer(error: TypeError | ValueError) -> Exception:
    """The same error; under FastAPI one that is answered with status 422 and our sentence, not with a bare 500."""
    fastapi = sys.modules.get("fastapi")
    if fastapi is None or type(error) not in (TypeError, ValueError):
        return error
    # `transformers serve` writes str(error) between quotes into the JSON of a stream.
    quoted = json.dumps(str(error))[1:-1]
    refusal = type("GenerateError", (fastapi.HTTPException, type(error)), {"__str__": lambda _: quoted})
    return refusal(status_code=422, detail=str(error))  # type: ignore[no-any-return]


def _refuse_continuous_batching() -> None:
    begin = ContinuousMixin.init_continuous_batching

    @functools.wraps(begin)
    def init_continuous_batching(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        attached = getattr(vars(self).get("generate"), "func", None) is attached_generate
        if attached and not isinstance(self, Icon2GenerationMixin):
            raise _answer(
                ValueError(
                    "continuous batching passes by the directions attached to this model, and could not steer its "
                    "requests one by one; serve it without --continuous-batching, in a script call make_steerable()"
                )
            )
        return begin(self, *args, **kwargs)

    ContinuousMixin.init_continuous_batching = init_continuous_batching  # type: ignore[method-assign]


_refuse_continuous_batching()
