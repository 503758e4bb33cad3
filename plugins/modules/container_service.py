#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a container as a systemd service that is active only while it answers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_service
short_description: Run a Docker container as a systemd service that is active only while it answers
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes one systemd unit for one container. systemd starts it at boot, restarts it after a crash, and stops it in order.
  - C(systemctl start) returns when the service in the container has answered, and fails with the reason when it did not.
    The unit goes on asking; a container that runs but no longer answers is restarted, with a line in the journal that says so.
  - The container's output goes to the journal of the unit (C(journalctl -u NAME)).
  - Secrets live in a file that only root can read. They are never in the unit, a command line, the journal or this module's answer.
  - The unit is restarted only when something that it was started from has changed, also if an earlier run was cut off before the restart.
requirements:
  - systemd 247 or newer and Docker 20.10 or newer on the target
  - root on the target
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Secrets are shown by their names only.
  idempotent:
    support: full
options:
  name:
    description: Name of the unit (without C(.service)) and of the container.
    type: str
    required: true
  state:
    description:
      - V(started) makes the unit, enables it at boot and has it running.
      - V(stopped) makes the unit and has it stopped and not started at boot.
      - V(absent) removes the unit, its container, its settings and those of its O(networks) that no other container is on.
        Its secrets and volumes are kept.
    type: str
    choices: [started, stopped, absent]
    default: started
  wait:
    description:
      - Whether to return only when the service answers.
      - With V(false) the start is only asked for, so that other work can go on meanwhile; call again with V(true) to see it through.
    type: bool
    default: true
  description:
    description: What the unit is, in a few words.
    type: str
  image:
    description:
      - The image, with a tag or a digest. It is pulled when the host does not have it.
      - Required unless O(state=absent).
    type: str
  entrypoint:
    description: Program to start instead of the image's own.
    type: str
  command:
    description: Arguments for the image's program. Never put a secret here, everybody on the host can read it.
    type: list
    elements: str
    default: []
  env:
    description: Environment variables that anybody on the host may read.
    type: dict
    default: {}
  secrets:
    description:
      - Environment variables that only root may read on the host.
      - A variable with an empty value is made by the host at the first run (32 random bytes) and kept on later ones.
    type: dict
    default: {}
  volumes:
    description: Directories or volumes, each as C(source:target) or C(source:target:ro). A directory that is missing is an error.
    type: list
    elements: str
    default: []
  data_directories:
    description: Directories on the host that are made when missing, for root alone, before the container has them as O(volumes).
    type: list
    elements: path
    default: []
  networks:
    description: Docker networks that the container joins, made when missing. The first is the one that carries published ports.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the network.
        type: str
        required: true
      internal:
        description: Whether it has no way out of the host.
        type: bool
        default: false
      driver_opts:
        description: Options of Docker's bridge driver.
        type: dict
        default: {}
  published_ports:
    description:
      - Ports open on the host, each as C(address:host_port:container_port), for example V(127.0.0.1:8080:8080).
      - A host firewall such as ufw does not guard these ports; the address does.
    type: list
    elements: str
    default: []
  devices:
    description: Devices, by path or by CDI name, for example V(nvidia.com/gpu=all).
    type: list
    elements: str
    default: []
  run_options:
    description: Further options of C(docker create), for example V(--shm-size=1g).
    type: list
    elements: str
    default: []
  after:
    description: Units to be started before this one, if they exist.
    type: list
    elements: str
    default: []
  stop_timeout:
    description: Seconds that the container has to end by itself when stopped.
    type: int
    default: 20
  explain:
    description:
      - Whose known failures to look for in the last lines of a container that ended, so that its status names the cause.
      - Left out, the status gives the last line. What knows the failures is installed only where it is asked for.
    type: str
    choices: [vllm]
  probe:
    description:
      - How to tell that the service works. The question is asked inside the container's network; no port need be published.
      - Required unless O(state=absent).
    type: dict
    suboptions:
      kind:
        description:
          - With V(http), the service works when O(probe.path) answers 200.
          - With V(openai), one token has to come out of O(probe.completion_model) too, through C(/v1/completions). A server
            that publishes vLLM's metrics may let the question wait while others get their tokens.
        type: str
        choices: [http, openai]
        default: http
      port:
        description: Port that the service listens on, in the container.
        type: int
        required: true
      path:
        description: Path that answers 200 when the service is up.
        type: str
        default: /health
      completion_model:
        description: Name of the model that one token is asked of. Needed with O(probe.kind=openai), and for that kind only.
        type: str
      bearer_variable:
        description: Name of one of O(secrets), whose value is sent as the bearer key.
        type: str
      interval:
        description: Seconds between two questions, once the service is ready.
        type: int
        default: 60
      deadline:
        description: Seconds that one question may take.
        type: int
        default: 120
      start_deadline:
        description: Seconds that the service may take to answer for the first time.
        type: int
        default: 900
