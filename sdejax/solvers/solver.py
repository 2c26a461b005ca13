"""What a solver is: anything with `integrate`. One that also goes step by step can be watched."""

from typing import Any, Protocol, runtime_checkable

import jax

from sdejax.solvers.problem import Problem, Signals, State


@runtime_checkable
class Solver(Protocol):
    """Integrates the reverse process. Frozen and hashable: static under `jax.jit`."""

    def integrate(self, problem: Problem, state: State, times: jax.Array) -> State:
        """From the components at times[0] to the data.

        **Arguments:**

        - `problem`: what moves the components, and their noise.
        - `state`: the components at times[0], (b, *shape) each.
        - `times`: (n,), falling; a solver with steps of its own uses the first and the last of them.

        **Returns:** the last D of each component, 0 for pure noise.
        """
        ...


@runtime_checkable
class SteppingSolver(Solver, Protocol):
    """A solver whose steps can be taken one at a time, as `solve.stepwise` does for `on_step`.

    `memory` is what a step hands to the next besides the state: a pytree whose leaves are (b, ...) arrays.
    """

    def schedule(self, problem: Problem, times: jax.Array) -> Any:
        """What the steps follow: a pytree of arrays (n, ...), an entry for each step."""
        ...

    def start(self, problem: Problem, state: State, times: jax.Array) -> Any:
        """The memory before the first step."""
        ...

    def step(self, problem: Problem, state: State, memory: Any, now: Any, steps: int) -> tuple[State, Any, Signals]:
        """One step: the next state and memory, and the D of each component at the step's beginning.

        `now` is the step's entry of the schedule, `steps` is their number. The last step ends at the data.
        """
        ...
