"""Lightning without its chatter and its own answers to signals."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Generator

from lightning.pytorch import Callback, LightningModule, Trainer

_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning")


@contextlib.contextmanager
def quiet_lightning() -> Generator[None]:
    """Silence Lightning's log lines and warnings inside the block.

    Yields:
        Nothing.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            # torch's notice about weights such as a class token, of shape [1, 1, n]
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Make Ctrl-C inside Lightning a KeyboardInterrupt outside it.

    Lightning's Trainer answers Ctrl-C by ignoring the signal from then on and exiting
    the process with code 1; here the signal's handler comes back and the interrupt is
    raised again, so that the caller decides what is left to do.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: when the block was interrupted.
        SystemExit: when the block exited for another reason.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if in_main and handler is not None:
            signal.signal(signal.SIGINT, handler)


class OwnSigterm(Callback):
    """Gives SIGTERM the meaning back that it had before Lightning trained.

    Lightning's Trainer ends the process with code 0, as if the run were finished, and
    one of several processes waits in the signal's handler for the first one. A job on a
    cluster has handlers of its own, which queue it again.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handler back, which Lightning has replaced by now.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        del trainer, pl_module
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)
