"""The reference of DPO beside steering: never steered by what surrounds the training, and steered on request."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import DPOTrainer  # type: ignore[attr-defined]

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.hooks import default_directions, installed_state, steer
from hf_icon2.steering.plans import check_steering

Given = Mapping[str, float] | str | None
"""As in a config, where a text was JSON and is read by now."""


def reference_directions(model: str | PreTrainedModel, steering: Given) -> DirectionVectors | None:
    """The directions that a steered reference needs; None where it is not steered.

    Raises:
        ValueError: If the model has none, or none for a criterion.
    """
    if not isinstance(steering, Mapping):
        return None
    if isinstance(model, str):
        raise ValueError(
            "reference_steering needs directions, which a model given by its name has not; load it and give the "
            "trainer make_steerable(model, directions)"
        )
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise ValueError(
            "reference_steering counts the tokens of the prompt, before which this model puts virtual ones; train "
            "another kind of adapter, or leave reference_steering out"
        )
    directions = default_directions(model)
    check_steering(directions, steering)
    return directions


def described(steering: Given) -> str:
    """A steering in words, for a card."""
    strengths = steering if isinstance(steering, Mapping) else {}
    return ", ".join(f"{name} {strength:g}" for name, strength in strengths.items()) or "nothing"


@contextmanager
def reference_steering(
    model: nn.Module,
    directions: DirectionVectors | None,
    steering: Given,
    completion_mask: Tensor,
) -> Iterator[None]:
    """Runs the reference steered as asked for, and otherwise not at all, whatever steering is active outside.

    A steered reference is steered as `generate` steers: from each prompt's last token on.

    Args:
        model: The reference, without the wrappers of distributed training.
        directions: See `reference_directions`.
        steering: Strength per criterion, or None.
        completion_mask: 1 for the tokens of completions, (B, T), padded on the right.
    """
    if directions is not None and isinstance(steering, Mapping):
        last = completion_mask.long().argmax(dim=1) - 1
        with steer(model, directions, steering, start=last):
            yield
        return
    state = installed_state(model)
    if state is None:
        yield
        return
    with state.active(None):
        yield


class SteeredReferenceMixin(DPOTrainer):
    """DPO whose reference is steered by `args.reference_steering`, or not steered.

    The reference is asked in one place, `compute_ref_log_probs`, and the loss takes what it says.
    """

    args: Any
    _reference_directions: DirectionVectors | None = None

    def compute_ref_log_probs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """As in TRL, under the reference's own steering."""
        reference = self.accelerator.unwrap_model(model)
        steering = self.args.reference_steering
        with reference_steering(reference, self._reference_directions, steering, inputs["completion_mask"]):
            chosen, rejected = super().compute_ref_log_probs(model, inputs)  # type: ignore[no-untyped-call]
        return chosen, rejected

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:  # noqa: ANN401
        """As in TRL, which keeps the results by model: another steering is another model."""
        plain = self._precompute_model_hash
        if self._reference_directions is not None:
            ordered = sorted(self.args.reference_steering.items())
            self._precompute_model_hash = f"{plain} {ordered} {self._reference_directions.sha256}"
        try:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        finally:
            self._precompute_model_hash = plain

    def with_reference(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with the reference's log-probabilities of both sides, (B,) each in nats."""
        if self.precompute_ref_logps:
            return inputs
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)  # type: ignore[arg-type]
        return {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    @contextmanager
    def reference_given(self) -> Iterator[None]:
        """TRL reads the reference from the batch inside, as it does when it was computed beforehand."""
        before, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            yield
        finally:
            self.precompute_ref_logps = before
