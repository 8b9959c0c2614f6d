# Two commands, each enough on a fresh machine with Python 3.11 or 3.12: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo laptop test check mutants table1 ablation bench

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m lib.terrain --out runs/demo/terrain.npz
	$(BIN)/python train.py best --tiny --data runs/demo/terrain.npz --runs runs/demo --set epochs=24 average=0.98 --resume
	$(BIN)/python -m lib.mosaic runs/demo/terrain.npz --picture runs/demo/mosaic.png
	$(BIN)/python infer.py runs/demo/best --tta --neighbours labels --data runs/demo/terrain.npz --out runs/demo/masks.npz
	$(BIN)/python submission.py runs/demo/masks.npz --out runs/demo/submission.csv
	$(BIN)/python submission.py --check runs/demo/submission.csv --data runs/demo/terrain.npz
	$(BIN)/python submission.py --score runs/demo/submission.csv --truth runs/demo/terrain.npz

LAPTOP = --runs runs/laptop $(if $(DATA),--data $(DATA))

laptop: $(VENV)/installed
	$(BIN)/python train.py best --tiny --fold all --minutes $(or $(MINUTES),45) $(if $(SET),--set $(SET)) --resume $(LAPTOP)
	$(BIN)/python infer.py best --out runs/laptop/masks.npz $(LAPTOP)
	$(BIN)/python judge.py best --neighbours labels $(LAPTOP)
	$(BIN)/python submission.py runs/laptop/masks.npz --out runs/laptop/submission.csv
	$(BIN)/python submission.py --check runs/laptop/submission.csv $(if $(DATA),--data $(DATA))

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

table1: $(VENV)/installed
	$(BIN)/python table1.py --setting $(or $(SETTING),laptop) $(if $(DATA),--data $(DATA))

ablation: $(VENV)/installed
	$(BIN)/python ablation.py $(if $(DATA),--data $(DATA)) $(if $(MINUTES),--minutes $(MINUTES))

bench: $(VENV)/installed
	$(BIN)/python -m bench

mutants: $(VENV)/installed-dev
	$(BIN)/python -m bench.mutants
