# Everything is set up by the first target that needs it; a second call starts at once.
#   make demo    StreamRank live on this machine, for a minute
#   make test    every test; those of services that are not here are skipped and say so
#   make lint    ruff and mypy
#   make check   is there anything unsafe in the code, and do the dependencies fit each other
#                (known holes in them, with the internet: uvx pip-audit -r infra/requirements.lock)
#   make kafka   an Apache Kafka on this machine, until Ctrl-C
#   make chaos   flows, broker and store die under load (KILLS=50 SEED=7 REPORT=file)
#   make lock    resolve the dependencies again

# The first one that runs and is of a version that Bytewax has wheels for.
FITS   := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KAFKA  := .cache/kafka/libs
KILLS  ?= 50
SEED   ?= 7

export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint check lock clean kafka chaos

demo: $(READY)
	@$(BIN)/streamrank demo --report data/demo.json

test: $(READY)
	@$(BIN)/pytest -q -n 3 --dist loadscope --no-loadscope-reorder

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: $(READY)
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml streamrank flows feature_repo
	@$(BIN)/uv pip check --quiet --python $(BIN)/python

kafka: $(READY) $(KAFKA)
	@$(BIN)/python tests/services.py kafka

chaos: $(READY) $(KAFKA)
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --broker-restarts 5 --redis-restarts 2 \
		--seed $(SEED) $(if $(REPORT),--report $(REPORT))

$(KAFKA): | $(READY)
	@echo "fetching Apache Kafka (44 MB, needs Java 17 and Maven; once)"
	@$(BIN)/python tests/services.py install

$(READY): infra/requirements-dev.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(FITS)' || \
		{ echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing (6 GB with torch's GPU libraries; once)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes infra/requirements-dev.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml --output-file infra/requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
		--group dev --group benchmarks pyproject.toml --output-file infra/requirements-dev.lock

clean:
	rm -rf $(VENV) data
