"""Objectives that learn an energy from draws: one per loss, without Markov chains.

Every function makes the `Objective` of one loss for an `EnergyProblem`. They learn the
distribution smoothed by `sigma`: denoising score matching from clean draws with its own noise, the
others from draws of the smoothed distribution. Objectives with Markov chains are in
`recipes.chain_losses`.

The hyperparameters are the best ones for two-dimensional distributions within about 4 of 0.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ebm_jax import losses
from ebm_jax.calculus import score_from_energy
from ebm_jax.nets import MLP, RealNVP
from ebm_jax.recipes.energy import EnergyProblem, Objective, log_uniform
from ebm_jax.targets import fitted_gaussian, log_density
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

SCALES = (0.1, 4.0)  # noise scales, from details to the weights of modes


def plain(
    problem: EnergyProblem, loss: Callable[[EnergyFn, PRNGKey, Example], Scalar]
) -> Objective:
    """Returns an objective from loss(energy_fn, key, x) on one draw x of the data."""
    return Objective(lambda params, key, x: loss(problem.energy(params), key, x), problem.init)


def fisher(problem: EnergyProblem) -> Objective:
    """Fisher divergence to the true score, which data alone do not provide."""
    score = problem.score
    if score is None:
        raise ValueError("`fisher` got a problem without the true score: give one of a known law.")
    return plain(
        problem, lambda energy, _, x: losses.fisher_divergence(score_from_energy(energy), score, x)
    )


def exact(problem: EnergyProblem) -> Objective:
    """Score matching with the exact Laplacian (Hyvarinen 2005), by the fast one of `EnergyMLP`."""

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        bends = partial(problem.net.apply, params["energy"], method="gradient_and_laplacian")
        return losses.exact_score_matching_from_laplacian(bends, x)

    return Objective(loss, problem.init)


def sliced(problem: EnergyProblem) -> Objective:
    """Sliced score matching with one random direction per example."""
    return plain(
        problem,
        lambda energy, key, x: losses.sliced_score_matching(score_from_energy(energy), key, x),
    )


def sliced_reduced(problem: EnergyProblem) -> Objective:
    """Sliced score matching with the exact norm of the score, which reduces the variance."""

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        bends = partial(problem.net.apply, params["energy"], method="gradient_and_curvature")
        return losses.sliced_score_matching_from_curvature(bends, key, x)

    return Objective(loss, problem.init)


def finite_difference(problem: EnergyProblem) -> Objective:
    """Score matching by finite differences of energies."""
    return plain(problem, partial(losses.finite_difference_score_matching, epsilon=0.03))


def denoising(
    problem: EnergyProblem, *, loss_fn: Callable[..., Scalar] = losses.denoising_score_matching
) -> Objective:
    """Denoising score matching at the level sigma, from clean examples."""
    sigma = jnp.float32(problem.sigma)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        score = score_from_energy(problem.energy(params))
        return loss_fn(lambda x, _: score(x), key, x, sigma)

    return Objective(loss, problem.init, clean=True, rate=0.33)


def noise_contrastive(problem: EnergyProblem, *, num_noise: int = 8) -> Objective:
    """Noise-contrastive estimation (NCE) against the fitted Gaussian; it learns log Z too."""
    noise = fitted_gaussian(problem.draws)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        y = jax.vmap(noise.draw)(jax.random.split(key, num_noise))
        energy = problem.energy(params)
        return losses.noise_contrastive(energy, log_density(noise), x, y, params["log_z"])

    return Objective(loss, lambda key: {**problem.init(key), "log_z": jnp.zeros(())})


def ranking(problem: EnergyProblem, *, num_noise: int = 8) -> Objective:
    """Ranking noise-contrastive estimation against the fitted Gaussian."""
    noise = fitted_gaussian(problem.draws)

    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        y = jax.vmap(noise.draw)(jax.random.split(key, num_noise))
        return losses.ranking_noise_contrastive(energy, log_density(noise), x, y)

    return plain(problem, loss)


def conditional(problem: EnergyProblem) -> Objective:
    """Conditional noise-contrastive estimation with noise of many scales, in antithetic pairs."""

    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        key_scale, key_noise = jax.random.split(key)
        step = log_uniform(key_scale, *SCALES) * jax.random.normal(key_noise, x.shape)
        pair = jnp.stack([x + step, x - step])
        one = partial(losses.conditional_noise_contrastive, energy, x)
        return jnp.mean(jax.vmap(one)(pair))

    return plain(problem, loss)


def energy_discrepancy(problem: EnergyProblem) -> Objective:
    """Energy discrepancy with noise of many scales; it needs neither scores nor chains."""

    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        key_scale, key_loss = jax.random.split(key)
        scale = log_uniform(key_scale, *SCALES)
        return losses.energy_discrepancy(energy, key_loss, x, scale, num_negatives=8)

    return plain(problem, loss)


def learned_stein(problem: EnergyProblem) -> Objective:
    """Learned Stein discrepancy: a game between the energy's score and a critic."""
    net = MLP((128, 128, problem.dimension))

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        frozen = jax.lax.stop_gradient(params)

        def value(model: PyTree, critic: PyTree) -> Scalar:
            score = score_from_energy(problem.energy(model))
            critic_fn = partial(net.apply, critic["critic"])
            return losses.learned_stein(score, critic_fn, x, penalty=0.5)

        return value(params, frozen) - value(frozen, params)

    def init(key: PRNGKey) -> PyTree:
        key_energy, key_critic = jax.random.split(key)
        return {
            **problem.init(key_energy),
            "critic": net.init(key_critic, jnp.zeros(problem.shape)),
        }

    return Objective(loss, init, rate=0.17, speed=2.0, momentum=0.5)


