"""Markov chain Monte Carlo (MCMC): kernels, runs, warm-up, replay buffers and tempering."""

from ebm_jax.samplers.mcmc.adaptation import warm_up
from ebm_jax.samplers.mcmc.hmc import hmc
from ebm_jax.samplers.mcmc.kernel import Kernel, run
from ebm_jax.samplers.mcmc.langevin import (
    LangevinInfo,
    LangevinState,
    UnderdampedState,
    boxed,
    preconditioned,
    ula,
    underdamped,
)
from ebm_jax.samplers.mcmc.metropolis import (
    GradientState,
    MetropolisInfo,
    WalkState,
    mala,
    random_walk,
)
from ebm_jax.samplers.mcmc.moments import Moments, moments
from ebm_jax.samplers.mcmc.replay_buffer import (
    ReplayBuffer,
    Starts,
    draw_starts,
    replay_buffer,
    write_back,
)
from ebm_jax.samplers.mcmc.tempering import TemperedInfo, TemperedState, parallel_tempering

__all__ = [
    "GradientState",
    "Kernel",
    "LangevinInfo",
    "LangevinState",
    "MetropolisInfo",
    "Moments",
    "ReplayBuffer",
    "Starts",
    "TemperedInfo",
    "TemperedState",
    "UnderdampedState",
    "WalkState",
    "boxed",
    "draw_starts",
    "hmc",
    "mala",
    "moments",
    "parallel_tempering",
    "preconditioned",
    "random_walk",
    "replay_buffer",
    "run",
    "ula",
    "underdamped",
    "warm_up",
    "write_back",
]
