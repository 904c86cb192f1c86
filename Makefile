# Two commands matter: `make learn` and `make test`. GNU make 3.81 (macOS) is enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
STRICT := MMLEARN_PROFILE=cpu MMLEARN_STRICT=1 MMLEARN_QUIET=1
NBVAL  := --nbval-lax --nbval-current-env --nbval-cell-timeout=900

.PHONY: help learn test check lint unit notebooks chapters test-lowest clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

learn: $(READY)  ## make the environment and open JupyterLab at chapter 00
	@$(BIN)/mmlearn lab

test: $(READY) lint unit chapters  ## everything: lint, unit tests, every notebook in the strict cpu profile

check: $(READY) lint unit  ## lint and unit tests, for every commit (under 3 minutes)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check mmlearn tests benchmarks
	$(BIN)/mmlearn lint

unit: $(READY)
	$(BIN)/python -m pytest -q --durations=5 tests

chapters: $(READY)
	$(STRICT) $(BIN)/python -m pytest -v --tb=short --durations=10 -p no:cacheprovider $(NBVAL) notebooks

notebooks: $(READY)  ## execute the changed chapters in place and save cleaned outputs
	MMLEARN_QUIET=1 $(BIN)/mmlearn run --changed --save --strict --profile cpu

test-lowest: .venv-lowest/.ready  ## unit tests and a smoke run of every chapter with the oldest supported versions
	.venv-lowest/bin/python -m pytest -q tests
	.venv-lowest/bin/mmlearn run --profile smoke

clean:  ## remove the environments, caches and your own runs
	rm -rf $(VENV) .venv-lowest .cache runs .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mmlearn needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 learn")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about three minutes and 6 GB, once."
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test,author]"
	@touch $@

.venv-lowest/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	sed -nE 's/^ +"([a-z-]+)>=([0-9.]+)",$$/\1==\2/p' pyproject.toml > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check -c .venv-lowest/lowest.txt -e ".[test]"
	@touch $@
