"""Flax linen networks of one example; `partial(net.apply, params)` is a plain function."""

from ebm_jax.nets import precondition
from ebm_jax.nets.as_energy import LogLoss, ScalarEnergy, norm_energy
from ebm_jax.nets.conv import ConvScore
from ebm_jax.nets.conv_energy import ConvEnergy
from ebm_jax.nets.flow import RealNVP
from ebm_jax.nets.inception import InceptionOutputs, InceptionV3
from ebm_jax.nets.initial import initial_parameters
from ebm_jax.nets.mlp import MLP, EnergyMLP, LevelEmbedding, ScoreMLP
from ebm_jax.nets.ncsnpp import NCSNpp
from ebm_jax.nets.refinenet import NCSN, NCSNv2
from ebm_jax.nets.unet import UNet

__all__ = [
    "MLP",
    "NCSN",
    "ConvEnergy",
    "ConvScore",
    "EnergyMLP",
    "InceptionOutputs",
    "InceptionV3",
    "LevelEmbedding",
    "LogLoss",
    "NCSNpp",
    "NCSNv2",
    "RealNVP",
    "ScalarEnergy",
    "ScoreMLP",
    "UNet",
    "initial_parameters",
    "norm_energy",
    "precondition",
]
