# Everything runs from a virtual environment in .venv, made on first use.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOWEST := .lowest
LOWEST_TESTS := $(patsubst %,tests/test_%.py,data arrays pictures named prepared_damage records \
	samplers training checkpoints)

DOCUMENTS := ebm_jax README.md CONTRIBUTING.md docs

.PHONY: demo test slow docs check format mutants lowest clean

demo: $(INSTALLED)  ## the main job: learn, sample and judge digits
	$(RUN) -m experiments.edm --conditional

test: $(INSTALLED)  ## tests, then the code of docstrings, README and docs/
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow"
	$(RUN) -m pytest -n 2 --dist loadfile --doctest-modules $(DOCUMENTS)

slow: $(INSTALLED)  ## the tests that take longer: crashes, several processes, whole experiments
	$(RUN) -m pytest -n 2 --dist loadfile -m slow

docs: $(INSTALLED)  ## the documentation, into site/; no network is needed
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

check: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

mutants: $(INSTALLED)  ## break one line at a time; which breaks do the tests catch?
	$(RUN) -m tests.mutants

lowest:  ## do the lowest versions that pyproject.toml allows work together?
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python \
		--resolution lowest-direct --editable ".[experiments,dev]"
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(LOWEST_TESTS)
	$(LOWEST)/bin/python -m experiments.ncsn --out $(LOWEST)/run --num-steps 4 \
		--num-levels 3 --steps-per-level 1 --num-samples 20

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[experiments,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
