"""The benchmark's machinery; no test here looks at a clock."""

import numpy as np
import pytest

from benchmarks import harness, langevin
from benchmarks.langevin_worker import Problem, judge


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
