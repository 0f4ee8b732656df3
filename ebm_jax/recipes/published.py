"""Published diffusion models of CIFAR-10 as plain data: NCSN, NCSNv2, NCSN++, DDPM, EDM.

Noise levels are in units of images in [-1, 1]: those published for [0, 1] (NCSN, NCSNv2, NCSN++)
are doubled. `recipe("ddpm/cifar10")` returns one of `RECIPES`; change it with `_replace`.
"""

from collections.abc import Callable
from functools import partial

from ebm_jax import losses, noise, samplers
from ebm_jax.ema import half_life, ramped
from ebm_jax.nets import NCSN, NCSNpp, NCSNv2, UNet, precondition
from ebm_jax.recipes.diffusion import DiffusionRecipe, Optimizer
from ebm_jax.recipes.samplers import AnnealedSampler, SolverSampler


def recipe(name: str) -> DiffusionRecipe:
    """Returns the published recipe of this name, such as "ncsn/cifar10".

    Raises:
        ValueError: for a name that is not in `RECIPES`.

    Examples:
        >>> from ebm_jax import recipes
        >>> recipe = recipes.recipe("edm/cifar10")
        >>> recipe.sampler.evaluations, recipe.batch_size  # NFE
        (35, 512)
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` got {name!r}: give one of {', '.join(sorted(RECIPES))}.")
    return RECIPES[name]()


def ncsn_cifar10() -> DiffusionRecipe:
    """NCSN: ten levels, 100 Langevin steps per level, no EMA of the parameters."""
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
        sampler=AnnealedSampler(sigmas, steps=100, ratio=0.2, final_denoise=False),
    )


def ncsnv2_cifar10() -> DiffusionRecipe:
    """NCSNv2: 232 levels, 5 steps of epsilon = 6.2e-6 per level, a final denoising."""
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
        sampler=AnnealedSampler(sigmas, steps=5, ratio=0.062),
    )


def ncsnpp_cifar10() -> DiffusionRecipe:
    """NCSN++ cont., VE: predictor-corrector sampling with 1,000 steps, 2,000 NFE."""
    process = partial(noise.ve, sigma_min=0.02, sigma_max=100.0)
    solver = partial(samplers.predictor_corrector, predictor=samplers.ancestral, snr=0.16)
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
        sampler=SolverSampler(solver, process, noise.uniform_times(process(), 1000)),
    )


def ddpm_cifar10() -> DiffusionRecipe:
    """DDPM: 1,000 ancestral steps with the larger variance, x_0 clipped at each."""
    process, sigmas = partial(noise.vp, t_max=1.01), noise.ddpm_levels()  # up to level 157
    solver = partial(samplers.ancestral, large_variance=True)
    times = noise.times_of_levels(process(), sigmas)
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
        sampler=SolverSampler(solver, process, times, bounds=(-1.0, 1.0)),
    )


def edm_cifar10() -> DiffusionRecipe:
    """EDM, unconditional, on DDPM++: 35 NFE. Its augmentation pipeline is not included."""
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
        sampler=SolverSampler(samplers.edm, noise.edm, noise.karras(80.0, 0.002, 18)),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], DiffusionRecipe]] = {
    "ddpm/cifar10": ddpm_cifar10,
    "edm/cifar10": edm_cifar10,
    "ncsn/cifar10": ncsn_cifar10,
    "ncsnpp/cifar10": ncsnpp_cifar10,
    "ncsnv2/cifar10": ncsnv2_cifar10,
}
"""Published recipes by name; call a value to make its recipe."""
