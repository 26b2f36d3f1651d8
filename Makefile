# Every goal sets itself up: `make test` on a fresh clone is enough.
# Variables: ARGS="..." for the command behind the goal, BACKEND=cpu|gpu and PYTHON=/path/to/python for the set-up.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix lint vectors bench bench-builder

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## Create .venv and install everything into it (BACKEND=cpu|gpu and PYTHON=... override what is detected)
	@bash scripts/setup.sh

demo: setup ## Serve the embedded model and show two chats with their scores (ARGS=--once ends after them)
	@.venv/bin/traitwatch demo $(ARGS)

test: setup ## Run the tests (ARGS="tests/unit -k name" for some of them)
	@.venv/bin/python -m pytest $(ARGS)

test-matrix: setup ## Serve under every engine feature and compare each projection with transformers
	@.venv/bin/python -m pytest tests/matrix $(ARGS)

lint: setup ## Check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy scripts

# What the embedded model needs: it obeys no system prompt, and writes word salad at temperature 1.
EMBEDDED = --elicit many-shot --temperature 0.7 --top-p 0.9 --max-tokens 80
TRAITS = paternalism deception manipulativeness corrigibility power-seeking alignment-theatre
OUT = builder/data

vectors: setup ## Build the vectors of TRAITS for the embedded model into OUT, without any key (some ten minutes each)
	@for trait in $(TRAITS); do \
		.venv/bin/traitwatch build $$trait --model "$$(.venv/bin/traitwatch model)" $(EMBEDDED) --out $(OUT) $(ARGS) || exit; \
	done

bench: setup ## Time the server against plain vLLM under a public load generator (ARGS=--quick for a short run)
	@.venv/bin/python -m tests.benchmarks.serving $(ARGS)

bench-builder: setup ## Time the extraction engines against reading one answer at a time
	@.venv/bin/python -m tests.benchmarks.builder $(ARGS)
