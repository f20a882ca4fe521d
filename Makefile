# Each target sets up what it needs: a .venv in this folder, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow lint format docs clean

help:
	@echo "make demo       CLASSP against SGD, Adam and AdaGrad on real digits, 3 minutes"
	@echo "make test       the tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make lint       style and types"
	@echo "make format     fix the style"
	@echo "make docs       the documentation, as a web page under out/docs"
	@echo "make clean      remove .venv and build products"

demo: $(VENV)/examples-installed
	$(BIN)/python -m examples.demo

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/test-installed
	$(BIN)/python -m pytest -m slow

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
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(VENV)/%-installed: pyproject.toml | $(BIN)/python
	@echo "Installing classp_jax with the extra '$*' into $(VENV); a minute or two."
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "classp_jax needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