def adversarial(problem: EnergyProblem) -> Objective:
    """Adversarial training of an energy with a flow that minimizes the reverse KL divergence."""
    flow = RealNVP(problem.shape)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        draw = partial(flow.apply, params["flow"], method="draw_with_log_density")
        x_model, log_q = draw(key)
        energy = problem.energy(params)
        contrast = losses.contrastive_divergence(energy, x, x_model)
        return contrast + losses.reverse_kl(energy, x_model, log_q)

    init = partial(_init_with_flow, problem, flow)
    return Objective(loss, init, rate=0.08, speed=4.0, momentum=0.5)


def flow_contrastive(problem: EnergyProblem) -> Objective:
    """Noise-contrastive estimation against a flow, which is trained by maximum likelihood."""
    flow = RealNVP(problem.shape)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        frozen = jax.lax.stop_gradient(params["flow"])
        draw = partial(flow.apply, frozen, method="draw")
        log_q = partial(flow.apply, frozen, method="log_density")
        y = jax.vmap(draw)(jax.random.split(key, 4))
        contrast = losses.noise_contrastive(problem.energy(params), log_q, x, y, params["log_z"])
        return contrast - flow.apply(params["flow"], x, method="log_density")

    def init(key: PRNGKey) -> PyTree:
        return {**_init_with_flow(problem, flow, key), "log_z": jnp.zeros(())}

    return Objective(loss, init, rate=0.33)


def vera(problem: EnergyProblem) -> Objective:
    """VERA: an energy and an implicit generator with a variational entropy (arXiv:2010.04230)."""
    net, noise = MLP((128, 128, problem.dimension)), 0.3

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        key_z, key_n, key_loss = jax.random.split(key, 3)
        generator = partial(net.apply, params["generator"])
        z = jax.random.normal(key_z, (problem.dimension,))
        x_model = generator(z) + noise * jax.random.normal(key_n, problem.shape)
        energy = problem.energy(params)
        contrast = losses.contrastive_divergence(energy, x, x_model)
        contrast = contrast + 0.05 * losses.squared_gradient(energy, x)
        return contrast + losses.vera(
            energy, generator, key_loss, x_model, z,
            sigma=noise, proposal_scale=0.2, num_proposals=20,
        )  # fmt: skip

    def init(key: PRNGKey) -> PyTree:
        key_energy, key_generator = jax.random.split(key)
        return {
            **problem.init(key_energy),
            "generator": net.init(key_generator, jnp.zeros(problem.dimension)),
        }

    return Objective(loss, init, rate=0.033, speed=5.0, momentum=0.0)


def _init_with_flow(problem: EnergyProblem, flow: RealNVP, key: PRNGKey) -> PyTree:
    """Returns initial parameters of an energy and a flow."""
    key_energy, key_flow = jax.random.split(key)
    return {**problem.init(key_energy), "flow": flow.init(key_flow, jnp.zeros(problem.shape))}
