# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The known failures of an NVIDIA host: a stable name, what causes each, what fixes it.

Every name has its page, docs/failures/<name>.md.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Failure:
    """A failure that is known by name."""

    id: str
    title: str
    cause: str
    remedy: str
    symptom: str = ""  # a pattern of what programs say when it happens


_ALL = (
    Failure(
        "gpu-missing",
        "No NVIDIA card on the PCI bus",
        "The PCI bus shows no NVIDIA display controller.",
        "Check that the card sits in its slot and has its power cables, and that the firmware"
        " setup does not switch it off; 'lspci -nn -d 10de:' lists what the bus shows. A PC"
        " without a card belongs in an inventory with vllm_device: cpu.",
    ),
    Failure(
        "driver-too-old-for-image",
        "The driver is too old for the vLLM image",
        "A container brings its own CUDA libraries, but the driver of the host has to offer that"
        " CUDA version. The compatibility packages that bridge the gap are for data-centre cards.",
        "Set nvidia_driver_branch to a branch that offers it, or choose an older vLLM image.",
        r"unsatisfied condition: cuda>=|driver on your system is too old",
    ),
    Failure(
        "driver-library-mismatch",
        "Kernel module and libraries of the driver have different versions",
        "The driver's packages were upgraded while the old kernel module stayed loaded. Containers"
        " that run already go on working, which hides it; the next one that starts fails.",
        "Reboot: 'sudo systemctl reboot'.",
        r"Driver/library version mismatch",
    ),
    Failure(
        "gpu-lost-after-daemon-reload",
        "A running container lost the GPU",
        "'systemctl daemon-reload' takes devices away that were handed to a container behind"
        " Docker's back, as the old NVIDIA runtime hook does. A CDI device is not taken away.",
        "Start the container with '--device nvidia.com/gpu=all' in place of '--gpus all', as our"
        " units do, or recreate it: 'docker restart NAME'.",
        r"Failed to initialize NVML: Unknown Error",
    ),
    Failure(
        "container-toolkit-missing",
        "Docker knows no NVIDIA device",
        "The NVIDIA container toolkit is not installed, or it has written no CDI specification.",
        "Run the role nvidia_container_toolkit again; 'nvidia-ctk cdi list' then names"
        " nvidia.com/gpu=all.",
        r"could not select device driver|unresolvable CDI devices|CDI device injection failed",
    ),
    Failure(
        "docker-from-snap",
        "Docker comes from a snap",
        "Docker from snap is shut off from the driver's files and from the toolkit.",
        "'sudo snap remove docker' (its containers and images go with it), then run again.",
    ),
    Failure(
        "module-key-rejected",
        "The kernel refuses the driver's signature",
        "Secure Boot is on, and the kernel module is unsigned or its key is not enrolled.",
        "Use the modules that Canonical signed (nvidia_driver_dkms: false), or enrol the key:"
        " 'sudo mokutil --import /var/lib/shim-signed/mok/MOK.der', choose a password, reboot,"
        " and at the blue screen choose Enroll MOK, Continue, Yes, the password, Reboot.",
        r"Key was rejected by service|Required key not available",
    ),
    Failure(
        "kernel-without-module",
        "The kernel that boots next has no NVIDIA module",
        "A newer kernel was installed without the NVIDIA module that belongs to it.",
        "Run the role nvidia_driver again; it installs the module, or says why it can't.",
        r"Module nvidia not found in directory|couldn't communicate with the NVIDIA driver",
    ),
    Failure(
        "nouveau-loaded",
        "nouveau drives the card",
        "The free driver nouveau took the card at boot; NVIDIA's driver can't have it as well.",
        "Reboot: 'sudo systemctl reboot'. If it comes back: 'sudo update-initramfs -u -k all'.",
    ),
    Failure(
        "conflicting-signed-by",
        "Two apt files name NVIDIA's repository with different keys",
        "apt refuses to read any list while two files give one repository different keys.",
        "Remove the older file, then run again.",
        r"Conflicting values set for option Signed-By",
    ),
    Failure(
        "card-too-old",
        "The card is too old",
        "vLLM has no code for cards of this compute capability, or the driver branch no longer"
        " knows the card.",
        "Use a GeForce GTX 16 or RTX card, or newer; no setting fixes this.",
        r"no kernel image is available for execution|Bfloat16 is only supported on GPUs",
    ),
    Failure(
        "gpu-lost-after-suspend",
        "The PC slept, and CUDA did not wake up",
        "After a suspend the CUDA kernel module often can't reach the card any more.",
        "'sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm', and restart the model; keep the PC"
        " awake: 'sudo systemctl mask sleep.target suspend.target hibernate.target'.",
    ),
    Failure(
        "gpu-fell-off-the-bus",
        "The card fell off the PCI bus (Xid 79)",
        "The card stopped answering: too little power, a loose slot or riser, or heat.",
        "Shut the PC down, reseat the card and its power cables, and give it less power:"
        " 'sudo nvidia-smi -pl WATTS'.",
        r"Xid \(PCI:[0-9A-Fa-f:.]+\): 79\b|fallen off the bus",
    ),
    Failure(
        "foreign-driver",
        "An NVIDIA driver from elsewhere is installed",
        "Two drivers of different origin overwrite each other's files.",
        "Remove it first.",
    ),
    Failure(
        "branch-unknown",
        "The archive has no such driver branch",
        "The distribution's archive carries other branches.",
        "Set nvidia_driver_branch to one that it has.",
    ),
    Failure(
        "branch-transitional",
        "The driver branch is only a name for another one",
        "The distribution ended this branch; its packages install a newer one.",
        "Set nvidia_driver_branch to the branch that you would get.",
    ),
    Failure(
        "mixed-cards",
        "No kernel module drives both cards",
        "The older card needs the proprietary kernel module, the newer one the open one.",
        "Take one of the two cards out.",
    ),
    Failure(
        "held-package",
        "A held package is in the way",
        "Somebody put a hold on a driver package that has to change.",
        "Release it with 'sudo apt-mark unhold', then run again.",
    ),
    Failure(
        "apt-locked",
        "Another program holds apt's lock",
        "Another installation runs, often the nightly unattended upgrade.",
        "Wait for it to end, then run again.",
        r"Could not get lock /var/lib/dpkg|Unable to acquire the dpkg frontend lock",
    ),
    Failure(
        "archive-incomplete",
        "The archive lists packages that it does not have",
        "For some hours after a kernel release mirrors list files that they can't send yet.",
        "Wait and run again, or use another mirror.",
        r"404 +Not Found \[IP|Hash Sum mismatch|File has unexpected size",
    ),
    Failure(
        "system-unsupported",
        "No driver for this system from its own archive",
        "The role takes Canonical's signed modules, which only Ubuntu has.",
        "Install the driver yourself and set nvidia_driver_state: unmanaged; everything is still"
        " checked.",
    ),
)
FAILURES: t.Final[Mapping[str, Failure]] = {failure.id: failure for failure in _ALL}


def explain(text: str) -> Failure | None:
    """Name the failure that a program's complaint stands for; None when it is not a known one."""
    return next(
        (known for known in _ALL if known.symptom and re.search(known.symptom, text)),
        None,
    )


def page(failure: str) -> str:
    """Name the page of the documentation that says more."""
    return f"docs/failures/{failure}.md"
