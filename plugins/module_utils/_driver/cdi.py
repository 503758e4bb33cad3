# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the CDI specification by which Docker hands cards to containers."""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.complaints import explain

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer, Host

# nvidia-cdi-refresh writes the first; the second is where administrators put their own.
SPECIFICATIONS: t.Final = ("/var/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml")
EVERY_CARD: t.Final = "nvidia.com/gpu=all"


@dataclass(frozen=True)
class Specification:
    """What a CDI specification says, as far as it matters here."""

    path: str
    driver: str  # the version of the libraries that it hands to containers
    files: Sequence[str]  # what it takes from the host


def parse_specification(path: str, text: str) -> Specification:
    """Read version and files; a full YAML reader is not there on every host."""
    files = re.findall(r"""^\s*-?\s*hostPath:\s*["']?([^"'\s]+)""", text, re.MULTILINE)
    version = re.search(r"lib(?:nvidia-ml|cuda)\.so\.(\d+\.\d+(?:\.\d+)?)\b", text)
    return Specification(path, version[1] if version else "", tuple(dict.fromkeys(files)))


def read_specification(host: Host) -> Specification | None:
    """Read the specification that Docker takes; None when there is none."""
    for path in SPECIFICATIONS:
        text = host.read(path)
        if text is not None:
            return parse_specification(path, text)
    return None


def staleness(specification: Specification | None, library: str, there: Sequence[str]) -> str:
    """Say why a specification has to be written anew; empty when it need not.

    ``there``: those of its files that the host has.
    """
    if specification is None:
        return "there is no CDI specification"
    if library and specification.driver and specification.driver != library:
        return f"it is for driver {specification.driver}, and {library} is installed"
    gone = [file for file in specification.files if file not in there]
    return f"it names {gone[0]}, which is not there" if gone else ""


def docker_reads_cdi(answer: Answer | None) -> bool | None:
    """Tell from ``docker info --format '{{json .}}'`` whether CDI is on; None without Docker."""
    if answer is None or not answer.ok:
        return None
    try:
        info = json.loads(answer.stdout)
    except ValueError:
        return None
    return bool(info.get("CDISpecDirs"))


def judge_specification(stale: str) -> Check:
    """Judge whether the specification is up to date, from what ``staleness`` says."""
    name, expected = "specification", "a CDI specification for the installed driver"
    if stale:
        return Check.failed(name, "container-toolkit-missing", expected=expected, seen=stale)
    return Check.passed(name, expected=expected, seen="it is there")


def judge_container(image: str, answer: Answer) -> Check:
    """Judge what a container with the card said when asked for its cards."""
    name, expected = "container", f"nvidia-smi -L lists a card in a container of {image}"
    said = (answer.stdout + answer.stderr).strip()
    if answer.ok and re.search(r"^GPU \d+: ", answer.stdout, re.MULTILINE):
        return Check.passed(name, expected=expected, seen=answer.stdout.strip())
    unknown = f"The container ended with {answer.rc} and said: {said}"
    failure = explain(said) or describe("gpu-container-failed", {"image": image}, cause=unknown)
    return Check.failed(name, failure, expected=expected, seen=said)


def judge_docker(reads_cdi: bool | None) -> Check:  # noqa: FBT001
    """Judge whether Docker takes CDI devices."""
    expected = "Docker reads CDI specifications"
    if reads_cdi is None:
        return Check.unknown("docker", expected=expected, seen="Docker does not answer")
    if reads_cdi:
        return Check.passed("docker", expected=expected, seen="it does")
    return Check.failed("docker", "docker-without-cdi", expected=expected, seen="it does not")


def judge_devices(listed: str) -> Check:
    """Judge what ``nvidia-ctk cdi list`` names."""
    if EVERY_CARD in listed.split():
        shown = " ".join(re.findall(r"nvidia\.com\S+", listed))
        return Check.passed("devices", expected=EVERY_CARD, seen=shown)
    seen = listed.strip() or "none"
    return Check.failed("devices", "container-toolkit-missing", expected=EVERY_CARD, seen=seen)
