# `make demo` and `make test` set up everything they need in .venv; both leave alone what is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JUNIT_SCHEMA := $(VENV)/junit-10.xsd
PYTEST := $(shell grep -o '^pytest==[0-9.]*' constraints.txt)
TORCH := $(shell grep -o '^torch==[0-9.]*' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO_DIR ?= demo-output
PYTEST_WORKERS ?= 2

.PHONY: help demo test lint unit coverage browser docs acceptance hostile fuzz soak bench fixtures clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch goes first, in whatever build there is for this machine: the registry's own is a much larger one for CUDA. Of all
# others files that are not those of constraints.txt are refused. The last step finds everything there, but for the
# libraries of CUDA where torch needs them.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps $(TORCH)
	$(PIP) --require-hashes --no-deps -r constraints.txt
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

# Pages are tested in a real browser: the one that is there, else Debian's, which only root can install.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null || \
	{ echo "the tests need a browser: install Debian's package chromium, as root" >&2; exit 1; }

# A worker takes tests that stand together, so that what a file of them shares is made once; who is done takes over some.
unit: $(INSTALLED) $(JUNIT_SCHEMA) browser  ## pytest
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not acceptance"

coverage: $(INSTALLED) $(JUNIT_SCHEMA) browser  ## pytest, and which lines no test reaches; a third slower
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not acceptance" --cov --cov-report=term:skip-covered

docs: $(INSTALLED)  ## build the documentation into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

acceptance: $(INSTALLED) $(JUNIT_SCHEMA) browser  ## the long proofs: large models, every case in the onnx wheel
	$(BIN)/python -m pytest -m acceptance -s

hostile: $(INSTALLED)  ## what strangers may send, given to every command: all has to come out as expected
	PYTHONPATH=tests $(BIN)/python tests/hostile.py

FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
fuzz: $(INSTALLED)  ## what nobody has thought of, given to everything that reads a stranger's file
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

SOAK_SECONDS ?= 3600
soak: $(INSTALLED)  ## the library in one process for an hour, with nothing that grows
	PYTHONPATH=tests $(BIN)/python tests/soak.py --seconds $(SOAK_SECONDS)

bench: $(INSTALLED) browser  ## measure speed and memory against what a user would otherwise do
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.activations
	$(BIN)/python -m benchmarks.comparisons
	$(BIN)/python -m benchmarks.explanations
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m benchmarks.isolation

fixtures: $(INSTALLED) browser  ## make the binary fixtures and the figures of the documentation again
	$(BIN)/python fixtures/make_digits.py
	$(BIN)/python docs/make_figures.py

clean:  ## remove everything that make has made
	rm -rf $(VENV) $(DEMO_DIR) dist build site .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
