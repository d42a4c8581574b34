"""What a run compiles, and what it imports while it trains: none of it waits for the other."""

import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from digits_jax.data.augment import make_augment
from digits_jax.data.pipeline import share_size
from digits_jax.training import parallel
from digits_jax.training.calls import OneByOne, Resident
from digits_jax.training.plan import Plan
from digits_jax.training.scoring import Score, make_scorer
from digits_jax.training.session import Session
from digits_jax.training.state import TrainState
from digits_jax.training.steps import train_step

# Steps that may be under way at once. Several CPU devices hang in a collective when many
# steps wait behind each other; for one device, a few hide the time of preparing batches.
MAX_STEPS_AHEAD = 16
IMAGE_SHAPE = (28, 28, 1)
# What saves and draws takes half a second and more to import, and nothing of it is needed before.
NEEDED_LATER = (
    "orbax.checkpoint",
    "digits_jax.training.events",
    "matplotlib.backends.backend_agg",
)


class Compiled:
    """A run's step and scorer, compiled in threads of their own while the state is made.

    Use as a context manager: it ends when all that was begun has ended.

    Args:
      session: whose plan is compiled.
      early: begin with the step now; else when it is asked for, as one that resumes a finished run
        never does.
    """

    def __init__(self, session: Session, *, early: bool):
        self._session, self._pool = session, ThreadPoolExecutor(2, "compile")
        self._step = self._pool.submit(self._compile_step) if early else None
        self._score = self._pool.submit(_scorer, session)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown(cancel_futures=True)
        parallel.give_back_freed_memory()

    def _compile_step(self):
        plan = self._session.plan
        if (most := int(plan.config.steps_per_call)) > 1:
            import_ahead(NEEDED_LATER)
            return Resident(plan, bare_step(plan), most)
        lowered = lower_step(self._session)
        # From here on XLA compiles, which takes longest, and leaves the interpreter to others.
        import_ahead(NEEDED_LATER)
        return lowered.compile()

    def step(self) -> Any:
        """What `calls` is made of; waits for it."""
        if self._step is None:
            self._step = self._pool.submit(self._compile_step)
        return self._step.result()

    def calls(self, stream: Any) -> OneByOne | Resident:
        """The way in which the devices are given their steps.

        Args:
          stream: of the batches, by step.
        """
        step = self.step()
        return step if isinstance(step, Resident) else OneByOne(self._session, step, stream)

    def score(self) -> Callable[[TrainState, Any], Score]:
        """``f(state, split) -> Score``, which may be interrupted."""
        return self._score.result()


def bare_step(plan: Plan) -> Callable:
    """The plan's ``f(state, batch, *plan.step_inputs) -> (state, sums)``, not compiled."""
    taught = {}
    if plan.teacher:
        taught = {
            "teach": plan.teacher.logits,
            "teacher_weight": plan.config.teacher_weight,
            "teacher_temperature": plan.config.teacher_temperature,
        }
    return partial(
        train_step,
        label_smoothing=plan.config.label_smoothing,
        augment=make_augment(plan.config.augment, plan.config.augment_strength),
        ema_decay=plan.config.ema_decay,
        adversarial=plan.config.adversarial,
        **taught,
    )


def lower_step(session: Session) -> jax.stages.Lowered:
    """The train step, traced for the plan's devices; it takes the old state's memory."""
    plan = session.plan
    step = session.hearing(bare_step(plan))
    step = parallel.parallelize(step, plan.mesh, donate_state=True)
    size = share_size(plan.config.batch_size, plan.share)
    example = {
        "image": np.zeros((size, *IMAGE_SHAPE), np.uint8),
        "label": np.zeros(size, np.int32),
        "mask": np.ones(size, np.float32),
    }
    batch = session.with_wish(parallel.shard(example, plan.mesh), 0)
    return step.lower(plan.abstract_state, batch, *plan.step_inputs)


def _scorer(session):
    plan = session.plan
    state = plan.for_scoring(plan.abstract_state)
    score = make_scorer(state, plan.mesh, plan.eval_batch_size, share=plan.share)
    return lambda state, split: score(plan.for_scoring(state), split, session.between)


def steps_ahead(plan: Plan) -> int:
    """How many steps may be under way before one waits for them."""
    return 1 if plan.mesh.size > 1 and plan.platform == "cpu" else MAX_STEPS_AHEAD


def import_ahead(modules: Sequence[str]) -> threading.Thread:
    """Imports what is needed later while the devices are busy, in a thread of its own.

    Args:
      modules: their names; one that isn't installed is left to whoever needs it.

    Example:
      >>> import_ahead(["json", "no_such_module"]).join()
    """

    def load():
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    thread = threading.Thread(target=load, name="imports", daemon=True)
    thread.start()
    return thread
