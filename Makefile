# Everything a fresh machine with Python >= 3.11, pip and make needs; each target sets itself up.

PYTHON ?= python3
BIN := .venv/bin
# On machines without an accelerator JAX need not look for one.
export JAX_PLATFORMS ?= cpu

.PHONY: demo test parity lint clean

demo: .venv/demo ## a tiny policy learns from reward on real handwritten digits
	$(BIN)/python -m rl.train --workdir=runs/digits

test: .venv/test lint ## lint and all tests that need no torch
	$(BIN)/python -m pytest -n 2 -m "not parity"

parity: .venv/parity ## numerics against torch, live
	$(BIN)/python -m pytest -m parity

lint: .venv/test
	$(BIN)/ruff format -q --check .
	$(BIN)/ruff check -q .

clean:
	rm -rf .venv runs

# Debian's Python may come without ensurepip; virtualenv does without it.
.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  $(PYTHON) -m pip install -q --user --break-system-packages virtualenv && $(PYTHON) -m virtualenv -q .venv; }

.venv/demo: .venv/bin/python setup.py
	$(BIN)/pip install -q -e .
	touch $@

.venv/test: .venv/bin/python setup.py
	$(BIN)/pip install -q -e '.[test,plan]'
	touch $@

# A CPU build where one is offered: a plain `torch` is gigabytes of CUDA.
.venv/parity: .venv/test
	$(BIN)/pip install -q 'torch==2.13.0' || $(BIN)/pip install -q 'torch>=2.9'
	touch $@
