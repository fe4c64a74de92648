"""A program: run parts of a trial where only the named packages can be imported.

python only.py FOLDER_OF_THE_WHEEL TRIAL PART..., with the names on standard input, a
JSON object of ``modules`` (top-level, of the packages allowed) and ``distributions``.
What else is installed here is as if it were not.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path
from typing import Any

PLATFORM = "_sysconfigdata"  # the standard library's, named after the machine


class Only(PathFinder):
    """Finds the standard library and what is allowed."""

    modules: frozenset[str] = frozenset()
    distributions: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        name = fullname.partition(".")[0]
        is_standard = name in sys.stdlib_module_names or name.startswith(PLATFORM)
        if name in cls.modules or is_standard:
            return PathFinder.find_spec(fullname, path, target)
        return None

    @classmethod
    def find_distributions(cls, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for found in PathFinder.find_distributions(*args, **kwargs):
            if found.name.lower().replace("_", "-") in cls.distributions:
                yield found


def main() -> None:
    folder, trial = map(Path, sys.argv[1:3])
    allowed = json.load(sys.stdin)
    Only.modules = frozenset(allowed["modules"]) | {"trainact", "shared"}
    Only.distributions = frozenset(allowed["distributions"]) | {"trainact"}
    loaded = {name.partition(".")[0] for name in sys.modules}
    too_early = loaded - Only.modules - sys.stdlib_module_names - {"__main__"}
    for name in list(sys.modules):
        if name.partition(".")[0] in too_early:
            del sys.modules[name]
    sys.path[:0] = [str(folder), str(trial.parent)]
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]
    parts = runpy.run_path(str(trial))
    for name in sys.argv[3:]:
        parts[name]()
    import trainact

    assert Path(trainact.__file__).is_relative_to(folder), trainact.__file__


if __name__ == "__main__":
    main()
