"""What TrAct adds to a step: the formulas of docs/scaling.md against what happens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

import trainact
from benchmarks import scaling_assumptions, scaling_sections
from benchmarks.counting import (
    KeptStorages,
    counted,
    predicted,
    read_stem,
    sent_collectives,
)
from benchmarks.scaling_links import (
    Link,
    all_gather_s,
    all_reduce_s,
    ring_all_reduce_s,
    tree_all_reduce_s,
)
from benchmarks.scaling_operations import gram_flops, local_work, synced_work
from benchmarks.scaling_volumes import (
    Collective,
    Stem,
    collectives,
    exchange,
    local_kept_bytes,
    scratch_bytes,
)
from tests.distributed.processes import run
from tests.drawing import examples
from trainact.damping import Damping
from trainact.factor import factorise
from trainact.geometry import make_geometry
from trainact.gram.cost import can_shift, cheapest_dim
from trainact.gram.shifted import shifted_gram
from trainact.lab.bench.profile import peak_bytes
from trainact.statistics import ranks

Build = Callable[[], nn.Module]
Layers = dict[str, tuple[Build, tuple[int, ...]]]

LAYERS: Layers = {
    "7x7/2, shifts": (lambda: nn.Conv2d(3, 8, 7, 2, 3), (2, 3, 64, 60)),
    "3x7x7, shifts in 3-D": (
        lambda: nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
        (1, 3, 6, 40, 40),
    ),
    "3x3x3 of one channel": (lambda: nn.Conv3d(1, 8, 3, padding=1), (1, 1, 16, 16, 16)),
    "16x16, patches": (lambda: nn.Conv2d(3, 8, 16, 16), (6, 3, 192, 192)),
    "16x16, few rows": (lambda: nn.Conv2d(3, 8, 16, 16), (1, 3, 64, 64)),
    "groups, dilation": (
        lambda: nn.Conv2d(8, 16, 5, 2, dilation=2, groups=4),
        (3, 8, 41, 40),
    ),
    "1-D": (lambda: nn.Conv1d(3, 6, 9, 4), (3, 3, 500)),
    "linear": (lambda: nn.Linear(30, 5), (64, 30)),
    "linear, few rows, tokens": (lambda: nn.Linear(200, 5), (3, 4, 200)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_own_statistics_take_and_keep_what_the_formulas_say(name: str) -> None:
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape)
    rows = read_stem(layer, x).rows
    found = counted(layer, x, sync=False)
    assert found == predicted(layer, x, [rows])
    assert found["kept_bytes"] > 0
    assert found["products"] > 0


def test_the_layers_take_every_way() -> None:
    stems = [read_stem(build(), torch.zeros(s)) for build, s in LAYERS.values()]
    dims = {cheapest_dim(stem.geometry, stem.shape, "cpu") for stem in stems}
    assert {None, 0, 1} <= dims
    assert {stem.is_dual for stem in stems} == {False, True}


@examples(40)
@given(
    kernel=st.integers(2, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    dim=st.integers(0, 1),
    size=st.integers(12, 20),
)
def test_shifts_of_any_geometry(
    kernel: int, stride: int, dilation: int, groups: int, dim: int, size: int
) -> None:
    geometry = make_geometry(4, kernel, stride, 1, dilation, groups, "zeros", 2)
    shape = (2, 4, size, size + 1)
    if not can_shift(geometry, geometry.output_size(shape[2:]), dim):
        return
    stem = Stem(geometry, 4, shape)
    with FlopCounterMode(display=False) as counter:
        shifted_gram(torch.zeros(shape), geometry, dim)
    assert gram_flops(stem, "cpu", dim) == counter.get_total_flops()


def test_an_accelerator_multiplies_all_of_a_patch() -> None:
    build, shape = LAYERS["7x7/2, shifts"]
    stem = read_stem(build(), torch.zeros(shape))
    full = 2 * stem.rows * 147**2
    assert local_work(stem, "cuda").gram == full
    assert gram_flops(stem, "cpu", None) < full
    # On CUDA the identity is solved for, which LAPACK's inverse is a third of.
    assert local_work(stem, "cuda").systems == 147**3 // 3 + 2 * 147**3


# In place of the module's own limit, so that a layer may be small and above it.
LIMIT = 64

# Inputs of the two ranks.
SHARED: dict[str, tuple[Build, tuple[tuple[int, ...], ...], torch.dtype]] = {
    "sums": (lambda: nn.Linear(30, 5), ((40, 30), (50, 30)), torch.float32),
    "sums, a rank with few rows": (
        lambda: nn.Linear(60, 5),
        ((70, 60), (9, 60)),
        torch.float32,
    ),
    "sums, a rank without rows": (
        lambda: nn.Conv2d(3, 8, 4, 2),
        ((4, 3, 20, 20), (0, 3, 20, 20)),
        torch.float32,
    ),
    "sums of groups": (
        lambda: nn.Conv2d(8, 16, 5, 2, groups=4),
        ((2, 8, 30, 31), (3, 8, 30, 31)),
        torch.float32,
    ),
    "many entries, rows": (
        lambda: nn.Linear(LIMIT + 46, 4),
        ((7, 110), (20, 110)),
        torch.float32,
    ),
    "many entries, 16-bit rows": (
        lambda: nn.Linear(LIMIT + 46, 4),
        ((7, 110), (20, 110)),
        torch.bfloat16,
    ),
    "many entries, sums": (
        lambda: nn.Linear(LIMIT + 46, 4),
        ((100, 110), (40, 110)),
        torch.float32,
    ),
}
MANY = LIMIT + 46
# Bytes that a rank hands to each collective.
SENT = {
    "sums": [8 * (30**2 + 1)],
    "sums, a rank with few rows": [8 * (60**2 + 1)],
    "sums, a rank without rows": [8 * (48**2 + 1)],
    "sums of groups": [8 * (4 * 50**2 + 1)],
    "many entries, rows": [8, 4 * 20 * MANY],
    "many entries, 16-bit rows": [8, 2 * 20 * MANY],
    "many entries, sums": [8, 8 * (MANY**2 + 1)],
}


def of_rank() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What was counted and what is predicted, in a rank of two."""
    ranks.MAX_SUMMED_ENTRIES = LIMIT  # this process ends with the test
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for name, (build, shapes, dtype) in SHARED.items():
        layer = build().to(dtype)
        xs = [torch.randn(shape).to(dtype) for shape in shapes]
        rows = [read_stem(layer, x).rows for x in xs]
        x = xs[dist.get_rank()]
        found[name] = counted(layer, x, sync=True), predicted(layer, x, rows)
    return found


