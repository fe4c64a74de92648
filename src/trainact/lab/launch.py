"""One command on several devices of this machine: torchrun's own launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trainact.lab.errors import LabError
from trainact.lab.ranks import this_process

EXIT_OK = 0
EXIT_BAD_INPUT = 2


def must_launch(devices: int, device: str) -> bool:
    """Whether this process is to start others that do the work.

    Args:
        devices: how many the user wants on this machine.
        device: kind that the user wants.

    Returns:
        False for one device, and in a process that has been started already.

    Raises:
        LabError: if there are not so many, or others than these were started.
    """
    ranks = this_process()
    if devices == 1:
        return False
    if ranks.size > 1:
        if devices != ranks.local_size:
            raise LabError(
                f"--devices {devices}, but {ranks.local_size} processes were started "
                "on this machine: leave --devices out under torchrun"
            )
        return False
    count = torch.cuda.device_count()
    is_for_gpus = device == "cuda" or (device == "auto" and count > 0)
    if ":" in device or (is_for_gpus and devices > count):
        raise LabError(
            f"--devices {devices} of {device}: this machine has {count} GPUs; give "
            "fewer, or --device cpu to try several processes"
        )
    return True


def launch(devices: int) -> int:
    """Give this process's own command to several processes and wait for them.

    Args:
        devices: how many.

    Returns:
        0, or 2 if one of them said what the user can put right.

    Raises:
        LabError: if one of them ended otherwise; so have the others then.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // devices)))
    with TemporaryDirectory(prefix="trainact-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=Path(folder).name,
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "trainact", *sys.argv[1:])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode
            if code == EXIT_BAD_INPUT:  # it has said itself what was wrong
                return EXIT_BAD_INPUT
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise LabError(
                f"process {rank} of {devices} ended with {how} and the others were "
                "ended: the same command goes on from the last checkpoint"
            ) from error
    return EXIT_OK
