"""Jobs on a SLURM cluster, through submitit: an array with one task per run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from trainact.lab.errors import LabError, first_line
from trainact.lab.jobs import Job, carry_out
from trainact.lab.ranks import joined
from trainact.lab.run_options import SweepOptions

# Each takes hours, in which a run keeps many checkpoints: rather a limit than none.
MAX_TIMEOUTS = 100


def _meet() -> None:
    """Set torchrun's variables, where a job has several tasks."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    here = JobEnvironment()
    if here.num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.environ["GROUP_RANK"] = str(here.node)


class Work:
    """A job as submitit carries it out; stopped by the cluster, it is queued again.

    Args:
        text: of the job, see `Job.to_json`.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> str:
        """Carry the job out.

        Returns:
            What became of it.
        """
        job = Job.from_json(self.text)
        _meet()
        with joined(job.place.device):
            record = carry_out(job, lambda _: None)
        return "another process is at it" if record is None else record.key

    def checkpoint(self) -> Any:
        """Queue the job again: it goes on from its own checkpoint.

        Returns:
            What submitit wants.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Work(self.text))


def submit(
    jobs: Sequence[Job], options: SweepOptions, cluster: str = "slurm"
) -> list[Any]:
    """Submit jobs as one array.

    Args:
        jobs: without a record.
        options: of the sweep.
        cluster: as submitit names it.

    Returns:
        submitit's jobs.

    Raises:
        LabError: if submitit or the cluster is not there.
    """
    if not jobs:
        return []
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ModuleNotFoundError as error:
        raise LabError(
            "--slurm needs submitit, which is not installed: pip install submitit"
        ) from error
    try:
        executor = submitit.AutoExecutor(
            options.out / "slurm",
            cluster=cluster,
            slurm_max_num_timeout=MAX_TIMEOUTS,
        )
    except RuntimeError as error:
        raise LabError(
            f"--slurm: {first_line(error)}; give the command where jobs are submitted, "
            "or leave --slurm out"
        ) from error
    executor.update_parameters(**_parameters(jobs[0], options))
    try:
        with executor.batch():
            return [executor.submit(Work(job.to_json())) for job in jobs]
    except FailedJobError as error:
        raise LabError(
            f"--slurm: {first_line(error)}; change what is asked of the cluster, or "
            "leave --slurm out"
        ) from error


def _parameters(job: Job, options: SweepOptions) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "trainact",
        "timeout_min": 60 * options.slurm_hours,
        "cpus_per_task": 8,
        "nodes": options.slurm_nodes,
        "tasks_per_node": options.devices,
        "gpus_per_node": options.devices if job.config.device == "cuda" else 0,
        "slurm_array_parallelism": options.slurm_parallel,
        "slurm_partition": options.slurm_partition,
        "slurm_account": options.slurm_account,
    }
    return {name: value for name, value in values.items() if value is not None}
