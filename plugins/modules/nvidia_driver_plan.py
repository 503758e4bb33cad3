#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reason about card, driver, kernel and vLLM image before anything is downloaded."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_plan
short_description: Plan the NVIDIA driver of a host by its cards, kernels and vLLM image, before the first change
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Finds and names the NVIDIA cards on the PCI bus (no driver needed), and compares card, driver branch and vLLM image with each other.
  - Finds what would make a driver installation fail or not last, such as a driver from elsewhere, Secure Boot,
    a kernel without its module, or an archive that can't send what it lists.
  - Says which packages to install, to remove and to hold, and whether a reboot is needed.
  - Reads only. A failure names its cause and the command that fixes it; each has a page under C(docs/failures).
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  branch:
    description: The wanted driver branch, three digits.
    type: str
    default: "580"
  modules:
    description:
      - Kernel modules to use.
      - V(auto) takes the open ones for Turing cards (GTX 16, RTX 20) and newer, and the proprietary ones for older cards.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  dkms:
    description: Whether the kernel modules are built on the host, instead of taken as Canonical built and signed them.
    type: bool
    default: false
  desktop:
    description: Whether the driver also has to draw a desktop.
    type: bool
    default: false
  kernel_flavour:
    description: Kernel flavour to follow, such as V(generic-hwe-22.04); empty for the one that the host follows already.
    type: str
    default: ""
  image:
    description: The vLLM image that is going to run, with its tag; empty to leave images out.
    type: str
    default: ""
  state:
    description:
      - What is wanted. V(present) is a driver that this collection installs.
      - V(unmanaged) is a driver that somebody else looks after; packages and kernels are left out.
      - V(absent) is no driver; only the packages to remove are looked for.
    type: str
    choices: [present, absent, unmanaged]
    default: present
  running:
    description: Whether the driver has to run by now. If V(false), what an installation is going to fix does not fail.
    type: bool
    default: false
  upgrade:
    description: Whether newer versions of driver and kernel are wanted, of the same branch and flavour.
    type: bool
    default: false
  archive:
    description:
      - Whether to ask apt what it has, and the archive whether it can send it. Takes some seconds.
      - Without it, the plan tells only what is missing.
    type: bool
    default: false
  min_free_gib:
    description: Room that driver and kernel need on the file system of C(/), in GiB. Looked at only when something has to be installed.
    type: float
    default: 0
  min_ram_gib:
    description: Main memory that the host needs, in GiB.
    type: float
    default: 0
  lock_timeout:
    description: How long to wait for another program that holds apt's lock, in seconds. Waits only when something has to be installed.
    type: int
    default: 300
seealso:
  - module: sparerig.llm.nvidia_kernel_module
  - module: sparerig.llm.gpu_info
"""

EXAMPLES = r"""
- name: Ask whether this PC can run vLLM 0.33
  sparerig.llm.nvidia_driver_plan:
    branch: "580"
    image: docker.io/vllm/vllm-openai:v0.33.0

- name: Ask the same of a driver that somebody else looks after
  sparerig.llm.nvidia_driver_plan:
    state: unmanaged
    running: true
    image: docker.io/vllm/vllm-openai:v0.33.0
"""

RETURN = r"""
checks:
  description: Everything looked at, in order, also when the module fails.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    status:
      description: One of V(pass), V(fail), V(unknown) and V(skipped).
      type: str
    expected:
      description: What would be right.
      type: str
    seen:
      description: What is there.
      type: str
    failure:
      description: Name of the known failure, which has a page under C(docs/failures); empty where there is none.
      type: str
    cause:
      description: Why it is not right.
      type: str
    remedy:
      description: What to do about it.
      type: str
failures:
  description: Names of the known failures that were found, those included that an installation is going to fix. Each has a page under C(docs/failures).
  returned: always
  type: list
  elements: str
  sample: [driver-too-old-for-image]
cards:
  description: NVIDIA cards on the PCI bus.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: PCI address.
      type: str
      sample: "0000:01:00.0"
    pci_id:
      description: Vendor and device.
      type: str
      sample: 10de:2503
    name:
      description: What the card is called.
      type: str
      sample: NVIDIA GeForce RTX 3060
    generation:
      description: Architecture.
      type: str
      sample: Ampere
    compute_capability:
      description: Compute capability.
      type: str
      sample: "8.6"
driver:
  description: The driver as it is.
  returned: always
  type: dict
  contains:
    loaded:
      description: Version of the loaded kernel module; empty when none is loaded.
      type: str
    library:
      description: Version of the libraries; empty when there are none.
      type: str
    nouveau:
      description: Whether nouveau is loaded.
      type: bool
    modules:
      description: Kernel modules that the cards get, V(open) or V(proprietary).
      type: str
kernel:
  description: Kernels.
  returned: always
  type: dict
  contains:
    running:
      description: Release of the running kernel.
      type: str
    boots:
      description: Release of the kernel that boots next, after the installation if there is one to do.
      type: str
secure_boot:
  description: Whether Secure Boot is on; null when that can't be told.
  returned: always
  type: bool
plan:
  description: What has to happen.
  returned: always
  type: dict
  contains:
    settled:
      description: Whether there is nothing to install, to remove or to finish.
      type: bool
    interrupted:
      description: Whether an earlier installation was cut off, and has to be finished first.
      type: bool
    install:
      description: Packages to install.
      type: list
      elements: str
    purge:
      description: Packages of another driver, to be removed with their settings.
      type: list
      elements: str
    hold:
      description: Packages that lack a hold.
      type: list
      elements: str
    unhold:
      description: Packages whose hold is no longer needed.
      type: list
      elements: str
    reboot:
      description: Why a reboot is needed; empty when it is not.
      type: list
      elements: str
    load:
      description: Whether the kernel module only has to be loaded.
      type: bool
