#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Add an apt repository whose key is known by its fingerprint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: signed_apt_repository
short_description: Add an apt repository whose key is known by its fingerprint
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Fetches the key, and takes it only if its fingerprint is the expected one. Needs neither gpg nor python3-debian on the host.
  - Writes key, source and pin under the one name, and reads the repository's list; other repositories are left alone.
  - Before that, looks for files that name the same repository with another key, which makes apt refuse all lists.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: The key is shown by its fingerprint.
  idempotent:
    support: full
    details: The key is fetched only when the one that is there has another fingerprint.
options:
  name:
    description: Name of the files, without ending. Starts with V(sparerig-) by custom.
    type: str
    required: true
  state:
    description: Whether the repository is there.
    type: str
    choices: [present, absent]
    default: present
  uri:
    description: Where the repository is. Required if O(state=present).
    type: str
  suite:
    description: Suite, or V(/) for a repository without suites.
    type: str
    default: /
  components:
    description: Components; none for a repository without suites.
    type: list
    elements: str
    default: []
  key_url:
    description: Where the key is fetched from (C(https), C(http) or C(file)). Required if O(state=present).
    type: str
  key_fingerprint:
    description: Fingerprint of the key, 40 hexadecimal digits; spaces are ignored. Required if O(state=present).
    type: str
  pins:
    description: Which of the repository's packages apt may take. Written in this order to a file in C(preferences.d).
    type: list
    elements: dict
    default: []
    suboptions:
      packages:
        description: Package names, or patterns as apt knows them.
        type: list
        elements: str
        required: true
      pin:
        description: What the pin is for, such as V(version 12.1.*). Everything that comes from the host of O(uri), by default.
        type: str
      priority:
        description: Priority; below zero is never.
        type: int
        required: true
  timeout:
    description: How long to wait for the key, in seconds.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Add NVIDIA's repository for containers
  sparerig.llm.signed_apt_repository:
    name: sparerig-nvidia-container-toolkit
    uri: https://nvidia.github.io/libnvidia-container/stable/deb/amd64
    key_url: https://nvidia.github.io/libnvidia-container/gpgkey
    key_fingerprint: C95B321B61E88C1809C4F759DDCAE044F796ECB0
"""

RETURN = r"""
changed_paths:
  description: The files that were changed, or would be.
  returned: always
  type: list
  elements: str
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: when it fails for a known reason
  type: str
  sample: conflicting-signed-by
"""

import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.complaints import explain
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    read_apt_sources,
    same_repository,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    read_text,
    write_atomically,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.openpgp import (
    NotAKeyError,
    dearmoured,
    fingerprints,
)

APT = Path("/etc/apt")
LISTS = Path("/var/lib/apt/lists")


def source_text(params: dict[str, t.Any], keyring: Path) -> str:
    """Write the source in apt's newer format."""
    lines = ["Types: deb", f"URIs: {params['uri']}", f"Suites: {params['suite']}"]
    if params["components"]:
        lines.append(f"Components: {' '.join(params['components'])}")
    return "\n".join([*lines, f"Signed-By: {keyring}", ""])


def pin_text(params: dict[str, t.Any]) -> str:
    """Write the pins as apt's preferences."""
    origin = f'origin "{urlsplit(params["uri"]).hostname or ""}"'
    return "\n".join(
        f"Package: {' '.join(pin['packages'])}\n"
        f"Pin: {pin['pin'] or origin}\n"
        f"Pin-Priority: {pin['priority']}\n"
        for pin in params["pins"]
    )


def fetch_key(module: AnsibleModule) -> bytes:
    """Fetch the key; stop unless its fingerprint is the expected one."""
    params = module.params
    response, info = fetch_url(module, params["key_url"], timeout=params["timeout"])
    if response is None or info["status"] not in {200, None}:  # a file has no status
        module.fail_json(
            msg=f"The key {params['key_url']} could not be fetched: {info.get('msg')}. Check that"
            " this host reaches it ('curl -I URL'), or name another place with the same key."
        )
    content = response.read()
    try:
        found = fingerprints(content)
    except NotAKeyError as error:
        module.fail_json(msg=f"What {params['key_url']} answers is no OpenPGP key: {error}.")
    if wanted_fingerprint(params) not in found:
        module.fail_json(
            msg=f"The key at {params['key_url']} has the fingerprint {', '.join(found)}, expected was"
            f" {wanted_fingerprint(params)}. Nothing was changed. If the publisher announced a new"
            " key, set its fingerprint; otherwise somebody stands between this host and the"
            " publisher."
        )
    return dearmoured(content)


def wanted_fingerprint(params: dict[str, t.Any]) -> str:
    """Return the expected fingerprint in capitals, without spaces."""
    return str(params["key_fingerprint"]).replace(" ", "").upper()


