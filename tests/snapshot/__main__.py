"""Write the snapshot anew: ``python -m tests.snapshot``."""

from __future__ import annotations

import json

import torch

from tests.tolerances import CURVE_RTOL

from .contents import (
    API,
    CURVES,
    JAX_MODULES,
    LAYERS,
    MODULES,
    NETWORKS,
    STATES,
    api,
    curve,
    largest_change,
    layers,
    network,
    parametrised,
    response,
    sgd,
)  # fmt: skip

API.write_text("\n".join(api(MODULES + JAX_MODULES)) + "\n")
curves = json.loads(CURVES.read_text())
for name in NETWORKS:
    model = network(name)
    losses = curve(name, model, sgd(model))
    if largest_change(name, losses) > CURVE_RTOL:  # not the last digits alone
        curves[name] = losses
CURVES.write_text(json.dumps(curves, indent=1) + "\n")
if not LAYERS.exists():
    torch.save({name: layer for name, (layer, _) in layers().items()}, LAYERS)
    states = {
        name: (layer.state_dict(), response(layer, x))
        for name, (layer, x) in (layers() | parametrised()).items()
    }
    torch.save(states, STATES)
