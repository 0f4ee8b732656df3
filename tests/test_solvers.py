"""Solvers of reverse processes on data whose every marginal is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import noise, samplers
from ebm_jax.keys import example_keys
from ebm_jax.noise import Process
from tests.gaussian_data import (
    CENTRES,
    MEAN,
    SPREAD,
    STD,
    WEIGHTS,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
)
from tests.statistics import assert_mean, assert_normal

PROCESSES = {
    "ve": noise.ve(sigma_min=0.02, sigma_max=20.0),
    "vp": noise.vp(),
    "sub_vp": noise.sub_vp(),
    "cosine": noise.cosine(),
    "edm": noise.edm(sigma_min=0.02, sigma_max=20.0),
    "a user's own": Process(
        alpha=lambda t: 1 / (1 + 2 * t), sigma=lambda t: 0.02 + 3 * t**2, t_min=0.0, t_max=1.5
    ),
}
SOLVERS = {
    "ddim": samplers.ddim,
    "ddim, eta = .5": lambda process: samplers.ddim(process, eta=0.5),
    "ancestral": samplers.ancestral,
    "ancestral, large": lambda process: samplers.ancestral(process, large_variance=True),
    "edm": samplers.edm,
    "edm, churned": lambda process: samplers.edm(process, gamma=0.05, churn_min=0.05),
    "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m,
    "euler": samplers.euler,
    "heun": samplers.heun,
    "euler_maruyama": samplers.euler_maruyama,
    "predictor_corrector": lambda process: samplers.predictor_corrector(process, snr=0.1),
}
ORDERS = {"ddim": 1, "euler": 1, "edm": 2, "heun": 2, "dpm_solver_pp_2m": 2}
each_process = pytest.mark.parametrize(
    "process",
    [
        pytest.param(process, marks=() if name in ("vp", "edm") else pytest.mark.slow, id=name)
        for name, process in PROCESSES.items()
    ],
)
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def levels_of(process, times):
    return np.asarray(jax.vmap(process.level)(times), np.float64)


@each_process
@pytest.mark.parametrize("name", ORDERS)
def test_a_deterministic_solver_converges_at_its_order(name, process):
    """Errors at N, 2N and 4N steps against the flow of Gaussian data, in float64.

    The last quotient of errors is 2^p to within a tenth of p: the next term of the expansion.
    """
    with jax.enable_x64(True):
        solver, start = SOLVERS[name](process), np.array([2.0, -1.0])
        ends = np.array([process.t_min + 0.6 * (process.t_max - process.t_min)])
        ends = np.append(ends, process.t_min + 0.1 * (process.t_max - process.t_min))
        errors = []
        for num_steps in (160, 320, 640):
            times = jnp.linspace(*ends, num_steps + 1)
            x = jax.vmap(process.alpha)(times)[0] * start
            run = jax.jit(
                lambda x, times: samplers.integrate(
                    solver, gaussian_denoiser, jax.random.key(0), x, times, final_denoise=False
                )
            )
            first, last = levels_of(process, times)[[0, -1]]
            truth = process.alpha(times[-1]) * gaussian_flow(start, first, last)
            errors.append(np.abs(run(x, times) - truth).max())
    order = np.log2(errors[-2] / errors[-1])
    assert order == pytest.approx(ORDERS[name], abs=0.1 * ORDERS[name])


@each_process
@each_solver
def test_every_solver_on_every_process_ends_on_the_data(solver, process):
    """From the process' own prior to its last level, whose noise is left: N(m, s^2 + sigma^2)."""
    times = noise.log_snr_times(process, 400)
    like, made = jnp.zeros(1), solver(process)
    draw = jax.jit(
        jax.vmap(
            lambda key: samplers.sample(
                made, gaussian_denoiser, key, like, times, final_denoise=False
            )
        )
    )
    x = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)), np.float64)
    alpha, sigma = float(process.alpha(times[-1])), float(process.sigma(times[-1]))
    assert_normal(x, alpha * MEAN, (alpha * STD) ** 2 + sigma**2)


@pytest.mark.parametrize(
    "name", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ve", "sub_vp"))]
)
@each_solver
def test_weights_of_a_mixture_come_back(solver, name):
    """Unequal weights, 10,000 numbers from the prior; the goal is .02, five standard errors."""
    made = solver(PROCESSES[name])
    times = noise.log_snr_times(PROCESSES[name], 400)
    draw = jax.jit(
        lambda key: samplers.sample(
            made, mixture_denoiser, key, jnp.zeros(10_000), times, final_denoise=False
        )
    )
    x = np.asarray(draw(jax.random.key(1)))
    left = np.mean(x < 0)
    assert left == pytest.approx(WEIGHTS[0], abs=0.02)
    assert np.std(x[x < 0] - CENTRES[0]) == pytest.approx(SPREAD, rel=0.04)


