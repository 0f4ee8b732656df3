"""Experiments: one file each, run by `python -m experiments.<name>`; `--help` lists flags."""
