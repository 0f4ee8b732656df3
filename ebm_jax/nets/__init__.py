"""Networks: linen modules that see one example; `partial(net.apply, params)` is a function."""

from ebm_jax.nets import precondition
from ebm_jax.nets.conv import ConvScore
from ebm_jax.nets.mlp import MLP, EnergyMLP, LevelEmbedding, ScoreMLP

__all__ = ["MLP", "ConvScore", "EnergyMLP", "LevelEmbedding", "ScoreMLP", "precondition"]