STOCHASTIC = ["ancestral", "ancestral, large", "ddim, eta = .5", "euler_maruyama"]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_solver_has_weak_order_one(name):
    """The error of the variance halves with the step, within five standard errors.

    Half a million chains of VP from the exact marginal; levels .05 to 3.
    """
    process, errors = PROCESSES["vp"], []
    solver = SOLVERS[name](process)
    grid = [process.time_of_level(jnp.float32(sigma)) for sigma in (3.0, 0.05)]
    n = 500_000
    for num_steps in (20, 40):
        times = jnp.linspace(*grid, num_steps + 1)
        alphas, levels = jax.vmap(process.alpha)(times), levels_of(process, times)
        key_start, key_steps = jax.random.split(jax.random.key(2))
        spread = np.float32(np.sqrt(STD**2 + levels[0] ** 2))
        x = alphas[0] * (MEAN + spread * jax.random.normal(key_start, (n,)))
        x = run(solver, times, x, key_steps, gaussian_denoiser)
        y = np.asarray(x, np.float64) / float(alphas[-1])
        truth = STD**2 + levels[-1] ** 2
        errors.append((np.mean((y - MEAN) ** 2) - truth) / truth)
    standard_error = np.sqrt(2 / n)
    assert abs(errors[0]) > 10 * standard_error  # there is an error to halve
    limit = 5 * standard_error * np.sqrt(1 + 4) + 0.2 * abs(errors[0])  # and the next order
    assert abs(errors[0] - 2 * errors[1]) < limit


@pytest.mark.parametrize("sigmas", [[4.0, 2.0, 0.2], [4.0, 0.4, 0.2], [9.0, 3.0, 2.5, 0.1]])
def test_the_multistep_solver_extrapolates_to_the_middle_of_a_step_of_any_length(sigmas):
    """Of D linear in log sigma, D~ is the value at the geometric mean of the two levels.

    Its order does not tell: with the ratio of steps inverted the errors cancel along a grid.
    """
    denoise_fn = lambda x, sigma: jnp.full_like(x, 0.7) - 1.3 * jnp.log(sigma)  # noqa: E731
    end = run(samplers.dpm_solver_pp_2m(PROCESSES["edm"]), jnp.array(sigmas), X, None, denoise_fn)
    y = np.asarray(X, np.float64)
    for step, (level, lower) in enumerate(itertools.pairwise(sigmas)):
        middle = np.sqrt(level * lower) if step else level  # the first step is ddim
        ahead = 0.7 - 1.3 * np.log(middle)
        y = ahead + lower / level * (y - ahead)
    np.testing.assert_allclose(end, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ORDERS)
