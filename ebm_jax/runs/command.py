"""An experiment as a command: flags from the signature of its `main`, failures in a sentence."""

import dataclasses
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, get_annotations, getdoc, signature
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from tyro.conf import OmitArgPrefixes

from ebm_jax import distributed, sharding
from ebm_jax.checkpoints import CheckpointError
from ebm_jax.data import DataError
from ebm_jax.distributed import JoinError
from ebm_jax.runs.endings import (
    RESUME,
    RunError,
    Stopped,
    end,
    end_by_sigint,
    end_silently,
    say,
)
from ebm_jax.runs.machine import ALONE, Machine
from ebm_jax.runs.models import ModelError
from ebm_jax.runs.run import Run, give_up
from ebm_jax.training import TrainingDiverged

Main = Callable[..., None]  # main(run, *, flags with defaults)


def command(main: Main, argv: Sequence[str] | None = None) -> None:
    """Runs an experiment's `main(run, *, flags...)` with flags from the command line.

    Every experiment also has --out, its folder, and the flags of `Machine`.

    Args:
        main: a function of a `Run` and of keywords with defaults, which are the flags; its
            docstring is their help.
        argv: the command line without the program; that of the process by default.
    """
    with ended_by_a_sentence():
        first_line = (getdoc(main) or "").partition("\n")[0]
        program = f"python -m experiments.{_name(main)}"
        given = tyro.cli(_command_line(main), args=argv, prog=program, description=first_line)
        start(main, given.out, given.machine, **vars(given.experiment))


def start(main: Main, out: str = "", machine: Machine = ALONE, **options: Any) -> Run:
    """Runs an experiment in this process; flags that are not given have their defaults.

    Args:
        main: the experiment's `main`.
        out: the run's folder; runs/<name> by default.
        machine: devices, processes and profiling.
        options: the experiment's flags.

    Returns:
        The run, finished.
    """
    flags = {p.name: p.default for p in _flags(main)} | options
    machine.start()
    if machine.mesh or jax.process_count() > 1:
        mesh = sharding.data_mesh()
        say(f"{mesh.size} devices of {jax.process_count()} processes: {dict(mesh.shape)}")
    run = Run(_name(main), out, flags, machine)
    main(run, **flags)
    if (machine.accumulate > 1 or machine.profile) and not run.trains:
        say("--accumulate and --profile did nothing: nothing was trained by steps of batches")
    distributed.wait_for_all("the end")
    return run


@contextmanager
def ended_by_a_sentence() -> Iterator[None]:
    """Ends the program with one sentence, and the right status, whatever happens inside."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set so for the time of imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except Stopped as stop:
        end(str(stop), 143)  # as of a process that SIGTERM killed
    except KeyboardInterrupt:
        end_by_sigint(f"\nstopped: {RESUME} from the last checkpoint")
    except BrokenPipeError:
        end_silently(141)  # as of a process that SIGPIPE killed
    except (
        RunError, DataError, CheckpointError, JoinError, ModelError, TrainingDiverged
    ) as error:  # fmt: skip
        give_up()
        end(f"error: {error}")
    except OSError as error:  # a full or failing disk, wherever it shows
        give_up()
        end(f"error: {type(error).__name__}: {error}; {RESUME}")
    except Exception:
        give_up()
        end(traceback.format_exc())


def _stop(*_: object) -> None:
    """The handler of SIGTERM outside of training, which has its own."""
    raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def _flags(main: Main) -> list[Parameter]:
    """The parameters of `main` that are flags: all but the run."""
    return list(signature(main).parameters.values())[1:]


def _command_line(main: Main) -> Any:
    """A dataclass of everything that the command line may hold, for tyro."""
    hints = get_annotations(main, eval_str=True)
    own = [(p.name, hints[p.name], dataclasses.field(default=p.default)) for p in _flags(main)]
    experiment: Any = dataclasses.make_dataclass("Experiment", own)
    experiment.__doc__ = main.__doc__  # tyro reads the help of each flag there
    out = tyro.conf.arg(help=f"the run's folder; runs/{_name(main)} by default")
    return dataclasses.make_dataclass(
        "CommandLine",
        [
            ("experiment", Annotated[experiment, OmitArgPrefixes]),
            ("out", Annotated[str, out], dataclasses.field(default="")),
            ("machine", Annotated[Machine, OmitArgPrefixes], dataclasses.field(default=ALONE)),
        ],
    )


def _name(main: Main) -> str:
    """The experiment's name: that of the file with its `main`."""
    return Path(main.__code__.co_filename).stem
