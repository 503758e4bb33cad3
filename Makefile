# The whole interface for people who work on the collection, and for `make demo`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/collections:$(CURDIR)/tests
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: help
help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv: requirements-dev.txt
	@echo "Setting up .venv (about a minute) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch .venv

.PHONY: lock
lock: ## Renew requirements-dev.txt from requirements-dev.in
	rm -rf .venv && $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --requirement requirements-dev.in
	{ echo "# Made by \`make lock\` from requirements-dev.in: do not edit."; $(BIN)/pip freeze; } > requirements-dev.txt

.PHONY: testbed
testbed: .venv ## Make test host, registry, images and tiny model (docs/testbed.md)
	$(BIN)/python -m testbed up

.PHONY: demo-host
demo-host: .venv ## Make the demo's host alone, or see to it that it runs
	$(BIN)/python -m testbed host up demo

.PHONY: demo-down
demo-down: .venv ## Remove every trace of demo and test hosts
	$(BIN)/python -m testbed down
