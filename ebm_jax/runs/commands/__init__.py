"""Commands on runs and their models, one file per command: `ebm-jax NAME --help`."""
