"""What Triton's compiler makes of the launches, without a device: sm_80 and sm_90.

Claims: every launch compiles from the arguments that it is given, without a warning,
and keeps what it holds in registers; no tile's product is summed in the tensor cores'
accumulator, which cuts off instead of rounding; patches that lie side by side in memory
are read 16 bytes at a time.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from trainact.geometry import Geometry, make_geometry
from trainact.kernels.choice import INTERPRETED, MAX_INVERSE_ENTRIES

from .conftest import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter does not compile"),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STEMS = {  # shape, kernel, stride, padding
    "3x3/1": ((8, 3, 32, 32), 3, 1, 1),
    "4x4/4": ((8, 3, 32, 32), 4, 4, 0),
    "7x7/2": ((2, 3, 224, 224), 7, 2, 3),
    "16x16/16": ((2, 3, 224, 224), 16, 16, 0),
    "2x16x16": ((1, 3, 4, 32, 32), (2, 16, 16), (2, 16, 16), 0),
    "audio": ((5, 1, 1001), 10, 5, 0),
    "odd vectors": ((5, 41, 300), None, None, None),
}
SIDE_BY_SIDE = ("4x4/4", "16x16/16")

# Some numbers that do not change in the loop may be put aside.
FEW_BYTES = 32


@pytest.fixture(params=[80, 90])
def launched(request, monkeypatch):
    """Kernels that are launched are compiled for a device, and collected instead."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    class Driver:
        def get_current_target(self):
            return GPUTarget("cuda", request.param, 32)

        def get_current_device(self):
            return -request.param  # compiled kernels are kept by device

        def get_current_stream(self, device):
            return device

    kernels: dict[str, Any] = {}
    compile_or_run = JITFunction.run

    def compile_only(self, *arguments, warmup, **options):
        del warmup
        kernel = compile_or_run(self, *arguments, warmup=True, **options)
        assert kernel.metadata.target.arch == request.param
        kernels[self.fn.__name__] = kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    # Triton 3.4 has a plain attribute, later versions a property over a hidden one.
    held = "_active" if hasattr(driver, "_active") else "active"
    monkeypatch.setattr(driver, held, Driver())
    return kernels


def launch_products(name: str, dtype: torch.dtype, launch: Any = None) -> None:
    from trainact.kernels.gram import patch_products

    shape, kernel, stride, padding = STEMS[name]
    geometry = Geometry(shape[-1])
    if kernel is not None:
        settings = (kernel, stride, padding, 1, 1, "zeros")
        geometry = make_geometry(shape[1], *settings, num_spatial=len(shape) - 2)
    patch_products(torch.zeros(shape, dtype=dtype), geometry, launch)


def stack_bytes(kernel: Any, folder: Path) -> int:
    """Local memory of a thread, which is what did not fit into registers."""
    from triton import knobs

    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    done = subprocess.run(
        [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (stack,) = re.findall(r"REG:\d+ STACK:(\d+)", done.stdout)
    return int(stack)


def accumulators(kernel: Any) -> list[str]:
    """What matrix products add to, in the compiler's intermediate code."""
    products = r"= (?:tt\.dot|ttng\.warp_group_dot) \S+ \S+ (\S+)"
    return re.findall(products, kernel.asm["ttgir"])


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products(name: str, dtype: torch.dtype, launched, tmp_path: Path) -> None:
    launch_products(name, dtype)
    assert set(launched) == {"partial_products", "add_splits"}
    for kernel in launched.values():
        assert stack_bytes(kernel, tmp_path) <= FEW_BYTES
    found = accumulators(launched["partial_products"])
    assert found
    assert all(value.startswith("%cst") for value in found), found  # zeros


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_patches_side_by_side_are_read_in_wide_loads(name: str, launched) -> None:
    launch_products(name, torch.float32)
    code = launched["partial_products"].asm["ptx"]
    widths = re.findall(r"cp\.async\.c[ag]\S+ .*?, (0x\w+|\d+)(?:,|;)", code)
    assert widths
    assert {int(width, 0) for width in widths} == {16}
    assert "ld.global" not in code


@pytest.mark.parametrize("name", ["3x3/1", "7x7/2"])
def test_split_precision(name: str, launched) -> None:
    from trainact.kernels.gram import Launch

    launch_products(name, torch.float32, Launch(32, 32, "tf32x3"))
    # Three products of one tile build on one another; the first one on zeros.
    first, *others = accumulators(launched["partial_products"])
    assert first.startswith("%cst")
    assert len(others) == 2


@pytest.mark.parametrize("size", [1, 27, 48, 64, MAX_INVERSE_ENTRIES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse(size: int, dtype: torch.dtype, launched, tmp_path: Path) -> None:
    from trainact.kernels.inverse import damped_inverse

    products = torch.eye(size, dtype=torch.float64)[None]
    damped_inverse(products, 100, 0.1, dtype)
    (kernel,) = launched.values()
    if size <= 64:
        assert stack_bytes(kernel, tmp_path) <= FEW_BYTES


def test_another_damping_or_row_count_compiles_nothing_new(launched) -> None:
    from trainact.kernels.inverse import damped_inverse

    products = torch.eye(5, dtype=torch.float64)[None]
    kernels = []
    for num_rows, lam in ((1, 0.1), (16, 0.2), (1000, 1.0)):
        damped_inverse(products, num_rows, lam, torch.float32)
        kernels.append(launched["damped_inverses"])
    assert kernels[0] is kernels[1] is kernels[2]
