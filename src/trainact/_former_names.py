"""Modules as they were called in pickles that earlier versions have saved."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_FORMER = {
    "trainact.estimate": "trainact.statistics.estimate",
    "trainact.estimator": "trainact.statistics.estimated",
    "trainact.subclasses": "trainact.layers.subclasses",
    "trainact.sync": "trainact.statistics.ranks",
}


class _Renamed(ModuleType):
    """Has what the module has that it is called today, imported when asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(_FORMER[self.__name__]), name)


for _name in _FORMER:
    sys.modules[_name] = _Renamed(_name)
