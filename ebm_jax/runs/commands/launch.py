"""Starts one experiment as several processes on this machine, as a cluster would."""

from ebm_jax.runs.launch import main

if __name__ == "__main__":
    main()