"""

import dataclasses
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import messages
from ansible_collections.sparerig.llm.plugins.module_utils._driver import state as reader
from ansible_collections.sparerig.llm.plugins.module_utils._driver.archive import (
    Archive,
    consult,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.preflight import (
    Request,
    Seen,
    Verdict,
    judge,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi as gpu
from ansible_collections.sparerig.llm.plugins.module_utils._host import apt
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import kernel_host
from ansible_collections.sparerig.llm.plugins.module_utils._host.requirements import check_disk

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

OUR_HOLDS = "/etc/apt/apt.conf.d/52sparerig-nvidia"
KEY_OF_DKMS = "/var/lib/shim-signed/mok/MOK.der"


def look(host: Host, request: Request) -> Seen:
    """Read everything that the reasoning needs."""
    packages = reader.read_packages(host)
    kernel = reader.read_running_kernel(host)
    xids = gpu.read_xids(host, timeout=10.0) or ()
    return Seen(
        system=reader.read_system(host),
        cards=reader.read_cards(host),
        loaded=reader.read_loaded(host),
        kernel=kernel,
        packages=packages,
        interrupted=apt.dpkg_interrupted(host),
        secure_boot=gpu.read_secure_boot(host, timeout=10.0),
        foreign=reader.find_foreign(host, packages),
        sources=apt.read_apt_sources(host),
        snap_docker=Path("/snap/bin/docker").exists(),
        ours=Path(OUR_HOLDS).exists(),
        key_enrolled=reader.key_enrolled(host, KEY_OF_DKMS) if request.dkms else None,
        slept=reader.read_slept(host),
        xid_79=next((f"{xid.pci_address}: {xid.message}" for xid in xids if xid.code == 79), ""),  # noqa: PLR2004
        module_on_disk=reader.module_on_disk(host, kernel),
    )


def wait_for_apt(seen: Seen, timeout: int) -> Seen:
    """Wait until nobody else holds apt's lock; remember who did, and for how long."""
    start = time.monotonic()
    holder = apt.apt_lock_holder()
    while holder:
        waited = time.monotonic() - start
        seen = dataclasses.replace(seen, lock_holder=holder, lock_waited=waited)
        if waited >= timeout:
            break
        time.sleep(1)
        holder = apt.apt_lock_holder()
    return seen


def as_result(seen: Seen, verdict: Verdict, room: list[Check]) -> dict[str, t.Any]:
    """Write the verdict down as the module returns it."""
    return {
        "checks": [dataclasses.asdict(check) for check in [*verdict.findings, *room]],
        "failures": [finding.failure for finding in verdict.findings if finding.failure],
        "cards": [
            {
                "address": card.address,
                "pci_id": card.pci_id,
                "name": card.name,
                "generation": card.generation.name,
                "compute_capability": ".".join(map(str, card.capability)),
            }
            for card in seen.cards
        ],
        "driver": {
            "loaded": seen.loaded.nvidia,
            "library": seen.loaded.library,
            "nouveau": seen.loaded.nouveau,
            "modules": verdict.wish.modules,
        },
        "kernel": {"running": seen.kernel, "boots": verdict.plan.boots},
        "secure_boot": seen.secure_boot,
        "plan": {
            "settled": verdict.settled,
            "interrupted": seen.interrupted,
            "install": list(verdict.plan.install),
            "purge": list(verdict.plan.purge),
            "hold": list(verdict.hold),
            "unhold": list(verdict.unhold),
            "reboot": list(verdict.reboot),
            "load": verdict.load,
        },
    }


def main() -> None:
    """Read, reason, and say all that is wrong at once."""
    module = AnsibleModule(
        argument_spec={
            "branch": {"type": "str", "default": "580"},
            "modules": {
                "type": "str",
                "choices": ["auto", "open", "proprietary"],
                "default": "auto",
            },
            "dkms": {"type": "bool", "default": False},
            "desktop": {"type": "bool", "default": False},
            "kernel_flavour": {"type": "str", "default": ""},
            "image": {"type": "str", "default": ""},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "unmanaged"],
                "default": "present",
            },
            "running": {"type": "bool", "default": False},
            "upgrade": {"type": "bool", "default": False},
            "archive": {"type": "bool", "default": False},
            "min_free_gib": {"type": "float", "default": 0},
            "min_ram_gib": {"type": "float", "default": 0},
            "lock_timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    params = module.params
    request = Request(
        **{
            name: params[name]
            for name in ("branch", "modules", "dkms", "desktop", "image", "state", "running")
        },
        flavour=params["kernel_flavour"],
        upgrade=params["upgrade"],
    )
    host = kernel_host()
    seen = look(host, request)
    verdict = judge(seen, request, params["lock_timeout"])
    if not verdict.settled and params["archive"]:
        seen = wait_for_apt(seen, params["lock_timeout"])
        verdict = judge(seen, request, params["lock_timeout"])
        if seen.lock_holder:
            module.warn(
                f"Waited {seen.lock_waited:.0f} s for {seen.lock_holder}, which held apt's lock."
            )
        if not verdict.failures:
            verdict = consult(verdict, seen, request, Archive(host))
    room = []
    if params["min_free_gib"] and verdict.plan.install:
        room.append(check_disk("/", params["min_free_gib"]))
    if params["min_ram_gib"]:
        room.append(reader.check_ram(host, params["min_ram_gib"]))
    result = as_result(seen, verdict, room)
    wrong = messages([*verdict.findings, *room])
    if wrong:
        module.fail_json(msg=wrong, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
