"""ebm_jax: train, sample and judge models known only up to a constant, in JAX."""
