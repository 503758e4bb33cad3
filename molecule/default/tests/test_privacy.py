# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who can reach the engine, and where its key can be read: nobody, and nowhere."""

from __future__ import annotations

import json
import typing as t

import pytest
from conftest import PATIENCE

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

ENGINE, PAGE = "sparerig-vllm", "sparerig-open-webui"
SECRETS = [(ENGINE, "VLLM_API_KEY"), (PAGE, "WEBUI_ADMIN_PASSWORD"), (PAGE, "WEBUI_SECRET_KEY")]

IN_VAIN = 5  # seconds to wait for an answer that must not come

ASK = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1] + "/invocations",
    data=json.dumps({"model": "tiny-llama-gptq", "prompt": "1", "max_tokens": 1}).encode(),
    headers={"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=int(sys.argv[2])).status)
"""


def engine_address(rig: Rig) -> str:
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return f"http://{rig.root(f'docker inspect --format {template!r} {ENGINE}')}:8000"


def test_the_page_reaches_the_engine(rig: Rig) -> None:
    """The one way in that there is; it also shows that the next tests ask rightly."""
    asked = rig.root(f"docker exec {PAGE} python3 -c '{ASK}' http://{ENGINE}:8000 {PATIENCE}")
    assert asked == "200"


@pytest.mark.parametrize("who", ["rig", "root"])
def test_nobody_on_the_host_reaches_the_engine(rig: Rig, who: str) -> None:
    asked = rig.host.run(f"sudo -u {who} python3 -c '{ASK}' {engine_address(rig)} {IN_VAIN}")
    assert asked.rc != 0, "the engine generated text for somebody on the host"
    # Not by luck: the host has no address on that network, so no route leads there.
    bridge = json.loads(rig.root("docker network inspect sparerig"))[0]["Id"][:12]
    assert "inet " not in rig.host.check_output(f"ip address show br-{bridge}")


def test_no_other_container_reaches_the_engine(rig: Rig) -> None:
    image = rig.root(f"docker inspect --format '{{{{.Image}}}}' {PAGE}")
    run = f"docker run --rm --network sparerig-web --entrypoint python3 {image} -c '{ASK}'"
    assert rig.host.run(f"sudo {run} {engine_address(rig)} {IN_VAIN}").rc != 0


def test_nothing_but_ssh_and_the_page_listens(rig: Rig) -> None:
    listening = rig.root("ss --listening --tcp --numeric --no-header")
    sockets = (line.split()[3] for line in listening.splitlines())
    ports = {socket.rsplit(":", 1)[1] for socket in sockets if not socket.startswith("127.")}
    assert ports == {"22", "8080"}


def test_the_page_cannot_reach_beyond_the_host(rig: Rig) -> None:
    """Neither the registry, which stands in for the internet, nor a name server."""
    reach = 'import urllib.request as u; print(u.urlopen("http://%s:5000/v2/", timeout=%d).status)'
    registry = rig.host.check_output("getent hosts registry").split()[0]
    assert rig.host.check_output(f"python3 -c '{reach % (registry, PATIENCE)}'") == "200"
    assert (
        rig.host.run(f"sudo docker exec {PAGE} python3 -c '{reach % (registry, IN_VAIN)}'").rc != 0
    )
    look_up = 'import socket; socket.gethostbyname("registry")'
    assert rig.host.run(f"sudo docker exec {PAGE} python3 -c '{look_up}'").rc != 0


PLACES = {
    "command lines": "ps -eww -o args",
    "units": "systemctl cat sparerig-* --no-pager; systemctl show sparerig-*",
    "journal": "journalctl --no-pager --all --output export",
    "files that others may read": "find /etc /run/sparerig /usr/local /var/lib/sparerig "
    "-xdev -type f -perm /o+r -exec cat {} +",
}


@pytest.fixture(scope="module")
def patterns(rig: Rig) -> str:
    """Return a file with all the secrets: searched for by its name, they show in no command."""
    file = "/root/secrets"
    files = " ".join(f"/etc/sparerig/{unit}.secrets.env" for unit in (ENGINE, PAGE))
    rig.root(f"sh -c 'umask 077; sed -n s/^[A-Z_]*=//p {files} | sort -u > {file}'")
    assert len(rig.root(f"cat {file}").split()) == len(SECRETS)
    return file


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_shows(rig: Rig, patterns: str, place: str) -> None:
    found = rig.host.run(f"sudo sh -c '({PLACES[place]}) | grep -cFf {patterns}'")
    assert found.stdout.strip() == "0"


def test_a_shown_secret_would_be_found(rig: Rig, patterns: str) -> None:
    search = f"sh -c 'cat /etc/sparerig/*.secrets.env | grep -cFf {patterns}'"
    assert int(rig.root(search)) >= len(SECRETS)


@pytest.mark.parametrize(("unit", "name"), SECRETS)
def test_an_ordinary_user_cannot_read_it(rig: Rig, unit: str, name: str) -> None:
    del name
    rig.host.run("sudo useradd --create-home guest")
    for command in (
        f"cat /etc/sparerig/{unit}.secrets.env",
        f"docker inspect {unit}",
        f"sh -c 'cat /proc/$(pgrep -f {unit}.json)/environ'",
    ):
        assert rig.host.run(f"sudo -u guest {command}").rc != 0


def test_no_secret_shows_in_ansibles_output(
    rig: Rig, play: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = play("-vvv", "--diff")
    assert done.returncode == 0, done.stdout[-4000:]
    for unit, name in SECRETS:
        assert rig.secret(unit, name) not in done.stdout + done.stderr, name
