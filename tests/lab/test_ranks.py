"""The same batch on one, two and three processes, in one piece or several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab import forked
from tests.lab.conftest import CONFIG
from trainact.lab.config import RunConfig
from trainact.lab.jobs import Job, Place, key_of
from trainact.lab.records import Record
from trainact.lab.workspace import Workspace

# 20 steps; the last batch of an epoch has 60 images and is not divided evenly.
TASK = replace(
    CONFIG,
    model="small-vit",
    method="tract",
    lam=0.1,
    epochs=4,
    batch_size=60,
    limit=280,
    lr=0.05,
    augment="crop-flip",
)
MIXED = replace(
    TASK,
    model="mlp",  # Adam divides noise by noise where a gradient is 0, as in key biases
    optimizer="adamw",
    lr=1e-3,
    mixup=0.8,
    cutmix=1.0,
    mix_group=20,
    repeats=3,
    loss="binary-cross-entropy",
)
CASES = {
    "tract": (TASK, [(2, None), (3, None), (1, 25), (3, 7)]),
    "vanilla": (replace(TASK, method="vanilla", lam=None), [(2, 10)]),
    "tract+sgd": (replace(TASK, method="tract+sgd"), [(3, None)]),
    "mixed": (MIXED, [(2, None), (3, None), (1, 16), (2, 10)]),
}


def train(
    out: Path, config: RunConfig, num_ranks: int, micro_batch: int | None = None
) -> tuple[Record, dict[str, torch.Tensor]]:
    place = Place(out=str(out), device="cpu", micro_batch=micro_batch)
    job = Job(config, None, place, keep_weights=True)
    log = out.parent / "errors"
    codes = forked.finish(forked.start(job.to_json(), num_ranks, log))
    assert codes == [0] * num_ranks, log.read_text()
    workspace = Workspace(out)
    record = workspace.find(key_of(job))
    assert record is not None
    return record, torch.load(workspace.weights(record.key))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_share_of_a_batch_gives_the_same_weights(
    tmp_path: Path, name: str
) -> None:
    config, shares = CASES[name]
    alone, expected = train(tmp_path / "alone", config, 1)
    for num_ranks, micro_batch in shares:
        out = tmp_path / f"{num_ranks}-{micro_batch}"
        record, found = train(out, config, num_ranks, micro_batch)
        assert record.key == alone.key
        assert record.num_devices == num_ranks
        assert (record.micro_batches > 1) == (micro_batch is not None)
        assert record.accuracy == alone.accuracy
        assert record.loss == pytest.approx(alone.loss, abs=2e-6)
        for part, value in expected.items():
            # Measured: at most 2e-6.
            torch.testing.assert_close(found[part], value, atol=1e-5, rtol=0)


def test_without_shared_statistics_the_weights_would_differ(
    tmp_path: Path,
) -> None:
    """The test above can fail."""
    alone: Any = train(tmp_path / "alone", TASK, 1)[1]
    local = replace(TASK, method="tests.lab.applied:LOCAL")
    found: Any = train(tmp_path / "two", local, 2)[1]
    worst = max(
        float((found[name] - value).abs().max()) for name, value in alone.items()
    )
    assert worst > 1e-4
