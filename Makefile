# make demo              patch, quantize, verify and report on the shipped model
# make test              the tests
# make kills             the tests that kill hundreds of runs and let them go on
# make faults            20,000 broken documents, and every system call that fails or is the last: about 40 minutes
# make versions          the tests that run models under other transformers versions
# make supported-models  docs/supported-models.md: every model type under every VERSIONS (or these TYPES only)
# make supported-transformers  docs/supported-transformers.md: every transformer of every DIFFUSERS and of the newest
# Each sets up what it needs: Python 3.10 or newer with venv is all that must be there.

PYTHON ?= python3
BIN := .venv/bin
SAMPLED := 4.43.1 4.57.6 5.23.0
VERSIONS ?= 4.43.1 4.46.3 4.48.3 4.51.3 4.53.3 4.57.6 5.0.0 5.23.0
DIFFUSERS := 0.31.0 0.33.1 0.35.2
DEMO := build/demo/qwen2-tiny

.PHONY: demo test kills faults versions supported-models supported-transformers lint clean

demo: .venv/ready
	rm -rf build/demo && mkdir -p build/demo
	cp -r examples/qwen2-tiny $(DEMO)
	$(BIN)/fa3 patch $(DEMO) --attention Qwen2Attention
	$(BIN)/fa3 quantize $(DEMO) --calib examples/qwen2-tiny-calib.jsonl --save-type safe_tensor
	$(BIN)/fa3 verify $(DEMO)-w8a8-fa3 --against $(DEMO) --eval examples/qwen2-tiny-eval.jsonl
	$(BIN)/fa3 report $(DEMO)-w8a8-fa3 --html build/demo/report.html

test: .venv/ready
	$(BIN)/python -m pytest -n 2

kills: .venv/ready
	$(BIN)/python -m pytest -m kills

faults: .venv/ready
	$(BIN)/python -m pytest -m faults -s

versions: .venv/ready $(SAMPLED:%=.venvs/%/ready) $(DIFFUSERS:%=.venvs/diffusers-%/ready)
	$(BIN)/python -m pytest -m versions

supported-models: .venv/ready $(VERSIONS:%=.venvs/%/ready)
	$(BIN)/python -m tests.patching.matrix --versions $(VERSIONS) --types $(TYPES)

supported-transformers: .venv/ready $(DIFFUSERS:%=.venvs/diffusers-%/ready)
	$(BIN)/python -m tests.patching.diffusion

lint: .venv/ready
	$(BIN)/ruff check fa3cli tests benchmarks
	$(BIN)/ruff format --check fa3cli tests benchmarks

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venvs/%/ready: pyproject.toml
	$(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/pip install --quiet torch==2.13.0 transformers==$* --editable .
	touch $@

# Of their time: older diffusers need the huggingface_hub that transformers 4 goes with, and ftfy for Wan's prompts.
.venvs/diffusers-%/ready: pyproject.toml
	$(PYTHON) -m venv .venvs/diffusers-$*
	.venvs/diffusers-$*/bin/pip install --quiet torch==2.13.0 diffusers==$* transformers==4.57.6 ftfy --editable .
	touch $@

clean:
	rm -rf .venv .venvs build
