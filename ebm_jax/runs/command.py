"""Runs an experiment as a command, with flags from the signature of its `main`."""

import dataclasses
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
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
        main: a function of a `Run` and of keyword arguments with defaults, which are the flags.
            Its docstring is their help.
        argv: the command line without the program; that of the process by default.
    """
    with ended_by_a_sentence():
        first_line = (getdoc(main) or "").partition("\n")[0]
        given = tyro.cli(_command_line(main), args=argv, prog=program(main), description=first_line)
        start(main, given.out, given.machine, **vars(given.experiment))


def tool(main: Main, argv: Sequence[str] | None = None) -> None:
    """Runs a command that creates no run folder; its flags are all parameters of `main`.

    Args:
        main: a function of the flags. Parameters annotated as `tyro.conf.Positional` are given
            without a name. Its docstring is their help.
        argv: the command line without the program; that of the process by default.
    """

    @wraps(main)
    def started(*args: Any, **flags: Any) -> None:
        ALONE.start()  # before anything is computed
        main(*args, **flags)

    with ended_by_a_sentence():
        tyro.cli(started, args=argv, prog=program(main))


def start(main: Main, out: str = "", machine: Machine = ALONE, **options: Any) -> Run:
    """Runs an experiment in this process; flags that are not given have their defaults.

    Args:
        main: the experiment's `main`.
        out: the run's folder; runs/<name> by default.
        machine: devices, processes and profiling.
        options: the experiment's flags.

    Returns:
        The finished run.
    """
    flags = {p.name: p.default for p in _flags(main)} | options
    machine.start()
    if machine.mesh or jax.process_count() > 1:
        mesh = sharding.data_mesh()
        say(f"{mesh.size} devices of {jax.process_count()} processes: {dict(mesh.shape)}")
    run = Run(_name(main), out, flags, machine)
    run.command = command_line(main, flags, out, machine)
    main(run, **flags)
    if (machine.accumulate > 1 or machine.profile) and not run.trains:
        say("--accumulate and --profile did nothing: nothing was trained by steps of batches")
    distributed.wait_for_all("the end")
    return run


def command_line(main: Main, flags: Mapping[str, Any], out: str, machine: Machine) -> str:
    """Returns what to type to repeat a run: the flags that differ from their defaults."""
    given = {p.name: flags[p.name] for p in _flags(main) if flags[p.name] != p.default}
    given |= {f.name: v for f in dataclasses.fields(machine)
              if (v := getattr(machine, f.name)) != f.default}  # fmt: skip
    words = ["ebm-jax", _name(main)]
    for name, value in (given | ({"out": out} if out else {})).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = value if isinstance(value, tuple | list) else [value]
        words += [f"--{flag}", *(shlex.quote(str(each)) for each in values)]
    return " ".join(words)


@contextmanager
def ended_by_a_sentence() -> Iterator[None]:
    """Ends the program with a one-sentence message and an exit status on an error or a signal."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set during imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except Stopped as stop:
        end(str(stop), 143)  # the status of a process killed by SIGTERM
    except KeyboardInterrupt:
        end_by_sigint(f"\nstopped: {RESUME} from the last checkpoint")
    except BrokenPipeError:
        end_silently(141)  # the status of a process killed by SIGPIPE
    except (
        RunError, DataError, CheckpointError, JoinError, ModelError, TrainingDiverged
    ) as error:  # fmt: skip
        give_up()
        end(f"error: {error}")
    except OSError as error:  # a full or failing disk
        give_up()
        end(f"error: {type(error).__name__}: {error}; {RESUME}")
    except Exception:
        give_up()
        end(traceback.format_exc())


def _stop(*_: object) -> None:
    """Handles SIGTERM outside of training, which has its own handler."""
    raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def _flags(main: Main) -> list[Parameter]:
    """Returns the parameters of `main` that are flags: all but the run."""
    return list(signature(main).parameters.values())[1:]


def _command_line(main: Main) -> Any:
    """Returns a dataclass of all flags of the command line, for tyro."""
    hints = get_annotations(main, eval_str=True)
    own = [(p.name, hints[p.name], dataclasses.field(default=p.default)) for p in _flags(main)]
    experiment: Any = dataclasses.make_dataclass("Experiment", own)
    experiment.__doc__ = main.__doc__  # from which tyro takes the help of each flag
    out = tyro.conf.arg(help=f"the run's folder; runs/{_name(main)} by default")
    return dataclasses.make_dataclass(
        "CommandLine",
        [
            ("experiment", Annotated[experiment, OmitArgPrefixes]),
            ("out", Annotated[str, out], dataclasses.field(default="")),
            ("machine", Annotated[Machine, OmitArgPrefixes], dataclasses.field(default=ALONE)),
        ],
    )


def program(main: Main) -> str:
    """Returns the program name as the user typed it, without the flags."""
    spec = main.__globals__.get("__spec__")
    if spec is None or spec.name == "__main__":
        return sys.argv[0]
    return f"python -m {spec.name}"


def _name(main: Main) -> str:
    """Returns the experiment's name, which is that of the file of its `main`."""
    return Path(main.__code__.co_filename).stem
