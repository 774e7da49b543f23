# Each target sets up what it needs in .venv, once, and again when pyproject.toml changes.
#   make demo PYTHON=python3.12     another interpreter (3.11 to 3.13)
#   make test ARGS="-k wire -x"     arguments for the command that the target runs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
NAME ?=
SECONDS ?= 60
SEED ?= 1
REPORT ?=
BENCHMARKS := $(basename $(notdir $(wildcard benchmarks/[a-z]*.py)))

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos bench bench-name tiny-models clean

help: ## print this list
	@echo "Millrace. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## set up, then send prompts and pictures through Kafka and show the answers
	$(BIN)/millrace demo $(ARGS)

test: $(VENV)/.installed-dev ## every test, with a real Kafka of its own
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev ## lint, format, types, import rules, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.settings_page --check

chaos: $(VENV)/.installed-dev ## kill, freeze and storm a cluster; check every outcome: make chaos SECONDS=600 SEED=1
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(if $(REPORT),--report $(REPORT)) $(ARGS)

bench: bench-name $(VENV)/.installed-dev ## run one benchmark: make bench NAME=...
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

bench-name:
	@test -f "benchmarks/$(NAME).py" || { \
		echo "make bench: NAME=$(NAME) is not a benchmark. There are: $(or $(BENCHMARKS),none yet)" >&2; exit 2; }

tiny-models: $(VENV)/.installed-models ## train, quantize and measure our own tiny models again: 1.5 hours of one core
	$(BIN)/python -m tools.tiny $(ARGS)

clean: ## remove .venv and every cache in this folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.installed-%: pyproject.toml | $(BIN)/pip
	@echo "== installing millrace[$*] into $(VENV); the first time takes a few minutes"
	$(BIN)/python -m pip install --editable '.[$*]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "make: Millrace needs Python 3.11 to 3.13, and $(PYTHON) is not. Name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make: $(PYTHON) cannot create $(VENV). On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
