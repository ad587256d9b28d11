PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PLUGINS = $(sort $(wildcard plugins/exportkit-*))

.PHONY: demo test clean

demo: $(VENV)/demo
	$(BIN)/python -m exportkit.examples.mnist_mlp
	$(BIN)/exportkit model=mnist_mlp
	$(BIN)/python -m exportkit.examples.score_digits exports/mnist_mlp --at-least 0.95

test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[examples]'
	touch $@

$(VENV)/test: pyproject.toml $(PLUGINS:%=%/pyproject.toml) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]' $(PLUGINS:%=--editable '%[test]')
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs data exports
