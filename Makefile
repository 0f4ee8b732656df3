# Everything runs from a virtual environment in .venv, made on first use.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format mutants clean

demo: $(INSTALLED)  ## the main job: learn, sample and judge digits
	$(RUN) -m experiments.ncsn

test: $(INSTALLED)
	$(RUN) -m pytest -n 2 --dist loadfile

check: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

mutants: $(INSTALLED)  ## break one line at a time; which breaks do the tests catch?
	$(RUN) -m tests.mutants

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[experiments,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