def test_derivatives_of_samples_are_those_of_finite_differences(name):
    """In the parameters of the denoiser, the start and the grid; in float64."""
    with jax.enable_x64(True):
        process = noise.vp()
        solver, grid = SOLVERS[name](process), noise.log_snr_times(process, 6)
        times = jnp.asarray(grid, jnp.float64)

        def end(values):
            a, x, shift = values
            bent = times.at[2].add(shift)
            denoise_fn = lambda x, sigma: a * gaussian_denoiser(x, sigma)  # noqa: E731
            return run(solver, bent, jnp.array([x]), None, denoise_fn)[0]

        at = jnp.array([0.9, 1.3, 0.01])
        gradient = jax.grad(end)(at)
        step = 1e-5 * jnp.eye(3)
        truth = [(end(at + h) - end(at - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(gradient, truth, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddim, eta = .5", "ancestral", "edm, churned"])
def test_gradients_are_finite_where_no_noise_is_added(name):
    """At eta traced as 0, outside the churned levels, and on a step of length 0."""
    process, times = PROCESSES["edm"], jnp.array([3.0, 1.0, 1.0, 0.03, 0.02])

    def end(scale):
        x = jax.jit(lambda times: run(SOLVERS[name](process), times, X))(scale * times)
        return x.sum()

    assert np.isfinite(jax.grad(end)(jnp.float32(1.1)))
    eta_gradient = jax.grad(
        lambda eta: run(samplers.ddim(process, eta=eta), times[jnp.array([0, 1, 3])], X).sum()
    )(jnp.float32(0.0))
    assert np.isfinite(eta_gradient)


# ---- identities


def run(solver, times, x, key=None, denoise_fn=mixture_denoiser):
    key = jax.random.key(3) if key is None else key
    return samplers.integrate(solver, denoise_fn, key, x, times, final_denoise=False)


X = jnp.array([2.0, -0.7, 0.1])


@pytest.mark.parametrize("name", ["ddim", "ancestral", "edm", "dpm_solver_pp_2m", "edm, churned"])
@pytest.mark.parametrize("process", ["vp", "sub_vp", "cosine"])
def test_every_process_gives_the_same_samples_after_rescaling(name, process):
    """VP = VE: these solvers see a process through its levels alone."""
    process, sigmas = PROCESSES[process], noise.geometric(5.0, 0.1, 12)
    times = noise.times_of_levels(process, sigmas)
    alphas = jax.vmap(process.alpha)(times)
    ours = run(SOLVERS[name](process), times, alphas[0] * X) / alphas[-1]
    ve = run(SOLVERS[name](PROCESSES["edm"]), sigmas, X)
    np.testing.assert_allclose(ours, ve, rtol=2e-3, atol=2e-4)


@each_process
def test_ddim_of_eta_1_is_ancestral_sampling(process):
    times = noise.log_snr_times(process, 10)
    one, other = samplers.ddim(process, eta=1.0), samplers.ancestral(process)
    np.testing.assert_allclose(run(one, times, X), run(other, times, X), rtol=1e-4, atol=1e-5)


def test_where_time_is_the_level_euler_is_ddim_and_heun_is_edm():
    process, sigmas = PROCESSES["edm"], noise.karras(5.0, 0.1, 12)
    for one, other in ((samplers.euler, samplers.ddim), (samplers.heun, samplers.edm)):
        np.testing.assert_allclose(
            run(one(process), sigmas, X), run(other(process), sigmas, X), rtol=1e-4, atol=1e-5
        )


def test_the_first_step_of_the_multistep_solver_is_ddim():
    process, sigmas = PROCESSES["edm"], jnp.array([3.0, 1.0])
    one, other = (
        run(make(process), sigmas, X) for make in (samplers.dpm_solver_pp_2m, samplers.ddim)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_variances_of_ancestral_sampling_are_those_of_ddpm():
    """Betas of four steps: the two variances of x_(t-1) and the mean of arXiv:2006.11239."""
    abar = np.cumprod(1 - np.array([0.1, 0.2, 0.3, 0.4]))
    process = noise.vp()
    levels = jnp.asarray(np.sqrt(1 / abar - 1)[[2, 1]], jnp.float32)
    times = noise.times_of_levels(process, levels)
    beta, x_t, x_0 = 0.3, 0.7, -0.4
    mean = (
        np.sqrt(abar[1]) * beta / (1 - abar[2]) * x_0
        + np.sqrt(1 - beta) * (1 - abar[1]) / (1 - abar[2]) * x_t
    )
    small = (1 - abar[1]) / (1 - abar[2]) * beta
    for large, variance in ((False, small), (True, beta)):
        solver = samplers.ancestral(process, large_variance=large)
        x = run(solver, times, jnp.full(40_000, x_t), denoise_fn=lambda x, _: jnp.full_like(x, x_0))
        assert_normal(np.asarray(x), mean, variance)


def test_ddim_with_eta_has_the_variance_of_the_paper_and_loses_no_noise():
    """On data of one point x_t' must carry noise of exactly s' whatever eta is."""
    sigmas = jnp.array([3.0, 2.0, 0.5])
    for eta in (0.0, 0.3, 1.0):
        start = 1.0 + 3.0 * jax.random.normal(jax.random.key(8), (40_000,))
        solver = samplers.ddim(PROCESSES["edm"], eta=eta)
        x = run(solver, sigmas, start, denoise_fn=lambda x, _: jnp.ones_like(x))
        assert_normal(np.asarray(x), 1.0, 0.25)


def test_churn_adds_noise_only_between_its_levels_and_keeps_the_marginal():
    process, sigmas = PROCESSES["edm"], noise.geometric(2.0, 0.5, 3)
    samplers.edm(process, gamma=2**0.5 - 1)  # the most, and not refused
    quiet = run(samplers.edm(process), sigmas, X)
    for options in ({"churn_min": 3.0}, {"churn_max": 0.1}):
        still = run(samplers.edm(process, gamma=0.4, **options), sigmas, X)
        np.testing.assert_allclose(still, quiet, rtol=1e-6)
    assert not np.allclose(run(samplers.edm(process, gamma=0.4), sigmas, X), quiet, atol=0.01)
    start = MEAN + np.float32(np.hypot(STD, 2.0)) * jax.random.normal(jax.random.key(9), (40_000,))
    made, fine = samplers.edm(process, gamma=0.1), noise.geometric(2.0, 0.5, 60)
    x = run(made, fine, start, denoise_fn=gaussian_denoiser)
    assert_normal(np.asarray(x), MEAN, STD**2 + 0.25)


def test_corrections_alone_move_a_wrong_marginal_towards_the_right_one():
    """Many at nearly one time: N(m, s^2 + sigma^2), up to the known bias of a Langevin step."""
    process, sigma, snr = PROCESSES["edm"], 1.0, 0.2
    solver = samplers.predictor_corrector(process, samplers.ddim, snr=snr, num_corrections=200)
    times = jnp.array([sigma, sigma * 0.9999])
    x = run(solver, times, jnp.full(40_000, 3.0), denoise_fn=gaussian_denoiser)
    variance, step = STD**2 + sigma**2, 2 * snr**2
    assert_normal(np.asarray(x), MEAN, variance / (1 - step / (2 * variance)))


def test_a_correction_is_a_langevin_step_of_twice_the_squared_snr_times_the_level():
    """Alone, before a predictor that stays: x + h s(x) + sqrt(2 h) n with h = 2 (snr sigma)^2."""
    process, snr, sigma, x = PROCESSES["edm"], 0.3, 1.5, 2.0
    init = samplers.ddim(process).init
    stay = lambda process: samplers.Solver(process, init, lambda d, k, s, t, u: s, 0)  # noqa: E731
    solver = samplers.predictor_corrector(process, stay, snr=snr)
    times = jnp.array([sigma, 1.0])
    end = run(solver, times, jnp.full(40_000, x), denoise_fn=gaussian_denoiser)
    step = 2 * (snr * sigma) ** 2
    score = (MEAN - x) / (STD**2 + sigma**2)
    assert_normal(np.asarray(end), x + step * score, 2 * step)


# ---- upward in time


@each_process
@pytest.mark.parametrize("name", ORDERS)
def test_inversion_carries_data_to_the_noise_that_leads_back_to_it(name, process):
    """Against the flow of Gaussian data, which only rescales."""
    solver, times = SOLVERS[name](process), noise.log_snr_times(process, 800)
    upward = times[::-1]
    first, last = levels_of(process, upward)[[0, -1]]
    start = process.alpha(upward[0]) * X
    end = samplers.invert(solver, gaussian_denoiser, start, upward)
    truth = process.alpha(upward[-1]) * gaussian_flow(np.asarray(X), first, last)
    np.testing.assert_allclose(end, truth, rtol=0.03, atol=0.02 * float(process.sigma(upward[-1])))
    back = run(solver, times, end, denoise_fn=gaussian_denoiser)
    np.testing.assert_allclose(back, start, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - set(ORDERS)))
def test_a_solver_that_draws_noise_does_not_run_upward(name):
    solver, upward = SOLVERS[name](PROCESSES["vp"]), jnp.array([0.1, 0.5])
    with pytest.raises(ValueError, match="`invert` got a solver that draws noise"):
        samplers.invert(solver, gaussian_denoiser, X, upward)
    with pytest.raises(ValueError, match=r"`integrate` got times=.*strictly decreasing"):
        run(solver, upward, X)


# ---- the driver


@each_solver
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.9, 0.5, 0.5, 0.1], "strictly decreasing"),
        ([0.1, 0.5, 0.9], "strictly decreasing"),
        ([0.9, float("nan"), 0.1], "strictly decreasing"),
        ([80.0, 2.0, 0.1], "noise.times_of_levels"),
        ([0.9, 0.1, 0.0], "noise.times_of_levels"),
        ([0.9, 0.1, -0.1], "noise.times_of_levels"),
    ],
)
def test_times_that_are_no_grid_of_the_process_are_refused(solver, times, message):
    made, times = solver(PROCESSES["vp"]), jnp.array(times)

    def draw(key):
        return samplers.sample(made, gaussian_denoiser, key, X, times, final_denoise=True)

    for call in (draw, jax.jit(draw)):  # known times are looked at under jit too
        with pytest.raises(ValueError, match=message):
            call(jax.random.key(0))


