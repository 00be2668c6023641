# Needs python3 (3.11 or newer) with venv (Debian: python3-venv), make, and nothing else; every target makes what it needs.
#
#   make demo    an embedded MCP server behind https://127.0.0.1:8443/mcp; prints lines to try
#   make test    the tests (WORKERS=4 at a time: most of them wait for something); those that need software this machine lacks are left out and named
#   make check   formatting, lint, types, tests: what CI runs
#   make soak    100 000 mixed exchanges, good and bad; then everything must be back where it was
#   make real    fetch the SDKs of other languages and versions into .cache, so that no test is left out for want of them
#   make docs    write the pages that are made from the code: docs/config.md, the reasons and metrics in docs/operations.md
#   make alerts  what deploy/prometheus alerts of, and when it does not (needs promtool, of Debian's package prometheus)
#   make bench   speed and size beside nginx and haproxy (says what is missing)

PYTHON ?= $(shell for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/requirements.txt
LISTEN ?= 127.0.0.1:8443
WORKERS ?= 4
PYTEST ?= $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: demo test lint check soak real docs alerts bench
.DELETE_ON_ERROR:

demo: .venv/.demo
	@chmod go-w certs   # where the umask is 002 git made it writable for the group; keys do not go into such a directory
	@exec $(BIN)/mcpproxy demo --listen $(LISTEN) --state-dir certs

test: .venv/.test
	$(PYTEST) $(TESTS)

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict mcpproxy

check: lint
	@$(MAKE) --no-print-directory test

soak: .venv/.test
	MCPPROXY_SOAK=100000 $(BIN)/python -m pytest -q tests/scenarios/test_soak.py

real: .venv/.test
	$(BIN)/python tests/support/install_real.py

docs: .venv/.test
	$(BIN)/python -m mcpproxy.config.reference docs/config.md
	$(BIN)/python -m tests.house.reasons
	$(BIN)/python -m tests.house.metrics

alerts:
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules deploy/prometheus/alerts.test.yml

bench: .venv/.test
	$(BIN)/python -m benchmarks $(WORKS)

# A stamp says for which pyproject.toml the environment was filled; a newer one fills it again.
.venv/.demo .venv/.test: .venv/.%: pyproject.toml .ci/requirements.txt | .venv/bin/python
	@echo "installing mcpproxy[$*] into .venv"
	@$(PIP_INSTALL) -e '.[$*]'
	@touch $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "mcpproxy needs Python 3.11 or newer with venv: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
