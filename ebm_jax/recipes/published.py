"""Published diffusion models of CIFAR-10 as plain data: explicit arguments to this library.

A recipe names the network, what makes a denoiser of it, the loss, the law of noise levels, the
optimizer, the average of parameters, and the sampler. Levels are in units of images in [-1, 1]:
those published for [0, 1] (NCSN, NCSNv2, NCSN++) are doubled.

`recipe("ddpm/cifar10")` is one of `RECIPES`; `_replace` makes another of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from ebm_jax import losses, noise, samplers
from ebm_jax.calculus import score_from_denoiser
from ebm_jax.ema import Decay, half_life, ramped
from ebm_jax.guidance import clamped
from ebm_jax.nets import NCSN, NCSNpp, NCSNv2, UNet, precondition
from ebm_jax.nets.precondition import RawFn
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


class Optimizer(NamedTuple):
    """Adam's numbers: the rate rises linearly over `warm_up` steps and then stays.

    Attributes:
        learning_rate: after the warm-up.
        b1: decay of the mean gradient.
        b2: decay of the mean square.
        warm_up: steps.
        clip: largest norm of the gradient, or None.
    """

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    warm_up: int = 0
    clip: float | None = None


class DiffusionRecipe(NamedTuple):
    """A published model of images in [-1, 1].

    Attributes:
        source: where it was published.
        net: the linen module.
        wrap: makes a denoiser D(x, sigma) of net.apply.
        objective: objective(denoise_fn, key, x, sigma), one of `losses`.
        level: the noise level of a u that is uniform on [0, 1).
        optimizer: Adam's numbers.
        ema: the decay of the moving average, of `averaging`.
        batch_size: images in a step.
        num_steps: optimization steps.
        flip: whether training images are mirrored at random.
        sample: sample(denoise_fn, key, like) -> one image.
    """

    source: str
    net: Any
    wrap: Callable[[RawFn], DenoiseFn]
    objective: Callable[[DenoiseFn, PRNGKey, Example, Scalar], Scalar]
    level: Callable[[Scalar], Scalar]
    optimizer: Optimizer
    ema: Decay
    batch_size: int
    num_steps: int
    flip: bool
    sample: Callable[[DenoiseFn, PRNGKey, Example], Example]


def recipe(name: str) -> DiffusionRecipe:
    """The recipe of this name, such as "ncsn/cifar10".

    Raises:
        ValueError: for a name that is not in `RECIPES`.
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` got {name!r}: give one of {', '.join(sorted(RECIPES))}.")
    return RECIPES[name]()


def ncsn_cifar10() -> DiffusionRecipe:
    """NCSN: ten levels, 100 Langevin steps at each, no average of parameters."""
    sigmas = noise.geometric(2.0, 0.02, 10)
    return DiffusionRecipe(
        source="arXiv:1907.05600",
        net=NCSN(num_levels=10),
        wrap=partial(precondition.by_index, sigmas=sigmas),
        objective=losses.noise_conditional,
        level=partial(noise.ladder_level, sigmas=sigmas),
        optimizer=Optimizer(1e-3),
        ema=ramped(0.0),
        batch_size=128,
        num_steps=200_000,
        flip=True,
        sample=partial(annealed, sigmas=sigmas, steps=100, ratio=0.2, final_denoise=False),
    )


def ncsnv2_cifar10() -> DiffusionRecipe:
    """NCSNv2: 232 levels, 5 steps of epsilon = 6.2e-6 at each, a final denoising."""
    sigmas = noise.geometric(100.0, 0.02, 232)
    return DiffusionRecipe(
        source="arXiv:2006.09011",
        net=NCSNv2(),
        wrap=precondition.ncsn,
        objective=losses.noise_conditional,
        level=partial(noise.ladder_level, sigmas=sigmas),
        optimizer=Optimizer(1e-4),
        ema=ramped(0.999),
        batch_size=128,
        num_steps=300_000,
        flip=True,
        sample=partial(annealed, sigmas=sigmas, steps=5, ratio=0.062, final_denoise=True),
    )


def ncsnpp_cifar10() -> DiffusionRecipe:
    """NCSN++ cont., VE: predictor-corrector of 1,000 steps, 2,000 evaluations."""
    process = noise.ve(sigma_min=0.02, sigma_max=100.0)
    solver = samplers.predictor_corrector(samplers.ancestral(process), snr=0.16)
    return DiffusionRecipe(
        source="arXiv:2011.13456",
        net=NCSNpp(),
        wrap=precondition.ncsn,
        objective=losses.noise_conditional,
        level=partial(noise.log_uniform_level, sigma_min=0.02, sigma_max=100.0),
        optimizer=Optimizer(2e-4, warm_up=5000, clip=1.0),
        ema=ramped(0.999),
        batch_size=128,
        num_steps=1_300_000,
        flip=True,
        sample=partial(solved, solver, times=noise.uniform_times(process, 1000)),
    )


def ddpm_cifar10() -> DiffusionRecipe:
    """DDPM: 1,000 ancestral steps of the larger variance, x_0 clipped at each."""
    process, sigmas = noise.vp()._replace(t_max=1.01), noise.ddpm_levels()  # its top level is 157
    solver = samplers.ancestral(process, large_variance=True)
    times = noise.times_of_levels(process, sigmas)
    return DiffusionRecipe(
        source="arXiv:2006.11239",
        net=UNet(),
        wrap=precondition.vp,
        objective=losses.noise_conditional,
        level=partial(noise.ladder_level, sigmas=sigmas),
        optimizer=Optimizer(2e-4, warm_up=5000, clip=1.0),
        ema=ramped(0.9999),
        batch_size=128,
        num_steps=800_000,
        flip=True,
        sample=lambda denoise_fn, key, like: solved(
            solver, clamped(denoise_fn), key, like, times=times
        ),
    )


def edm_cifar10() -> DiffusionRecipe:
    """EDM, unconditional, on DDPM++: 35 evaluations. Its augmentation pipe is not here."""
    solver = samplers.edm(noise.edm())
    return DiffusionRecipe(
        source="arXiv:2206.00364",
        net=NCSNpp(
            multipliers=(2, 2, 2), fir=False, progressive_input=False,
            embedding="positional", dropout=0.13,
        ),
        wrap=precondition.edm,
        objective=losses.edm,
        level=noise.log_normal_level,
        optimizer=Optimizer(1e-3, warm_up=19_531),
        ema=half_life(500_000, 512),
        batch_size=512,
        num_steps=390_625,
        flip=True,
        sample=partial(solved, solver, times=noise.karras(80.0, 0.002, 18)),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], DiffusionRecipe]] = {
    "ddpm/cifar10": ddpm_cifar10,
    "edm/cifar10": edm_cifar10,
    "ncsn/cifar10": ncsn_cifar10,
    "ncsnpp/cifar10": ncsnpp_cifar10,
    "ncsnv2/cifar10": ncsnv2_cifar10,
}


def annealed(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    like: Example,
    *,
    sigmas: Float[Array, " levels"],
    steps: int,
    ratio: float,
    final_denoise: bool,
) -> Example:
    """Annealed Langevin from a draw of noise at the top level."""
    key_start, key_chain = jax.random.split(key)
    start = sigmas[0] * jax.random.normal(key_start, like.shape, like.dtype)
    return samplers.annealed_langevin(
        score_from_denoiser(denoise_fn), key_chain, start, sigmas,
        steps_per_level=steps, step_ratio=ratio, final_denoise=final_denoise,
    )  # fmt: skip


def solved(
    solver: samplers.Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    like: Example,
    *,
    times: noise.Times,
) -> Example:
    """A sample by a solver from the prior of its process, denoised at the end."""
    return samplers.sample(solver, denoise_fn, key, like, times, final_denoise=True)
