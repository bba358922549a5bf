# `make demo` and `make test` set up everything they need in .venv; both leave alone what is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JUNIT_SCHEMA := $(VENV)/junit-10.xsd
PYTEST := $(shell grep '^pytest==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
DEMO_DIR ?= demo-output
PYTEST_WORKERS ?= 2

.PHONY: help demo test lint unit acceptance bench fixtures clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch goes first: with its CPU build in place nothing after it asks for the much larger CUDA build.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e '.[torch,tensorflow,ray,dev]'
	touch $@

# What the JUnit reports are validated against; of pytest's distributions only the source holds it.
$(JUNIT_SCHEMA): | $(INSTALLED)
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --no-binary pytest -d $(VENV)/sdist $(PYTEST)
	tar -xzf $(VENV)/sdist/$(subst ==,-,$(PYTEST)).tar.gz -C $(VENV)/sdist
	cp $(VENV)/sdist/$(subst ==,-,$(PYTEST))/testing/example_scripts/junit-10.xsd $@
	rm -r $(VENV)/sdist

demo: $(INSTALLED)  ## convert the tutorial's networks and look inside them
	$(BIN)/onnxscope demo -o $(DEMO_DIR)

test: lint unit  ## lint, types, layers, tests and documented examples

lint: $(INSTALLED)  ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(INSTALLED) $(JUNIT_SCHEMA)  ## pytest with coverage
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not acceptance" --cov --cov-report=term:skip-covered

acceptance: $(INSTALLED) $(JUNIT_SCHEMA)  ## the long proofs: large models, every case in the onnx wheel
	$(BIN)/python -m pytest -m acceptance -s

bench: $(INSTALLED)  ## measure speed and memory against what a user would otherwise do
	$(PIP) polygraphy
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.activations

fixtures: $(INSTALLED)  ## make the binary fixtures again
	$(BIN)/python fixtures/make_digits.py

clean:  ## remove everything that make has made
	rm -rf $(VENV) $(DEMO_DIR) dist build .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
