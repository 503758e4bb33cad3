#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge keys into Docker's daemon.json."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Merge keys into Docker's daemon.json, leaving all others as they are
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Sets the given keys, and keeps every other key that the file has.
  - Dictionaries are merged; an item that a wanted list names is added to the list that is there, whose other items stay.
  - The new file is checked by C(dockerd --validate), where the engine has it, before it replaces the old one.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  config:
    description: Keys to set, as in Docker's documentation of daemon.json.
    type: dict
    required: true
  path:
    description: The file.
    type: path
    default: /etc/docker/daemon.json
"""

EXAMPLES = r"""
- name: Let Docker pull from the registry of this site
  sparerig.llm.docker_daemon_config:
    config:
      insecure-registries: ["registry.home.arpa:5000"]
"""

RETURN = r"""
config:
  description: The whole content of the file afterwards.
  returned: always
  type: dict
restart_needed:
  description:
    - Whether the engine has to be restarted to read the file.
    - Also V(true) when the file was changed after the engine's start by an earlier run, or by hand.
  returned: always
  type: bool
"""

import calendar
import json
import re
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    JsonError,
    parse_json_object,
    read_text,
    write_atomically,
)


def merged(present: t.Any, wanted: t.Any) -> t.Any:
    """Return what is present with what is wanted put into it."""
    if isinstance(present, dict) and isinstance(wanted, dict):
        return present | {key: merged(present.get(key), value) for key, value in wanted.items()}
    if isinstance(present, list) and isinstance(wanted, list):
        return present + [item for item in wanted if item not in present]
    return wanted


def engine_start(module: AnsibleModule) -> int | None:
    """Return when the running engine was started (seconds since the epoch), None when none runs."""
    # Not --timestamp=unix, which the systemd of Ubuntu 22.04 does not know.
    show = ["systemctl", "show", "--timestamp=utc", "--value", "--property"]
    _status, out, _err = module.run_command([*show, "ExecMainStartTimestamp", "docker.service"])
    moment = re.search(r"(\S+ \S+) UTC", out)  # Sun 2026-11-22 14:54:28 UTC
    return calendar.timegm(time.strptime(moment[1], "%Y-%m-%d %H:%M:%S")) if moment else None


def main() -> None:
    """Read, merge, validate, replace."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "required": True},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    old_text = read_text(path) or ""
    try:
        old = parse_json_object(old_text or "{}")
    except JsonError as error:
        module.fail_json(
            msg=f"{path} {error}. Docker itself refuses it. "
            f"Correct it by hand, or move it away with `sudo mv {path} {path}.broken`."
        )
    new = merged(old, module.params["config"])
    changed = new != old
    new_text = json.dumps(new, indent=2) + "\n"
    if changed and not module.check_mode:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(path, new_text, validate=lambda candidate: validate(module, candidate))
    started = engine_start(module)
    stale = started is not None and path.exists() and int(path.stat().st_mtime) > started
    result: dict[str, t.Any] = {
        "changed": changed,
        "config": new,
        "restart_needed": changed or stale,
    }
    if changed:
        result["diff"] = {
            "before_header": str(path),
            "after_header": str(path),
            "before": old_text,
            "after": new_text,
        }
    module.exit_json(**result)


def validate(module: AnsibleModule, candidate: Path) -> None:
    """Let the engine judge the file before it has to live with it."""
    dockerd = module.get_bin_path("dockerd")
    if dockerd is None:
        return
    status, _out, err = module.run_command([dockerd, "--validate", "--config-file", str(candidate)])
    if status and "unknown flag" not in err:  # engines before 23.0 cannot be asked
        module.fail_json(
            msg=f"Docker refuses the configuration: {err.strip()}. Nothing was changed; "
            "fix docker_engine_daemon_config in the inventory.",
            config=module.params["config"],
        )


if __name__ == "__main__":
    main()
