"""A run that tests start, kill and start again: persistent contrastive divergence on two rings.

    python -m tests.small_run --out DIR --num-steps 200

It leaves its losses in metrics.csv, and parameters, chains and samples in samples.npz.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import targets
from ebm_jax.calculus import score_from_energy
from ebm_jax.data import Rows, batch_indices
from ebm_jax.keys import example_keys
from ebm_jax.losses import contrastive_divergence
from ebm_jax.nets import EnergyMLP
from ebm_jax.runs import training
from ebm_jax.runs.command import command
from ebm_jax.runs.run import Run
from ebm_jax.samplers import replay_buffer, ula
from ebm_jax.samplers import run as run_chain
from ebm_jax.sharding import spread
from ebm_jax.training import persistent_chains

HIDDEN = (64, 64)


def main(
    run: Run,
    *,
    num_steps: int = 60,
    batch_size: int = 16,
    steps_per_call: int = 5,
    one_scan: bool = True,
    seed: int = 0,
    seconds_a_batch: float = 0.0,
    seconds_between_checkpoints: float = 20.0,
) -> None:
    """Train, draw, and save what came out.

    Args:
        run: the run.
        num_steps: optimization steps.
        batch_size: examples, and chains, in a step.
        steps_per_call: steps between rows.
        one_scan: as of `fit`.
        seed: seed of everything.
        seconds_a_batch: to wait for each, so that there is time for a signal.
        seconds_between_checkpoints: at least; 0 saves after every call.
    """
    training.SECONDS_BETWEEN_CHECKPOINTS = seconds_between_checkpoints
    for name in ("seconds_a_batch", "seconds_between_checkpoints"):  # nothing depends on them
        del run.config[name]
    if not run.begin(products=("samples.npz",)):
        return
    net = EnergyMLP(HIDDEN)
    keys = example_keys(jax.random.key(seed), jnp.arange(512))
    data = np.asarray(jax.vmap(targets.rings().draw)(keys))
    like = jnp.zeros(2)

    def energy(params):
        return lambda x: net.apply(params, x)

    def draw(key):
        return jax.random.normal(key, (2,))

    def kernel_of(params):
        return ula(score_from_energy(energy(params)), step_size=0.05)

    def loss(params, key, pair):
        return contrastive_divergence(energy(params), *pair)

    def batches(first, count):
        time.sleep(seconds_a_batch)
        return Rows(data, batch_indices(seed, first, count, len(data), batch_size))

    state = training.train(
        run,
        loss,
        net.init(jax.random.key(seed), like),
        optax.adam(1e-3),
        batches,
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        steps_per_call=steps_per_call,
        one_scan=one_scan,
        prepare=persistent_chains(kernel_of, draw, num_steps=10, restart_share=0.1),
        memory=replay_buffer(
            jax.vmap(draw)(example_keys(jax.random.key(seed + 1), jnp.arange(64)))
        ),
    )
    kernel = kernel_of(state.ema)

    def sample(key):
        key_start, key_chain = jax.random.split(key)
        return run_chain(kernel, key_chain, kernel.init(draw(key_start)), 50)[0].x

    samples = spread(sample)(example_keys(jax.random.key(seed + 2), jnp.arange(13)))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.ema))]
    np.savez(
        run.folder / "samples.npz",
        chains=np.asarray(state.memory.x),
        samples=np.asarray(samples),
        params=np.concatenate([leaf.ravel() for leaf in leaves]),
    )
    run.finish({"steps": float(int(state.step))})


if __name__ == "__main__":
    command(main)
