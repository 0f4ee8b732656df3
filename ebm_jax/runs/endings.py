"""Messages, errors and exit statuses of a run."""

import os
import signal
import sys
import time
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import NoReturn

import jax

from ebm_jax import distributed

RESUME = "the same command resumes"
SCRATCH: list[TemporaryDirectory[str]] = []  # removed however the process ends
SECONDS_FOR_OTHERS = 5.0  # that process 0 gives the other processes to end by themselves


class RunError(Exception):
    """A run cannot continue; the message is a sentence for the user."""


class Stopped(Exception):
    """A run was asked to stop, and has saved its state."""


def say(line: str) -> None:
    """Prints a line once, from process 0."""
    if distributed.is_first():
        print(line, flush=True)


def stop_if_asked() -> None:
    """Raises Stopped if one of several processes received SIGTERM; all must call it equally often.

    A single process raises it in its own handler of SIGTERM. It does nothing during training,
    which checks for SIGTERM itself and saves first.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if several and not distributed.HEEDED.get() and distributed.Termination().asked():
        raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def end(message: str, status: int = 1) -> NoReturn:
    """Prints why the program ends, and ends it.

    Among several processes, the others would wait for this one, so it exits without any cleanup
    by JAX; they notice that and end. Process 0 first waits for a few seconds, so that the others
    can print their message: they are killed when it exits.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    prefix = f"process {jax.process_index()}: " if several else ""
    with suppress(OSError):
        print(prefix + message, file=sys.stderr, flush=True)
    if several:
        for folder in SCRATCH:
            folder.cleanup()
        with suppress(OSError):
            sys.stdout.flush()
        time.sleep(0.0 if jax.process_index() else SECONDS_FOR_OTHERS)
        os._exit(status)
    end_silently(status)


def end_silently(status: int) -> NoReturn:
    """Ends the program; buffered output that can no longer be written is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def end_by_sigint(message: str) -> NoReturn:
    """Prints a message and dies by SIGINT itself, so that a shell loop over runs ends too."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
    for folder in SCRATCH:
        folder.cleanup()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)
