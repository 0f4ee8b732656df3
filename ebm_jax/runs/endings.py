"""How a run speaks and ends: lines for people, and exit statuses that a shell understands."""

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
SCRATCH: list[TemporaryDirectory[str]] = []  # to be removed however the process ends
SECONDS_FOR_OTHERS = 5.0  # to end by themselves, before the first process does


class RunError(Exception):
    """A run cannot go on; the message is a sentence for people."""


class Stopped(Exception):
    """A run was asked to end, and has saved what it had."""


def say(line: str) -> None:
    """Print a line for people, once for all processes."""
    if distributed.is_first():
        print(line, flush=True)


def stop_if_asked() -> None:
    """Raise Stopped if one of several processes received SIGTERM: all of them ask equally often.

    A single process raises it in its own handler of SIGTERM. Training, which saves first, asks
    by itself and is left alone.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if several and not distributed.HEEDED.get() and distributed.Termination().asked():
        raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def end(message: str, status: int = 1) -> NoReturn:
    """Print why the program ends, and end it.

    Among several processes the others wait for this one: it leaves without taking leave,
    which they notice and end. The first gives them time to say the same, since they all die
    with it.
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
    """End the program; what standard output cannot take any more is dropped without a word."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def end_by_sigint(message: str) -> NoReturn:
    """Print why, and end by SIGINT itself, so that a shell's loop over runs ends too."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
    for folder in SCRATCH:
        folder.cleanup()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)
