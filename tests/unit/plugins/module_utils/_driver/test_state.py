# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a host: cards, drivers from elsewhere, memory."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver import state as reader
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import Package
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer

if t.TYPE_CHECKING:
    from collections.abc import Sequence


class FakeHost:
    """A host made of texts."""

    def __init__(self, files: dict[str, str], answers: dict[str, Answer] | None = None) -> None:
        self.files = files
        self.answers = answers or {}

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer | None:
        """Answer a command."""
        assert timeout > 0
        return self.answers.get(" ".join(argv))

    def read(self, path: str) -> str | None:
        """Return a text."""
        return self.files.get(path)

    def read_bytes(self, path: str) -> bytes | None:
        """Return a text's bytes."""
        text = self.files.get(path)
        return None if text is None else text.encode()

    def names(self, path: str) -> list[str]:
        """List what is below a folder."""
        below = [file[len(path) + 1 :] for file in self.files if file.startswith(f"{path}/")]
        return sorted({name.partition("/")[0] for name in below})

    def resolve(self, path: str) -> str:
        """Follow a link that is written as '-> LINK'."""
        return self.files.get(f"-> {path}", path)


def test_read_cards() -> None:
    bus = "/sys/bus/pci/devices"
    host = FakeHost(
        {
            f"{bus}/0000:00:1f.0/vendor": "0x8086\n",
            f"{bus}/0000:01:00.0/vendor": "0x10de\n",
            f"{bus}/0000:01:00.0/device": "0x1b80\n",
            f"{bus}/0000:01:00.0/class": "0x030000\n",
            f"{bus}/0000:01:00.1/vendor": "0x10de\n",
            f"{bus}/0000:01:00.1/device": "0x10f0\n",
            f"{bus}/0000:01:00.1/class": "0x040300\n",  # its sound
            "/usr/share/misc/pci.ids": "#\n10de  NVIDIA\n\t1b80  GP104 [GeForce GTX 1080]\n",
        }
    )
    cards = reader.read_cards(host)
    assert [card.label for card in cards] == [
        "NVIDIA GeForce GTX 1080 (Pascal, PCI 0000:01:00.0, 10de:1b80)"
    ]


PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.178.04  Mon Jul 20 01:02:03 UTC 2026\n"
    "GCC version:  gcc version 12.3.0\n"
)


@pytest.mark.parametrize(
    ("version", "library", "modules", "expected"),
    [
        ("", "", "", ("", False, "", False)),
        (PROPRIETARY, "580.178.04", "nvidia 1 0\n", ("580.178.04", False, "580.178.04", False)),
        (PROPRIETARY, "580.95.05", "nvidia 1 0\n", ("580.178.04", False, "580.95.05", True)),
        # NVML's own name for its version may be shorter.
        (PROPRIETARY, "580.178", "nvidia 1 0\n", ("580.178.04", False, "580.178", False)),
        ("", "580.178.04", "snd 1 0\nnouveau 1 0\n", ("", True, "580.178.04", False)),
        ("", "", "drm_nouveau 1 0 nouveau\n", ("", False, "", False)),
    ],
)
def test_read_loaded(
    version: str, library: str, modules: str, expected: tuple[str, bool, str, bool]
) -> None:
    link = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
    files = {"/proc/driver/nvidia/version": version, "/proc/modules": modules}
    if library:
        files[f"-> {link}"] = f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{library}"
    loaded = reader.read_loaded(FakeHost(files))
    assert (loaded.nvidia, loaded.nouveau, loaded.library, loaded.mismatched) == expected


def test_preflight_and_health_judge_a_driver_alike() -> None:
    """One whose library lies where only the loader's cache says is a driver all the same."""
    library = "/opt/driver/libnvidia-ml.so.1"
    files = {
        "/proc/driver/nvidia/version": PROPRIETARY,
        f"-> {library}": "/opt/driver/libnvidia-ml.so.570.1",
    }
    host = FakeHost(
        files, {"ldconfig -p": Answer(0, f"libnvidia-ml.so.1 (libc6) => {library}\n", "")}
    )
    assert reader.read_loaded(host).mismatched
    assert nvidia_smi.read(host).driver.mismatched


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ('ID=ubuntu\nVERSION_ID="22.04"\n', "ubuntu 22.04"),
        ('PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n', "debian 12"),
        ("", "unknown"),
    ],
)
def test_read_system(text: str, system: str) -> None:
    assert reader.read_system(FakeHost({"/etc/os-release": text})) == system


UBUNTU = "580.178.04-0ubuntu0.22.04.1"


@pytest.mark.parametrize(
    ("name", "version", "origin"),
    [
        ("nvidia-driver-580", UBUNTU, ""),
        ("libnvidia-compute-580-server", UBUNTU, ""),
        ("nvidia-driver-510", "510.60.02-0ubuntu1", ""),
        ("nvidia-driver-580", "580.178.04-0ubuntu0~gpu22.04.1", "the graphics-drivers PPA"),
        ("libnvidia-compute-580", "580.65.06-0ubuntu1", "NVIDIA's own apt repository"),
        ("nvidia-driver-580-open", "580.95.05-1ubuntu1", "NVIDIA's own apt repository"),
        ("cuda-drivers", "580.65.06-0ubuntu1", "NVIDIA's own apt repository"),
        ("cuda-drivers-580", "580.65.06-0ubuntu1", "NVIDIA's own apt repository"),
        ("nvidia-open", "595.71.05-1ubuntu1", "NVIDIA's own apt repository"),
        ("cuda-toolkit-12-1", "12.1.1-1", ""),
        ("nvidia-container-toolkit", "1.20.1-1", ""),
    ],
)
def test_where_a_package_came_from(name: str, version: str, origin: str) -> None:
    found = reader.find_foreign(FakeHost({}), {name: Package(name, version)})
    assert [one.origin for one in found] == ([origin] if origin else [])
    if origin:
        assert found[0].remedy == f"`sudo apt-get purge {name}`"


def test_the_run_installer_leaves_its_uninstaller() -> None:
    found = reader.find_foreign(FakeHost({"/usr/bin/nvidia-uninstall": ""}), {})
    assert found[0].origin == "NVIDIA's .run installer"
    assert "sudo nvidia-uninstall" in found[0].remedy


@pytest.mark.parametrize(
    ("meminfo", "needed", "status"),
    [
        ("MemTotal:       16318412 kB\n", 16, "pass"),
        ("MemTotal:        8052344 kB\n", 16, "fail"),
        ("", 16, "unknown"),
    ],
)
def test_check_ram(meminfo: str, needed: float, status: str) -> None:
    assert reader.check_ram(FakeHost({"/proc/meminfo": meminfo}), needed).status == status


@pytest.mark.parametrize(
    ("answer", "enrolled"),
    [
        (Answer(0, "/k/MOK.der is already enrolled\n", ""), True),
        (Answer(1, "/k/MOK.der is not enrolled\n", ""), False),
        (None, None),
    ],
)
def test_key_enrolled(answer: Answer | None, *, enrolled: bool | None) -> None:
    answers = {"mokutil --test-key /k/MOK.der": answer} if answer else {}
    assert reader.key_enrolled(FakeHost({}, answers), "/k/MOK.der") is enrolled


@pytest.mark.parametrize(("text", "slept"), [("3\n", 3), ("0\n", 0), (None, 0)])
def test_read_slept(text: str | None, slept: int) -> None:
    files = {} if text is None else {"/sys/power/suspend_stats/success": text}
    assert reader.read_slept(FakeHost(files)) == slept
