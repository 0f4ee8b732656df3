"""Benchmarks against other libraries: `python -m benchmarks.<name>`, with the extra `bench`."""
