"""ebm_jax: energy-based models, score networks and diffusion models in JAX.

It trains, samples and evaluates models that are known only up to a normalizing constant.
`import ebm_jax` is fast: submodules such as `ebm_jax.losses` are imported at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_jax import (
        calculus,
        checkpoints,
        composition,
        data,
        distributed,
        ema,
        guidance,
        keys,
        likelihood,
        losses,
        metrics,
        nets,
        noise,
        recipes,
        runs,
        samplers,
        sharding,
        targets,
        training,
        types,
    )
    from ebm_jax.runs import load

__version__ = "0.1.0"
__all__ = [
    "calculus",
    "checkpoints",
    "composition",
    "data",
    "distributed",
    "ema",
    "guidance",
    "keys",
    "likelihood",
    "load",
    "losses",
    "metrics",
    "nets",
    "noise",
    "recipes",
    "runs",
    "samplers",
    "sharding",
    "targets",
    "training",
    "types",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("ebm_jax.runs").load
    if name in __all__:
        return importlib.import_module(f"ebm_jax.{name}")
    raise AttributeError(f"module 'ebm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
