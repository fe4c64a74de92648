"""Settings of a layer under TrAct: what it shows, what can be changed, what cannot."""

from __future__ import annotations

import pytest
from torch import nn

import trainact
from trainact import Estimate


def test_a_layer_shows_what_was_asked_for() -> None:
    layer = trainact.TrAct(
        nn.Linear(3, 2), 0.2, sync=True, estimate=Estimate(every=4), relative=True
    )
    assert repr(layer) == (
        "TrActLinear(in_features=3, out_features=2, bias=True, lam=0.2, relative=True, "
        "sync=True, estimate=Estimate(every=4, decay=0.0, fraction=1.0))"
    )


def test_ranks_can_be_changed_later() -> None:
    layer = trainact.TrAct(nn.Linear(3, 2))
    assert layer.sync is False
    layer.sync = True
    assert layer.sync is True
    assert "sync=True" in repr(layer)
    layer.sync = False
    assert layer.sync is False
    assert "sync" not in repr(layer)


@pytest.mark.parametrize("wrong", ["all", 1, [0, 1]])
def test_ranks_that_are_none_are_refused(wrong) -> None:
    layer = nn.Linear(3, 2)
    message = r"is not False, True or a torch\.distributed process group"
    with pytest.raises(ValueError, match=message):
        trainact.TrAct(layer, sync=wrong)
    assert type(layer) is nn.Linear
    trainact.TrAct(layer, sync=True)
    with pytest.raises(ValueError, match=message):
        layer.sync = wrong
    assert layer.sync is True
