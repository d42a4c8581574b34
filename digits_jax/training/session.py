"""One process's part in the training of a run, and what the processes wish from each other.

Several processes must save and stop at the end of the same step. What one of them wishes goes
into the step beside its share of the batch, and comes out of it as the largest of all wishes: no
process learns of it before the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from digits_jax.training import parallel
from digits_jax.training.group import Group
from digits_jax.training.interrupts import StopRequest
from digits_jax.training.plan import Plan

# The larger one is granted: beyond these, the number of the signal that asks to save and stop.
NOTHING_WISHED, SAVE = 0, 1


@dataclass(frozen=True)
class Session:
    """What stays the same while this process trains a run.

    Attributes:
      plan: of the run.
      workdir: its folder.
      group: the processes that train together.
      stop: whether a signal came to this one.
      quiet: print nothing.
    """

    plan: Plan
    workdir: Path
    group: Group
    stop: StopRequest
    quiet: bool

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.group.index == 0

    @property
    def has_to_stop(self) -> bool:
        """Whether a signal came, and there is no other process to agree with."""
        return self.group.count == 1 and self.stop.signal_number is not None

    def between(self) -> None:
        """Between two pieces of work other than steps; raises `Interrupted` to stop there.

        Of several processes none stops but at the end of a step.
        """
        if self.has_to_stop:
            self.stop.check()
        self.group.note("scoring")

    def hearing(self, step: Callable) -> Callable:
        """A step that passes on what all processes wish, where there are several."""
        if self.group.count == 1:
            return step

        def hearing_step(state, batch, *rest):
            batch = dict(batch)
            wishes = batch.pop("wish")
            state, sums = step(state, batch, *rest)
            return state, {**sums, "wish": jnp.max(wishes)}

        return hearing_step

    def with_wish(self, batch: dict[str, Any], wish: int) -> dict[str, Any]:
        """A batch on the devices, with what this process wishes at the end of the step."""
        if self.group.count == 1:
            return batch
        mesh = self.plan.mesh
        own = np.full(len(mesh.local_devices), wish, np.int32)
        return {**batch, "wish": parallel.shard(own, mesh)}

    def wish_of_all(self, own: int, pending: list[tuple[int, dict]]) -> int:
        """What is wished at the end of the last of some steps; waits for them.

        Args:
          own: what this process wishes.
          pending: steps, and the sums that they will have given (see `calls`).
        """
        if self.group.count == 1:
            return self.stop.signal_number or own
        return max(int(sums["wish"]) for _, sums in pending)
