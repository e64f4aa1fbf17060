# make demo    a 3D object from a prompt, embedded model        make test    every test that works without a GPU
#              (PROMPT="a blue cone", or PROMPT=random)
# make lint    ruff, as in CI                                   make format  what ruff would have you change
# make types   mypy                                             make bench   the benchmarks, on this machine
# make gpu     on a machine with a GPU: build, tests, benchmarks, compute-sanitizer, in GPU_MINUTES=8
# make rehearsal   the same on a stand-in for a GPU              make gpu-offline   wheels for one without an index
# make docs    the documentation as a site, out/site            make clean   what was built (not out/, not .venv)
# make venv    only the environment
#
# PYTHON=python3.12 chooses the interpreter; VENV=path an environment to make or to use; TORCH="torch==2.13.0" what pip
# is asked for where that environment has no torch yet (PIP_INDEX_URL and other settings of pip are respected);
# JOBS=2 how many tests run side by side; BENCH=contention or "-k decoder" which benchmarks, OUT=their results' folder.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
OUT ?= benchmarks/results
BENCH ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PROMPT ?= a red torus
DEMO ?=
GPU ?=
GPU_MINUTES ?= 8
GPU_PYTHON_VERSION ?= 3.12
WHEELS ?= wheels
REHEARSAL ?= .pytest_cache/rehearsal
REHEARSAL_MINUTES ?= 20
COMMIT ?=

PY := $(VENV)/bin/python
# A worker keeps to its half of the files, with what they have made and compiled, until it has nothing left to do.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal --hypothesis-profile=ci
# What is run again: not what torch makes of the schemas and the graphs, nor what processes import and exchange.
AGAIN := not opcheck and not compil and not imports and not ddp
# What depends on the processor's instructions: not what it takes long to train.
NUMBERS := tests/support/test_instruction_sets.py tests/decoder tests/ops tests/losses tests/nerf \
  tests/guidance/test_prior.py tests/guidance/test_step.py tests/guidance/test_precision.py --cover=pairs -m "not slow" -k "$(AGAIN)"
