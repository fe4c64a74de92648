"""Write the snapshot anew: ``python -m tests.snapshot``."""

from __future__ import annotations

import json

import torch

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
    layers,
    network,
    parametrised,
    response,
    sgd,
)  # fmt: skip

API.write_text("\n".join(api(MODULES + JAX_MODULES)) + "\n")
curves = {}
for name in NETWORKS:
    model = network(name)
    curves[name] = curve(name, model, sgd(model))
CURVES.write_text(json.dumps(curves, indent=1) + "\n")
if not LAYERS.exists():
    torch.save({name: layer for name, (layer, _) in layers().items()}, LAYERS)
    states = {
        name: (layer.state_dict(), response(layer, x))
        for name, (layer, x) in (layers() | parametrised()).items()
    }
    torch.save(states, STATES)
