# From nothing but make and python3 >= 3.11. Settings such as INFRA_TOKEN pass through from the environment.
.DEFAULT_GOAL := help
.PHONY: help run test test-all test-rest chaos simulate fuzz fleet check check-style check-types check-imports isolation audit sbom lock bench install uninstall clean
BIN := .venv/bin
PROJECTS := $(patsubst %/pyproject.toml,%,shared/pyproject.toml $(wildcard services/*/pyproject.toml))
RUNNABLE := .venv/.runnable
TESTABLE := .venv/.testable
# More workers than cores: most tests wait for processes they started.
WORKERS ?= $(shell expr 2 '*' $$(python3 -c 'import os; print(len(os.sched_getaffinity(0)))'))
PYTEST := $(BIN)/pytest -q -n $(WORKERS)
LONG_KINDS := fleet or campaign or images or install or browser or cluster

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

run: $(RUNNABLE) ## the whole agent on this machine, until Ctrl-C; ARGS='--state DIR'
	@exec $(BIN)/agentctl up $(ARGS)

test: $(TESTABLE) ## proves the product on this machine, in minutes; COVERAGE=1 measures it too
	@$(PYTEST) -m 'not ($(LONG_KINDS))' $(if $(COVERAGE),--cov --cov-report=)

test-all: test test-rest ## the same, and fleets, faults under load, images, installation, browser, cluster

test-rest: $(TESTABLE) # what test-all has more than test
	@$(PYTEST) -m '$(LONG_KINDS)'

chaos: $(TESTABLE) ## every fault under load, and what came of it; ARGS='SIGKILL disk' for some
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

simulate: $(TESTABLE) ## the real code under seeded faults in simulated time; SEEDS=20, 100-200 or FILE.json
	@PYTHONPATH=tests $(BIN)/python -m simulation $(or $(SEEDS),10) $(ARGS)

fuzz: $(TESTABLE) ## every decoder against 20,000 changed inputs; FUZZ_EXAMPLES=n
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/pytest -q tests/fuzz

fleet: $(TESTABLE) ## the fleet tests at full length: every server killed, minutes without the hub
	@FLEET_ROUNDS=6 FLEET_SECONDS=2 FLEET_OUTAGE_SECONDS=180 $(BIN)/pytest -q -s tests/fleet

check: $(TESTABLE) ## format, lint, types, who may import whom
	@$(MAKE) -s -k -j3 --output-sync check-style check-types check-imports

check-style:
	@$(BIN)/ruff format --check --quiet && $(BIN)/ruff check --quiet

check-types:
	@$(BIN)/mypy --no-error-summary $(PROJECTS:%=%/src) tests benchmarks

check-imports:
	@$(BIN)/lint-imports > .venv/imports.log || { cat .venv/imports.log; false; }

isolation: $(TESTABLE) ## each service in an environment of its own dependencies alone
	@PYTHON=$(BIN)/python tests/isolation.sh $(BIN)/uv

audit: $(TESTABLE) ## look up every dependency among known vulnerabilities
	@tests/audit.sh $(BIN)/uv

sbom: $(TESTABLE) ## sbom.json: every dependency with its hashes, as CycloneDX
	@tests/audit.sh $(BIN)/uv sbom.json

lock: $(TESTABLE) ## the newest versions of all dependencies, with hashes
	@$(BIN)/uv lock --upgrade
	@$(BIN)/uv export -q --all-packages --no-dev --group build --no-emit-workspace --no-emit-index-url --no-header --no-annotate -o requirements.lock
	@$(BIN)/uv export -q --only-dev --no-emit-workspace --no-emit-index-url --no-header --no-annotate -o requirements-dev.lock

bench: $(TESTABLE) ## what it costs, in one table; ARGS=--quick for a few minutes
	@$(BIN)/python benchmarks/table.py $(ARGS)

install: $(BIN)/uv ## on this host, as systemd's services; DESTDIR=, PREFIX=/opt/sematext-agent
	@UV=$(BIN)/uv deploy/systemd/install.sh install

uninstall: ## remove it; configuration and events stay
	@deploy/systemd/install.sh uninstall

clean: ## remove what was made here; the agent's state stays
	@rm -rf .venv .*_cache .hypothesis .coverage && find . -name __pycache__ -prune -exec rm -rf {} +

# uv alone, at the version and with the hash of the lock.
$(BIN)/uv: $(RUNNABLE) requirements-dev.lock
	@sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.lock > .venv/uv.lock
	@$(BIN)/pip install -q --no-compile --require-hashes -r .venv/uv.lock && touch $@

# Without bytecode (Python compiles what it imports), setuptools (nothing here uses it) and the
# asynchronous half of the Kubernetes SDK (nobody imports it): 120 MB instead of 280.
$(RUNNABLE): requirements.lock $(PROJECTS:%=%/pyproject.toml)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is too old: 3.11 or newer is needed")'
	@echo 'installing into .venv, once: about half a minute, 120 MB'
	@echo '  1 of 3: an environment for Python' && python3 -m venv .venv
	@echo "  2 of 3: $$(grep -c == requirements.lock) packages"
	@$(BIN)/pip install -q --no-compile --require-hashes -r requirements.lock
	@rm -rf .venv/lib/python*/site-packages/kubernetes/aio
	@echo '  3 of 3: the services of the agent'
	@$(BIN)/pip install -q --no-compile --no-build-isolation --no-deps $(PROJECTS:%=-e ./%)
	@$(BIN)/pip uninstall -q -y setuptools 2>/dev/null; touch $@

$(TESTABLE): $(RUNNABLE) requirements-dev.lock
	@echo "installing what tests need into .venv, once: $$(grep -c == requirements-dev.lock) packages, half a minute"
	@$(BIN)/pip install -q --no-compile --require-hashes -r requirements-dev.lock && touch $@
