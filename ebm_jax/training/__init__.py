"""Training: one pure step, and the loop that compiles and repeats it."""

from ebm_jax.training.chains import persistent_chains
from ebm_jax.training.loop import TrainingDiverged, fit
from ebm_jax.training.step import Loss, Metrics, Prepare, TrainState, init_state, make_step

__all__ = [
    "Loss",
    "Metrics",
    "Prepare",
    "TrainState",
    "TrainingDiverged",
    "fit",
    "init_state",
    "make_step",
    "persistent_chains",
]
