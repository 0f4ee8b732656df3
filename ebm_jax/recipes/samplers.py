"""Samplers as plain values: what to run, on which process, over which noise levels.

Each is a function sampler(denoise_fn, key, like) that returns one sample; `ChainSampler` takes an
energy, sampler(energy_fn, key, like). Fields can be read, replaced (`_replace`) and saved with the
model. `path` returns the intermediate states, for pictures.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import samplers
from ebm_jax.calculus import score_from_denoiser
from ebm_jax.guidance import clamped
from ebm_jax.noise import Ladder, Process, Times
from ebm_jax.types import DenoiseFn, EnergyFn, Example, PRNGKey


class SolverSampler(NamedTuple):
    """A solver of a reverse process, from the prior at times[0], with a final denoising.

    Attributes:
        solver: makes the solver of a process: `samplers.ddim`, or a `partial` with options.
        process: makes the process: `noise.vp`, or a `partial` with options.
        times: time grid, latest first: `noise.log_snr_times` or `times_of_levels`.
        bounds: range to which every output of the denoiser is clipped, as DDPM does, or None.

    Examples:
        Data that are always 3 have the denoiser D = 3.

        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, recipes, samplers
        >>> times = noise.uniform_times(noise.vp(), 10)
        >>> sampler = recipes.SolverSampler(samplers.ddim, noise.vp, times)
        >>> x = sampler(lambda x, sigma: jnp.full_like(x, 3.0), jax.random.key(0), jnp.zeros(2))
        >>> x.tolist(), sampler.evaluations  # NFE
        ([3.0, 3.0], 11)
    """

    solver: Callable[[Process], samplers.Solver]
    process: Callable[[], Process]
    times: Times
    bounds: tuple[float, float] | None = None

    def __call__(self, denoise_fn: DenoiseFn, key: PRNGKey, like: Example) -> Example:
        """Returns one sample of the shape of `like`."""
        solver = self.solver(self.process())
        return samplers.sample(
            solver, self._bounded(denoise_fn), key, like, self.times, final_denoise=True
        )

    def path(self, denoise_fn: DenoiseFn, key: PRNGKey, like: Example) -> Float[Array, "times *d"]:
        """Returns the states at all times for the sample that this key draws, (times, ...).

        States are in units of sqrt(alpha^2 + sigma^2), their scale for data of scale 1.
        """
        process = self.process()
        key_start, key_steps = jax.random.split(key)  # as `samplers.sample` does
        x = process.draw_prior(key_start, like, self.times[0])
        path = samplers.integrate_path(
            self.solver(process), self._bounded(denoise_fn), key_steps, x, self.times
        )
        scale = jax.vmap(lambda t: jnp.hypot(process.alpha(t), process.sigma(t)))(self.times)
        return path / scale.reshape(-1, *[1] * like.ndim)

    @property
    def evaluations(self) -> int:
        """The number of function evaluations (NFE) of the denoiser per sample."""
        solver = self.solver(self.process())
        return samplers.num_evaluations(solver, self.times, final_denoise=True)

    def _bounded(self, denoise_fn: DenoiseFn) -> DenoiseFn:
        return denoise_fn if self.bounds is None else clamped(denoise_fn, *self.bounds)


class AnnealedSampler(NamedTuple):
    """Annealed Langevin dynamics from noise of the highest level.

    Attributes:
        sigmas: the ladder of noise levels, highest first.
        steps: Langevin steps per level.
        ratio: step size divided by sigma^2.
        final_denoise: True to denoise the final state.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, recipes
        >>> sampler = recipes.AnnealedSampler(noise.geometric(2.0, 0.02, 10), steps=100, ratio=0.2)
        >>> sampler.evaluations  # 100 steps at 10 levels, and the final denoising
        1001
    """

    sigmas: Ladder
    steps: int
    ratio: float
    final_denoise: bool = True

    def __call__(self, denoise_fn: DenoiseFn, key: PRNGKey, like: Example) -> Example:
        """Returns one sample of the shape of `like`."""
        start, key_chain = self._start(key, like)
        return samplers.annealed_langevin(
            score_from_denoiser(denoise_fn), key_chain, start, self.sigmas,
            steps_per_level=self.steps, step_ratio=self.ratio, final_denoise=self.final_denoise,
        )  # fmt: skip

    def path(self, denoise_fn: DenoiseFn, key: PRNGKey, like: Example) -> Float[Array, "levels *d"]:
        """Returns the chain at the end of each level, in units of sqrt(1 + sigma^2)."""
        start, key_chain = self._start(key, like)
        path = samplers.annealed_langevin_path(
            score_from_denoiser(denoise_fn), key_chain, start, self.sigmas,
            steps_per_level=self.steps, step_ratio=self.ratio,
        )  # fmt: skip
        return path / jnp.sqrt(1 + self.sigmas**2).reshape(-1, *[1] * like.ndim)

    @property
    def evaluations(self) -> int:
        """The number of function evaluations (NFE) of the denoiser per sample."""
        return self.steps * self.sigmas.shape[0] + self.final_denoise

    def _start(self, key: PRNGKey, like: Example) -> tuple[Example, PRNGKey]:
        key_start, key_chain = jax.random.split(key)
        return self.sigmas[0] * jax.random.normal(key_start, like.shape, like.dtype), key_chain


class FlowSampler(NamedTuple):
    """The probability-flow ODE from noise of the highest level, solved to a tolerance.

    Attributes:
        sigma_max: the highest noise level.
        sigma_min: the lowest noise level, at which the final state is denoised.
        tolerance: relative and absolute tolerance of a step of the adaptive solver.
    """

    sigma_max: float
    sigma_min: float
    tolerance: float = 1e-4

    def __call__(self, denoise_fn: DenoiseFn, key: PRNGKey, like: Example) -> Example:
        """Returns one sample of the shape of `like`."""
        start = self.sigma_max * jax.random.normal(key, like.shape, like.dtype)
        end = samplers.follow_flow(
            denoise_fn, start, self.sigma_max, self.sigma_min,
            rtol=self.tolerance, atol=self.tolerance,
        )  # fmt: skip
        return denoise_fn(end.x, jnp.asarray(self.sigma_min, like.dtype))


class ChainSampler(NamedTuple):
    """Final states of Markov chains on an energy E(x).

    A chain moves in coordinates z with x = center + factor z, so that one step size suits data in
    any units. With the mean of the data and a square root of their covariance, the distribution
    of z has a covariance near I.

    Attributes:
        kernel: makes the kernel of an energy, such as `partial(samplers.mala, step_size=0.1)`.
        steps: number of steps of a chain.
        start: start(key, like), the first z of a chain: `normal_start`, or a `partial` of
            `uniform_start`.
        center: array of the shape of an example, or None for 0.
        factor: a matrix (for examples that are vectors), one number per entry, or None for 1.

    Examples:
        >>> from functools import partial
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import recipes, samplers
        >>> kernel = partial(samplers.mala, step_size=0.5)
        >>> sampler = recipes.ChainSampler(kernel, 20, recipes.normal_start)
        >>> sampler(lambda x: jnp.sum(x**2) / 2, jax.random.key(0), jnp.zeros(2)).shape
        (2,)
    """

    kernel: Callable[[EnergyFn], samplers.Kernel]
    steps: int
    start: Callable[[PRNGKey, Example], Example]
    center: Array | None = None
    factor: Array | None = None

    def __call__(self, energy_fn: EnergyFn, key: PRNGKey, like: Example) -> Example:
        """Returns one sample of the shape of `like`."""
        key_start, key_chain = jax.random.split(key)
        kernel = self.kernel(self.inside(energy_fn))
        start = kernel.init(self.start(key_start, like))
        return self.outside(samplers.run(kernel, key_chain, start, self.steps)[0].x)

    def inside(self, energy_fn: EnergyFn) -> EnergyFn:
        """Returns the same energy as a function of z."""
        return lambda z: energy_fn(self.outside(z))

    def outside(self, z: Example) -> Example:
        """Returns x = center + factor z."""
        factor = jnp.float32(1.0) if self.factor is None else jnp.asarray(self.factor)
        x = factor @ z if z.ndim == 1 and factor.ndim == 2 else factor * z
        return x if self.center is None else x + self.center


def normal_start(key: PRNGKey, like: Example) -> Example:
    """Draws from N(0, I), of the shape of `like`."""
    return jax.random.normal(key, like.shape, like.dtype)


def uniform_start(key: PRNGKey, like: Example, *, low: float, high: float) -> Example:
    """Draws uniformly from [low, high]^d, of the shape of `like`."""
    return jax.random.uniform(key, like.shape, like.dtype, low, high)


Sampler = SolverSampler | AnnealedSampler
"""A sampler of a trained denoiser."""
