"""Statistics on a stream of their own, beside the rest of the forward pass.

A and its factor depend on the layer's input alone, and are not needed before the
backward reaches the layer, which for a first layer is the very end of the step. On a
CUDA or ROCm device they may therefore be computed on a side stream, where the other
layers leave the device idle. Off by default: ``layer.overlap = True`` switches it on.

Memory that crosses streams is announced to PyTorch's caching allocator, which would
otherwise reuse it too early. While a CUDA graph is captured, under `torch.compile` and
in `torch.func` transforms everything stays on one stream; so does a layer with `sync`
over several ranks (whose all-reduce runs beside the forward pass in any case), with an
`estimate`, inside `trainact.deferred`, or with an input divided over ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor
from trainact.precondition import may_be_transformed, precondition_later
from trainact.statistics.call import Call
from trainact.statistics.local import Local, local_factor
from trainact.torch_internals import backward_task


class SideStream(Local):
    """Statistics of this call's rows, on a stream of their own where possible."""

    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; see `trainact.statistics.call.Statistics`."""
        x, geometry, damping, span, _ = call
        if x.numel() == 0 or not can_overlap(x):
            return super().precondition(weight, call)
        make = partial(local_factor, x, geometry, damping)
        # A recomputed forward starts nothing: checkpointing may drop what it makes.
        is_recomputed = backward_task() != -1
        finish = make if is_recomputed else start_on_side_stream(x, make)
        return precondition_later(weight, None, lambda _: finish(), span)


def can_overlap(x: Tensor) -> bool:
    """Whether work on a tensor may go to another stream now.

    Not on a CPU, under compilation and transforms, or during graph capture, whose end
    would come before the backward joins the streams again.
    """
    return (
        x.is_cuda
        and not may_be_transformed()
        and not torch.cuda.is_current_stream_capturing()
    )


def start_on_side_stream(
    x: Tensor, compute: Callable[[], Factor]
) -> Callable[[], Factor]:
    """Launch ``compute``, which must not wait for the device, on the side stream.

    It reads ``x``, made on the current stream. The function that is returned gives the
    factor to the stream that is current then, which waits for it; the host does not.
    """
    device = x.device  # the input itself is not to be kept until the backward
    side = side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        factor = compute()
    x.record_stream(side)
    ready = side.record_event()

    def finish() -> Factor:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(ready)
        for tensor in factor:
            if tensor is not None:
                tensor.record_stream(stream)
        return factor

    return finish


@lru_cache
def side_stream(device: torch.device) -> Any:
    """The `torch.cuda.Stream` for statistics, one for each device with its index."""
    return torch.cuda.Stream(device)
