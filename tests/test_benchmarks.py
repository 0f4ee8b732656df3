"""The benchmark's machinery; no test here looks at a clock."""

import jax
import numpy as np
import pytest

from benchmarks import harness, langevin
from benchmarks.energies import __main__ as energies
from benchmarks.energies import images, laws, losses, networks, samplers
from benchmarks.langevin_worker import Problem, judge
from benchmarks.scaling_worker import collective_bytes
from ebm_jax.sharding import data_mesh, split


def simulate(problem: Problem, seed: int, *, step: float, noise: float, weights: object = None):
    """Chains of x' = x + step s(x) + noise n, each near the Gaussian that it starts from."""
    rng = np.random.default_rng(seed)
    home = problem.means()[rng.choice(8, problem.chains, p=weights)]
    away = np.zeros_like(home)
    for _ in range(200):
        away += -step * away / problem.scale**2 + noise * rng.standard_normal(away.shape)
    return judge(problem, home + away)


def test_law_error_accepts_the_discrete_chain():
    problem = Problem()
    h = problem.step_size
    rounds = [simulate(problem, i, step=h, noise=np.sqrt(2 * h)) for i in range(7)]
    assert langevin.law_error(problem, rounds) == ""


@pytest.mark.parametrize(
    ("step", "noise", "weights", "message"),
    [
        (0.01, np.sqrt(0.01), None, "variance"),
        (0.02, np.sqrt(0.04), None, "variance"),
        (0.01, np.sqrt(0.02), [0.15] * 4 + [0.1] * 4, "shares"),
    ],
    ids=["noise without the 2", "twice the step", "unequal shares"],
)
def test_law_error_refuses_another_law(step, noise, weights, message):
    problem = Problem()
    rounds = [simulate(problem, i, step=step, noise=noise, weights=weights) for i in range(7)]
    assert message in langevin.law_error(problem, rounds)


class FakeWorker:
    """Answers with its own count of calls; fails at call `fails_at`."""

    def __init__(self, name: str, log: list[str], fails_at: int = 99):
        self.name, self.log, self.fails_at, self.calls = name, log, fails_at, 0

    def ask(self, **request):
        self.log.append(f"{self.name}{request['round']}")
        self.calls += 1
        return {"missing": "it broke"} if self.calls == self.fails_at else {"seconds": 1.0}


def test_rounds_take_turns_and_leave_out_a_worker_that_fails(capsys):
    log: list[str] = []
    workers = [FakeWorker("a", log), FakeWorker("b", log, fails_at=2), FakeWorker("c", log)]
    answers = harness.interleave(workers, 2)
    assert log == ["a0", "b0", "c0", "b1", "c1", "a1", "a2", "c2"]
    assert {name: len(rounds) for name, rounds in answers.items()} == {"a": 3, "c": 3}
    assert "b: left out: it broke" in capsys.readouterr().out


def test_a_worker_process_answers_with_the_right_law():
    problem = Problem(chains=512, steps=200)
    arguments = problem._asdict()
    worker = harness.Worker("benchmarks.langevin_worker", "ebm_jax, score", arguments)
    try:
        assert "jax" in worker.hello["versions"]
        rounds = [worker.ask(round=i, least_seconds=0.0) for i in range(3)]
    finally:
        worker.close()
    assert langevin.law_error(problem, rounds) == ""
    summary = langevin.summary(problem, "ebm_jax, score", rounds)
    table = langevin.report(problem, {"ebm_jax, score": summary})
    assert "right" in table
    assert table.splitlines()[0].split()[0] == "implementation"


# ---- benchmarks.energies: the truth that it checks against

NET = networks.random_weights((5, 4), 3, gain=1.5, seed=0)
POINTS = np.random.default_rng(0).normal(size=(6, 3))


def test_derivatives_of_the_network_are_those_of_its_energy():
    """Central differences in double precision."""
    gradient, laplacian = networks.gradient_and_laplacian(NET, POINTS)
    step, basis = 1e-4, np.eye(3)
    ahead, behind = (
        np.stack([networks.energy(NET, POINTS + sign * step * e) for e in basis], -1)
        for sign in (1, -1)
    )
    center = networks.energy(NET, POINTS)[:, None]
    np.testing.assert_allclose(gradient, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)
    second = ((ahead - center) - (center - behind)).sum(-1) / step**2
    np.testing.assert_allclose(laplacian, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("law", "degrees"), [("mixture", 8), ("mlp", 0)])
def test_quadrature_sees_all_of_the_law(law, degrees):
    """No mass at the rim; for the mixture E|x|^2 = radius^2 + 2 scale^2."""
    points, shares = laws.quadrature(law)
    assert shares[np.abs(points).max(-1) > laws.HALF_WIDTH - 0.1].sum() < 1e-8
    if law == "mixture":
        square = shares @ np.sum(points**2, -1)
        np.testing.assert_allclose(square, laws.RADIUS**2 + 2 * laws.SCALE**2, rtol=1e-6)


@pytest.mark.parametrize("law", ["mixture", "mlp"])
def test_the_verdict_on_draws(law):
    """Fresh exact draws pass; the same spread out by 3 %, or chains that never moved, do not."""
    problem = laws.Problem("hmc", law, 0.1, 10)
    begin = laws.start(problem, 0)
    fresh = [laws.judge(problem, begin, laws.start(problem, i)) for i in range(1, 8)]
    assert laws.verdict(problem, fresh) == ""
    wide = [laws.judge(problem, begin, 1.03 * laws.start(problem, i)) for i in range(1, 8)]
    assert "moment" in laws.verdict(problem, wide)
    assert "stayed" in laws.verdict(problem, [laws.judge(problem, begin, begin)])


