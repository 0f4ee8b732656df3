"""Roll-backs: a run that diverges returns to its last checkpoint and continues with another key."""

from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.run import Run
from ebm_jax.training import TrainingDiverged


def past_roll_backs(run: Run) -> list[str]:
    """Returns the messages of all earlier roll-backs of the run."""
    path = run.folder / "roll_backs.txt"
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def note_roll_back(run: Run, error: TrainingDiverged, last: int | None, allowed: int) -> None:
    """Prints and records a roll-back, or raises a RunError if no more are allowed."""
    kept = (
        "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} is kept"
    )
    past = len(past_roll_backs(run))
    if past >= allowed:
        went_back = f" after {past} roll-backs" if past else ""
        folder = run.folder / "checkpoints"
        raise RunError(f"{error}{went_back}; {kept} in {folder}.") from error
    line = f"{error}: back to step {last} with another key, roll-back {past + 1} of {allowed}"
    say(line)
    with (run.folder / "roll_backs.txt").open("a") as file:
        file.write(line + "\n")
