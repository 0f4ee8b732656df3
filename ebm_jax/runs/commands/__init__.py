"""Commands on runs and their models, each a file: `ebm-jax NAME --help`."""
