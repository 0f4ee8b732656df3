"""Start one experiment as several processes on this machine, to try out what a cluster does."""

from ebm_jax.runs.launch import main

if __name__ == "__main__":
    main()
