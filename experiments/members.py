"""The members of an ensemble trained at once, each in a process of its own with its own cores.

XLA keeps several cores busy with the large products only; what lies between runs on one. So on a
CPU a process for each core trains more images per second than one process with all of them.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from digits_jax.runs import folder
from digits_jax.runs.ensembles import member_path
from digits_jax.train import parse_config
from digits_jax.training.ensemble import put_together
from digits_jax.training.plan import prepare
from digits_jax.training.record import describe_run
from experiments.cores import shares
from experiments.running import train_once


def train_members(flags: Sequence[str], workdir: Path, count: int, jobs: int) -> None:
    """Trains what `train --ensemble` would have, some members at a time, and puts them together.

    Members that are there are taken as they are, and those cut short gone on with. What a training
    says goes to ``member-K.log`` beside its folder.

    Args:
      flags: of ``python -m digits_jax.train``, without --ensemble and --seed.
      workdir: the ensemble's folder.
      count: of members, with the seeds 0, 1 and so on.
      jobs: how many at once; one is `train --ensemble` itself.

    Raises:
      ConfigError: a training failed, or what is there is another recipe's.
    """
    together = [*flags, f"--ensemble={count}"]
    if jobs == 1 or (workdir / folder.RESULTS).exists():
        train_once(together, workdir)
        return
    workdir.mkdir(parents=True, exist_ok=True)
    cores = SimpleQueue()
    for own in shares(jobs):
        cores.put(own)

    def train(seed):
        own = cores.get()
        path = member_path(workdir, seed)
        print(f"{path}: training on cores {', '.join(map(str, own))}", flush=True)
        try:
            train_once([*flags, f"--seed={seed}"], path, cores=own, log=path.with_suffix(".log"))
        finally:
            cores.put(own)
        accuracy = folder.read_results(path)["validation_accuracy"]
        print(f"{path}: validation accuracy {accuracy:.2%}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(train, seed) for seed in range(count)]):
                done.result()
        finally:  # After a failure, or Ctrl-C, which the trainings hear too, none is begun.
            pool.shutdown(cancel_futures=True)
    plan = prepare(parse_config([*together, f"--workdir={workdir}"]))
    folder.write_json(workdir / folder.CONFIG, describe_run(plan))
    put_together(workdir, count)
