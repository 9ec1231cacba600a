# make demo    set up, capture the embedded model on its tasks, draw a page of it
# make pipeline  the whole study on the embedded models, some twelve minutes on two cores;
#                CONFIG=configs/pipeline/pythia.toml on others
# make test    lint, types, tests (what CI runs)
# make quick   the same without the slow tests
# make bench   benchmarks against a bare forward, bare products, and the tools of others
# make figures the pictures of README and docs but the screenshots; runs make pipeline's study too

PYTHON ?= python3
TORCH_ARGS ?=
WORKERS ?= 2
CONFIG ?= configs/pipeline/demo.toml
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo pipeline test quick bench figures lint clean

demo: $(VENV)/.installed
	@RUN=$$($(BIN)/sdlms capture --label demo) && REPORT=$$($(BIN)/sdlms report --runs "$$RUN") && \
	echo && echo "The results are in $$RUN:" && \
	echo "  sparsity.csv    one row per layer, site and task" && \
	echo "  activations.h5  every token's activations" && \
	echo "  counts.h5       firing counts per neuron and document" && \
	echo "  meta.jsonl      where they came from; check them with: $(BIN)/sdlms runs verify $${RUN##*/}" && \
	echo "Open the page of them in a browser: $$REPORT/report.html"

pipeline: $(VENV)/.installed-pipeline
	@$(BIN)/sdlms pipeline --config "$(CONFIG)"

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=90

quick: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	$(BIN)/python -m pytest benchmarks -s

figures: $(VENV)/.installed-dev
	$(BIN)/python scripts/draw_figures.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[web,figures]'
	touch $@

$(VENV)/.installed-pipeline: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[datasets,fast]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

clean:
	if [ -d build ]; then chmod -R u+w build; fi  # runs under it are read-only
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
