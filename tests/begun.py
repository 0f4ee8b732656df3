"""A run that has begun, for tests of what comes after."""

from ebm_jax.runs.run import Run


def begun(experiment, out, options, *, products=(), **facts):
    """A `Run` whose folder is claimed, whether it is done or not."""
    run = Run(experiment, out, options)
    run.begin(products=products, **facts)
    return run