"""

EXAMPLES = r"""
- name: Serve a page on the loopback interface
  sparerig.llm.container_service:
    name: whoami
    image: docker.io/traefik/whoami:v1.11.0
    published_ports: ["127.0.0.1:8081:80"]
    probe:
      port: 80
      path: /health

- name: Serve a model through any OpenAI-compatible server
  sparerig.llm.container_service:
    name: llama-cpp
    image: ghcr.io/ggml-org/llama.cpp:server-b6915
    command: [--model, /models/model.gguf, --alias, small]
    secrets:
      LLAMA_API_KEY: ""
    volumes: ["/srv/models:/models:ro"]
    probe:
      kind: openai
      port: 8080
      completion_model: small
      bearer_variable: LLAMA_API_KEY

- name: Take it away again
  sparerig.llm.container_service:
    name: whoami
    state: absent
"""

RETURN = r"""
unit:
  description: Name of the unit.
  returned: always
  type: str
  sample: sparerig-vllm.service
restarted:
  description: Whether the unit was (or in check mode would be) started or restarted.
  returned: always
  type: bool
active_state:
  description: What systemd says of the unit at the end, for example V(active) or V(activating).
  returned: when not in check mode
  type: str
status:
  description: The unit's own last words, as in C(systemctl status).
  returned: when not in check mode
  type: str
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: on failure
  type: str
  sample: context-exceeds-kv-cache
image_id:
  description: Id of the image that the unit runs; empty in check mode when it would be pulled.
  returned: when O(state) is not V(absent)
  type: str
secrets_file:
  description: Where the secrets are.
  returned: when O(state) is not V(absent)
  type: str
  sample: /etc/sparerig/sparerig-vllm.secrets.env
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._service.deployment import (
    Deployment,
    DeploymentError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import (
    OptionError,
    spec_from,
)


def main() -> None:
    """Read the options, act, answer."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["started", "stopped", "absent"],
                "default": "started",
            },
            "wait": {"type": "bool", "default": True},
            "description": {"type": "str"},
            "image": {"type": "str"},
            "entrypoint": {"type": "str"},
            "command": {"type": "list", "elements": "str", "default": []},
            "env": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "volumes": {"type": "list", "elements": "str", "default": []},
            "data_directories": {"type": "list", "elements": "path", "default": []},
            "networks": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "internal": {"type": "bool", "default": False},
                    "driver_opts": {"type": "dict", "default": {}},
                },
            },
            "published_ports": {"type": "list", "elements": "str", "default": []},
            "devices": {"type": "list", "elements": "str", "default": []},
            "run_options": {"type": "list", "elements": "str", "default": []},
            "after": {"type": "list", "elements": "str", "default": []},
            "stop_timeout": {"type": "int", "default": 20},
            "explain": {"type": "str", "choices": ["vllm"]},
            "probe": {
                "type": "dict",
                "required_if": [("kind", "openai", ["completion_model"])],
                "options": {
                    "kind": {"type": "str", "choices": ["http", "openai"], "default": "http"},
                    "port": {"type": "int", "required": True},
                    "path": {"type": "str", "default": "/health"},
                    "completion_model": {"type": "str"},
                    "bearer_variable": {"type": "str"},
                    "interval": {"type": "int", "default": 60},
                    "deadline": {"type": "int", "default": 120},
                    "start_deadline": {"type": "int", "default": 900},
                },
            },
        },
        required_if=[
            ("state", "started", ["image", "probe"]),
            ("state", "stopped", ["image", "probe"]),
        ],
        supports_check_mode=True,
    )
    given = module.params
    try:
        spec, secrets = spec_from(given)
    except OptionError as error:
        known = describe("option-invalid", cause=f"{error}.")
        module.fail_json(msg=known.message(), failure=known.id)
    unit = Deployment(
        spec,
        module.run_command,
        docker=module.get_bin_path("docker") is not None,
        check=module.check_mode,
        diff=module._diff,
    )
    try:
        if given["state"] == "absent":
            unit.absent()
        else:
            unit.present(secrets, started=given["state"] == "started", wait=given["wait"])
    except DeploymentError as error:
        module.fail_json(msg=str(error), failure=error.failure, **error.evidence)
    if not module.check_mode:
        state = unit.state()
        unit.result.update(active_state=state.get("ActiveState"), status=state.get("StatusText"))
    module.exit_json(**unit.result)


if __name__ == "__main__":
    main()
