# make demo    install what running needs and restore a real photo
# make test    install everything and run every check
# make check   format, lint, types
# make quick   the tests that take less than a few seconds each
# make sanitize
#              every kernel under compute-sanitizer's four tools, on a GPU
# make soak    damaged files, odd arguments, kills, faults, frames without end, for MINUTES=5 minutes;
#              goes on where the last run ended, by the record build/soak.json
# make mutants COUNT=200
#              one thing wrong at a time in the modules that must not be wrong, and what no test saw;
#              goes on where the last run ended, by the record build/mutants.json
# make bounds  the tests with the oldest versions that setup.py allows; BOUNDS="--instead torch==2.13.0"
#              where PyTorch's own index cannot be reached
# make audit   known vulnerabilities of what the package stands on
# make bench   benchmarks of the portable engine, recorded in benchmarks/results
#              SETS="--sets folder" measures PSNR on the CPU's engines too
# make bench-gpu GPU_RESULTS=folder
#              engines beside their peers, the runtime and its kernels, on this machine's GPU, for
#              half an hour. Needs PyTorch with CUDA and the extra tensorrt in .venv
# make tables  write the figures of the records into README.md and docs/
# make docs    build the site of docs/ into build/site; a warning is an error

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py mirnet_edge/_version.py

.PHONY: demo test suite check format quick soak mutants bounds audit sanitize bench bench-gpu tables docs clean

demo: $(VENV)/.run
	$(BIN)/mirnet-edge demo

# Types take one core for most of a minute, in which the tests are collected.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs=2 check suite

# One thread a process: two processes on two cores take half the time of one with all threads.
suite: export OMP_NUM_THREADS = 1
# Some two hundred processes load the package: compiled once, each does in two thirds of the time.
suite: export PYTHONDONTWRITEBYTECODE =
suite: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

MINUTES ?= 5
soak: $(VENV)/.dev
	$(BIN)/python tests/soak.py --minutes $(MINUTES)

sanitize: $(VENV)/.dev
	$(BIN)/python tests/sanitize.py build/sanitize.json

COUNT ?= 200
mutants: $(VENV)/.campaign
	$(BIN)/python tests/mutants.py --count $(COUNT)

bounds: $(VENV)/.campaign
	$(BIN)/python tests/bounds.py build/bounds $(BOUNDS)

audit: $(VENV)/.campaign
	$(BIN)/python tests/audit.py

# What runs by itself is the portable engine, which these records are of; cpu.py names its engines.
bench: export MIRNET_EDGE_CPU_ENGINE = onnxruntime
bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-json=benchmarks/results/portable.json
	$(BIN)/python benchmarks/video.py benchmarks/results/video.json
	mkdir -p build/cpu
	$(BIN)/mirnet-edge quantize edge-s-denoise build/cpu/int8.onnx --device cpu --budget-db 0.05
	$(BIN)/python benchmarks/cpu.py benchmarks/results/cpu.json --int8 edge-s-denoise=build/cpu/int8.onnx $(SETS)

# What cannot be built, or is not there, is a row of the record that says so; the others go on.
bench-gpu:
	mkdir -p $(GPU_RESULTS) build/gpu
	$(BIN)/python benchmarks/networks.py build/gpu
	$(BIN)/python benchmarks/race.py build/gpu $(GPU_RESULTS)/race.json
	$(BIN)/python benchmarks/device.py build/gpu $(GPU_RESULTS)/device.json
	$(BIN)/python benchmarks/kernels.py $(GPU_RESULTS)/kernels.json

tables: $(VENV)/.dev
	$(BIN)/python benchmarks/tables.py

# Without the advertisement of a later MkDocs; the test of the site builds it the same way.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# Most of these packages' modules are never loaded: to compile them all takes a minute of three.
$(VENV)/.dev: $(VENV)/bin/python $(SOURCES) constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.run

$(VENV)/.campaign: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[campaign]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
