"""What `trainact completion` can be told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True)
class CompletionOptions:
    """Write a script that completes `trainact` commands in a shell.

    It completes commands, options, paths and the names of recipes, models, methods and
    data. It starts no Python, so write it again after an update. To keep it:

      trainact completion bash > ~/.local/share/bash-completion/completions/trainact
      trainact completion zsh > FOLDER/_trainact  (of $fpath, before compinit)
      trainact completion fish > ~/.config/fish/completions/trainact.fish
    """

    shell: Positional[Shell]
    """The shell that is to read it: bash, zsh or fish."""
