"""Eight devices simulated on the CPU, quick compilation, JAX's strictest settings."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import pytest

NUM_DEVICES = 8

# Programs that run once are compiled in an eighth of the time without optimisation;
# `test_transforms.test_optimised_code` asks for it.
FLAGS = (
    f"--xla_force_host_platform_device_count={NUM_DEVICES}",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)

# JAX reads them when its first array is made, not when it is imported.
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])


@pytest.fixture
def strict_jax() -> Iterator[None]:
    """No implicit conversion of dtypes or ranks; other packages do not bear it."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def devices() -> list[jax.Device]:
    found = jax.devices()
    assert len(found) >= NUM_DEVICES, (
        "a test module has made a JAX array while it was imported, before "
        "tests/jaxed/conftest.py could ask for simulated devices"
    )
    return found[:NUM_DEVICES]
