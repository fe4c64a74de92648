"""`trainact completion`: what can follow what, written as a script for a shell.

The scripts hold all words themselves and start no Python, since importing torch takes
seconds. tyro writes such scripts too, but without positional arguments and without
values of options that also take others, such as recipes, models and imagefolder:PATH.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trainact.cli.command import COMMANDS, load
from trainact.lab.bench.cases import CASES
from trainact.lab.bench.options import ARM_NAMES, MODE_NAMES
from trainact.lab.completion.options import CompletionOptions
from trainact.lab.completion.scripts import Completed, CompletedCommand, write_script
from trainact.lab.data import FOLDER_PREFIX, NAMES
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.methods import METHODS
from trainact.lab.models import BUILT_IN, SOURCES
from trainact.lab.option_fields import OptionField, first_sentence, option_fields
from trainact.lab.recipes import all_recipes

_EXPERIMENT_DATA = (
    *("cifar10", "cifar100", FOLDER_PREFIX),
    *("webdataset:", "flowers102", "stanford-cars", "voc:"),
)
_HELP = Completed("--help", "show this help message and exit", "none")


def main(options: CompletionOptions) -> int:
    """Write the script.

    Args:
        options: what the user asked for.

    Returns:
        The exit code, 0.
    """
    sys.stdout.write(write_script(options.shell, [*commands()]))
    return 0


def commands() -> Iterator[CompletedCommand]:
    """Describe all commands.

    Yields:
        Each command; one with commands of its own before these.
    """
    for name, command in COMMANDS.items():
        yield from _command((name,), command.summary, load(command.options))


def _command(
    path: tuple[str, ...], text: str, options: type
) -> Iterator[CompletedCommand]:
    below: dict[str, type] = getattr(options, "subcommands", {})
    fields = [] if below else option_fields(options)
    words = known_words(is_experiment=issubclass(options, ExperimentOptions))
    own = (_completed(field, words.get(field.name, ())) for field in fields)
    yield CompletedCommand(path, text, tuple(below), (_HELP, *own))
    for name, kind in below.items():
        summary = first_sentence((kind.__doc__ or "").partition("\n")[0])
        yield from _command((*path, name), summary, kind)


def _completed(field: OptionField, words: tuple[str, ...]) -> Completed:
    return Completed(
        flag="" if field.is_positional else field.flag,
        text=first_sentence(field.text),
        takes="none" if field.kind is bool else "many" if field.is_many else "one",
        words=field.choices or words,
        paths=field.kind is Path or field.name == "shards",
    )


def known_words(*, is_experiment: bool) -> dict[str, tuple[str, ...]]:
    """List what options can be whose types do not say it.

    Args:
        is_experiment: whether the command trains recipes.

    Returns:
        Words by the name of the option's field.
    """
    recipes = tuple(all_recipes())
    families = (name.partition("-")[0] for name in recipes)
    recipes_and_families = tuple(dict.fromkeys((*families, *recipes)))
    models = (*BUILT_IN, *sorted(SOURCES["torchvision"][0]()))
    own_data = (name.removesuffix("PATH") for name in NAMES)
    return {
        "arms": ARM_NAMES,
        "cases": tuple(CASES),
        "data": _EXPERIMENT_DATA if is_experiment else tuple(own_data),
        "device": ("auto", "cpu", "cuda", "mps"),
        "folder": (FOLDER_PREFIX,),
        "method": tuple(METHODS),
        "methods": tuple(METHODS),
        "model": models,
        "modes": MODE_NAMES,
        "name": recipes_and_families,
        "recipe": recipes,
        "recipes": recipes_and_families,
    }
