"""Samplers: kernels of Markov chains and solvers of diffusion, and their scans.

`guidance` makes one denoiser of another.
"""

from ebm_jax.samplers import guidance
from ebm_jax.samplers.adaptation import warm_up
from ebm_jax.samplers.annealed import (
    annealed_langevin,
    annealed_langevin_path,
    consistent_annealed_langevin,
)
from ebm_jax.samplers.buffer import ReplayBuffer, Starts, draw_starts, replay_buffer, write_back
from ebm_jax.samplers.diffusion import ancestral, ddim, edm, multistep
from ebm_jax.samplers.flow import FlowEnd, follow_flow
from ebm_jax.samplers.hmc import hmc
from ebm_jax.samplers.kernel import Kernel, run
from ebm_jax.samplers.langevin import (
    LangevinInfo,
    LangevinState,
    UnderdampedState,
    boxed,
    preconditioned,
    ula,
    underdamped,
)
from ebm_jax.samplers.metropolis import (
    GradientState,
    MetropolisInfo,
    WalkState,
    mala,
    random_walk,
)
from ebm_jax.samplers.moments import Moments, moments
from ebm_jax.samplers.sde import euler, euler_maruyama, heun, predictor_corrector
from ebm_jax.samplers.solver import (
    Solver,
    integrate,
    integrate_path,
    invert,
    num_evaluations,
    sample,
)
from ebm_jax.samplers.tempering import TemperedInfo, TemperedState, parallel_tempering

__all__ = [
    "FlowEnd",
    "GradientState",
    "Kernel",
    "LangevinInfo",
    "LangevinState",
    "MetropolisInfo",
    "Moments",
    "ReplayBuffer",
    "Solver",
    "Starts",
    "TemperedInfo",
    "TemperedState",
    "UnderdampedState",
    "WalkState",
    "ancestral",
    "annealed_langevin",
    "annealed_langevin_path",
    "boxed",
    "consistent_annealed_langevin",
    "ddim",
    "draw_starts",
    "edm",
    "euler",
    "euler_maruyama",
    "follow_flow",
    "guidance",
    "heun",
    "hmc",
    "integrate",
    "integrate_path",
    "invert",
    "mala",
    "moments",
    "multistep",
    "num_evaluations",
    "parallel_tempering",
    "preconditioned",
    "predictor_corrector",
    "random_walk",
    "replay_buffer",
    "run",
    "sample",
    "ula",
    "underdamped",
    "warm_up",
    "write_back",
]