def test_shared_statistics_send_and_keep_what_the_formulas_say() -> None:
    for rank in run(2, of_rank):
        for name, (measured, expected) in rank.items():
            assert measured == expected, name
            sent = [call["sent_bytes"] for call in measured["collectives"]]
            assert sent == SENT[name], name


def other_ways() -> tuple[list[list[Collective]], int]:
    """Collectives of own, deferred and estimated statistics; bytes kept by the last."""
    x = torch.randn(99, 50)
    own = nn.Sequential(trainact.TrAct(nn.Linear(50, 4)))
    estimated = trainact.TrAct(
        nn.Linear(50, 4), sync=True, estimate=trainact.Estimate(every=2)
    )
    with sent_collectives() as of_own:
        own(x).sum().backward()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    optimizer.zero_grad()
    wrapped = DistributedDataParallel(own)
    with sent_collectives() as of_deferred, trainact.deferred(wrapped, optimizer):
        for part in x.chunk(3):
            wrapped(part).sum().backward()
        optimizer.step()
    known = [x, *estimated.parameters()]
    with sent_collectives() as of_estimate, KeptStorages(known) as storages:
        for _ in range(2):
            estimated(x).sum().backward()
            estimated.zero_grad()
        dist.barrier()  # gloo lets go of what it has sent
    return [of_own, of_deferred, of_estimate], storages.alive


def test_the_other_ways_as_the_page_says() -> None:
    sums = 8 * (50**2 + 1)
    expected = [
        [],
        [
            Collective("all_gather", 16),
            Collective("all_reduce", sums),
        ],
        [Collective("all_reduce", sums)],
    ]
    # An estimate keeps the sums and the inverse.
    assert run(2, other_ways) == 2 * [(expected, 12 * 50**2 + 8)]


