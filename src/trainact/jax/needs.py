"""What is not installed, said before anything else is imported."""

from __future__ import annotations

from importlib import import_module


def need(name: str) -> None:
    """Import a package of the extra ``jax``.

    Args:
        name: of the package.

    Raises:
        ModuleNotFoundError: if it is not installed; the message says what to do.
    """
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        msg = (
            f"trainact.jax needs {error.name}, which is not installed: "
            "pip install 'trainact[jax]'"
        )
        raise ModuleNotFoundError(msg, name=error.name) from error
