# The words a developer needs; `make` alone lists them. Python >= 3.11 and make are all it takes.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo docs gallery architectures bench test test-slow test-all frozen check size fix clean

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed
MARK := $(VENV)/.installing
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)
SPHINX := $(PY) -m sphinx -q -W --keep-going docs build/manual
TEXTS := src tests docs $(wildcard benchmarks examples studies *.md)

help: ## list these words
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

setup: $(DEV) ## make the development environment in .venv
	@echo "Ready: $(VENV) has layerticket and its development tools."

demo: $(CORE) ## the whole story on embedded data, with the core packages only
	$(VENV)/bin/layerticket demo

test: $(DEV) ## the tests that are quick and need no GPU
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(DEV) ## the tests that take more than ten seconds
	$(PYTEST) -m "slow and not gpu"

test-all: $(DEV) ## every test, the slow ones too; GPU tests skip themselves without one
	$(PYTEST)

frozen: $(DEV) ## train the frozen study with its tree and with this one: equal accuracies?
	OMP_NUM_THREADS=1 $(PY) tests/frozen/side_by_side.py

docs: $(DEV) ## the manual as a site: build/manual/index.html
	$(SPHINX)

gallery: $(DEV) ## what the examples of the manual print, draw and take; a minute or so
	$(PY) benchmarks/gallery.py

check: $(DEV) ## lint, formatting, types, spelling, links of the manual
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib $(TEXTS)
	$(SPHINX)

architectures: $(DEV) ## the table of docs/results/architectures.md; an hour or so, resumes
	$(PY) benchmarks/architectures.py --out docs/results/architectures.md

bench: $(DEV) ## speeds beside what they are measured against; ROWS="grasp discovery" for some
	$(PY) benchmarks/speed.py $(ROWS)

size: ## how much code there is in src: files, lines, Any, noqa, long argument lists
	@"$(PYTHON)" benchmarks/size.py

fix: $(DEV) ## repair what ruff can repair, and format
	@$(PY) -m ruff check --fix .; code=$$?; $(PY) -m ruff format . && exit $$code

clean: ## remove caches and build leftovers; .venv stays (rm -r .venv starts over)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# $(MARK) lies in .venv while pip is at work and holds the number of that process. Found when the
# process is gone, it tells of an install that was cut off: the environment is then made anew. One
# that works is kept, whoever made it.
define install
@command -v "$(PYTHON)" >/dev/null || { \
    echo "$(PYTHON) was not found; layerticket needs Python >= 3.11: make PYTHON=/path/to/python3" >&2; exit 2; }
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1); layerticket needs Python >= 3.11: make PYTHON=python3.11" >&2; exit 2; }
@mkdir -p $(VENV); \
if [ -e $(MARK) ] && kill -0 "$$(cat $(MARK))" 2>/dev/null; then \
    echo "process $$(cat $(MARK)) is installing into $(VENV); wait for it, or rm $(MARK) if it is none of ours" >&2; exit 2; \
fi; \
if [ ! -e $(MARK) ] && $(PY) -m pip --version >/dev/null 2>&1; then \
    echo "Bringing $(VENV) up to date ($(2)) ..."; \
    echo $$$$ >$(MARK); \
else \
    echo "Creating $(VENV) and installing ($(2)): the first time takes a few minutes and several GB (torch) ..."; \
    echo $$$$ >$(MARK); \
    find $(VENV) -mindepth 1 -maxdepth 1 ! -path $(MARK) -exec rm -rf {} + && "$(PYTHON)" -m venv $(VENV); \
fi && $(PY) -m pip install -q --disable-pip-version-check -e "$(1)" -c constraints.txt || { \
    code=$$?; [ ! -e $(CORE) ] || rm -f $(MARK); exit $$code; }
@rm -f $(MARK); touch $(CORE) $@
endef

$(CORE): pyproject.toml constraints.txt
	$(call install,.,core packages)

$(DEV): pyproject.toml constraints.txt
	$(call install,.[dev],core packages and development tools)
