# Every goal sets itself up: `make test` on a fresh clone is enough.
# Variables: ARGS="..." for the command behind the goal, BACKEND=cpu|gpu and PYTHON=/path/to/python for the set-up.

.DEFAULT_GOAL := help
.PHONY: help setup programs lock demo demo-alerts test test-matrix test-e2e test-docs test-containers lint docs reference vectors \
	bench bench-builder blocked-loop fuzz false-alarms

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

setup: ## Create .venv and install everything into it (BACKEND=cpu|gpu and PYTHON=... override what is detected)
	@bash scripts/setup.sh

demo: setup ## Serve the embedded model and show two chats with their scores (ARGS=--once ends after them)
	@.venv/bin/traitwatch demo $(ARGS)

demo-alerts: setup ## Serve it under Prometheus and Alertmanager, and see an alert come and go
	@.venv/bin/traitwatch demo-alerts $(ARGS)

programs: ## Install what demo-alerts and the tests drive, from Debian: prometheus, chromium, debootstrap and others
	@bash scripts/programs.sh

# Threads that wait for each other sleep. By default they spin, and two busy processes on two cores then take twice the
# time: 20 answers of the embedded model beside the matrix 124 s and not 45 s (alone 39 s and 34 s).
test test-matrix test-e2e test-docs test-containers blocked-loop: export OMP_WAIT_POLICY = passive

# All of them run in two processes (tests/conftest.py says what goes where), some of them in one.
test: setup ## Run the tests (ARGS="tests/unit -k name" for some of them)
	@.venv/bin/python -m pytest $(or $(ARGS),-n 2)

# In two processes: these tests start many servers, and a start keeps one core busy, not two.
test-matrix: setup ## Serve under every engine feature and compare each projection with transformers
	@.venv/bin/python -m pytest tests/matrix -n 2 $(ARGS)

test-e2e: setup ## Run the tests that drive a real Prometheus, Alertmanager and browser (`make programs` installs them)
	@.venv/bin/python -m pytest tests/ops tests/e2e $(ARGS)

test-docs: setup ## Follow the tutorial in a clean clone, and compare the documents with the code
	@.venv/bin/python -m pytest tests/docs $(ARGS)

test-containers: setup ## Lint the Dockerfile, check the Compose stack, build the CPU image in a clean Debian tree (as root)
	@.venv/bin/python -m pytest tests/containers $(ARGS)

reference: setup ## Make the tables of docs/reference from the code
	@.venv/bin/python -m scripts.reference

docs: setup ## Build the documents as a site, into build/site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

lock: setup ## Lock what the images install, with hashes (ARGS=--upgrade for the newest of everything)
	@.venv/bin/python scripts/lock.py $(ARGS)

lint: setup ## Check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy scripts

# What the embedded model needs: it obeys no system prompt, and writes word salad at temperature 1.
EMBEDDED = --elicit many-shot --temperature 0.7 --top-p 0.9 --max-tokens 80
TRAITS = paternalism deception manipulativeness corrigibility power-seeking alignment-theatre
OUT = traitwatch/shipped

vectors: setup ## Build the vectors of TRAITS for the embedded model into OUT, without any key (some six minutes each)
	@for trait in $(TRAITS); do \
		.venv/bin/traitwatch build $$trait --model "$$(.venv/bin/traitwatch model)" $(EMBEDDED) --out $(OUT) $(ARGS) || exit; \
	done
	@.venv/bin/python -m scripts.compress_answers $(OUT)

bench: setup ## Time the server against plain vLLM under a public load generator (hours; ARGS=--quick for minutes)
	@.venv/bin/python -m tests.benchmarks.serving $(ARGS)

bench-builder: setup ## Time the extraction engines against reading one answer at a time
	@.venv/bin/python -m tests.benchmarks.builder $(ARGS)

blocked-loop: setup ## Measure how long the worst requests hold the event loop (some minutes; ARGS="--runs 3 --only WORD")
	@.venv/bin/python -m tests.benchmarks.blocked_loop $(ARGS)

fuzz: setup ## Give mutated files and replies to every reader for minutes (ARGS="--minutes 5 --only NAME")
	@.venv/bin/python -m tests.benchmarks.fuzz $(ARGS)

false-alarms: setup ## Count spikes in 200 neutral chats that took no part in calibration (two to four minutes)
	@.venv/bin/python -m tests.benchmarks.false_alarms $(ARGS)