def run_here(section, problem):
    """Our own implementations in this process: prepare, compute, judge, and the verdict."""
    verdicts = {}
    for name, make in section.implementations(problem).items():
        if name.startswith("ebm_jax"):
            with jax.numpy_dtype_promotion("standard"):  # optax needs it
                job = make()
                answer = job.judge(job.compute(job.prepare(0)))
            verdicts[name] = (section.verdict(problem, [answer]), answer)
    return verdicts


@pytest.mark.parametrize("title", ["random walk, mixture (1000 steps)", "hmc, mlp (20 steps)"])
def test_our_samplers_keep_the_law(title):
    small = samplers.PROBLEMS[title]._replace(steps=30, leapfrog=3)
    assert run_here(samplers, small)["ebm_jax"][0] == ""


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["exact", "sliced", "denoising"])
def test_our_losses_have_the_value_of_the_formulas(loss):
    problem = losses.Problem(loss, 3, steps=2, batch=16, widths=(8, 6))
    verdicts = run_here(losses, problem)
    assert len(verdicts) == (1 if loss == "denoising" else 2)
    for verdict, answer in verdicts.values():
        assert verdict == ""
        off = answer | {"value": -answer["value"]}
        assert losses.verdict(problem, [off]).startswith("wrong: the loss is")


def test_our_images_have_the_energy_of_the_formulas():
    problem = images.Problem(side=9, batch=8, chain_steps=20, buffer=16, channels=(8, 6))
    verdict, answer = run_here(images, problem)["ebm_jax"]
    assert verdict == ""
    other = answer | {"energies": answer["energies"][::-1]}
    assert images.verdict(problem, [other]) == "wrong: another energy"
    assert images.verdict(problem, [answer | {"chain_energy": 1e6}]) == "wrong: chains climbed"


def test_a_problem_is_measured_in_processes_of_their_own_and_reported():
    problem = losses.Problem("denoising", 2, steps=2, batch=8, widths=(4,))
    found = energies.measure("training", problem, 1)
    table = energies.report({"denoising": found})
    ours = next(line for line in table.splitlines() if line.startswith("denoising"))
    assert (ours.split()[1], ours.split()[-1]) == ("ebm_jax", "right")
    assert found["results"]["ebm_jax"]["versions"].keys() == {"jax", "jaxlib", "optax"}
    assert table.splitlines()[0].split()[:2] == ["problem", "implementation"]


def test_only_chooses_by_section_or_title():
    chosen = energies._chosen("exact, d = 64")
    assert chosen == [("training", "exact, d = 64 (1 steps)")]
    assert {section for section, _ in energies._chosen("samplers")} == {"samplers"}
    assert len(energies._chosen("")) == 6 + 9 + 1


def test_the_u_net_of_the_diffusion_benchmark_is_counted_by_its_published_table():
    """35.7M for DDPM on CIFAR-10; 8.95M at base 64; and any other network is named as wrong."""
    from benchmarks import diffusion

    assert diffusion.num_parameters(128) == 35_746_307
    assert diffusion.num_parameters(64) == 8_952_067
    right = {"parameters": 8_952_067, "start": 1.0, "end": 0.5}
    problem = diffusion.Problem()
    assert diffusion.verdict(problem, [right]) == "right"
    assert "7 parameters" in diffusion.verdict(problem, [right | {"parameters": 7}])
    assert "the loss went from" in diffusion.verdict(problem, [right | {"end": 2.0}])
    assert "the loss went from" in diffusion.verdict(problem, [right | {"end": float("nan")}])


SMALL = {"n": 300, "width": 20, "subsets": 3, "subset_size": 50}


@pytest.mark.parametrize("figure", ["FID", "distance"])
def test_the_frechet_distances_of_the_metrics_benchmark_are_one_figure(figure):
    from benchmarks import metrics, metrics_worker

    problem = metrics_worker.Problem(figure, **SMALL)
    ours, scipys = (
        job.compute(job.prepare(0))
        for job in (metrics_worker.ebm_jax(problem), metrics_worker.scipy_sqrtm(problem))
    )
    assert metrics.compare(scipys, ours, metrics.AGREEMENT[figure])[1] == "right"
    assert metrics.compare(1.01 * ours, ours, 1e-3)[1].startswith("wrong")
    assert metrics.compare(float("nan"), ours, 1e-3)[1].startswith("wrong")


@pytest.mark.parametrize("figure", ["KID", "IS"])
def test_implementations_of_the_metrics_benchmark_agree_and_are_reported(figure):
    """torch-fidelity too where it is installed; the numbers of both are compared."""
    from benchmarks import metrics, metrics_worker

    problem = metrics_worker.Problem(figure, **SMALL)
    found = metrics.measure(problem, metrics.FRECHET[:2], 1)
    table = metrics.report({figure: found})
    lines = [line.split() for line in table.splitlines() if line.startswith(figure)]
    assert lines[0][1] == "ebm_jax"
    assert {line[-1] for line in lines} == {"right"}


def test_bytes_of_collectives_are_read_off_a_compiled_program():
    """A sum of 8 rows of 1,000 floats, one on each device, returns 4,000 bytes to each."""
    rows = split(np.zeros((8, 1000), np.float32), data_mesh())
    text = jax.jit(lambda x: x.sum(0)).lower(rows).compile().as_text()
    assert collective_bytes(text) == {"all-reduce": 4000}
    assert collective_bytes(jax.jit(lambda x: 2 * x).lower(rows).compile().as_text()) == {}
