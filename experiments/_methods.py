"""The ways to learn an energy in the plane that `compare_losses` compares.

Each is a `Setup`: parameters with the energy's under "energy", one example's loss, and
what it needs besides. All learn the law smoothed by `sigma`: most from draws of it,
denoising from clean draws and noise of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ebm_jax import losses
from ebm_jax.calculus import score_from_energy
from ebm_jax.keys import example_keys
from ebm_jax.nets import MLP, EnergyMLP, RealNVP
from ebm_jax.samplers import draw_starts, mala, random_walk, replay_buffer, run, write_back
from ebm_jax.targets import Target, fitted_gaussian, log_density
from ebm_jax.training import Prepare
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

SCALES = (0.1, 4.0)  # of noise: detail, and the weights of modes
BUFFER = 4096  # chains of persistent contrastive divergence
TRUE_SCORE = "Fisher (true score)"  # what nobody has who only has data: a bound for the others
LATENT = 2  # of the implicit generator


class Problem(NamedTuple):
    """What is to be learned: the law, the clean law whose smoothing it is, and draws to fit to."""

    clean: Target
    law: Target
    sigma: float
    net: EnergyMLP
    draws: Array

    def energy(self, params: PyTree) -> EnergyFn:
        return partial(self.net.apply, params["energy"])

    def init(self, key: PRNGKey) -> dict[str, PyTree]:
        return {"energy": self.net.init(key, jnp.zeros(2))}


class Setup(NamedTuple):
    """How one loss trains.

    Attributes:
        loss: loss(params, key, example).
        init: parameters from a key.
        prepare: as in `training.make_step`.
        memory: the first memory of `prepare`, from a key.
        clean: whether examples are of the clean law.
        rate: learning rate of the energy, over the comparison's.
        speed: learning rate of the other parameters, over that of the energy.
        momentum: Adam's first beta; games of two players want little.
    """

    loss: Callable[[Any, PRNGKey, Any], Scalar]
    init: Callable[[PRNGKey], PyTree]
    prepare: Prepare | None = None
    memory: Callable[[PRNGKey], PyTree] = lambda key: ()
    clean: bool = False
    rate: float = 1.0
    speed: float = 1.0
    momentum: float = 0.9


class Method(NamedTuple):
    """A loss in the comparison.

    Attributes:
        setup: how it trains.
        num_steps: optimization steps at an effort of 1.
        chains: whether training runs Markov chains.
    """

    setup: Callable[[Problem], Setup]
    num_steps: int
    chains: bool = False


def plain(problem: Problem, loss: Callable[[EnergyFn, PRNGKey, Example], Scalar]) -> Setup:
    """A loss of the energy, a key and one draw of the law."""
    return Setup(lambda params, key, x: loss(problem.energy(params), key, x), problem.init)


def fisher(problem: Problem) -> Setup:
    """The true score is known: not available to anybody who has data only."""
    score = problem.law.score
    assert score is not None
    return plain(
        problem, lambda energy, _, x: losses.fisher_divergence(score_from_energy(energy), score, x)
    )


def exact(problem: Problem) -> Setup:
    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        bends = partial(problem.net.apply, params["energy"], method="gradient_and_laplacian")
        return losses.exact_score_matching_from_laplacian(bends, x)

    return Setup(loss, problem.init)


def sliced(problem: Problem) -> Setup:
    return plain(
        problem,
        lambda energy, key, x: losses.sliced_score_matching(score_from_energy(energy), key, x),
    )


def sliced_reduced(problem: Problem) -> Setup:
    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        bends = partial(problem.net.apply, params["energy"], method="gradient_and_curvature")
        return losses.sliced_score_matching_from_curvature(bends, key, x)

    return Setup(loss, problem.init)


def finite_difference(problem: Problem) -> Setup:
    return plain(problem, partial(losses.finite_difference_score_matching, epsilon=0.03))


def denoising(
    problem: Problem, *, loss_fn: Callable[..., Scalar] = losses.denoising_score_matching
) -> Setup:
    sigma = jnp.float32(problem.sigma)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        score = score_from_energy(problem.energy(params))
        return loss_fn(lambda x, _: score(x), key, x, sigma)

    return Setup(loss, problem.init, clean=True, rate=0.33)


def noise_contrastive(problem: Problem, *, num_noise: int = 8) -> Setup:
    noise = fitted_gaussian(problem.draws)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        y = jax.vmap(noise.draw)(jax.random.split(key, num_noise))
        energy = problem.energy(params)
        return losses.noise_contrastive(energy, log_density(noise), x, y, params["log_z"])

    return Setup(loss, lambda key: {**problem.init(key), "log_z": jnp.zeros(())})


def ranking(problem: Problem, *, num_noise: int = 8) -> Setup:
    noise = fitted_gaussian(problem.draws)

    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        y = jax.vmap(noise.draw)(jax.random.split(key, num_noise))
        return losses.ranking_noise_contrastive(energy, log_density(noise), x, y)

    return plain(problem, loss)


def conditional(problem: Problem) -> Setup:
    """Noise of many scales, each with its negative."""

    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        key_scale, key_noise = jax.random.split(key)
        step = log_uniform(key_scale, *SCALES) * jax.random.normal(key_noise, x.shape)
        pair = jnp.stack([x + step, x - step])
        one = partial(losses.conditional_noise_contrastive, energy, x)
        return jnp.mean(jax.vmap(one)(pair))

    return plain(problem, loss)


def energy_discrepancy(problem: Problem) -> Setup:
    def loss(energy: EnergyFn, key: PRNGKey, x: Example) -> Scalar:
        key_scale, key_loss = jax.random.split(key)
        scale = log_uniform(key_scale, *SCALES)
        return losses.energy_discrepancy(energy, key_loss, x, scale, num_negatives=8)

    return plain(problem, loss)


def learned_stein(problem: Problem) -> Setup:
    net = MLP((128, 128, 2))

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        frozen = jax.lax.stop_gradient(params)

        def value(model: PyTree, critic: PyTree) -> Scalar:
            score = score_from_energy(problem.energy(model))
            critic_fn = partial(net.apply, critic["critic"])
            return losses.learned_stein(score, critic_fn, x, penalty=0.5)

        return value(params, frozen) - value(frozen, params)

    def init(key: PRNGKey) -> PyTree:
        key_energy, key_critic = jax.random.split(key)
        return {**problem.init(key_energy), "critic": net.init(key_critic, jnp.zeros(2))}

    return Setup(loss, init, rate=0.17, speed=2.0, momentum=0.5)


def adversarial(problem: Problem) -> Setup:
    flow = RealNVP((2,))

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        draw = partial(flow.apply, params["flow"], method="draw_with_log_density")
        x_model, log_q = draw(key)
        energy = problem.energy(params)
        contrast = losses.contrastive_divergence(energy, x, x_model)
        return contrast + losses.reverse_kl(energy, x_model, log_q)

    init = partial(init_with_flow, problem, flow)
    return Setup(loss, init, rate=0.08, speed=4.0, momentum=0.5)


def flow_contrastive(problem: Problem) -> Setup:
    """The flow learns by likelihood; the energy tells its draws from data."""
    flow = RealNVP((2,))

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        frozen = jax.lax.stop_gradient(params["flow"])
        draw = partial(flow.apply, frozen, method="draw")
        log_q = partial(flow.apply, frozen, method="log_density")
        y = jax.vmap(draw)(jax.random.split(key, 4))
        contrast = losses.noise_contrastive(problem.energy(params), log_q, x, y, params["log_z"])
        return contrast - flow.apply(params["flow"], x, method="log_density")

    def init(key: PRNGKey) -> PyTree:
        return {**init_with_flow(problem, flow, key), "log_z": jnp.zeros(())}

    return Setup(loss, init, rate=0.33)


def vera(problem: Problem) -> Setup:
    net, noise = MLP((128, 128, 2)), 0.3

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        key_z, key_n, key_loss = jax.random.split(key, 3)
        generator = partial(net.apply, params["generator"])
        z = jax.random.normal(key_z, (LATENT,))
        x_model = generator(z) + noise * jax.random.normal(key_n, (2,))
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
            "generator": net.init(key_generator, jnp.zeros(LATENT)),
        }

    return Setup(loss, init, rate=0.033, speed=5.0, momentum=0.0)


def pair_loss(problem: Problem) -> Callable[[PyTree, PRNGKey, Any], Scalar]:
    """Contrastive divergence on pairs, with a light penalty that holds energies near 0."""

    def loss(params: PyTree, key: PRNGKey, pair: tuple[Example, Example]) -> Scalar:
        energy = problem.energy(params)
        penalty = losses.squared_energies(energy, *pair)
        return losses.contrastive_divergence(energy, *pair) + 1e-4 * penalty

    return loss


def contrastive_from_data(problem: Problem, *, chain_steps: int = 10) -> Setup:
    """CD-k: chains of random-walk Metropolis start at the data, each at a scale of its own."""

    def prepare(params: PyTree, key: PRNGKey, memory: PyTree, x: Array) -> Any:
        def advance(key: PRNGKey, x: Example) -> Example:
            key_scale, key_chain = jax.random.split(key)
            kernel = random_walk(problem.energy(params), step_size=log_uniform(key_scale, *SCALES))
            return run(kernel, key_chain, kernel.init(x), chain_steps)[0].x

        keys = example_keys(key, jnp.arange(len(x)))
        return memory, (x, jax.vmap(advance)(keys, x)), {}

    return Setup(pair_loss(problem), problem.init, prepare)


def persistent(problem: Problem, *, chain_steps: int = 10, restart_share: float = 0.01) -> Setup:
    """Persistent chains in a replay buffer, by MALA, a few restarted from noise."""

    def noise(key: PRNGKey) -> Example:
        return jax.random.uniform(key, (2,), minval=-4.0, maxval=4.0)

    def prepare(params: PyTree, key: PRNGKey, buffer: Any, x: Array) -> Any:
        key_starts, key_chains = jax.random.split(key)
        starts = draw_starts(noise, key_starts, buffer, len(x), restart_share=restart_share)
        keys = example_keys(key_chains, jnp.arange(len(x)))
        kernel = mala(problem.energy(params), step_size=0.03)
        advance = lambda key, x: run(kernel, key, kernel.init(x), chain_steps)[0].x  # noqa: E731
        ends = jax.vmap(advance)(keys, starts.x)
        return write_back(buffer, starts, ends), (x, ends), {}

    def memory(key: PRNGKey) -> Any:
        return replay_buffer(jax.vmap(noise)(jax.random.split(key, BUFFER)))

    return Setup(pair_loss(problem), problem.init, prepare, memory, rate=0.33)


def recovery(problem: Problem, *, chain_steps: int = 10) -> Setup:
    """Diffusion recovery likelihood from one level, noisy draws at a random distance tau."""
    low = jnp.float32(0.0)

    def conditional_of(params: PyTree, x_noisy: Example, tau: Scalar) -> EnergyFn:
        energy = problem.energy(params)
        return losses.recovery_energy(lambda x, _: energy(x), x_noisy, low, tau)

    def prepare(params: PyTree, key: PRNGKey, memory: PyTree, x: Array) -> Any:
        def one(key: PRNGKey, x: Example) -> tuple[Example, Example, Example, Scalar]:
            key_tau, key_pair, key_chain = jax.random.split(key, 3)
            tau = log_uniform(key_tau, 0.3, 2.0)
            x, x_noisy = losses.recovery_pair(key_pair, x, low, tau)
            step_size = jnp.minimum(0.03, 0.3 * tau**2)
            kernel = mala(conditional_of(params, x_noisy, tau), step_size=step_size)
            end, _ = run(kernel, key_chain, kernel.init(x_noisy), chain_steps)
            return x, end.x, x_noisy, tau

        return memory, jax.vmap(one)(example_keys(key, jnp.arange(len(x))), x), {}

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Array, Array, Scalar]) -> Scalar:
        x, x_model, x_noisy, tau = example
        conditional = conditional_of(params, x_noisy, tau)
        return losses.contrastive_divergence(conditional, x, x_model)

    return Setup(loss, problem.init, prepare, rate=0.33)


def init_with_flow(problem: Problem, flow: RealNVP, key: PRNGKey) -> PyTree:
    """Parameters of an energy and a flow."""
    key_energy, key_flow = jax.random.split(key)
    return {**problem.init(key_energy), "flow": flow.init(key_flow, jnp.zeros(2))}


def log_uniform(key: PRNGKey, low: float, high: float) -> Scalar:
    """A positive number whose logarithm is uniform."""
    return jnp.exp(jax.random.uniform(key, minval=jnp.log(low), maxval=jnp.log(high)))


METHODS = {
    TRUE_SCORE: Method(fisher, 2500),
    "exact": Method(exact, 2500),
    "sliced": Method(sliced, 3000),
    "sliced, reduced variance": Method(sliced_reduced, 3000),
    "finite difference": Method(finite_difference, 4000),
    "denoising": Method(denoising, 8000),
    "denoising, controlled": Method(
        partial(denoising, loss_fn=losses.controlled_denoising_score_matching), 4000
    ),
    "noise-contrastive": Method(noise_contrastive, 2500),
    "ranking NCE": Method(ranking, 2500),
    "conditional NCE": Method(conditional, 12000),
    "energy discrepancy": Method(energy_discrepancy, 3000),
    "learned Stein": Method(learned_stein, 3000),
    "flow-contrastive": Method(flow_contrastive, 4000),
    "adversarial flow": Method(adversarial, 3000),
    "VERA": Method(vera, 3000),
    "CD-10": Method(contrastive_from_data, 6000, chains=True),
    "persistent CD": Method(persistent, 3000, chains=True),
    "recovery likelihood": Method(recovery, 3000, chains=True),
}
