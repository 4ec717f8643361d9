# make demo    install what running needs and restore a real photo
# make test    install everything and run every check
# make check   format, lint, types
# make quick   the tests that take less than a few seconds each
# make bench   benchmarks of the portable engine, recorded in benchmarks/results
# make tables  write the figures of the records into README.md

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py mirnet_edge/_version.py

.PHONY: demo test check format quick bench tables clean

demo: $(VENV)/.run
	$(BIN)/mirnet-edge demo

# One thread a process: two processes on two cores take 8 minutes, one process with all threads 13.
test: export OMP_NUM_THREADS = 1
test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-json=benchmarks/results/portable.json

tables: $(VENV)/.dev
	$(BIN)/python benchmarks/tables.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python $(SOURCES) constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
