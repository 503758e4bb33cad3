# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What driver, kernel, Docker and apt complain of, and the failures of the registry behind it."""

from __future__ import annotations

import re
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping

_COMPLAINTS: t.Final[Mapping[str, str]] = {
    "driver-too-old-for-image": r"unsatisfied condition: cuda>=|driver on your system is too old",
    "driver-library-mismatch": r"Driver/library version mismatch",
    "gpu-lost-after-daemon-reload": r"Failed to initialize NVML: Unknown Error",
    "container-toolkit-missing": (
        r"could not select device driver|unresolvable CDI devices|CDI device injection failed"
    ),
    "module-key-rejected": r"Key was rejected by service|Required key not available",
    "kernel-without-module": r"Module nvidia not found in directory",
    "driver-not-loaded": r"couldn't communicate with the NVIDIA driver",
    "conflicting-signed-by": r"Conflicting values set for option Signed-By",
    "card-too-old": r"no kernel image is available for execution",
    "bfloat16-unsupported": r"Bfloat16 is only supported on GPUs",
    "gpu-fell-off-the-bus": r"Xid \(PCI:[0-9A-Fa-f:.]+\): 79\b|fallen off the bus",
    "apt-locked": r"Could not get lock /var/lib/dpkg|Unable to acquire the dpkg frontend lock",
    "archive-incomplete": r"404 +Not Found \[IP|Hash Sum mismatch|File has unexpected size",
}


def explain(complaint: str) -> str | None:
    """Return the identifier of the failure behind a program's complaint; None if not known."""
    return next(
        (failure for failure, said in _COMPLAINTS.items() if re.search(said, complaint)), None
    )
