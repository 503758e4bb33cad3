# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images: hosts, registry, and the two real services."""

from __future__ import annotations

import typing as t

from testbed import build, upstream
from testbed.progress import TestbedError, say
from testbed.roots import has_image, pull, root_image
from testbed.settings import HERE, RELEASES, Service

if t.TYPE_CHECKING:
    from docker import DockerClient

RECIPES = HERE / "images"


def host(client: DockerClient, release_name: str) -> str:
    """Give the name of the image of a test host."""
    return build.image(
        client,
        f"the {release_name} host",
        base=root_image(client, RELEASES[release_name]),
        script=RECIPES / "host.sh",
        overlay=HERE / "host",
        changes=("ENV container=docker", 'CMD ["/lib/systemd/systemd"]'),
    )


def registry(client: DockerClient) -> str:
    """Give the name of the image of the registry."""
    return build.image(
        client,
        "the registry",
        base=root_image(client, RELEASES["debian-12"]),
        script=RECIPES / "registry.sh",
        changes=('CMD ["docker-registry", "serve", "/etc/docker/registry/config.yml"]',),
    )


def python_base(client: DockerClient) -> str:
    """Give the name of the image that both services are built on."""
    return build.image(
        client,
        "Python and PyTorch, which both services share",
        base=root_image(client, RELEASES["debian-12"]),
        script=RECIPES / "python-base.sh",
        files=[RECIPES / "python-base.lock"],
        changes=(f"ENV PATH={upstream.PYTHON}:{upstream.SYSTEM_PATH}",),
        uses_pip=True,
    )


def official_is_here(client: DockerClient, wanted: Service) -> bool:
    """Tell whether the official image is here or can be had."""
    return has_image(client, wanted.official) or pull(client, wanted.official, wanted.registry)


def service(client: DockerClient, wanted: Service) -> str:
    """Give the name of the image of a service: the official one, or one built from packages.

    Either is held against what is known of the official one. A release that is not as it was read
    is told, a built image that is not as intended is an error.
    """
    known = upstream.facts()[wanted.facts]
    if official_is_here(client, wanted):
        for deviation in upstream.deviations(known["config"], config_of(client, wanted.official)):
            say(f"{wanted.official} is not as images/upstream.yml says: {deviation}")
        return wanted.official
    name = build.image(
        client,
        f"{wanted.name} {wanted.tag} from Python packages",
        base=python_base(client),
        script=RECIPES / f"{wanted.name}.sh",
        files=[RECIPES / f"{wanted.name}.lock"],
        changes=wanted.changes,
        uses_pip=True,
    )
    if wrong := upstream.deviations(upstream.stated(known), config_of(client, name)):
        raise TestbedError(
            f"{name} was built from images/{wanted.name}.sh and is not as images/upstream.yml says: "
            f"{'; '.join(wrong)}. Remove it, then build it anew: docker image rm {name}"
        )
    return name


def config_of(client: DockerClient, image: str) -> upstream.Facts:
    """Give what an image states."""
    config: upstream.Facts = client.images.get(image).attrs["Config"]
    return config
