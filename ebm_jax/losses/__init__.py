"""Losses: one example's scalar, from plain functions E(x), s(x, sigma) or D(x, sigma)."""

from ebm_jax.losses.diffusion import edm, noise_conditional, weighted_denoising
from ebm_jax.losses.score_matching import denoising_score_matching

__all__ = ["denoising_score_matching", "edm", "noise_conditional", "weighted_denoising"]
