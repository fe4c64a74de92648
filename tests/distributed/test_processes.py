"""The helper itself: a rank's error is shown, and the others' waiting ends."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from tests.distributed.processes import run


def one_fails() -> None:
    if dist.get_rank() == 1:
        msg = "rank one is unwell"
        raise ValueError(msg)
    dist.all_reduce(torch.zeros(1))


def test_an_error_is_shown_and_nobody_waits_forever() -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match="rank one is unwell"):
        run(2, one_fails)
    assert time.monotonic() - start < 60


def three() -> int:
    x = torch.ones(1)
    dist.all_reduce(x)
    return int(x)


def test_ranks_see_each_other() -> None:
    assert run(3, three) == [3, 3, 3]
