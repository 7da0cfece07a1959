# From nothing but make and python3 >= 3.11. Settings such as INFRA_TOKEN pass through from the environment.
.DEFAULT_GOAL := help
.PHONY: help run test chaos simulate fuzz fleet check isolation audit sbom lock bench install uninstall clean
BIN := .venv/bin
PROJECTS := $(patsubst %/pyproject.toml,%,shared/pyproject.toml $(wildcard services/*/pyproject.toml))
RUNNABLE := .venv/.runnable
TESTABLE := .venv/.testable

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

run: $(RUNNABLE) ## the whole agent on this machine, until Ctrl-C; ARGS='--state DIR'
	@exec $(BIN)/agentctl up $(ARGS)

test: $(TESTABLE) ## all tests, with real parts where they are at hand
	@$(BIN)/pytest -q

chaos: $(TESTABLE) ## every fault under load, and what came of it; ARGS='SIGKILL disk' for some
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

simulate: $(TESTABLE) ## the real code under seeded faults in simulated time; SEEDS=20, 100-200 or FILE.json
	@PYTHONPATH=tests $(BIN)/python -m simulation $(or $(SEEDS),10) $(ARGS)

fuzz: $(TESTABLE) ## every decoder against 20,000 changed inputs; FUZZ_EXAMPLES=n
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/pytest -q tests/fuzz

fleet: $(TESTABLE) ## the fleet tests at full length: every server killed, minutes without the hub
	@FLEET_ROUNDS=6 FLEET_SECONDS=2 FLEET_OUTAGE_SECONDS=180 $(BIN)/pytest -q -s tests/fleet

check: $(TESTABLE) ## format, lint, types, who may import whom
	@$(BIN)/ruff format --check --quiet && $(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary $(PROJECTS:%=%/src)
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

install: $(TESTABLE) ## on this host, as systemd's services; DESTDIR=, PREFIX=/opt/sematext-agent
	@UV=$(BIN)/uv deploy/systemd/install.sh install

uninstall: ## remove it; configuration and events stay
	@deploy/systemd/install.sh uninstall

clean: ## remove what was made here; the agent's state stays
	@rm -rf .venv .*_cache .hypothesis && find . -name __pycache__ -prune -exec rm -rf {} +

# Without bytecode (Python compiles what it imports), setuptools (nothing here uses it) and the
# asynchronous half of the Kubernetes SDK (nobody imports it): 120 MB instead of 280.
$(RUNNABLE): requirements.lock $(PROJECTS:%=%/pyproject.toml)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is too old: 3.11 or newer is needed")'
	@echo 'installing what the agent needs into .venv (once, about half a minute)'
	@python3 -m venv .venv
	@$(BIN)/pip install -q --no-compile --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --no-compile --no-build-isolation --no-deps $(PROJECTS:%=-e ./%)
	@rm -rf .venv/lib/python*/site-packages/kubernetes/aio
	@$(BIN)/pip uninstall -q -y setuptools 2>/dev/null; touch $@

$(TESTABLE): $(RUNNABLE) requirements-dev.lock
	@echo 'installing what the tests need into .venv (once, about half a minute)'
	@$(BIN)/pip install -q --no-compile --require-hashes -r requirements-dev.lock && touch $@
