# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that a remedy of the registry names, typed on the deployed host."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import FAILURES, WORDS

if t.TYPE_CHECKING:
    from conftest import Rig

ENGINE = WORDS["unit"]
PAGE_URL = "http://127.0.0.1:8080"
DRIVER = "needs an NVIDIA card and its driver"
REBOOTS = "reboots the PC"


@dataclass(frozen=True)
class Typed:
    """A command that is run: what it shows, and what has to be there first."""

    shows: str  # a regular expression, searched in what it prints
    status: int = 0
    words: dict[str, str] = field(default_factory=dict)  # in place of the usual ones
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class NotRun:
    """A command that cannot be run in this scenario."""

    why: str


SOME_MODEL = {"path": "/tmp/remedy/model"}  # noqa: S108 - on the host under test
MAKE_MODEL = "mkdir -p /tmp/remedy/model && touch /tmp/remedy/model/config.json"

COMMANDS: dict[str, Typed | NotRun] = {
    # The card and its driver
    "lspci -nn -d 10de:": Typed(r"\A\Z|10de"),
    "lspci -nnk -d 10de:": Typed(r"\A\Z|10de"),
    "nvidia-smi": NotRun(DRIVER),
    "nvidia-smi -L": NotRun(DRIVER),
    "nvidia-smi -q -d POWER,TEMPERATURE": NotRun(DRIVER),
    "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER": NotRun(DRIVER),
    "nvidia-ctk cdi list": NotRun(DRIVER),
    "sudo journalctl -u nvidia-cdi-refresh.service -n 50": NotRun(DRIVER),
    "sudo nvidia-smi -pl WATTS": NotRun(DRIVER),
    "sudo dmesg | grep -E 'NVRM|Xid'": NotRun(DRIVER),
    "sudo dmesg | grep Xid": NotRun(DRIVER),
    "sudo dmesg | grep -iE 'nvidia|nvrm|key was rejected'": NotRun(DRIVER),
    "sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm": NotRun(DRIVER),
    "sudo modprobe nvidia": NotRun(DRIVER),
    "sudo mokutil --import /var/lib/shim-signed/mok/MOK.der": NotRun(
        "needs firmware with Secure Boot, and asks for a password"
    ),
    "sudo docker run --rm --device nvidia.com/gpu=all --entrypoint nvidia-smi {image} -L": NotRun(
        DRIVER
    ),
    "docker restart NAME": NotRun(DRIVER),
    "sudo systemctl reboot": NotRun(REBOOTS),
    "sudo update-initramfs -u -k all": NotRun("needs a kernel of the host's own"),
    "sudo systemctl isolate multi-user.target": NotRun("ends the desktop, which this host lacks"),
    "sudo systemctl mask sleep.target suspend.target hibernate.target": Typed(
        r"sleep\.target .*/dev/null",
        after="sudo systemctl unmask sleep.target suspend.target hibernate.target",
    ),
    # The host and its packages
    "free -h": Typed(r"Mem: +\d"),
    "df -h {path}": Typed(r"Mounted on\n.+ /"),
    "sudo du -xh --max-depth=2 {path} | sort -h | tail": Typed(r"[KMG]\t/\n?\Z"),
    "findmnt -T {path}": Typed(r"TARGET.*\n/ "),
    "sudo dmesg | tail": Typed(r"\S"),
    "sudo ss -ltnp 'sport = :{port}'": Typed(r":8080 .*users:\(\("),
    "sudo ss -ltnp": Typed(r":8080 .*users:\(\("),
    "ip -brief address": Typed(r"127\.0\.0\.1/8"),
    "ip route": Typed(r"^default via "),
    "getent hosts {host}": Typed(r"localhost"),
    "ps -C apt,apt-get,dpkg,unattended-upgr -o pid,etime,args": Typed(r"PID +ELAPSED", status=1),
    "sudo apt-get update": NotRun("needs the distribution's archive"),
    "apt-cache search --names-only '^nvidia-headless-no-dkms-[0-9]+-server'": Typed(
        r"nvidia-headless-no-dkms-\d+-server"
    ),
    "sudo apt-mark unhold {packages}": Typed(
        r"Canceled hold on curl", words={"packages": "curl"}, before="sudo apt-mark hold curl"
    ),
    "sudo rm {file}": Typed(
        r"\A\Z",
        words={"file": "/etc/apt/sources.list.d/remedy.list"},
        before="sudo touch /etc/apt/sources.list.d/remedy.list",
        after="! test -e /etc/apt/sources.list.d/remedy.list",
    ),
    # Docker
    "systemctl status docker": Typed(r"Active: active \(running\)"),
    "sudo journalctl -u docker -n 50": Typed(r"dockerd"),
    "sudo docker info | grep -A2 -i cdi": Typed(r"(?i)cdi"),
    "sudo docker ps --all": Typed(rf"Up .*{ENGINE}"),
    "sudo docker pull {image}": Typed(r"Image is up to date"),
    "df -h /var/lib": Typed(r"Mounted on\n.+ /"),
    "sudo docker network ls": Typed(rf"\b{WORDS['network']}\b"),
    "sudo docker network inspect {network}": Typed(r'"Internal": true'),
    "sudo docker network rm {network}": Typed(
        r"\Aremedy\n?\Z", words={"network": "remedy"}, before="sudo docker network create remedy"
    ),
    "sudo docker network prune": NotRun("removes networks, and asks first"),
    "sudo docker image prune": NotRun("removes images, and asks first"),
    "sudo snap remove docker": NotRun("removes Docker from snap, which this host lacks"),
    # Models on the disk, and the hub
    "ls -l {path}": Typed(r"config\.json", words=SOME_MODEL, before=MAKE_MODEL),
    "ls -ld {path}": Typed(r"drwx.* /tmp/remedy/model", words=SOME_MODEL, before=MAKE_MODEL),
    "sudo chmod -R a+rX {path}": Typed(
        r"\A\Z",
        words=SOME_MODEL,
        before=f"{MAKE_MODEL} && chmod 600 /tmp/remedy/model/config.json",
        after="ls -l /tmp/remedy/model/config.json | grep -q ^-rw-r--r--",
    ),
    "sudo cp -rL {path} /srv/models/": Typed(
        r"\A\Z",
        words={"path": "/tmp/remedy/linked"},  # noqa: S108
        before=f"{MAKE_MODEL} && mkdir -p /tmp/remedy/linked"
        " && ln -sf ../model/config.json /tmp/remedy/linked/config.json",
        after="test -f /srv/models/linked/config.json && ! test -L /srv/models/linked/config.json"
        " && sudo rm -r /srv/models/linked",
    ),
    "tail -n 3 {log}": Typed(
        r"1\.00 GiB of 2\.00 GiB",
        words={"log": "/tmp/remedy/download.log"},  # noqa: S108
        before="mkdir -p /tmp/remedy && echo 1.00 GiB of 2.00 GiB > /tmp/remedy/download.log",
    ),
    "curl -I {endpoint}": Typed(r"^HTTP/1\.1 ", words={"endpoint": PAGE_URL}),
    "curl -i {endpoint}/api/models/{repository}": Typed(
        r"^HTTP/1\.1 ", words={"endpoint": PAGE_URL}
    ),
    # The services
    "systemctl status {unit}": Typed(r"Active: active \(running\)(?s:.*)Status: \"ready: "),
    "systemctl status {web_unit}": Typed(r"Active: active \(running\)(?s:.*)Status: \"ready: "),
    "sudo journalctl -u {unit} -n 100": Typed(rf"{ENGINE}\["),
    "sudo journalctl -u {web_unit} -n 100": Typed(rf"{WORDS['web_unit']}\["),
    "sudo journalctl -u {unit} | grep -i kernel": Typed(r"(?i)kernel"),
    "sudo systemctl restart {unit}": Typed(r"\A\Z", after=f"systemctl is-active {ENGINE}"),
    "cat /etc/sparerig/{unit}.json": Typed(r'"--max-model-len",\n +"\d+"'),
    "cat /etc/sparerig/{unit}.env": Typed(r"VLLM_CPU_KVCACHE_SPACE=\d"),
    "cat /etc/sparerig/model-plan.json": Typed(r'"kv_cache": \d+'),
    "grep -A1 max-model-len /etc/sparerig/{unit}.json": Typed(r'"--max-model-len",\n +"\d+"'),
    "grep -A1 served-model-name /etc/sparerig/{unit}.json": Typed(
        r'"--served-model-name",\n +"tiny-llama-gptq"'
    ),
    "grep -A1 kv-cache /etc/sparerig/{unit}.json": NotRun(
        "the KV cache of a processor is given by VLLM_CPU_KVCACHE_SPACE"
    ),
    "sudo ls -l /etc/sparerig/{unit}.secrets.env": Typed(r"^-rw------- 1 root root "),
    "sudo grep -c ^VLLM_API_KEY= /etc/sparerig/{unit}.secrets.env": Typed(r"\A1\n?\Z"),
    "{curl} -sS -i {url}/health": Typed(r"^HTTP/1\.1 200 OK"),
    "{curl} -sS -i -m 10 {url}/health": Typed(r"^HTTP/1\.1 200 OK"),
    "{curl} -sS -v {url}/health": Typed(r"HTTP/1\.1 200 OK"),
    "{curl} -sS -i {url}/v1/models | head": Typed(
        r"^HTTP/1\.1 401 (?s:.*)content-type: application/json"
    ),
    "{models}": Typed(r'"id":"tiny-llama-gptq"'),
    # The page
    "grep publish /etc/sparerig/{web_unit}.json": Typed(r"--publish=[\d.]+:8080:8080"),
    "grep OPENAI_API_BASE /etc/sparerig/{web_unit}.env": Typed(
        rf"OPENAI_API_BASE_URLS=http://{ENGINE}:8000/v1"
    ),
    "grep RAG_ /etc/sparerig/{web_unit}.env": Typed(r"RAG_EMBEDDING_MODEL"),
    "grep WEBUI_ /etc/sparerig/{web_unit}.env": Typed(r"WEBUI_ADMIN_EMAIL="),
    "sudo docker exec {web_unit} printenv WEBUI_AUTH || echo not set": Typed(r"\Anot set\n?\Z"),
    "df -h /var/lib/sparerig": Typed(r"Mounted on\n.+ /"),
}


def named_in_remedies() -> set[str]:
    """Return the commands of all remedies, those within a sentence too."""
    commands = {command for known in FAILURES.values() for command in known.remedy.commands}
    for known in FAILURES.values():
        commands |= set(re.findall(r"`([^`]+)`", known.remedy.advice))
    return {command for command in commands if not command.startswith("--")}  # options


def test_every_command_of_every_remedy_is_accounted_for() -> None:
    assert named_in_remedies() == COMMANDS.keys()


@pytest.mark.parametrize(
    "command", [name for name, what in COMMANDS.items() if isinstance(what, Typed)]
)
def test_a_command_shows_what_its_remedy_promises(rig: Rig, command: str) -> None:
    typed = COMMANDS[command]
    assert isinstance(typed, Typed)
    image = rig.root(f"docker inspect --format '{{{{.Config.Image}}}}' {ENGINE}")
    if typed.before:
        rig.host.check_output(typed.before)
    done = rig.host.run(command.format_map({**WORDS, "image": image, **typed.words}))
    said = f"{done.stdout}{done.stderr}"
    assert done.rc == typed.status, said
    assert re.search(typed.shows, said, re.MULTILINE), said
    if typed.after:
        rig.host.check_output(typed.after)