@each_solver
def test_a_step_takes_as_many_evaluations_as_it_says(solver):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    made, x = solver(PROCESSES["vp"]), jnp.zeros(2)
    with jax.disable_jit():
        made.step(counted, jax.random.key(0), made.init(x), jnp.float32(0.5), jnp.float32(0.4))
    assert len(calls) == made.evaluations
    times = jnp.linspace(1.0, 0.1, 19)
    assert samplers.num_evaluations(made, times, final_denoise=True) == 18 * len(calls) + 1


def test_18_levels_of_edm_are_35_evaluations():
    solver = samplers.edm(noise.edm())
    assert samplers.num_evaluations(solver, noise.karras(80.0, 0.002, 18), final_denoise=True) == 35


def test_final_denoise_returns_the_denoised_end():
    process = PROCESSES["sub_vp"]
    solver, times = samplers.ddim(process), jnp.array([0.9, 0.8, 0.6, 0.5])
    end = run(solver, times, X)
    key = jax.random.key(3)
    ours = samplers.integrate(solver, mixture_denoiser, key, X, times, final_denoise=True)
    alpha, sigma = process.alpha(times[3]), process.sigma(times[3])
    np.testing.assert_allclose(ours, mixture_denoiser(end / alpha, sigma / alpha), rtol=1e-5)


