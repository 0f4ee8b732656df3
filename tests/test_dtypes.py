"""Every sampler keeps the dtype of x and its law, in float64 and bfloat16 too.

One rule: the state has the dtype of x; levels, times, step sizes and acceptances are float32
or wider. Wider arithmetic inside a step ends in the state's dtype.
"""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import likelihood, noise, samplers
from tests.gaussian_data import MEAN, STD, gaussian_denoiser, gaussian_flow
from tests.statistics import assert_mean, assert_variance
from tests.test_solvers import ORDERS, SOLVERS

each_other_dtype = pytest.mark.parametrize(
    "dtype", [pytest.param("float64", marks=pytest.mark.slow), "bfloat16"]
)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])


@contextmanager
def dtypes(dtype):
    """A user's settings: 64 bits where float64 is wanted, and JAX's own promotion of types."""
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        yield


def energy(x):
    return jnp.sum(x**2) / 2


def tempered(step_size):
    make = lambda t: samplers.mala(energy, step_size=step_size * t, temperature=t)  # noqa: E731
    return samplers.parallel_tempering(make, jnp.array([1.0, 2.0]))


KERNELS = {
    "ula": lambda h: samplers.ula(lambda x: -x, step_size=h),
    "preconditioned": lambda h: samplers.preconditioned(
        lambda x: -x, step_size=h, preconditioner=jnp.ones(2)
    ),
    "underdamped": lambda h: samplers.underdamped(lambda x: -x, step_size=h, friction=1.0),
    "boxed": lambda h: samplers.boxed(samplers.ula(lambda x: -x, step_size=h), -9.0, 9.0),
    "random_walk": lambda h: samplers.random_walk(energy, step_size=h),
    "mala": lambda h: samplers.mala(energy, step_size=h),
    "hmc": lambda h: samplers.hmc(energy, step_size=h, num_leapfrog=2),
    "tempering": tempered,
}


@each_other_dtype
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_keeps_the_dtype_of_x_and_its_law(name, dtype):
    """From exact draws of N(0, 1), with a step size in float32."""
    with dtypes(dtype):
        kernel = KERNELS[name](jnp.float32(0.01))

        def one(key):
            key_start, key_run = jax.random.split(key)
            state = kernel.init(jax.random.normal(key_start, (2,), dtype))
            end, path = samplers.run(kernel, key_run, state, 4, collect=lambda s, i: s.x)
            after = kernel.step(jax.random.clone(key_run), end)[0]
            return end.x, path, after.x

        end, path, after = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2000))
        assert end.dtype == path.dtype == after.dtype == dtype
    assert_mean(end, 0.0)
    assert_variance(end, 1.0, mean=0.0)  # the bias of a step of .01 is half a standard error


@each_dtype
def test_no_chain_jumps_over_a_barrier_of_a_thousand(dtype):
    """A uniform draw of exactly 0 would: 2^-7 of those in bfloat16 are."""
    wall = lambda x: jnp.where(jnp.abs(x) < 1, 0, jnp.where(jnp.abs(x) < 100, 1e3, jnp.inf))  # noqa: E731
    with dtypes(dtype):
        kernel = samplers.random_walk(lambda x: wall(x).astype(dtype), step_size=30.0)

        def one(key):
            start = kernel.init(jnp.zeros((), dtype))
            return samplers.run(kernel, key, start, 300, collect=lambda s, i: jnp.abs(s.x) < 1)[1]

        inside = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    assert np.asarray(inside).all()


@each_dtype
def test_warm_up_and_moments_take_every_dtype(dtype):
    with dtypes(dtype):

        def one(key):
            key_adapt, key_run = jax.random.split(key)
            kernel, state, step_size = samplers.warm_up(
                lambda h: samplers.mala(energy, step_size=h), key_adapt, jnp.ones(2, dtype),
                num_steps=300, target=0.574, initial=0.1,
            )  # fmt: skip
            state, found = samplers.moments(kernel, key_run, state, 400)
            return state.x, found, step_size

        x, found, _ = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 200))
        assert x.dtype == dtype
    wide = "float64" if dtype == "float64" else "float32"
    assert found.mean.dtype == found.variance.dtype == wide
    assert found.num_steps.dtype == jnp.int32
    assert_mean(found.mean, 0.0)
    assert_mean(found.variance + found.mean**2, 1.0)


