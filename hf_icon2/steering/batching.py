"""`model.generate_batch(..., steering=...)`: the part of the mixin that makes managers of continuous batches."""

from __future__ import annotations

from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, GenerationMixin
from transformers.generation.continuous_batching import ContinuousBatchingManager

from hf_icon2.steering.continuous import ContinuousPlan, hand_over, steered_manager
from hf_icon2.steering.hooks import default_directions, steering_state
from hf_icon2.steering.plans import Positions, RowSteering, plan_steering, reach


class ContinuousBatchingMixin(GenerationMixin):
    """Gives the entry points of continuous batching a `steering` argument."""

    def generate_batch(
        self,
        *args: Any,  # noqa: ANN401
        steering: RowSteering | None = None,
        positions: Positions = "last",
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Transformers' continuous batching; every request is steered from its last prompt token on.

        Steered requests share no cache with each other, and run without CUDA graphs.

        Args:
            *args: As for `generate_batch` of transformers.
            steering: Strength per criterion, one mapping for all requests. If not given, `steering` is read from
                `generation_config`; inside a `steer` block that steering holds.
            positions: As for `generate`.
            **kwargs: As for `generate_batch` of transformers.

        Raises:
            ValueError: For an unknown criterion, a steering per row, or a manager to be kept for later calls.
        """
        plan = self._continuous_plan(config_of(self, args, kwargs), steering, positions)
        if plan is None:
            return super().generate_batch(*args, **kwargs)
        if kwargs.get("persistent_manager"):
            raise ValueError(
                "a steered generate_batch() keeps no manager, later calls would inherit its steering; leave out "
                "persistent_manager, or hold a manager of your own: model.init_continuous_batching(steering=...)"
            )
        with steering_state(self).active(plan):  # type: ignore[arg-type]
            return super().generate_batch(*args, **kwargs)

    def init_continuous_batching(
        self,
        generation_config: GenerationConfig | None = None,
        continuous_batching_config: ContinuousBatchingConfig | None = None,
        *args: Any,  # noqa: ANN401
        steering: RowSteering | None = None,
        positions: Positions = "last",
        **kwargs: Any,  # noqa: ANN401
    ) -> ContinuousBatchingManager:
        """Transformers' manager of continuous batches; all its requests are steered alike, see `generate_batch`."""
        plan = self._continuous_plan(generation_config or self.generation_config, steering, positions)
        kept = getattr(self, "_cached_continuous_batching_manager", None)
        if kept is not None and (plan is not None or kept.plan is not None):
            raise ValueError(
                "a manager of continuous batches is kept on this model, made under another steering; call "
                "model.destroy_cached_continuous_batching_manager() first"
            )

        def make(config: ContinuousBatchingConfig | None) -> ContinuousBatchingManager:
            return super(ContinuousBatchingMixin, self).init_continuous_batching(
                generation_config, config, *args, **kwargs
            )

        state = steering_state(self)  # type: ignore[arg-type]
        if plan is not None:
            return steered_manager(make, continuous_batching_config, state, plan)
        manager = make(continuous_batching_config)
        if manager is not kept:
            hand_over(manager, state, None)
        return manager

    def _continuous_plan(
        self, config: GenerationConfig, steering: RowSteering | None, positions: Positions
    ) -> ContinuousPlan | None:
        """The plan for continuous batches: asked for, in the config, or that of the `steer` block around."""
        around = steering_state(self).plan  # type: ignore[arg-type]
        if isinstance(around, ContinuousPlan):
            return around  # generate_batch has decided
        if steering is None:
            steering = getattr(config, "steering", None)
        if steering is None:
            return None if around is None else ContinuousPlan(around)
        return ContinuousPlan(plan_steering(default_directions(self), steering, **reach(positions, None)))


def config_of(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GenerationConfig:  # noqa: ANN401
    """The generation config of a call: its second argument, or the model's own."""
    given: GenerationConfig | None = args[1] if len(args) > 1 else kwargs.get("generation_config")
    return model.generation_config if given is None else given
