# Each target makes its own environment on a fresh machine; nothing else has to be done first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow contract lint bench bench-trainings docs docs-serve soak fuzz leaks coverage mutants clean
.DEFAULT_GOAL := test

# torch comes first and alone, so that nothing that depends on it picks another build.
$(VENV)/.train: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.train
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.train
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

demo: $(VENV)/.train  ## The main job on real digits: share, train, fold, save, and a page to look at
	$(BIN)/weightshare demo

# One thread in each process: more of them than cores only wait for each other.
test: $(VENV)/.dev  ## The tests but for the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev  ## All tests
	$(BIN)/python -m pytest -m 'slow or not slow'

contract: $(VENV)/.dev  ## The contract matrix: every spec, module and event
	$(BIN)/python -m tests.contract

lint: $(VENV)/.dev  ## Style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The rivals have an environment of their own: they bring JAX and TensorFlow, which others would then load too.
$(VENV)-bench/.bench: pyproject.toml constraints.txt
	test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)-bench/bin/python -m pip install --quiet -c constraints.txt -e '.[dev,bench]'
	touch $@

MEASURE = $(VENV)-bench/bin/python -m pytest -o addopts= -s --benchmark-quiet --results results/benchmarks
TRAININGS = benchmarks/test_resnet20.py benchmarks/test_training.py benchmarks/test_loading.py

bench: $(VENV)-bench/.bench  ## Benchmarks: ratios against every rival in the same run
	$(MEASURE) $(filter-out $(TRAININGS),$(wildcard benchmarks/test_*.py))

bench-trainings: $(VENV)-bench/.bench  ## The same of loaders and whole trainings
	$(MEASURE) $(TRAININGS)

docs: $(VENV)/.docs  ## The documentation site, in site-docs/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(VENV)/.docs  ## The same on http://127.0.0.1:8000, made again whenever a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

SEQUENCES ?= 10000
SECONDS ?= 60
MUTANTS ?= 300

$(VENV)/.robust: pyproject.toml constraints.txt | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[robust]'
	touch $@

soak: $(VENV)/.dev  ## Random sequences of verbs on the tests' networks; goes on where it was stopped
	$(BIN)/python -m tests.robustness.soak --sequences $(SEQUENCES)

fuzz: $(VENV)/.robust  ## Spoiled inputs for every parser, for so many seconds each
	$(BIN)/python -m tests.robustness.fuzz --seconds $(SECONDS)

leaks: $(VENV)/.dev  ## What grows over a thousand cycles
	$(BIN)/python -m tests.robustness.leaks

coverage: $(VENV)/.robust  ## Which lines of the core its tests run
	$(BIN)/python -m tests.robustness.covered

mutants: $(VENV)/.robust  ## Which changes of the code no test notices; goes on where it was stopped
	$(BIN)/python -m tests.robustness.mutants --sample $(MUTANTS)

clean:
	rm -rf $(VENV) $(VENV)-bench dist site-docs .pytest_cache .ruff_cache .hypothesis .import_linter_cache
