# `make demo` and `make test` need Python 3.11 or later, make and git, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where Python is told not to keep what it has compiled, each of the tests' hundred processes would
# compile all that it imports, which takes longer than to import it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test docs lint format lock bench clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## Fine-tune MiniLM on the bundled support tickets, then use the model
	$(BIN)/python recipes/classify_tickets.py

test: lint  ## Run every check and every test
	HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 \
	    --dist loadfile --no-loadscope-reorder

docs: $(READY)  ## Build the documentation into site/; a broken link fails
	$(BIN)/zensical build --strict --clean

lint: $(READY)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Stamped by the environment's own inputs, so that a second run costs nothing.
$(READY): requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"ftkit needs Python 3.11 or later; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(READY)  ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group dev \
	    --generate-hashes --upgrade --no-header --quiet --output-file requirements.lock

# Hours on a machine that does nothing else. BENCH="--rounds 1 --clock cpu" gives options to all;
# recipes/bench/README.md says what else there is to measure.
bench: export HF_HUB_OFFLINE = 1
bench: export WANDB_MODE = offline
bench: export OMP_NUM_THREADS ?= 1
bench: $(READY)  ## Measure ftkit against its peers, and write the tables into recipes/bench/RESULTS.md
	for script in startup preparation scale finetunes; do \
	    $(BIN)/python recipes/bench/$$script.py $(BENCH) --into recipes/bench/RESULTS.md || exit; \
	done
	$(BIN)/python recipes/bench/quality.py --table --into recipes/bench/RESULTS.md

clean:  ## Remove the environment and every cache
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache dist site
