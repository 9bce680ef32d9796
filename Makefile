# `make help` lists the targets. They run in the virtual environment .venv, installed from requirements-demo.lock for the
# demo, and from requirements-dev.lock for all others; requirements.lock is for production. Each set contains the smaller.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.dev
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

.PHONY: help demo test faults lint check format bench docs lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

$(VENV)/.%: requirements-%.lock pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(DEMO) ## run a pipeline through the service, then keep serving; EXIT=1 exits instead
	$(BIN)/python examples/demo.py $(if $(EXIT),--exit)

test: $(READY) ## run all tests, on SQLite and PostgreSQL; COVERAGE=1 measures the coverage
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report=term-missing:skip-covered)

faults: $(READY) ## run the tests that take minutes: every pair of services in a race, a hundred runs under random kills
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m faults

lint: $(READY) ## check format, lint, imports, types and generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

check: lint ## run everything that CI runs
	$(MAKE) test COVERAGE=1

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## benchmark against a bare Pyramid view, in one run; GROWTH=1 or CLAIMS=1 measures lists or claims with a million rows instead
	$(BIN)/python -m benchmarks $(if $(GROWTH),growth) $(if $(CLAIMS),claims)

docs: $(READY) ## generate docs/settings.md and docs/api.md
	$(BIN)/python docs/generate.py

lock: $(READY) ## lock the newest versions that pyproject.toml allows
	$(BIN)/pip install --quiet uv
	$(COMPILE) --upgrade --extra demo --extra dev -o requirements-dev.lock pyproject.toml
	$(COMPILE) --extra demo -c requirements-dev.lock -o requirements-demo.lock pyproject.toml
	$(COMPILE) -c requirements-dev.lock -o requirements.lock pyproject.toml

clean: ## remove everything that the targets created
	rm -rf $(VENV) var build *.egg-info
