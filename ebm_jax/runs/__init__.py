"""Run folders, and the trained models that outlive their runs.

`load`, `save_model` and `Model` need only the library itself. The command line and the report
pages need the extra `experiments`.
"""

from ebm_jax.runs.models import Model, ModelError, load, save_model

__all__ = ["Model", "ModelError", "load", "save_model"]
