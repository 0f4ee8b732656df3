"""Data with closed forms at every noise level: a Gaussian, and a mixture of unequal weights."""

import jax
import jax.numpy as jnp

MEAN, STD = 0.5, 0.8  # of the Gaussian, in every coordinate
WEIGHTS, CENTRES, SPREAD = (0.8, 0.2), (-1.5, 1.5), 0.4  # of the mixture on a line


def gaussian_denoiser(x, sigma):
    """E[x_0 | x_0 + sigma n = x] for x_0 ~ N(MEAN, STD^2 I)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def gaussian_flow(x, sigma_from, sigma_to):
    """The probability flow of the Gaussian, which only rescales."""
    return MEAN + (x - MEAN) * ((STD**2 + sigma_to**2) / (STD**2 + sigma_from**2)) ** 0.5


def mixture_log_density(x, sigma):
    """log p_sigma of one number x."""
    variance = SPREAD**2 + sigma**2
    parts = [
        jnp.log(w) - (x - m) ** 2 / (2 * variance) - 0.5 * jnp.log(2 * jnp.pi * variance)
        for w, m in zip(WEIGHTS, CENTRES, strict=True)
    ]
    return jnp.logaddexp(*parts)


def mixture_denoiser(x, sigma):
    """Tweedie's formula on every coordinate."""
    slope = jax.vmap(jax.grad(mixture_log_density), (0, None))
    return x + sigma**2 * slope(x.ravel(), sigma).reshape(x.shape)