@each_solver
def test_an_example_ends_on_the_same_values_alone_and_in_a_batch(solver):
    made, times = solver(PROCESSES["vp"]), noise.uniform_times(PROCESSES["vp"], 12)

    def one(key):
        return samplers.sample(made, mixture_denoiser, key, X, times, final_denoise=True)

    batch = jax.jit(jax.vmap(one))(example_keys(jax.random.key(4), jnp.arange(5)))
    alone = jax.jit(one)(jax.random.fold_in(jax.random.key(4), 3))
    np.testing.assert_allclose(alone, batch[3], rtol=1e-4, atol=1e-5)
    assert len(np.unique(batch[:, 0])) == 5


@each_solver
def test_the_path_has_the_start_and_ends_as_the_run_does(solver):
    made, times = solver(PROCESSES["vp"]), noise.log_snr_times(PROCESSES["vp"], 6)
    path = samplers.integrate_path(made, mixture_denoiser, jax.random.key(3), X, times)
    assert path.shape == (7, 3)
    np.testing.assert_array_equal(path[0], X)
    np.testing.assert_allclose(path[-1], run(made, times, X), rtol=1e-5)


def test_memory_of_a_run_does_not_grow_with_its_steps():
    made = samplers.dpm_solver_pp_2m(PROCESSES["vp"])

    def temporary(num_steps):
        times = noise.uniform_times(PROCESSES["vp"], num_steps)
        x = jnp.zeros((16, 16, 3))
        return jax.jit(lambda x: run(made, times, x)).lower(x).compile().memory_analysis()

    few, many = temporary(10).temp_size_in_bytes, temporary(1000).temp_size_in_bytes
    assert many < few + 3 * 4 * 1000 + x_bytes()


def x_bytes():
    return 16 * 16 * 3 * 4


def test_the_start_is_the_prior_of_the_first_time_not_of_the_last_possible():
    process = PROCESSES["edm"]
    times = jnp.array([2.0, 1.9999])
    keep = samplers.ddim(process)
    draws = jax.vmap(
        lambda key: samplers.sample(
            keep, lambda x, _: jnp.zeros_like(x), key, X, times, final_denoise=False
        )
    )(jax.random.split(jax.random.key(5), 20_000))
    assert_mean(np.asarray(draws) ** 2, np.full(3, 1.9999**2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: samplers.ddim(noise.vp(), eta=1.5), "`ddim` got eta=1.5"),
        (lambda: samplers.edm(noise.vp(), gamma=0.5), "`edm` got gamma=0.5"),
        (
            lambda: samplers.predictor_corrector(noise.vp(), samplers.euler, snr=0.0),
            "`predictor_corrector` got snr=0.0",
        ),
        (
            lambda: samplers.predictor_corrector(noise.vp(), snr=0.1, num_corrections=0),
            "`predictor_corrector` got num_corrections=0",
        ),
        (
            lambda: run(samplers.ddim(noise.vp()), jnp.ones(1), X),
            r"`integrate` got times of shape \(1,\): give at least 2",
        ),
        (
            lambda: run(
                samplers.ddim(noise.vp()), jnp.array([0.9, 0.5]), X, denoise_fn=lambda x, _: x[:2]
            ),
            r"`integrate` got denoise_fn\(x, sigma\) of shape \(2,\), expected \(3,\)",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
