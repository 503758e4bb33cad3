# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""remove.yml takes the services away, keeps what is people's own, and site.yml brings them back."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

REMOVE = "playbooks/remove.yml"
DATABASE = "/var/lib/sparerig/open-webui/webui.db"


def left(rig: Rig) -> dict[str, list[str]]:
    """Return what there is of both services."""
    commands = {
        "containers": "docker ps --all --format '{{.Names}}'",
        "networks": "docker network ls --filter label=sparerig.network --format '{{.Name}}'",
        "units": "find /etc/systemd/system -name 'sparerig-[vo]*'",
        "settings": "find /etc/sparerig -name '*.json' -o -name '*.env' -not -name '*.secrets.env'",
        "programs": "find /usr/local/lib/sparerig -name '*.py'",
    }
    return {
        name: rig.host.run(f"sudo {command}").stdout.split() for name, command in commands.items()
    }


def test_taken_away_and_brought_back(rig: Rig, play: Play) -> None:
    there = left(rig)
    assert all(there.values()), there
    secrets = rig.root("sh -c 'sha256sum /etc/sparerig/*.secrets.env'")
    inode = rig.root(f"stat --format %i {DATABASE}")

    foretold = play("--check", playbook=REMOVE)
    assert foretold.returncode == 0, foretold.stdout[-4000:]
    assert "changed=3" in foretold.stdout
    assert left(rig) == there

    gone = play(playbook=REMOVE)
    assert gone.returncode == 0, gone.stdout[-4000:]
    assert not any(left(rig).values()), left(rig)
    assert "changed=0" in play(playbook=REMOVE).stdout
    assert rig.root("sh -c 'sha256sum /etc/sparerig/*.secrets.env'") == secrets

    back = play()
    assert back.returncode == 0, back.stdout[-4000:]
    assert left(rig) == there
    assert rig.root(f"stat --format %i {DATABASE}") == inode
    assert "signed in" in back.stdout
