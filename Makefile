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

SSH_CONFIG := .cache/testbed/ssh_config

.PHONY: demo
demo: .venv ## Make a throw-away host and turn it into a chat server, with no GPU
	$(BIN)/python -m testbed up
	$(BIN)/ansible-playbook site.yml -i inventories/demo
	@echo
	@echo "The chat page:  http://127.0.0.1:8080   (the tiny model says nonsense, on purpose)"
	@echo "Sign in as:     admin@localhost.localdomain"
	@echo "The password:   ssh -F $(SSH_CONFIG) demo sudo grep ADMIN_PASSWORD /etc/sparerig/sparerig-open-webui.secrets.env"
	@echo "Take it away:   make demo-down"

.PHONY: testbed
testbed: .venv ## Make test host, registry, images and tiny model (docs/testbed.md)
	$(BIN)/python -m testbed up

.PHONY: demo-host
demo-host: .venv ## Make the demo's host alone, or see to it that it runs
	$(BIN)/python -m testbed host up demo

.PHONY: demo-down
demo-down: .venv ## Remove demo and test hosts, and all that no other checkout uses
	$(BIN)/python -m testbed down

.PHONY: lint
lint: .venv ## Check style and documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --offline
	$(BIN)/antsibull-changelog lint
	shellcheck $$(git ls-files '*.sh') .ci/run
	$(BIN)/python tests/write_docs.py --check

.PHONY: docs
docs: .venv ## Write the pages that are made from the sources
	$(BIN)/python tests/write_docs.py

.PHONY: types
types: .venv ## Check the types
	$(BIN)/mypy plugins tests molecule/conftest.py

.PHONY: unit
unit: .venv ## Run the unit tests
	$(BIN)/pytest --quiet --numprocesses 4

.PHONY: sanity
sanity: .venv ## Run Ansible's own checks of a collection, with nothing ignored
	tests/run_ansible_test.sh sanity

.PHONY: integration
integration: .venv ## Run the modules against stand-ins on this machine
	tests/run_ansible_test.sh integration

.PHONY: cores
cores: .venv ## Run playbooks, modules and their unit tests with the oldest and the newest ansible-core
	$(BIN)/pytest --quiet tests/cores

.PHONY: chromium
chromium: .venv # the browser that the tests drive; it is installed while no other step installs anything
	@$(BIN)/python -c 'from testbed.machine import need; need("chromium", "chromium", "use the chat page")'

.PHONY: browser
browser: .venv chromium ## Use a chat page in a real browser (docs/people-and-documents.md)
	$(BIN)/pytest --quiet tests/browser

MOLECULE := $(BIN)/molecule -c .config/molecule/config.yml test --scenario-name

molecule-%: .venv # one scenario, such as molecule-default
	$(MOLECULE) $*

.PHONY: images
images: .venv # what a chat server pulls, in the test bed's registry
	$(BIN)/python -m testbed images

.PHONY: molecule
molecule: images chromium ## Run the whole road on a genuine host
	$(MOLECULE) fleet
	$(MOLECULE) default

.PHONY: nvidia
nvidia: .venv ## Run the NVIDIA roles on a genuine host with a stand-in card
	$(MOLECULE) nvidia_driver
	$(MOLECULE) nvidia_container_toolkit
	$(MOLECULE) cuda_toolkit
	$(MOLECULE) nvidia_host

.PHONY: vm
vm: .venv ## Run the driver role on an emulated PC with a real kernel
	$(BIN)/pytest --quiet tests/vm

.PHONY: powercut
powercut: .venv ## Cut a host's power twenty times, at random points of the play
	POWER_CUTS=20 $(MOLECULE) nvidia_host

.PHONY: test
test: .venv ## Everything that has to pass, two steps at a time (tests/suite.py)
	@$(BIN)/python tests/suite.py $(STEPS)

.PHONY: bench
bench: .venv ## Time site.yml, and many chats through the page and past it; with a GPU, measure the plan
	$(BIN)/python tests/bench/site.py
	if command -v nvidia-smi && command -v vllm; then python3 -m gpu.measure_plan --out .cache/measured; fi
