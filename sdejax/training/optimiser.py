"""The optimiser: Adam with a schedule of its rate, after the gradient is clipped."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from sdejax.training.check_range import check_range

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Adam, or AdamW if there is `weight_decay`.

    **Raises:** `ValueError` if a field is outside its range.
    """

    learning_rate: float = 1e-3
    """The rate after the warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the rate does after the warm-up. "constant" ends in a linear decay to 0 over the last `decay` of the steps.
    Before that it does not depend on the number of steps, so a run can be made longer, or ended early, by changing
    `steps` and starting the same command again. "cosine" falls to 0 over all steps.
    """
    warmup: int = 500
    """Steps in which the rate rises linearly."""
    decay: float = 0.2
    """The share of the steps at the end in which a constant rate falls to 0."""
    beta1: float = 0.9
    """The decay of Adam's mean of the gradient."""
    beta2: float = 0.99
    """The decay of Adam's mean of the squared gradient."""
    epsilon: float = 1e-8
    """What Adam adds to the root of the squared gradient."""
    weight_decay: float = 0.0
    """The weight decay of AdamW; 0 is Adam."""
    clip: float = 1.0
    """The norm that the gradient is clipped to; 0 does not clip."""

    def __post_init__(self) -> None:
        check_range(self, "learning_rate", "weight_decay", "clip", "epsilon", least=0.0)
        check_range(self, "decay", "beta1", "beta2", least=0.0, most=1.0)
        check_range(self, "warmup", least=0)
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule={self.schedule!r}: must be constant or cosine")

    def make(self, steps: int) -> "optax.GradientTransformation":
        """The optax optimiser for a run of `steps` steps."""
        import optax

        rate, warmup = self.learning_rate, self.warmup
        if self.schedule == "cosine":
            after, boundaries = [optax.cosine_decay_schedule(rate, max(1, steps - warmup))], [warmup]
        else:
            falling = max(1, round(self.decay * steps))
            after = [optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, falling)]
            boundaries = [warmup, max(warmup, steps - falling)]
        # A schedule is evaluated before the step, so step 1 of a warm-up takes the first part of the rate, not 0.
        rates = optax.join_schedules([optax.linear_schedule(rate / max(1, warmup), rate, warmup), *after], boundaries)
        if self.weight_decay:
            adam = optax.adamw(rates, self.beta1, self.beta2, self.epsilon, weight_decay=self.weight_decay)
        else:
            adam = optax.adam(rates, self.beta1, self.beta2, self.epsilon)
        return optax.chain(optax.clip_by_global_norm(self.clip), adam) if self.clip else adam
