# Everything is installed into .venv, which is made once and reused.
PYTHON ?= python3
BIN := .venv/bin
# Tests and checks start many processes: with this set, each would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-ci test-all lint docs notebooks llms dist release-check bench zoo hub converters fuzz fuzz-graphs device-check device-test device-ssh device-integers device-page grid clean

demo: .venv/demo
	$(BIN)/tfprune demo

# One more than there are processors: many tests wait for a process of their own.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() + 1, 4))")

PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# What every change runs. Guides, notebooks, the site and all else that is marked `programs` or `slow` is left out.
test: .venv/dev
	$(PYTEST) -m "not programs and not slow"

# What to run before a change is submitted, and what .ci/run runs. Sample apps, the study and most parameters are run
# before a release: test-all.
test-ci: test
	$(PYTEST) -m "programs and not slow"  # in new processes: old ones hold gigabytes, and each test takes longer

test-all: .venv/dev
	$(PYTEST)

# Training and export on the other backends of Keras, in a process each, in which TensorFlow cannot be imported; the
# child process that converts has it. pip takes PyTorch with CUDA, some gigabytes, unless it is pointed to wheels for
# the CPU (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).
test-backends:
	test -x .venv-backends/bin/python || $(PYTHON) -m venv .venv-backends
	.venv-backends/bin/pip install --quiet --editable '.[backends]'
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/backends
	KERAS_BACKEND=torch .venv-backends/bin/python -m pytest tests/backends

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typing && mkdir -p build/typing/tfprune
	ln -s $(CURDIR)/tfprune/* $(CURDIR)/export build/typing/tfprune/  # as installed: export/ is tfprune.export
	cd build/typing && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/setup.cfg --cache-dir $(CURDIR)/build/mypy -p tfprune

# The site, into build/site. Look at it as a phone and a desktop show it: .venv/bin/python docs/screenshots.py
docs: .venv/dev
	rm -rf build/site docs/reference/names  # pages of names that are gone
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/site

# docs/notebooks, from the tutorials of the same names. They are committed, so that Jupyter and Colab can open them.
notebooks: .venv/dev
	$(BIN)/python docs/make_notebooks.py

# llms.txt, the index of the pages for language models, from the pages. It is committed.
llms:
	$(PYTHON) docs/make_llms_txt.py

# sdist and wheel, into build/dist, the same bytes for the same commit; and the check that they can be released.
dist: .venv/dev
	$(BIN)/python release/distributions.py

release-check: .venv/dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python release/check.py

# Every bar, or some of them: make bench, or make bench copies steps.
BENCHES := $(filter-out bench,$(MAKECMDGOALS))
bench: .venv/dev
	$(BIN)/python bench/run.py $(BENCHES)

ifeq (bench,$(firstword $(MAKECMDGOALS)))
.PHONY: $(BENCHES)
$(BENCHES):
	@:
endif

# Every family of keras.applications, an hour: make zoo, or make zoo FAMILIES="MobileNet VGG16"; with a column for each
# converter, where both are installed: make zoo ONLY=converters.
zoo: .venv/dev
	$(BIN)/python tests/zoo/run.py $(if $(ONLY),--only $(ONLY)) $(FAMILIES)

# Every backbone of KerasHub, tiny, half an hour: make hub, or make hub BACKBONES="BertBackbone ViTBackbone"; and only its
# export, by one or both converters: make hub CONVERTERS="tensorflow litert".
hub: .venv/dev
	$(BIN)/python tests/hub/run.py $(if $(CONVERTERS),--converters $(CONVERTERS) --) $(BACKBONES)

# Every layer of Keras and random graphs, exported by one converter and judged: make converters, or with an environment
# without TensorFlow: make converters BIN=.venv-jax/bin, or make converters LAYERS="Conv2D graphs" CONVERTER=tensorflow.
CONVERTER ?= litert
converters:
	KERAS_BACKEND=jax TFPRUNE_CONVERTER=$(CONVERTER) $(BIN)/python tests/fuzz/converters.py $(LAYERS)

# Damaged and foreign files for everything that reads files, and nonsense from a board, hours: make fuzz, or
# make fuzz TARGETS="inspect messages" RUNS=1000, or make fuzz MINUTES=60.
fuzz: .venv/dev
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py $(TARGETS) $(if $(RUNS),--runs $(RUNS)) $(if $(MINUTES),--minutes $(MINUTES))

# Smaller models of random graphs against the masked ones, half an hour: make fuzz-graphs, or make fuzz-graphs GRAPHS=100.
GRAPHS ?= 2000
fuzz-graphs: .venv/dev
	$(BIN)/python tests/fuzz/shrink_graphs.py --graphs $(GRAPHS)

# The device half, where neither Keras nor TensorFlow is installed, on files made where they are: with the interpreter of
# this machine, and device-test also on an emulated Raspberry Pi and with tflite-runtime, as 32-bit systems have it.
device-check: build/device/files.json
	$(BIN)/python tests/device/run.py build/device native

device-test: build/device/files.json
	$(BIN)/python tests/device/run.py build/device

# Files of integers, layer by layer, on this machine, an emulated Raspberry Pi, tflite-runtime and TFLite Micro.
device-integers: .venv/dev
	$(BIN)/python tests/device/integers.py build/device/integers

# The emulated Raspberry Pi behind a real sshd on this machine (Debian: openssh-server), as a board on the desk.
device-ssh: .venv/dev
	$(BIN)/python tests/device/over_ssh.py build/device

# What docs/howto/raspberry_pi.md says, from an empty folder, with the Pi's own pip: two to three minutes.
device-page: build/device/files.json
	$(BIN)/python tests/device/page.py build/device

build/device/files.json: $(wildcard tfprune/*.py tfprune/*/*.py tfprune/*/*/*.py export/*.py export/*/*.py tests/device/*.py) | .venv/dev
	$(BIN)/python tests/device/make_files.py build/device

# Every network x format x dense or sparse, exported as a user would, in the three runtimes, in one table.
grid: build/grid/files.json
	$(BIN)/python tests/device/grid.py build/grid

build/grid/files.json: $(wildcard tfprune/*.py tfprune/*/*.py tfprune/*/*/*.py export/*.py export/*/*.py tests/device/*.py) | .venv/dev
	$(BIN)/python tests/device/make_grid.py build/grid

.venv/demo .venv/dev: .venv/%: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	"Training needs Python 3.11 to 3.13, for Keras and TensorFlow; this is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing tfprune[$*] into .venv: a few minutes the first time."
	$(BIN)/pip install --quiet uv && \
		$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[$*]' || \
		$(BIN)/pip install --quiet --editable '.[$*]'  # which has settings of its own, such as an index
	touch $@

clean:
	rm -rf .venv .venv-backends build docs/reference/names demo-output fashion-output mobilenet-output transformer-output language-model-output few-shot-output federated-output spoken-output growth-output wrist-output study-output *.egg-info
