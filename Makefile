# From nothing but make and python3 >= 3.11. Settings such as INFRA_TOKEN pass through from the environment.
.DEFAULT_GOAL := help
.PHONY: help run test chaos fuzz fleet check sbom lock bench install uninstall clean
BIN := .venv/bin
SERVICES := $(patsubst %/pyproject.toml,%,$(wildcard services/*/pyproject.toml))
INSTALLED := .venv/.installed

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

run: $(INSTALLED) ## the whole agent on this machine, until Ctrl-C; ARGS='--state DIR'
	@exec $(BIN)/agentctl up $(ARGS)

test: $(INSTALLED) ## all tests, with real parts where they are at hand
	@$(BIN)/pytest -q

chaos: $(INSTALLED) ## every fault under load, and what came of it; ARGS='SIGKILL disk' for some
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

fuzz: $(INSTALLED) ## every decoder against 20,000 changed inputs; FUZZ_EXAMPLES=n
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/pytest -q tests/fuzz

fleet: $(INSTALLED) ## the fleet tests at full length: every server killed, minutes without the hub
	@FLEET_ROUNDS=6 FLEET_SECONDS=2 FLEET_OUTAGE_SECONDS=180 $(BIN)/pytest -q -s tests/fleet

check: $(INSTALLED) ## format, lint, types, who may import whom, each service alone, known vulnerabilities
	@$(BIN)/ruff format --check --quiet && $(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary shared/src $(SERVICES:%=%/src)
	@$(BIN)/lint-imports > .venv/imports.log || { cat .venv/imports.log; false; }
	@PYTHON=$(BIN)/python tests/isolation.sh $(BIN)/uv
	@tests/audit.sh $(BIN)/uv

sbom: $(INSTALLED) ## sbom.json: every dependency with its hashes, as CycloneDX
	@tests/audit.sh $(BIN)/uv sbom.json

lock: $(INSTALLED) ## the newest versions of all dependencies, with hashes
	@$(BIN)/uv lock --upgrade
	@$(BIN)/uv export -q --all-packages --all-groups --no-emit-workspace --no-emit-index-url --no-header --no-annotate -o requirements.lock

bench: $(INSTALLED) ## what it costs, in one table; ARGS=--quick for a few minutes
	@$(BIN)/python benchmarks/table.py $(ARGS)

install: $(INSTALLED) ## on this host, as systemd's services; DESTDIR=, PREFIX=/opt/sematext-agent
	@UV=$(BIN)/uv deploy/systemd/install.sh install

uninstall: ## removes it; configuration and events stay
	@deploy/systemd/install.sh uninstall

clean: ## removes what was made here; the agent's state stays
	@rm -rf .venv .*_cache .hypothesis && find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock shared/pyproject.toml $(SERVICES:%=%/pyproject.toml)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is too old: 3.11 or newer is needed")'
	@echo 'installing into .venv (once, about a minute)'
	@python3 -m venv .venv && $(BIN)/pip install -q --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --offline --python $(BIN)/python --no-deps -e shared $(SERVICES:%=-e %) && touch $@
