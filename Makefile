# From a bare clone each of these makes the environment it needs (.venv, or .venv-tl3) and then does its one thing.
# Settings: PYTHON=python3.12 · PYTEST_ARGS='-k spans' · WORKERS=0 (tests in one process) · PIP_ARGS='--index-url …'

PYTHON      ?= python3
PYTEST_ARGS ?=
PIP_ARGS    ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export TOKENIZERS_PARALLELISM := false

BIN  := .venv/bin
BIN3 := .venv-tl3/bin
TL3  := 3.9.0
LLAMACPP := .venv-llamacpp
ENV  := .venv/installed
ENV3 := .venv-tl3/installed
# what is never imported need not be compiled, and that is most of it
pip   = -m pip install -qq --no-compile --disable-pip-version-check $(PIP_ARGS)
offline = HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# toy models gain little from a second thread, and lose much where another job has it; tests use cores by processes instead
one_thread = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2
# a file's tests share what its fixtures make; files in the order of tests/conftest.py, not by how many tests they have
by_file = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# No notebooks, figures or benchmarks: nothing to do, and it is said.
notebooks  := $(sort $(wildcard notebooks/*.ipynb))
paired     := $(sort $(wildcard notebooks/*.ipynb notebooks/*.py))
figures    := $(sort $(filter-out figures/_%,$(wildcard figures/*.py)))
benchmarks := $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

.PHONY: help env env-tl3 report docs test test-tl3 test-llamacpp lint format notebooks write-notebooks figures \
	bench bench-quick clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1\t/p' Makefile | expand -t 12

# ---- environments ----

env: $(ENV)  ## .venv, from constraints.txt
env-tl3: $(ENV3)  ## .venv-tl3: .venv, and over it the oldest TransformerLens we support

$(ENV): pyproject.toml constraints.txt
	@echo "setting up .venv (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(pip) -c constraints.txt -e '.[dev,notebooks,widget,docs,cluster]'
	@touch $@

# all else is pinned alike, so it is not installed twice: what .venv has is found behind what is here
$(ENV3): $(ENV)
	@echo "setting up .venv-tl3 with TransformerLens $(TL3) over .venv"
	@rm -rf .venv-tl3
	@$(BIN)/python -m venv --without-pip .venv-tl3
	@$(BIN)/python $(pip) --no-deps --ignore-installed --prefix .venv-tl3 transformer-lens==$(TL3) better-abc==0.0.3
	@below=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		echo "import site; site.addsitedir('$$below')" > ".venv-tl3/$${below##*/.venv/}/below.pth"
	@touch $@

# ---- what it is for ----

report: $(ENV)  ## the whole story on the toy models, as a page in report/
	@$(BIN)/steerlens report --out report

docs: $(ENV)  ## the documentation site, in docs/_build/html; a warning is an error
	@test -e docs/_build/html/searchindex.js || rm -rf docs/_build/html  # what an interrupt left cannot be gone on with
	@$(offline) $(one_thread) $(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

figures: $(ENV)  ## every figure with its numbers, in figures/out/
	@$(if $(figures),,echo "no figures")
	@for script in $(figures); do echo "$$script"; MPLBACKEND=Agg $(BIN)/python "$$script"; done

bench: $(ENV)  ## every benchmark, with its numbers as JSON; many hours, benchmarks/run.py alone a quarter of one
	@$(if $(benchmarks),,echo "no benchmarks")
	@for script in $(benchmarks); do echo "$$script"; $(offline) $(BIN)/python "$$script"; done

bench-quick: $(ENV)  ## the same small, within a minute: whether they run, not how fast
	@$(offline) $(BIN)/python benchmarks/run.py --quick

# ---- checks ----

test: $(ENV)  ## all tests
	@$(BIN)/python -m pytest $(by_file) $(PYTEST_ARGS) tests

# what runs a model of TransformerLens: all else knows it by these, and is the same on either version; shapes are checked by `test`
test-tl3: $(ENV3)  ## the tests of what runs the model, on the oldest TransformerLens we support
	@STEERLENS_TEST_SHAPES=0 $(BIN3)/python -m pytest $(by_file) $(PYTEST_ARGS) \
		$(addprefix --ignore=tests/models/test_,$(addsuffix .py,device_map second_device parts parts_cluster)) \
		$(addprefix --deselect=tests/models/test_families.py::test_,every_kind_of_architecture_keeps_the_laws half_precision_keeps_the_laws_at_its_rounding) \
		tests/models $(addprefix tests/methods/test_,$(addsuffix .py,reft hidden mixture pplm latent_vectors mean_difference value_lora gist_mask_on_models)) \
		$(addprefix tests/export/test_,$(addsuffix .py,fold versions hugging_face)) tests/test_readme.py

# built from source beside .venv, which stays as it is; its own dependencies are there already, but for these
test-llamacpp: $(ENV)  ## the steer in llama.cpp, which is built first: needs cmake and a C++ compiler, some ten minutes
	@command -v cmake >/dev/null && command -v c++ >/dev/null || { echo "test-llamacpp: skipped, it needs cmake and a C++ compiler"; exit 0; }; \
	set -e; \
	test -e $(LLAMACPP)/built || { \
		echo "building llama-cpp-python in $(LLAMACPP)"; \
		$(BIN)/python $(pip) --no-deps --target $(LLAMACPP) llama-cpp-python==0.3.36 gguf==0.19.0 diskcache==5.6.3; \
		touch $(LLAMACPP)/built; \
	}; \
	PYTHONPATH=$(LLAMACPP) $(BIN)/python -m pytest $(PYTEST_ARGS) tests/export/test_llama_cpp.py

lint: $(ENV)  ## ruff and pyright
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run 'make format'"; $(BIN)/ruff format --check .; }
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(ENV)  ## put the code in order
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

# A notebook is kept twice, as .ipynb to read and as .py to review: both must say the same.
as_text = $(BIN)/jupytext --quiet --to py:percent -o - \
	--opt notebook_metadata_filter=-all --opt cell_metadata_filter=-all

notebooks: $(ENV)  ## run every notebook, and compare it with its .py
	@$(if $(notebooks),,echo "no notebooks")
	@for stem in $(sort $(basename $(paired))); do \
		diff -u --label "$$stem.py" --label "$$stem.ipynb" <($(as_text) "$$stem.py") <($(as_text) "$$stem.ipynb") \
			|| { echo "$$stem: .py and .ipynb differ; run '$(BIN)/jupytext --sync $$stem.ipynb'"; exit 1; }; \
	done
	@$(if $(notebooks),$(offline) $(one_thread) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --nbmake --nbmake-timeout=900 $(PYTEST_ARGS) $(notebooks))

write-notebooks: $(ENV)  ## run every notebook and keep its outputs
	@for stem in $(sort $(basename $(paired))); do \
		test -e $$stem.ipynb || $(BIN)/jupytext --quiet --to ipynb $$stem.py; \
		$(BIN)/jupytext --quiet --sync $$stem.py; \
		env -u MPLBACKEND TQDM_DISABLE=1 $(offline) $(one_thread) $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace \
			--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=900 $$stem.ipynb; \
		$(BIN)/jupytext --quiet --sync $$stem.ipynb; \
	done

clean:  ## remove what the commands above made, the environments too
	@rm -rf .venv .venv-tl3 .venv-llamacpp report docs/_build docs/made figures/out .pytest_cache .ruff_cache .hypothesis
