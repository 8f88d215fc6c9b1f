# Everything a person or CI runs. `make setup` needs python3 (3.11 or newer) and make; it creates only .venv and .tools.

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/uv/bin/uv
BIN := .venv/bin
READY := .venv/.ready

# Options of the three runs of `make demo`, which takes two to five minutes on two cores after the set-up.
DEMO ?= --suite world --limit 100
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.PHONY: setup demo official test test-slow check lint docs format lock

setup: $(READY)

# Tune the text encoder for about two minutes, and compare it with the untuned model and with style words.
demo: $(READY)
	$(BIN)/tcbench train --model micro --profile quick --out demo/tuned
	$(BIN)/tcbench run --model micro --out demo/runs $(DEMO)
	$(BIN)/tcbench run --model 'micro+style-words' --out demo/runs $(DEMO)
	$(BIN)/tcbench run --model demo/tuned --out demo/runs $(DEMO)
	$(BIN)/tcbench leaderboard demo/runs --baseline micro --out demo/board

# The environment of the packages image-reward and hpsv2, which the native rewards are verified against.
official: $(READY)
	$(BIN)/python -m rewards.verification.official.environment

# One process per core and one thread per process: the test models are too small to use a second thread.
test: official
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: official
	$(BIN)/pytest -m slow

check: lint docs

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/count_names.py --max-names 487 --max-duplicates 10

# The documentation site in build/site; warnings are errors. (--quiet would hide them from that check.) The variable
# silences a notice about the successor of MkDocs.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(UV)
	$(COMPILE) pyproject.toml -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --group dev --group docs -o requirements/dev.lock
	$(COMPILE) rewards/verification/official/requirements.in -o rewards/verification/official/requirements.lock
	$(COMPILE) scripts/imscore/requirements.in -o scripts/imscore/requirements.lock

$(UV):
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/pip install --quiet uv==$(UV_VERSION)

# Bytecode is compiled at once: where Python may not write it later, every start of a command would compile torch anew.
$(READY): requirements/dev.lock pyproject.toml | $(UV)
	test -x $(BIN)/python || $(UV) venv --python '$(PYTHON)' .venv
	$(UV) pip sync --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.lock
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
