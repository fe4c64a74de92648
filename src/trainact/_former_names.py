"""Classes and functions by the names in pickles that earlier versions have saved."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_FORMER = {
    "trainact.estimate": {"Estimate": "trainact.statistics.estimated.Estimate"},
    "trainact.estimator": {
        "Estimator": "trainact.statistics.estimated.Estimated",
        "_Rows": "trainact.statistics.estimated._Rows",
        "_Sums": "trainact.statistics.estimated._Sums",
    },
    "trainact.subclasses": {"_new": "trainact.layers.subclasses._new"},
    "trainact.sync": {"Group": "trainact.statistics.group.Group"},
}


class _Former(ModuleType):
    """Stands for a module of that name; what it had is imported when it is read."""

    def __getattr__(self, name: str) -> Any:
        if name not in _FORMER[self.__name__]:
            raise AttributeError(name)
        module, _, today = _FORMER[self.__name__][name].rpartition(".")
        return getattr(importlib.import_module(module), today)


for _name in _FORMER:
    sys.modules[_name] = _Former(_name)
