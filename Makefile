# make run: try it. make test: the tests. Everything is set up on the way; see CONTRIBUTING.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml constraints.txt workers/mooring/version.py
PYTEST := $(BIN)/python -m pytest
# More than a small machine has cores, since most tests wait; a module's tests stay together (many share a service), in the order of tests/selection.py.
BY_FILE := --dist loadfile --no-loadscope-reorder
SIDE_BY_SIDE := -n 4 $(BY_FILE)
# The long ones are also the heavy ones.
LONG_SIDE_BY_SIDE := -n 3 $(BY_FILE)
# Looking into all files for these few would take longer than they do.
ALONE := $(shell grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)

.PHONY: help run venv venv-test compiled test test-quick test-long lint types format check bench bench-quick cluster conformance release-check test-pythons clean

help:
	@echo "make run            start a demo service on 127.0.0.1:8480"
	@echo "make test-quick     run what starts no service, and one path through everything: under two minutes"
	@echo "make test           run all tests but the long ones"
	@echo "make test-long      run what repeats a fault many times"
	@echo "make venv           make the environment alone (.venv/bin/mooring)"
	@echo "make lint types format   linters, type checker, formatter"
	@echo "make bench bench-quick   measure"
	@echo "make cluster        three servers of the engine, three nodes of a cluster, to look at"
	@echo "make conformance    Autobahn Testsuite, where Python 2.7 is there"
	@echo "make release-check test-pythons   before a release"

$(VENV)/.made: tools/find-python
	@python="$$(bash tools/find-python)" && { $(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV); }
	@touch $@

$(VENV)/.run: $(VENV)/.made $(SOURCES)
	@echo "installing mooring into $(VENV) …"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "installing what the tests need …"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@echo "installing the gateways that the benchmark compares with …"
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@if command -v npm >/dev/null 2>&1; then cd tests/bench/peers/node && npm install --no-package-lock --silent --no-audit --no-fund; \
	else echo "no npm here: without the Node gateway"; fi
	@touch $@

venv: $(VENV)/.run

venv-test: $(VENV)/.test

# The tests start hundreds of processes: none of them compiles all of it anew, also where Python is told to write no bytecode.
compiled: $(VENV)/.test
	@$(BIN)/python -m compileall -q workers service api

cluster: $(VENV)/.test
	@exec $(BIN)/python tools/cluster

run: $(VENV)/.run
	@exec $(BIN)/mooring serve --demo

test: compiled
	@bash tools/install-test-tools
	@$(PYTEST) tests -m "not alone and not long" $(SIDE_BY_SIDE)
	@$(PYTEST) $(ALONE) -m "alone and not long"

test-quick: compiled
	@$(PYTEST) -q tests -m "quick and not alone and not long" $(SIDE_BY_SIDE)

test-long: compiled
	@$(PYTEST) tests -m "long and not alone" $(LONG_SIDE_BY_SIDE)
	@$(PYTEST) $(ALONE) -m "long and alone"

lint: $(VENV)/.test
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check .

types: $(VENV)/.test
	@$(BIN)/mypy

format: $(VENV)/.test
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: lint types test

bench: $(VENV)/.bench
	@$(BIN)/python -m tests.bench

bench-quick: $(VENV)/.bench
	@$(BIN)/python -m tests.bench --quick

conformance: $(VENV)/.test
	@bash tests/conformance/run

release-check: $(VENV)/.test
	@bash tools/release-check

test-pythons:
	@bash tools/test-pythons

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