def test_an_inverse_takes_four_matrices_beside_its_own() -> None:
    gram_GPP = torch.eye(150, dtype=torch.float64)[None]
    results: list[object] = []

    def invert() -> None:
        results.append(factorise(gram_GPP, Damping(0.1), torch.float32))

    peak = peak_bytes(invert, results.clear, torch.device("cpu"))
    stem = Stem(make_geometry(150, 1, 1, 0, 1, 1, "zeros", 2), 4, (1, 150, 20, 20))
    # A itself is the fifth; a few numbers more are scalars of each group.
    assert scratch_bytes(stem) == 5 * gram_GPP.nbytes
    assert 0 <= peak - 4 * gram_GPP.nbytes < 100


UNETR = make_geometry(1, 16, 16, 0, 1, 1, "zeros", 3)


def test_a_volume_by_hand() -> None:
    stem = Stem(UNETR, 768, (2, 1, 96, 96, 96))
    assert (stem.entries, stem.rows, stem.is_dual) == (4096, 432, True)
    assert local_kept_bytes(stem) == 4 * 432 * 4096 + 8 * (432**2 + 1)
    few = [432] * 8
    assert [c.sent_bytes for c in collectives(stem, few)] == [8, 4 * 432 * 4096]
    many = [432] * 64
    assert [c.sent_bytes for c in collectives(stem, many)] == [8, 8 * (4096**2 + 1)]
    # n^3 / 3 + 2 n^3, and a basis of the own rows: 432^3 / 3 + 432^2 n.
    systems = 4096**3 // 3 + 2 * 4096**3 + 432**3 // 3 + 432**2 * 4096
    assert synced_work(stem, "cuda", 64 * 432).systems == systems


@pytest.mark.parametrize(
    ("entries", "all_rows", "num_ranks", "kind"),
    [
        (ranks.MAX_SUMMED_ENTRIES, 2, 2, "sums"),
        (ranks.MAX_SUMMED_ENTRIES + 1, ranks.MAX_SUMMED_ENTRIES, 2, "rows"),
        (ranks.MAX_SUMMED_ENTRIES + 1, ranks.MAX_SUMMED_ENTRIES + 1, 2, "sums"),
        (5000, 2, 1, "none"),
    ],
)
def test_what_is_exchanged(
    entries: int, all_rows: int, num_ranks: int, kind: str
) -> None:
    assert exchange(entries, all_rows, num_ranks) == kind


LINK = Link(latency_s=1e-5, bytes_per_s=1e10)


def test_links_by_hand() -> None:
    # 1 MB over 10 GB/s takes 100 microseconds.
    assert math.isclose(ring_all_reduce_s(1e6, 2, LINK), 2 * (1e-5 + 5e-5))
    assert math.isclose(ring_all_reduce_s(1e6, 4, LINK), 6 * (1e-5 + 2.5e-5))
    assert math.isclose(tree_all_reduce_s(1e6, 5, LINK), 6 * 1e-5 + 2e-4)
    assert math.isclose(all_gather_s(1e6, 4, LINK), 3 * (1e-5 + 1e-4))
    # Of many ranks and few bytes a tree is faster, of few ranks a ring.
    assert all_reduce_s(1e3, 4096, LINK) == tree_all_reduce_s(1e3, 4096, LINK)
    assert all_reduce_s(1e6, 4, LINK) == ring_all_reduce_s(1e6, 4, LINK)


@pytest.mark.parametrize("seconds", [ring_all_reduce_s, all_reduce_s, all_gather_s])
def test_one_rank_waits_for_nobody(seconds: Callable[..., float]) -> None:
    assert seconds(1e9, 1, LINK) == 0


def test_an_alone_network_has_no_collectives() -> None:
    record = scaling_sections.read_records()["model"][0]
    case = scaling_assumptions.read_case(record)
    assert scaling_assumptions.exchange_s(case, 1) == 0
    assert scaling_assumptions.exchange_s(case, 4096) > 0


def test_what_was_recorded_is_what_the_formulas_say_today() -> None:
    for record in scaling_sections.read_records()["counts"]:
        for rank in record["by_rank"]:
            assert rank["measured"] == rank["predicted"], record["stem"]


def test_another_number_of_images_scales_the_step() -> None:
    record = scaling_sections.read_records()["model"][0]
    case = scaling_assumptions.read_case(record)
    half = case.of(case.images // 2)
    assert 2 * half.step_flops == case.step_flops
    assert 2 * half.stem.rows == case.stem.rows
