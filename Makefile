# `make help` lists what there is. Everything runs in .venv, installed from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint check format bench docs lock clean

help: ## list what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## run a real pipeline through the service, then keep serving; EXIT=1 ends instead
	$(BIN)/python examples/demo.py $(if $(EXIT),--exit)

test: $(READY) ## run every test, on SQLite and on PostgreSQL; COVERAGE=1 measures what they reach
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(COVERAGE),--cov --cov-report=term-missing:skip-covered)

lint: $(READY) ## format, lint, imports, types, and docs in step with the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

check: lint ## all that CI checks
	$(MAKE) test COVERAGE=1

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure against a bare Pyramid view, in one run
	$(BIN)/python -m benchmarks

docs: $(READY) ## write the tables of settings and routes anew
	$(BIN)/python docs/generate.py

lock: $(READY) ## lock the newest versions that pyproject.toml allows
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --extra demo --extra dev -o requirements.lock pyproject.toml

clean: ## remove what the targets made
	rm -rf $(VENV) var build *.egg-info
