"""`model.generate(..., steering=...)`: the mixin, and the same as a `custom_generate` function."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.utils import GENERATION_MODES_MAPPING

from hf_icon2.blocks import unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.batching import ContinuousBatchingMixin, config_of
from hf_icon2.steering.guidance import steer_guidance
from hf_icon2.steering.hooks import changing_models, default_directions, steering_state
from hf_icon2.steering.masks import check_left_padding
from hf_icon2.steering.plans import Plan, Positions, Steering, plan_steering, reach
from hf_icon2.steering.state import SteeringState

Model = TypeVar("Model", bound=nn.Module)


class Icon2GenerationMixin(ContinuousBatchingMixin):
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
            ValueError: For an unknown criterion, the wrong number of rows or right padding, before the model runs.
        """
        if kwargs.get("directions") is not None:  # custom_generate=steered_generate brings its own
            brought: dict[str, Any] = {} if positions == "last" else {"positions": positions}
            return super().generate(*args, steering=steering, **brought, **kwargs)  # type: ignore[misc]
        config = config_of(self, args, kwargs)
        if steering is None:
            steering = getattr(config, "steering", None)
        if steering is None:
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        _refuse_what_hides_the_prompt(config, kwargs)
        check_left_padding(kwargs.get("attention_mask"))
        state = steering_state(self)  # type: ignore[arg-type]
        rows, columns = _prompt_shape(args, kwargs)
        columns += _virtual_tokens(self)
        plan = plan_steering(default_directions(self), steering, rows=rows, **reach(positions, columns))
        with _run_under(state, plan):
            return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:  # noqa: ANN401
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        state = steering_state(self)  # type: ignore[arg-type]
        return steer_guidance(processors, state, state.plan)

    def _get_candidate_generator(  # type: ignore[override]  # the rest goes through by name
        self,
        generation_config: GenerationConfig,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        # A draft model generates with a copy of this config, and is not to be steered by it.
        config = copy.copy(generation_config)
        vars(config).pop("steering", None)
        return super()._get_candidate_generator(generation_config=config, **kwargs)  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        # The class exists only in memory; a pickle names its parts instead.
        return _restore, (type(self).__bases__[1],), self.__dict__


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
    state.check(directions)
    state.directions = directions
    inner = unwrap(model)
    with changing_models:
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
    check_left_padding(model_kwargs.get("attention_mask"))
    state = steering_state(model)
    directions = directions or default_directions(model)
    state.check(directions)
    copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
    prompts = input_ids.shape[0] // copies
    columns = input_ids.shape[1] + _virtual_tokens(model)
    plan = plan_steering(directions, steering, rows=prompts, **reach(positions, columns))
    arguments["logits_processor"] = steer_guidance(logits_processor, state, plan)
    with _run_under(state, plan):
        return decode(model, input_ids, **arguments)


@contextmanager
def _run_under(state: SteeringState, plan: Plan) -> Iterator[None]:
    """Steers what runs inside, and makes sure that the blocks of the plan were in it."""
    with state.active(plan):
        yield
    if not plan.ran:
        raise RuntimeError(
            "the model generated without running the blocks that steering was installed on; if a part of it was "
            "replaced (by an adapter that trains a copy of it?), call make_steerable(model, directions) again"
        )


def _refuse_what_hides_the_prompt(config: GenerationConfig, kwargs: dict[str, Any]) -> None:
    """Raises ValueError where transformers changes the prompt after its last token was looked up."""
    if "paged" in str(kwargs.get("cache_implementation") or config.cache_implementation):
        raise ValueError(
            "cache_implementation='paged' loses which tokens are padding; call generate_batch(prompts, "
            "steering=...) with prompts as lists of ids instead"
        )
    if kwargs.get("token_healing", config.token_healing):
        raise ValueError(
            "token_healing rewrites the prompt inside generate(), so its last token is not known before; call "
            "model.heal_tokens(input_ids, tokenizer) first and generate from what it returns"
        )


def _virtual_tokens(model: Any) -> int:  # noqa: ANN401
    """Columns that a soft prompt of PEFT puts before the prompt: its wrapper prepares the inputs in our place."""
    wrapper = getattr(model.prepare_inputs_for_generation, "__self__", None)
    config = getattr(wrapper, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


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
