"""Which implementation forms XᵀX and which one inverts A + λI: state, limits, records.

This module imports no Triton and no kernel.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["library", "triton", "auto"]
Operation = Literal["products", "inverse"]
BACKENDS = ("library", "triton", "auto")

INSTALLED = importlib.util.find_spec("triton") is not None

# Triton reads this when it is imported: its interpreter then stands in for a device.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# One program holds the whole matrix in the registers of one multiprocessor.
MAX_INVERSE_ENTRIES = 128

# Row numbers are 32-bit integers in the kernel, and the last range of rows may reach as
# far again beyond the end.
MAX_ROWS = 2**30

PRODUCT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Win:
    """A measured advantage of a kernel, as it is launched by default.

    Attributes:
        operation: ``"products"`` or ``"inverse"``.
        device: as `torch.cuda.get_device_name` has it.
        dtype: of the input, or of the result of an inverse.
        entries: smallest and largest P measured.
        rows: smallest and largest N measured; an inverse does not depend on it.
        record: the committed file that shows it.
    """

    operation: Operation
    device: str
    dtype: torch.dtype
    entries: tuple[int, int]
    rows: tuple[int, int]
    record: str


# Filled from records of `benchmarks.kernels` on real devices, and from nothing else.
MEASURED_WINS: tuple[Win, ...] = ()

_chosen: dict[Operation, Backend] = {"products": "auto", "inverse": "auto"}


class use:  # noqa: N801 - read as a verb, like torch.no_grad
    """Choose the implementation of TrAct's own operations, from now on.

    The choice is the process's, for all threads (a backward pass runs in threads of
    its own). As a context manager it ends with the block.

    Args:
        backend: of both operations: ``"library"``, PyTorch's operators; ``"triton"``,
            the kernels, with an error where they cannot run; ``"auto"``, the kernels
            where a committed measurement says that they are faster on this device.
        products: of XᵀX alone.
        inverse: of the inverse of A + λI alone.

    Raises:
        ValueError: if a backend is not known, or none is given.

    Examples:
        >>> import trainact
        >>> with trainact.kernels.use("library"):
        ...     pass
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        products: Backend | None = None,
        inverse: Backend | None = None,
    ) -> None:
        asked: dict[Operation, Backend | None] = {
            "products": products or backend,
            "inverse": inverse or backend,
        }
        given: dict[Operation, Backend] = {
            name: value for name, value in asked.items() if value is not None
        }
        if not given:
            msg = "nothing chosen: give a backend, or one for products= or inverse="
            raise ValueError(msg)
        for value in given.values():
            if value not in BACKENDS:
                msg = f"backend {value!r} is not one of {', '.join(BACKENDS)}"
                raise ValueError(msg)
        self._before = dict(_chosen)
        _chosen.update(given)

    def __enter__(self) -> None:
        """The choice has been made already."""

    def __exit__(self, *exception: object) -> None:
        _chosen.update(self._before)


def may_take(operation: Operation) -> bool:
    """Whether a kernel may be used at all, which costs the common case next to nothing.

    Not where PyTorch's operators were chosen or nothing has been measured.
    """
    backend = _chosen[operation]
    return backend == "triton" or (backend == "auto" and bool(MEASURED_WINS))


def takes_products(x: Tensor, num_entries: int, num_rows: int) -> bool:
    """Whether the kernel forms the products of this input."""

    def obstacle() -> str | None:
        if x.dtype not in PRODUCT_DTYPES:
            return f"it takes float32, bfloat16 and float16, not {x.dtype}"
        if num_rows > MAX_ROWS:
            return f"it counts at most {MAX_ROWS} rows, and there are {num_rows}"
        return None

    return _takes("products", x, x.dtype, num_entries, num_rows, obstacle)


def takes_inverse(matrix_GPP: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel inverts this matrix, for a result in ``dtype``."""
    num_entries = matrix_GPP.shape[-1]

    def obstacle() -> str | None:
        if num_entries > MAX_INVERSE_ENTRIES:
            return (
                f"it takes at most {MAX_INVERSE_ENTRIES} entries, and there are "
                f"{num_entries}: use(products='triton', inverse='auto')"
            )
        return None

    return _takes("inverse", matrix_GPP, dtype, num_entries, 1, obstacle)


def _takes(
    operation: Operation,
    x: Tensor,
    dtype: torch.dtype,
    num_entries: int,
    num_rows: int,
    obstacle: Callable[[], str | None],
) -> bool:
    if not may_take(operation):
        return False
    reason = missing(x.device.type) or obstacle()
    if _chosen[operation] == "auto":
        return reason is None and any(
            win.operation == operation
            and win.device == device_name(x)
            and win.dtype == dtype
            and win.entries[0] <= num_entries <= win.entries[1]
            and (operation == "inverse" or win.rows[0] <= num_rows <= win.rows[1])
            for win in MEASURED_WINS
        )
    if reason is not None:
        msg = (
            f"trainact.kernels.use('triton') was asked for, but the kernel for the "
            f"{operation} cannot run: {reason}. use('auto') falls back silently"
        )
        raise RuntimeError(msg)
    return True


def missing(device_type: str) -> str | None:
    """What a machine lacks for Triton; None if nothing."""
    if not INSTALLED:
        return "Triton is not installed (on Linux it comes with PyTorch)"
    if device_type != "cuda" and not INTERPRETED:
        return (
            f"the tensors are on {device_type!r}, and it runs on CUDA and ROCm devices "
            "(elsewhere for tests, with TRITON_INTERPRET=1 in the environment)"
        )
    return None


def device_name(x: Tensor) -> str:
    """The name that a CUDA or ROCm device's driver gives it."""
    return torch.cuda.get_device_properties(x.device).name
