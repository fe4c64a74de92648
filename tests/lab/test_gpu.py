"""What of the laboratory only a GPU can show; needs neither tyro nor a data set."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.lab.conftest import CONFIG
from trainact.lab import models
from trainact.lab.data import load_data
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.pipeline import choose_pipeline
from trainact.lab.data.resident import ResidentBatches
from trainact.lab.experiment import plan
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.jobs import carry_out
from trainact.lab.recipes import find_recipes
from trainact.lab.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # Deterministic algorithms, which the tests ask for, warn where there are none.
    pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning"),
]


@pytest.mark.parametrize("augment", PIPELINES)
def test_the_same_images_as_on_the_cpu(augment: str) -> None:
    data = load_data("smoke:10", Path("unused"))
    config = replace(CONFIG, augment=augment, batch_size=2)
    pairs = zip(
        ResidentBatches(config, data, torch.device("cpu")),
        ResidentBatches(config, data, torch.device("cuda")),
        strict=True,
    )
    for (images, labels), (gpu_images, gpu_labels) in pairs:
        assert gpu_images.is_cuda
        assert torch.equal(labels, gpu_labels.cpu())
        # Rotations may choose another nearest pixel where two are equally near, and
        # grey levels may round to the next.
        differs = (images.int() - gpu_images.cpu().int()).abs() > 1
        assert differs.float().mean() < 2e-3


def test_what_fits_is_resident() -> None:
    data = load_data("smoke:10", Path("unused"))
    assert choose_pipeline("auto", data, torch.device("cuda")) == "resident"


@pytest.mark.parametrize("name", ["fig5-30", "table3-vit-s-400", "table5"])
def test_large_recipes_train_in_micro_batches(tmp_path: Path, name: str) -> None:
    options = ExperimentOptions(
        out=tmp_path,
        smoke=True,
        device="cuda",
        logger="none",
        lam=(0.1,),
        batch_size=4,
        micro_batch=2,
        workers=1,
    )
    for job in plan(find_recipes([name]), options, [0]):
        record = carry_out(job, lambda _: None)
        assert record is not None
        assert all(loss is not None and math.isfinite(loss) for loss in record.loss)
        assert record.micro_batches == 2


@pytest.mark.parametrize("pipeline", ["resident", "workers"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16-mixed", "channels_last": True}, {"compile": True}],
    ids=["float32", "bf16 channels last", "compiled"],
)
def test_recipes_train(tmp_path: Path, changes: dict[str, Any], pipeline: Any) -> None:
    options = ExperimentOptions(
        out=tmp_path,
        smoke=True,
        device="cuda",
        logger="none",
        pipeline=pipeline,
        lam=(0.1,),
        **changes,
    )
    for job in plan(find_recipes(["fig3-sgd-100"]), options, [0]):
        record = carry_out(job, lambda _: None)
        assert record is not None
        assert all(loss is not None and math.isfinite(loss) for loss in record.loss)
        assert record.pipeline == pipeline
        assert (record.compile_seconds > 0) == job.config.compile


def test_a_lost_step_is_named_exactly_without_waiting_for_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Losing(nn.Linear):
        calls = 0

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            logits = super().forward(input)
            return logits * torch.nan if self.calls == 5 else logits

    def losing(*_: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Losing(64, 10))

    monkeypatch.setitem(models.BUILT_IN, "losing", losing)
    data = load_data("digits", Path("unused"))
    config = replace(CONFIG, model="losing", device="cuda")
    record = train(config, data, torch.device("cuda"), lambda _: None)
    assert record.diverged_step == 5
    assert len(record.loss) == 1
