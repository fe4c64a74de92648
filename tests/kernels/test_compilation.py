"""What the compilers make of the kernels, without a device: NVIDIA sm_80 and sm_90.

Claims: the default launches compile and keep what they hold in registers; no tile's
product is summed in the tensor cores' accumulator, which cuts off instead of rounding.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trainact.kernels.choice import INTERPRETED, MAX_INVERSE_ENTRIES

from .conftest import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter does not compile"),
]

POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
GEOMETRIES = {  # entries, kernel, stride, padding
    "3x3/1": (27, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    "4x4/4": (48, (1, 4, 4), (1, 4, 4), (0, 0, 0)),
    "7x7/2": (147, (1, 7, 7), (1, 2, 2), (0, 3, 3)),
    "16x16/16": (768, (1, 16, 16), (1, 16, 16), (0, 0, 0)),
    "2x16x16": (1536, (2, 16, 16), (2, 16, 16), (0, 0, 0)),
    "linear": (300, (1, 1, 1), (1, 1, 1), (0, 0, 0)),
}

# Some numbers that do not change in the loop may be put aside.
FEW_BYTES = 32


def build(kernel: Any, types: dict[str, Any], constants: dict[str, Any], **options):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from trainact.kernels.device import OPTIONS

    capability = options.pop("capability")
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={**options, **OPTIONS})


def build_products(dtype: str, geometry: str, capability: int, launch: Any = None):
    import triton.language as tl

    from trainact.kernels.gram import default_launch
    from trainact.kernels.gram_kernels import partial_products

    entries, kernel, stride, padding = GEOMETRIES[geometry]
    launch = launch or default_launch(entries)
    runtime = {
        name: "i32"
        for name, parameter in zip(
            partial_products.arg_names, partial_products.params, strict=True
        )
        if not parameter.is_constexpr
    }
    triples = dict.fromkeys(("out_size", "in_size", "strides"), ("i32",) * 3)
    types = {**runtime, **triples, "x_ptr": POINTERS[dtype], "partial_ptr": "*fp64"}
    constants = {
        "NUM_ENTRIES": entries,
        "KERNEL": kernel,
        "STRIDE": stride,
        "DILATION": (1, 1, 1),
        "BEFORE": padding,
        "PADDED": tuple(size > 0 for size in padding),
        "NUM_BLOCKS": -(-entries // launch.block_entries),
        "BLOCK_P": launch.block_entries,
        "BLOCK_N": launch.block_rows,
        "INDEX": tl.int32,
        "PRECISION": launch.precision,
        "WIDEN": False,
    }
    return build(
        partial_products, types, constants, capability=capability,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def stack_bytes(compiled: Any, folder: Path) -> int:
    """Local memory of a thread, which is what did not fit into registers."""
    from triton import knobs

    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    done = subprocess.run(
        [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (stack,) = re.findall(r"REG:\d+ STACK:(\d+)", done.stdout)
    return int(stack)


def matrix_products(compiled: Any) -> list[str]:
    """In the compiler's intermediate code."""
    pattern = r"= (?:tt\.dot|ttng\.warp_group_dot) .*"
    return re.findall(pattern, compiled.asm["ttgir"])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", POINTERS)
def test_products(dtype: str, geometry: str, capability: int, tmp_path: Path) -> None:
    compiled = build_products(dtype, geometry, capability)
    assert stack_bytes(compiled, tmp_path) <= FEW_BYTES
    products = matrix_products(compiled)
    assert products
    for product in products:
        accumulator = product.split(",")[2].split()[0]
        assert accumulator.startswith("%cst"), product  # zeros, not the sum so far


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("result", ["fp32", "fp64"])
@pytest.mark.parametrize("size", [27, 48, MAX_INVERSE_ENTRIES])
def test_inverse(size: int, result: str, capability: int, tmp_path: Path) -> None:
    from trainact.kernels.inverse import launch_options
    from trainact.kernels.inverse_kernel import damped_inverses

    types = {
        "products_ptr": "*fp64",
        "result_ptr": f"*{result}",
        "num_rows": "fp64",
        "lam": "fp64",
    }
    block, num_warps = launch_options(size)
    constants = {"RESOLUTION": 2.0**-20, "NUM_ENTRIES": size, "BLOCK": block}
    compiled = build(
        damped_inverses, types, constants, capability=capability, num_warps=num_warps
    )
    if size <= 64:
        assert stack_bytes(compiled, tmp_path) <= FEW_BYTES