# Python compiles a module when it is first imported, and keeps that even where the environment says not to: for pip to
# compile all of them takes as long as to install them.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(PY) -m pip install --disable-pip-version-check --no-compile
PACKAGES := $(VENV)/.ldp-fast-packages
STAMP := $(VENV)/.ldp-fast-installed
CAPABILITY := import torch; print('{}.{}'.format(*torch.cuda.get_device_capability()))
CUDA_STAMP := $(VENV)/.ldp-fast-cuda-built
SOURCES := setup.py $(wildcard csrc/*.cpp csrc/*.cu csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h csrc/*/*/*.h)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format types docs bench gpu rehearsal gpu-offline clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

venv: $(STAMP)

# What the package needs, and the package without its extension, which is compiled once, by whoever wants it.
$(PACKAGES): pyproject.toml setup.py
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --quiet "setuptools>=77" wheel ninja pybind11
	$(PY) -c "import torch" 2>/dev/null || $(PIP) "$(TORCH)"
	LDP_FAST_EXT=0 LDP_FAST_CUDA=0 $(PIP) --quiet \
	  -e ".[apps,viewer,dev]" --no-build-isolation
	touch $@

# The CUDA half is left out here: the demo does not need it, and compiling it for three architectures takes minutes.
$(STAMP): $(PACKAGES) $(SOURCES)
	LDP_FAST_CUDA=$${LDP_FAST_CUDA:-0} $(PIP) --quiet \
	  -e . --no-build-isolation --no-deps
	touch $@

# With the CUDA half where there is an nvcc, GPU or not; for one architecture, this GPU's where there is one: the tests
# compile every kernel for all that are promised, with every warning an error.
$(CUDA_STAMP): $(PACKAGES) $(SOURCES)
	LDP_FAST_CUDA=$${LDP_FAST_CUDA:-auto} MAX_JOBS=$${MAX_JOBS:-2} \
	  TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-$$($(PY) -c "$(CAPABILITY)" 2>/dev/null || echo 9.0)}" \
	  $(PIP) --quiet -e . --no-build-isolation --no-deps
	$(VENV)/bin/ldp-fast env
	$(PY) tests/support/torchvision.py
	touch $(STAMP) $@

# DEMO="--method jacobian-nerf --steps 200" adds options.
# The prompt goes through the environment, so that its own quotation marks survive the shell.
demo: export PROMPT := $(PROMPT)
demo: $(STAMP)
	prompt="$$PROMPT"; test "$$prompt" != random || prompt="$$($(PY) -m ldp_fast.zoo.captions)"; echo "$$prompt"; \
	  $(VENV)/bin/ldp-fast text-to-3d "$$prompt" --out out/demo --overwrite $(DEMO)
	@echo "The object: out/demo/turntable.mp4, out/demo/views.png, out/demo/mesh.glb; live: $(VENV)/bin/ldp-fast view out/demo"

# Five passes. Everything, as a user of this machine has it. The operators with the Triton kernels in Triton's
# interpreter, which has to be chosen before Triton is imported and so takes a process of its own. And what a CPU computes
# once more for each lesser instruction set that this processor can do without (tests/support/instruction_sets.py); a
# pass for one that is not lesser skips. These three try every pair of a test's values, not every combination again
# (tests/support/covering.py). Last, `make gpu` on a stand-in.
test: $(CUDA_STAMP)
	$(PYTEST)
	TRITON_INTERPRET=1 LDP_FAST_BACKEND=triton $(PYTEST) tests/ops tests/losses --cover=pairs -m "not slow" -k "$(AGAIN)"
	LDP_TEST_INSTRUCTIONS=avx2 $(PYTEST) $(NUMBERS)
	LDP_TEST_INSTRUCTIONS=plain $(PYTEST) $(NUMBERS)
	$(MAKE) rehearsal

lint: $(PACKAGES)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(PACKAGES)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(PACKAGES)
	$(PY) -m mypy

# A warning is an error (mkdocs.yml); tests/packaging/test_site.py builds it too. `mkdocs serve` shows it while you write.
docs: $(PACKAGES)
	$(PY) -m mkdocs build --quiet --strict
	@echo "The documentation: out/site/index.html"

# Results go into one file a machine, $(OUT)/<machine>.json; a part (BENCH) replaces what it measures and no more. Then
# `python -m benchmarks.report` makes docs/performance.md.
bench: $(STAMP)
	$(PY) -m benchmarks.run --out "$(OUT)" $(BENCH)

# Stages, most valuable first, none of which stops the next (benchmarks/gpu/stages.py): at most eight files in $(OUT),
# report.zip and log.txt among them. A second run leaves out what passed with the same sources; GPU="--again" does not,
# GPU="--only tests" runs one stage. A Python that has a torch for this GPU is taken as it is: $(VENV), else $(PYTHON).
gpu:
	@for python in "$(PY)" "$(PYTHON)"; do \
	  "$$python" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null && exit 0; done; \
	  "$(PYTHON)" -c "import torch" 2>/dev/null || $(MAKE) venv
	$(PYTHON) -m benchmarks.gpu --out "$(OUT)" --minutes $(GPU_MINUTES) --python "$(PY)" --python "$(PYTHON)" \
	  --wheels "$(WHEELS)" --commit "$(COMMIT)" $(GPU)

# The same on a stand-in for a GPU (tests/standin), where there is none: every stage, test and file, and no times. The
# minutes are a limit for slow machines.
rehearsal: $(CUDA_STAMP)
	rm -rf "$(REHEARSAL)"
	$(PY) -m benchmarks.gpu --rehearse --out "$(REHEARSAL)" --minutes $(REHEARSAL_MINUTES)

# The folder to carry to a machine without a package index, for a Python of that machine.
gpu-offline:
	$(PYTHON) -m benchmarks.gpu.environment --download "$(WHEELS)" --python-version $(GPU_PYTHON_VERSION)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find ldp_fast kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
	rm -f ldp_fast/_C.*.so ldp_fast/_C.*.pyd $(PACKAGES) $(STAMP) $(CUDA_STAMP)
