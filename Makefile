# The virtual environment; .ci/run names one of its own.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: help demo test lint docs benchmark clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## run the small benchmark on embedded data, print its table, say where the figures are
	$(BIN)/python -m bench experiment=demo

test: $(VENV)/.installed-test  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: $(VENV)/.installed-test  ## measure the shared pass and the scorer, write benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run

clean:  ## remove the virtual environment, caches and build output; results/ stays
	rm -rf .venv site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cam-bench needs Python 3.11 or newer; name one with: make demo PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,dev,docs,joblib,slurm,ray,peers]'
	@# Quantus asks for opencv-python, which would overwrite opencv-python-headless and needs a display's libraries.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps quantus==0.6.0
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@
