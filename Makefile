# Every goal sets itself up: `make test` on a fresh clone is enough.
# Variables: ARGS="..." for the command behind the goal, BACKEND=cpu|gpu and PYTHON=/path/to/python for the set-up.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## Create .venv and install everything into it (BACKEND=cpu|gpu and PYTHON=... override what is detected)
	@bash scripts/setup.sh

demo: setup ## Serve the embedded model and show two chats with their scores (ARGS=--once ends after them)
	@.venv/bin/traitwatch demo $(ARGS)

test: setup ## Run the tests (ARGS="tests/unit -k name" for some of them)
	@.venv/bin/python -m pytest $(ARGS)

lint: setup ## Check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy scripts
