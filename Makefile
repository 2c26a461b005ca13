# make demo           the pictures of the README, from the bundled snapshot, in out/demo
# make test           lint, types, the laws, and every verb once, in minutes
# make test-all       everything, slow tests too
# make release-check  test-all, and parity with the peers at full size
# make parity         our networks and samplers against diffusers on torch
# make plans          the tests that compile for TPUs, which are skipped where libtpu is not installed
# Each installs what it needs into .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all release-check parity plans lint types laws slow bits clean

demo: .venv/.runtime
	$(BIN)/python examples/demo.py out/demo

test: lint types laws

test-all: test slow bits

release-check: test-all parity

parity: .venv/.bench
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m pytest tests/pretrained/test_score_sde.py tests/pretrained/test_ddpm.py tests/pretrained/test_hub.py

plans: .venv/.plan
	$(BIN)/python -m pytest tests/jobs/test_plan.py

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

laws: .venv/.test
	$(BIN)/python -m pytest -m 'not slow'

slow: .venv/.test
	$(BIN)/python -m pytest -m slow

# The laws about bits once more, compiled as users' programs are.
bits: .venv/.test
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest tests/runtime/test_sharding.py -k 'seed and mixture and (sample or sync)' --dist load

.venv/.runtime: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.test: .venv/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/.plan: .venv/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plan]'
	touch $@

.venv/.bench: .venv/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

clean:
	rm -rf .venv out
