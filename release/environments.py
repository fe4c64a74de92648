"""Fresh environments: the wheel and its declared dependencies, then a trial.

uv makes them: it finds every Python of the machine, takes the oldest versions that the
metadata allows as readily as the newest, and shares files among environments.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from release.programs import run

TRIALS = Path(__file__).parent / "trials"
PROGRAMS = {
    "": "core.py",
    "jax": "jax_alone.py",
    "lab": "lab_alone.py",
    "zoo": "zoo_alone.py",
}
UV = (sys.executable, "-m", "uv")
VENV = ("--quiet", "--no-python-downloads")


@dataclass(frozen=True)
class Place:
    """An environment.

    Attributes:
        python: its version, such as ``3.11``.
        versions: of the dependencies, ``oldest`` or ``newest``.
        extra: that is installed; an empty string for the core alone.
    """

    python: str
    versions: str
    extra: str

    def __str__(self) -> str:
        what = f"trainact[{self.extra}]" if self.extra else "trainact"
        return f"{what} on Python {self.python}, {self.versions} dependencies"


def places(pythons: Sequence[str]) -> list[Place]:
    """Everything that is tried: oldest dependencies on the first Python, newest on all.

    Args:
        pythons: versions, the oldest first.

    Returns:
        For each of these the core and every extra by itself.
    """
    pairs = [(pythons[0], "oldest"), *((python, "newest") for python in pythons)]
    return [Place(*pair, extra) for pair in pairs for extra in PROGRAMS]


def metadata(wheel: Path) -> dict[str, list[str]]:
    """Read the metadata of a wheel.

    Args:
        wheel: the file.

    Returns:
        The values of each field.
    """
    with ZipFile(wheel) as files:
        name = next(n for n in files.namelist() if n.endswith(".dist-info/METADATA"))
        message = BytesParser().parsebytes(files.read(name))
    return {key: message.get_all(key, []) for key in message}


def requirements(wheel: Path, extra: str) -> list[str]:
    """Read what a wheel asks for.

    Args:
        wheel: the file.
        extra: that is wanted too; may be empty.

    Returns:
        Names with their bounds.
    """
    found = map(Requirement, metadata(wheel)["Requires-Dist"])
    wanted = [r for r in found if not r.marker or r.marker.evaluate({"extra": extra})]
    return [f"{requirement.name}{requirement.specifier}" for requirement in wanted]


def try_out(wheel: Path, place: Place) -> list[str]:
    """Install a wheel into an environment of its own and run the trial there.

    Args:
        wheel: the file.
        place: the environment.

    Returns:
        What went wrong, in lines; nothing if all is well.
    """
    with tempfile.TemporaryDirectory(prefix="trainact-") as folder:
        root = Path(folder)
        python = root / "environment" / "bin" / "python"
        commands = [
            [*UV, "venv", *VENV, "--python", place.python, "environment"],
            _install(wheel, place, python),
            [str(python), str(TRIALS / PROGRAMS[place.extra])],
            [str(python.with_name("trainact")), "--version"],
        ]
        for command in commands:
            problems = run(command, root)
            if problems:
                return problems
    return []


def _install(wheel: Path, place: Place, python: Path) -> list[str]:
    what = f"{wheel}[{place.extra}]" if place.extra else str(wheel)
    command = [*UV, "pip", "install", "--quiet", "--python", str(python), what]
    if place.versions == "oldest":
        command += ["--resolution", "lowest-direct"]
        command += requirements(wheel, place.extra)
    return command
