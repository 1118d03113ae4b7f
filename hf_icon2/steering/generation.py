"""`model.generate(..., steering=...)`: the mixin, and the same as a `custom_generate` function."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.generation.utils import GENERATION_MODES_MAPPING

from hf_icon2.blocks import unwrap
from hf_icon2.directions.config import check_choice
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.hooks import installed_state, steering_state
from hf_icon2.steering.plans import Plan, Steering, plan_steering

Model = TypeVar("Model", bound=nn.Module)
Positions = Literal["last", "all"]
"""The last prompt token and what follows, or every real token, as exported directions do."""


class Icon2GenerationMixin(GenerationMixin):
    """Gives `generate` a `steering` argument; put on a model by `make_steerable`."""

    def generate(
        self,
        *args: Any,  # noqa: ANN401
        steering: Steering | None = None,
        positions: Positions = "last",
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Transformers' `generate`, steered from the last prompt token on.

        Args:
            *args: As for `GenerationMixin.generate`.
            steering: Strength per criterion, like `{"honesty": 0.1}`, or one such mapping (or None) per prompt.
                If not given, `steering` is read from `generation_config`.
            positions: `"all"` steers the prompt too, to compare with exports, which can do nothing else.
            **kwargs: As for `GenerationMixin.generate`.

        Raises:
            ValueError: For an unknown criterion or the wrong number of rows, before the model runs.
        """
        if kwargs.get("directions") is not None:  # custom_generate=steered_generate brings its own
            brought: dict[str, Any] = {} if positions == "last" else {"positions": positions}
            return super().generate(*args, steering=steering, **brought, **kwargs)  # type: ignore[misc]
        given = args[1] if len(args) > 1 else kwargs.get("generation_config")
        config = given or self.generation_config
        if steering is None:
            steering = getattr(config, "steering", None)
        if steering is None:
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        if "paged" in str(kwargs.get("cache_implementation") or config.cache_implementation):
            raise ValueError(
                "steering does not work with continuous batching; use another cache_implementation"
            )
        state = steering_state(self)  # type: ignore[arg-type]
        rows, columns = _prompt_shape(args, kwargs)
        plan = plan_steering(_directions(self), steering, rows=rows, **_reach(positions, columns))
        with state.active(plan):
            return super().generate(*args, **kwargs)  # type: ignore[misc]

    def generate_batch(self, *args: Any, steering: Steering | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        """Transformers' continuous batching, which cannot be steered: requests are packed into one row."""
        if steering is not None or getattr(installed_state(self), "plan", None) is not None:  # type: ignore[arg-type]
            raise ValueError("generate_batch() cannot be steered; use generate(steering=...) instead")
        return super().generate_batch(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class exists only in memory; a pickle names its parts instead.
        return _restore, (type(self).__mro__[2],), self.__dict__


def make_steerable(model: Model, directions: DirectionVectors) -> Model:
    """Gives a model's `generate` the `steering` argument, and the directions it refers to.

    The model keeps its class name and module, its weights and its `state_dict`; it is changed in place and
    returned. Calling it again replaces the directions.

    Args:
        model: Causal LM, or a PEFT model around one.
        directions: Measured on this model.

    Raises:
        ValueError: If the directions belong to a model of another shape, or the architecture is unsupported.
    """
    state = steering_state(model)
    directions.check_model(state.hidden_size, state.num_layers)
    state.directions = directions
    inner = unwrap(model)
    if not isinstance(inner, Icon2GenerationMixin):
        inner.__class__ = _steerable_class(type(inner))
    return model


def steered_generate(
    model: nn.Module,
    input_ids: Tensor,
    logits_processor: Any = None,  # noqa: ANN401  (transformers passes its own lists through)
    stopping_criteria: Any = None,  # noqa: ANN401
    generation_config: Any = None,  # noqa: ANN401
    directions: DirectionVectors | None = None,
    steering: Steering | None = None,
    streamer: Any = None,  # noqa: ANN401
    positions: Positions = "last",
    **model_kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """For `model.generate(**inputs, custom_generate=steered_generate, directions=..., steering=...)`.

    Works on any model without changing its class. transformers hands a custom function no `streamer`; bind it:
    `functools.partial(steered_generate, streamer=streamer)`.

    Args:
        model: The model, given by transformers.
        input_ids: Prompts, (B, T), already expanded for beams and returned sequences.
        logits_processor: Given by transformers.
        stopping_criteria: Given by transformers.
        generation_config: Given by transformers; its `steering` is used if the argument is missing.
        directions: Measured on this model; those of `make_steerable` if not given.
        steering: Strength per criterion, or a list with one entry per prompt.
        streamer: Optional, see above.
        positions: See `Icon2GenerationMixin.generate`.
        **model_kwargs: Given by transformers.
    """
    if steering is None:
        steering = getattr(generation_config, "steering", None)
    mode = generation_config.get_generation_mode()
    decode = getattr(type(model), GENERATION_MODES_MAPPING[mode])
    arguments = {
        "logits_processor": logits_processor,
        "stopping_criteria": stopping_criteria,
        "generation_config": generation_config,
        **({"streamer": streamer} if streamer is not None else {}),
        **model_kwargs,
    }
    if streamer is not None:
        streamer.put(input_ids.cpu())  # what generate() does for its own; `skip_prompt` counts on it
    if steering is None:
        return decode(model, input_ids, **arguments)
    state = steering_state(model)
    directions = directions or _directions(model)
    directions.check_model(state.hidden_size, state.num_layers)
    copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
    prompts = input_ids.shape[0] // copies
    plan = plan_steering(directions, steering, rows=prompts, **_reach(positions, input_ids.shape[1]))
    with state.active(plan):
        return decode(model, input_ids, **arguments)


def _directions(model: Any) -> DirectionVectors:  # noqa: ANN401
    state = installed_state(model)
    if state is None or state.directions is None:
        raise ValueError("this model has no directions; call make_steerable(model, directions) first")
    return state.directions


def _reach(positions: Positions, columns: int) -> dict[str, Any]:
    """Where a `Plan` starts in a sequence with so many prompt columns, and whether padding must be told apart."""
    check_choice("positions", positions, get_args(Positions))
    return {"start": None, "masked": True} if positions == "all" else {"start": columns - 1, "masked": False}


def _prompt_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Number of prompts and of their columns, cached columns included."""
    inputs = args[0] if args else None
    for name in ("inputs_embeds", "inputs", "input_ids"):  # embeddings are what runs where both are given
        if inputs is None:
            inputs = kwargs.get(name)
    if inputs is None:
        return 1, 1  # generate() starts from the begin-of-sequence token
    columns = inputs.shape[1]
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.shape[1] > columns:
        columns = mask.shape[1]  # only the new columns were given, the others lie in the cache
    return inputs.shape[0], columns


def _steerable_class(base: type) -> type:
    """The model's class with the mixin in front, under the same name: save_pretrained and remote engines read it."""
    members = {"__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (Icon2GenerationMixin, base), members)


def _restore(base: type) -> nn.Module:
    cls = _steerable_class(base)
    return cls.__new__(cls)  # type: ignore[no-any-return, call-overload]


__all__ = ["Icon2GenerationMixin", "Plan", "make_steerable", "steered_generate"]
