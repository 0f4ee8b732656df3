"""Benchmarks of energies against other libraries: `python -m benchmarks.energies`."""
