SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PYTEST_ARGS ?=
# A file of tests stays in one process, since its tests share servers; as written, the long ones do not come last. Three
# processes keep two cores busy, because tests wait, too. `make test CORES=0` runs them one after another.
CORES ?= 3
SPREAD := -n $(CORES) --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
# Where it is set, each of the hundreds of processes that the tests start would compile all our modules anew: 0.25 s each.
unexport PYTHONDONTWRITEBYTECODE
# Puts the cached opa on PATH and names it in AGENTGATE_OPA_BIN, for one command line.
SERVICES := eval "$$(scripts/services --env)" &&

.PHONY: help setup setup-dev services demo dev test test-adversarial torture fuzz mutants soak check lint format coverage bench policy \
        audit sbom lock pre-commit clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.stamp-runtime ## .venv with what the gateway and the demo need

setup-dev: .venv/.stamp-dev ## .venv with what tests and checks need too

.venv/.stamp-%: requirements/%.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup $*

services: ## redis-server, PostgreSQL and OPA, for tests and `make dev` (minutes, once)
	@scripts/services

demo: setup ## six scenes against a real gateway, embedded defaults
	@$(BIN)/agentgate demo

dev: setup-dev services ## OPA, Redis and a reloading gateway; Ctrl-C stops all
	@$(SERVICES) scripts/dev

test: setup-dev services ## everything but the torture runs
	@sync # what was installed just now is written first: else tests that wait for the disk wait for that
	$(SERVICES) $(BIN)/pytest tests -m "not torture" $(SPREAD) $(PYTEST_ARGS)

test-adversarial: setup-dev services ## the attacks alone
	$(SERVICES) $(BIN)/pytest tests/attacks -m "not torture" $(PYTEST_ARGS)

torture: setup-dev services ## the long proofs
	$(SERVICES) $(BIN)/pytest tests -m torture --timeout=3600 $(PYTEST_ARGS)

fuzz: setup-dev ## every parser for ten minutes (pip install atheris to have it guided)
	AGENTGATE_FUZZ_SECONDS=$${AGENTGATE_FUZZ_SECONDS:-600} $(BIN)/pytest tests/fuzz -m torture -n $(CORES) --dist load --timeout=0

mutants: setup-dev ## changes of core/ and pipeline/ that no test sees (MUTANTS="gate merkle --sample 100"; hours for all)
	@scripts/services --mutants
	$(SERVICES) $(BIN)/python -m tests.mutation $(MUTANTS)

SOAK_MINUTES ?= 30
SOAK_STORE ?= sqlite
soak: setup-dev services ## half an hour under load while everything is restarted (SOAK_MINUTES, SOAK_STORE)
	$(SERVICES) $(BIN)/python -m bench.soak --minutes $(SOAK_MINUTES) --store $(SOAK_STORE)

# What keeps the pages true, and imports running one way.
PAGES := walls docs readme architecture threat_model dependencies

check: lint services ## lint, types, walls, docs, policy
	$(BIN)/mypy
	$(SERVICES) $(BIN)/pytest -q $(SPREAD) $(PAGES:%=tests/test_%.py)
	$(SERVICES) opa check --strict policies
	$(SERVICES) opa fmt --fail --list policies
	$(SERVICES) opa test policies

lint: setup-dev ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup-dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

coverage: setup-dev services ## tests with branch coverage, HTML in htmlcov/
	$(SERVICES) $(BIN)/pytest tests -m "not torture" --cov --cov-report=term --cov-report=html $(PYTEST_ARGS)

bench: setup-dev ## bench/RESULTS.md anew (installs wrk on Debian)
	@scripts/services --bench
	$(SERVICES) $(BIN)/python -m bench.run

policy: services ## compile policies/ to WebAssembly
	$(SERVICES) scripts/build-policy

audit: setup-dev ## known vulnerabilities in the runtime lock
	@# --strict: a package that could not be looked up is a failure, not a pass
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements/runtime.lock

sbom: setup-dev ## CycloneDX of the runtime lock in sbom.json
	$(BIN)/python scripts/sbom sbom.json

lock: ## newest versions into requirements/*.lock
	scripts/lock --upgrade

pre-commit: setup-dev ## the commit hooks on every file
	$(BIN)/pre-commit run --all-files

clean: ## what can be made again; the services cache stays
	rm -rf .venv .dev build dist htmlcov .coverage sbom.json .pytest_cache .mypy_cache .ruff_cache .hypothesis demo/out bench/out
