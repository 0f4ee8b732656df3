"""Samplers from noise to data: solvers of reverse processes and annealed Langevin dynamics.

`follow_flow`, which solves the probability-flow ODE adaptively, needs diffrax; diffrax is
imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from ebm_jax.samplers.diffusion.annealed_langevin import (
    annealed_langevin,
    annealed_langevin_path,
    consistent_annealed_langevin,
)
from ebm_jax.samplers.diffusion.level_solvers import ancestral, ddim, dpm_solver_pp_2m, edm
from ebm_jax.samplers.diffusion.solver import (
    Solver,
    integrate,
    integrate_path,
    invert,
    num_evaluations,
    sample,
)
from ebm_jax.samplers.diffusion.time_solvers import (
    euler,
    euler_maruyama,
    heun,
    predictor_corrector,
)

if TYPE_CHECKING:
    from ebm_jax.samplers.diffusion.probability_flow import FlowEnd, follow_flow

__all__ = [
    "FlowEnd",
    "Solver",
    "ancestral",
    "annealed_langevin",
    "annealed_langevin_path",
    "consistent_annealed_langevin",
    "ddim",
    "dpm_solver_pp_2m",
    "edm",
    "euler",
    "euler_maruyama",
    "follow_flow",
    "heun",
    "integrate",
    "integrate_path",
    "invert",
    "num_evaluations",
    "predictor_corrector",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in ("FlowEnd", "follow_flow"):
        from ebm_jax.samplers.diffusion import probability_flow

        return getattr(probability_flow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