@each_other_dtype
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_keeps_the_dtype_of_x_and_its_law(name, dtype):
    """Times are float32 whatever x is; bfloat16 rounds every state to 8 bits."""
    process = noise.vp()
    with dtypes(dtype):
        solver, times = SOLVERS[name](process), noise.log_snr_times(process, 60)

        def one(key):
            like = jnp.zeros(1, dtype)
            options = {"final_denoise": False}
            x = samplers.sample(solver, gaussian_denoiser, key, like, times, **options)
            path = samplers.integrate_path(
                solver, gaussian_denoiser, jax.random.clone(key), like, times
            )
            return x, path

        x, path = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 2000))
        assert x.dtype == path.dtype == dtype
        denoised = samplers.integrate(
            solver, gaussian_denoiser, jax.random.key(0), jnp.zeros(1, dtype), times,
            final_denoise=True,
        )  # fmt: skip
        assert denoised.dtype == dtype
    x = np.asarray(x, np.float64)
    bias = 0.05 if dtype == "bfloat16" or name not in ORDERS else 0.02  # 60 steps; round-off
    assert abs(x.mean() - MEAN) < 5 * STD / np.sqrt(2000) + bias
    assert abs(x.std() - STD) < 5 * STD / np.sqrt(4000) + bias


@each_dtype
def test_processes_keep_the_dtype_of_what_they_perturb(dtype):
    with dtypes(dtype):
        for process in (noise.vp(), noise.ve(), noise.edm(), noise.cosine(), noise.sub_vp()):
            t = jnp.float32(process.t_max)
            x = process.perturb(jax.random.key(0), jnp.zeros(20_000, dtype), t)
            prior = process.draw_prior(jax.random.key(1), x)
            assert x.dtype == prior.dtype == dtype
            for draws in (x, prior):
                scaled = np.asarray(draws, np.float64) / float(process.sigma(t))
                assert_variance(scaled, 1.0, mean=0.0, standard_errors=8.0)


@each_other_dtype
def test_annealed_langevin_keeps_the_dtype_of_x_and_its_law(dtype):
    """On data N(0, 1), where the variance follows a linear recursion."""
    with dtypes(dtype):
        score = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
        sigmas = noise.geometric(5.0, 0.1, 12)
        variance = 25.0
        for sigma in np.asarray(sigmas, np.float64):
            for _ in range(5):
                kept = 1 - 0.1 * sigma**2 / (1 + sigma**2)
                variance = kept**2 * variance + 2 * 0.1 * sigma**2

        def one(key):
            x = jax.random.normal(key, (1,), dtype) * 5
            keys = jax.random.split(jax.random.fold_in(key, 1), 3)
            many = {"steps_per_level": 5, "step_ratio": 0.1}
            return (
                samplers.annealed_langevin(score, keys[0], x, sigmas, **many, final_denoise=True),
                samplers.annealed_langevin_path(score, keys[1], x, sigmas, **many)[-1],
                samplers.consistent_annealed_langevin(
                    score, keys[2], x, sigmas, step_ratio=0.6, final_denoise=True
                ),
            )

        ends = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 2000))
        assert all(end.dtype == dtype for end in ends)
    for end in ends:
        assert_mean(end, 0.0)
    assert_variance(ends[1], variance, mean=0.0)


@each_dtype
def test_the_adaptive_flow_works_in_float32_or_wider(dtype):
    rtol = {"float64": 1e-7, "float32": 1e-4, "bfloat16": 2**-8}[dtype]
    tolerance = 1e-8 if dtype == "float64" else 1e-5
    with dtypes(dtype):
        x = jnp.array([2.0, -1.0], dtype)
        end = samplers.follow_flow(
            gaussian_denoiser, x, 0.1, 10.0, rtol=tolerance, atol=tolerance
        ).x
        assert end.dtype == dtype
        ends = {"sigma_min": 1e-3, "sigma_max": 1e4}
        found = likelihood.flow_log_density(gaussian_denoiser, x, **ends).value
        other = likelihood.estimated_flow_log_density(
            gaussian_denoiser, jax.random.key(0), x, num_probes=2, **ends
        ).value
        assert found.dtype == other.dtype == ("float64" if dtype == "float64" else "float32")
    truth = gaussian_flow(np.array([2.0, -1.0]), 0.1, 10.0)
    np.testing.assert_allclose(np.asarray(end, np.float64), truth, rtol=rtol)
    log_density = sum(
        -0.5 * np.log(2 * np.pi * STD**2) - (v - MEAN) ** 2 / (2 * STD**2) for v in (2.0, -1.0)
    )
    np.testing.assert_allclose([float(found), float(other)], log_density, atol=2e-3)