def has_key(keyring: Path, fingerprint: str) -> bool:
    """Whether the keyring holds the expected key."""
    try:
        return fingerprint in fingerprints(keyring.read_bytes())
    except (FileNotFoundError, NotAKeyError):
        return False


def refuse_conflicts(module: AnsibleModule, source: Path) -> None:
    """Stop where another file names the same repository: apt would refuse all lists."""
    for other in read_apt_sources(LocalHost()):
        if other.file != str(source) and same_repository(other.uri, module.params["uri"]):
            known = describe(
                "conflicting-signed-by",
                {"file": other.file},
                cause=f"{other.file} already names the repository {other.uri}, with"
                f" {other.signed_by or 'no key of its own'}; a second file with another key makes"
                " apt refuse all lists.",
            )
            module.fail_json(msg=known.message(), failure=known.id)


def refuse_shared_host(module: AnsibleModule, source: Path) -> None:
    """Stop where a pin for this repository's host would also hit another repository."""
    host = urlsplit(module.params["uri"]).hostname
    if all(pin["pin"] for pin in module.params["pins"]):
        return
    for other in read_apt_sources(LocalHost()):
        if other.file != str(source) and urlsplit(other.uri).hostname == host:
            module.fail_json(
                msg=f"{other.file} takes {other.uri} from the same host, {host}. apt's pins go by"
                " host, so what keeps drivers out of the one would also keep them out of the other."
                f" Give the mirror of {module.params['uri']} another name (an alias in DNS or in"
                " /etc/hosts is enough), and use that."
            )


def refresh(module: AnsibleModule, source: Path) -> None:
    """Read this repository's list, and no other."""
    status, out, err = module.run_command(
        [
            "apt-get", "update", "-o", f"Dir::Etc::sourcelist={source}",
            "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Get::List-Cleanup=0",
            "-o", "DPkg::Lock::Timeout=300", "--error-on=any",
        ]
    )  # fmt: skip
    if status:
        known = describe(explain(out + err) or "repository-unreadable")
        source.unlink()
        said = (
            f"apt could not read {module.params['uri']}, so it was taken out again: "
            f"{(err or out).strip()}"
        )
        module.fail_json(msg=known.message(said), failure=known.id)


def has_list(uri: str) -> bool:
    """Whether apt has this repository's list."""
    name = uri.partition("://")[2].rstrip("/").replace("/", "_")
    return any(path.name.startswith(f"{name}_") for path in LISTS.iterdir())


def main() -> None:
    """Compare key, source and pins with what is wanted, then change what differs."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "uri": {"type": "str"},
            "suite": {"type": "str", "default": "/"},
            "components": {"type": "list", "elements": "str", "default": []},
            "key_url": {"type": "str", "no_log": False},
            "key_fingerprint": {"type": "str", "no_log": False},
            "pins": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "packages": {"type": "list", "elements": "str", "required": True},
                    "pin": {"type": "str"},
                    "priority": {"type": "int", "required": True},
                },
            },
            "timeout": {"type": "int", "default": 30},
        },
        required_if=[("state", "present", ["uri", "key_url", "key_fingerprint"])],
        supports_check_mode=True,
    )
    params = module.params
    name = params["name"]
    keyring = APT / "keyrings" / f"{name}.gpg"
    source = APT / "sources.list.d" / f"{name}.sources"
    preferences = APT / "preferences.d" / name
    texts: dict[Path, str] = {preferences: "", source: ""}
    present = params["state"] == "present"
    if present:
        refuse_conflicts(module, source)
        refuse_shared_host(module, source)
        texts = {
            # Pins come first: a repository must never be there without what restrains it.
            preferences: pin_text(params),
            source: source_text(params, keyring),
        }
    before = {path: read_text(path) or "" for path in texts}
    changed = [path for path in texts if before[path] != texts[path]]
    new_key = None
    if present and not has_key(keyring, wanted_fingerprint(params)):
        new_key = fetch_key(module)
        changed.insert(0, keyring)
    if not present and keyring.exists():
        changed.append(keyring)
    result = {
        "changed": bool(changed),
        "changed_paths": [str(path) for path in changed],
        "diff": [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": before.get(path, ""),
                "after": texts.get(path, f"{params['key_fingerprint']}\n" if present else ""),
            }
            for path in changed
        ],
    }
    if module.check_mode:
        module.exit_json(**result)
    if new_key:
        keyring.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(keyring, new_key, mode=0o644)
    for path in changed:
        if texts.get(path):
            write_atomically(path, texts[path], mode=0o644)
        elif path != keyring or not present:
            path.unlink()
    if present and (changed or not has_list(params["uri"])):
        refresh(module, source)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
