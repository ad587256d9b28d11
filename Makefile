PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BREADTH = $(if $(filter-out 0,$(THOROUGH)),thorough,quick)
PLUGINS = $(sort $(wildcard plugins/exportkit-*))

.PHONY: demo test clean

demo: $(VENV)/demo
	$(BIN)/python -m exportkit.examples.mnist_mlp
	$(BIN)/exportkit model=mnist_mlp
	$(BIN)/python -m exportkit.examples.score_digits exports/mnist_mlp --at-least 0.95

# mypy is one of the tests
test: $(VENV)/$(BREADTH)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	EXPORTKIT_THOROUGH=$(THOROUGH) $(BIN)/pytest -n auto --dist worksteal

$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[examples]'
	touch $@

$(VENV)/quick: pyproject.toml $(PLUGINS:%=%/pyproject.toml) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[quick]' $(PLUGINS:%=--editable %)
	touch $@

$(VENV)/thorough: pyproject.toml $(PLUGINS:%=%/pyproject.toml) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]' $(PLUGINS:%=--editable '%[test]')
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs data exports
