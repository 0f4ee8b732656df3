"""Runs: what a run keeps, and the models that outlive it.

`load` and `Model` need nothing but the library itself; what shows something to people, the
command line and the page, needs the extra `experiments`.
"""

from ebm_jax.runs.models import Model, ModelError, load, save_model

__all__ = ["Model", "ModelError", "load", "save_model"]
