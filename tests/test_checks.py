"""Numbers that are known and wrong are refused, of whatever library they come."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ebm_jax import _checks as checks
from ebm_jax import noise
from ebm_jax.composition import mixture, tempered
from ebm_jax.guidance import diffusion_posterior, posterior
from ebm_jax.samplers import boxed, ddim, hmc, mala, predictor_corrector, run, ula

TYPES = (float, np.float32, np.float64, np.array, jnp.float32, jnp.bfloat16, ml_dtypes.bfloat16)
each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
energy = lambda x: 0.5 * jnp.sum(x**2)  # noqa: E731
MEASURE = (lambda x, sigma: x, lambda x: x, jnp.ones(2))


@each_type
@pytest.mark.parametrize("value", [-0.5, 0.0, float("inf"), float("-inf"), float("nan")])
def test_a_known_number_of_any_type_is_checked(kind, value):
    with pytest.raises(ValueError, match=r"^`f` got h=.*: give a positive number\.$"):
        checks.check_positive("f", good=1.0, h=kind(value))


@each_type
def test_good_numbers_of_any_type_pass(kind):
    checks.check_positive("f", h=kind(0.5))
    checks.check_not_negative("f", h=kind(0.0))
    checks.check_range("f", kind(0.5), kind(1.5))
    with pytest.raises(ValueError, match=r"`f` got h=-0\.5: give 0 or a positive number"):
        checks.check_not_negative("f", h=kind(-0.5))
    with pytest.raises(ValueError, match=r"`f` got the range 0\.5 to 0\.5"):
        checks.check_range("f", kind(0.5), kind(0.5))
    with pytest.raises(ValueError, match=r"`f` got the range 0\.5 to inf"):
        checks.check_range("f", kind(0.5), kind(float("inf")))


@each_type
def test_numbers_closed_over_are_known_inside_jit_too(kind):
    value = kind(-1.0)
    with pytest.raises(ValueError, match=r"`f` got h=-1\.?0?: give"):
        jax.jit(lambda x: checks.check_positive("f", h=value))(jnp.ones(2))


def test_traced_numbers_are_passed_over_but_for_their_shape():
    jax.jit(lambda h: checks.check_positive("f", h=h))(jnp.float32(-1.0))
    jax.vmap(lambda h: checks.check_not_negative("f", h=h))(-jnp.ones(3))
    jax.jit(lambda n: checks.check_count("f", n=n))(0)
    jax.jit(lambda h: checks.check_all_positive("f", h=h))(-jnp.ones(3))
    with pytest.raises(ValueError, match=r"`f` got h of shape \(3,\), expected \(\)"):
        jax.jit(lambda h: checks.check_positive("f", h=h))(jnp.ones(3))


@pytest.mark.parametrize("value", [0, -1, 2.5, 2.0, float("nan"), np.float32(2.5), jnp.float32(3)])
def test_a_count_is_a_whole_number(value):
    with pytest.raises(ValueError, match=r"`f` got n=.*: give at least 1, as a whole number\."):
        checks.check_count("f", n=value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), jnp.int32(3)])
def test_whole_numbers_of_any_type_are_counts(value):
    checks.check_count("f", least=3, n=value)
    with pytest.raises(ValueError, match="`f` got n=3: give at least 4, as a whole number"):
        checks.check_count("f", least=4, n=value)


HALF = -jnp.float32(0.5)
KERNEL = ula(jnp.negative, step_size=0.1)
FACTORIES = {
    "`ula` got step_size=-0.5": lambda: ula(jnp.negative, step_size=HALF),
    "`ula` got temperature=-0.5": lambda: ula(jnp.negative, step_size=0.1, temperature=HALF),
    "`mala` got step_size=inf": lambda: mala(energy, step_size=float("inf")),
    "`hmc` got temperature=inf": lambda: hmc(
        energy, step_size=0.1, num_leapfrog=1, temperature=jnp.float32(jnp.inf)
    ),
    "`hmc` got num_leapfrog=2.5": lambda: hmc(energy, step_size=0.1, num_leapfrog=2.5),
    "`boxed` got low=1.0, high=-1.0": lambda: boxed(KERNEL, jnp.float32(1), -jnp.float32(1)),
    "`mixture` got weight=-0.5": lambda: mixture([energy], weights=[HALF]),
    "`tempered` got temperature=-0.5": lambda: tempered(energy, temperature=HALF),
    "`ddim` got eta=nan": lambda: ddim(noise.vp(), eta=float("nan")),
    "`ddim` got eta=-0.5": lambda: ddim(noise.vp(), eta=HALF),
    "`karras` got rho=nan": lambda: noise.karras(80.0, 0.002, 8, rho=float("nan")),
    "`karras` got the range 0.1 to inf": lambda: noise.karras(float("inf"), 0.1, 8),
    "`geometric` got num_levels=2.5": lambda: noise.geometric(80.0, 0.1, 2.5),
    "`log_snr_times` got num_steps=2.5": lambda: noise.log_snr_times(noise.vp(), 2.5),
    "`predictor_corrector` got num_corrections=1.5": lambda: predictor_corrector(
        noise.vp(), snr=0.1, num_corrections=1.5
    ),
    "`posterior` got num_iterations=1.5": lambda: posterior(
        *MEASURE, noise_std=1.0, num_iterations=1.5
    ),
    "`posterior` got noise_std=-0.5": lambda: posterior(*MEASURE, noise_std=HALF),
    "`diffusion_posterior` got scale=-0.5": lambda: diffusion_posterior(*MEASURE, scale=HALF),
    "`run` got num_steps=2.5": lambda: run(KERNEL, jax.random.key(0), None, 2.5),
    "`run` got burn_in=0.5": lambda: run(KERNEL, jax.random.key(0), None, 2, burn_in=0.5),
}  # fmt: skip


@pytest.mark.parametrize("message", FACTORIES)
def test_factories_refuse_known_numbers_out_of_range(message, untyped):
    with pytest.raises(ValueError, match=message):
        FACTORIES[message]()
