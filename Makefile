# Every target runs in the active virtual environment, or in .venv, which is made on first use.
# Another interpreter for .venv: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
WORKERS ?= 2

# Nothing here downloads a model or a data set.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# The theme's warning about mkdocs 2, which pyproject.toml excludes already.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env demo quick test lint unit nightly sweep browser bridges families docs bench release-check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

env: ## the environment alone: made and installed if it is not up to date
	@tools/env.sh "$(VENV)" "$(PYTHON)"

demo: env ## compare methods on the models that are shipped, and write the report (into demo/; QUICK=1 for a small one)
	OMP_NUM_THREADS=1 "$(BIN)"/tokensieve demo $(if $(QUICK),--quick)

test: lint docs unit ## what everybody runs: lint, documentation, tests
# The tests look at the site that was built a moment ago; run alone, they build their own.
test: export TOKENSIEVE_SITE := $(CURDIR)/site

lint: env ## style, types by two checkers, and the never rules of the imports
	"$(BIN)"/ruff check .
	"$(BIN)"/ruff format --check .
	# Code that pages show has shorter lines, so that it fits their column.
	git ls-files '*.md' '*.ipynb' examples/greys/greys/__init__.py | xargs "$(BIN)"/ruff format --check --line-length 100
	# Side by side: each takes a minute of one core.
	"$(BIN)"/mypy & first=$$!; "$(BIN)"/basedpyright --pythonpath "$(BIN)"/python; second=$$?; \
		wait $$first && exit $$second
	"$(BIN)"/lint-imports

# One thread per worker: the models are tiny, and threads of several workers would only wait for each other.
# By scope, so that a module's or a class's fixtures are made once, and a family's laws are seen by one worker.
unit: env ## the tests, in parallel (WORKERS=2; COVERAGE=1 measures what they cover, and takes half as long again)
	OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest -n $(WORKERS) --dist loadscope $(if $(COVERAGE),--cov)

nightly: env ## the widest sweeps, and every property on all its examples (half an hour; PART=1/6 is a sixth)
	TOKENSIEVE_NIGHTLY=1 TOKENSIEVE_PART=$(PART) OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest -n $(WORKERS) --dist loadscope -m "nightly or hypothesis"

sweep: env ## random trials of docs/guarantees.md, for MINUTES=10; a failure is printed with its seed
	OMP_NUM_THREADS=1 "$(BIN)"/python tools/sweep.py --minutes $(or $(MINUTES),10) --out docs/assets/sweeps.json

quick: env ## what to run before every commit: style, types, layers, and the tests that say most in a minute
	@"$(BIN)"/python tools/quick.py

browser: env ## the report's page in a real browser: Chromium, or what CHROMIUM names
	OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest -m browser tests/browser

bridges: env ## the bridges to partners that cannot share this environment, each in its own over it (.bridges/; NAMES="lmms vllm" for some)
	@tools/bridges.sh "$(VENV)" $(NAMES)

families: env ## the table of what every family can do, anew: what the conformance kit sees, into docs/families/
	TOKENSIEVE_RECORD=1 OMP_NUM_THREADS=1 "$(BIN)"/python -m pytest -q -n $(WORKERS) --dist loadscope -m "not browser" tests/adapters

docs: env ## the documentation, into site/; a broken link is an error
	"$(BIN)"/mkdocs build --strict

bench: env ## what pruning itself costs: ratios, side by side in one run
	OMP_NUM_THREADS=1 "$(BIN)"/python -m benchmarks

release-check: env ## the sdist and the wheel, built into dist/, and the wheel installed and used outside of the checkout
	"$(BIN)"/python tools/release_check.py

clean: ## remove what was built, and .venv
	rm -rf .venv .bridges build dist site demo htmlcov .coverage .coverage.* \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find framework strategies adapters tests -type d -name __pycache__ -prune -exec rm -rf {} +
