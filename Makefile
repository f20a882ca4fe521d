# Each target sets up what it needs: a .venv in this folder, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Neighbours in a file share what is compiled: each process has a half to begin with.
PARALLEL := -n auto --dist worksteal

# A quarter of the time to compile, as few of the compiler's passes are run, on programs in
# one piece; and what was compiled is kept for the next time. Not where the last digits or
# the compiled programs themselves are tested. The lowest version has no other emitters.
UNOPTIMIZED := --xla_backend_optimization_level=0
QUICKLY := XLA_FLAGS="$(UNOPTIMIZED) --xla_cpu_use_fusion_emitters=false \
	--xla_cpu_parallel_codegen_split_count=1" \
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/$(VENV)/compiled" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
AS_USERS := tests/test_compiled.py tests/test_parity.py tests/verify/test_as_users.py

LOWEST := .venv-lowest
LIBRARY_TESTS := tests/baselines $(addprefix tests/test_,$(addsuffix .py,arguments \
	classp collect derivatives diagnostics gradient_faults gram injected memory metrics \
	optax_contract per_layer properties signals sums theory transforms))

.PHONY: help demo test test-slow test-tpu test-lowest lint format docs clean

help:
	@echo "make demo        eight tasks of real digits: who forgets what, in a minute"
	@echo "make test        the tests"
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-lowest the library's tests, with the lowest versions it allows"
	@echo "make test-tpu    the programs for TPUs, compiled without one"
	@echo "make lint        style and types"
	@echo "make format      fix the style"
	@echo "make docs        the documentation, as a web page under out/docs"
	@echo "make clean       remove .venv and build products"

# A process of tests a core: PyTorch's threads would wait for each other.
test test-slow test-lowest: export OMP_NUM_THREADS := 1

demo: $(VENV)/examples-installed
	$(BIN)/python -m examples.demo

test: $(VENV)/test-installed
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not tpu" $(AS_USERS)
	$(QUICKLY) $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not tpu" \
		$(addprefix --ignore=,$(AS_USERS))

test-slow: $(VENV)/test-installed
	$(QUICKLY) $(BIN)/python -m pytest $(PARALLEL) -m slow

# libtpu is large, and takes a computer without a TPU for a broken one: a .venv of its own.
test-tpu:
	$(MAKE) VENV=$(VENV)-tpu .test-tpu

.test-tpu: $(VENV)/test-tpu-installed
	ALLOW_MULTIPLE_LIBTPU_LOAD=1 $(BIN)/python -m pytest $(PARALLEL) -m tpu tests/test_compiled.py

# Flax's NNX optimizer took other arguments then.
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not slow" tests/test_parity.py
	XLA_FLAGS=$(UNOPTIMIZED) $(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not slow" \
		-k "not nnx_optimizer" classp_jax/_*.py classp_jax/baselines \
		classp_jax/metrics.py $(LIBRARY_TESTS)

lint: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs-installed
	$(BIN)/python -m sphinx -W --keep-going docs out/docs
	@echo "Open out/docs/index.html"

clean:
	rm -rf $(VENV) $(VENV)-tpu $(LOWEST) build dist out *.egg-info .mypy_cache .pytest_cache \
		.ruff_cache

$(VENV)/%-installed: pyproject.toml | $(BIN)/python
	@echo "Installing classp_jax with the extra '$*' into $(VENV); a minute or two."
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(LOWEST)/installed: pyproject.toml tests/lowest.txt Makefile
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --requirement tests/lowest.txt \
		hypothesis matplotlib pytest pytest-xdist torch==2.13.0 tqdm --editable .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "classp_jax needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
