# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole of nvidia_driver_plan on hosts that are made of files: each known failure by its name."""

from __future__ import annotations

import dataclasses
import time
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures as known
from ansible_collections.sparerig.llm.plugins.module_utils._driver import archive
from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import (
    Offer,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.preflight import Seen
from ansible_collections.sparerig.llm.plugins.module_utils._driver.state import (
    Foreign,
    LoadedDriver,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    describe_card,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host import apt
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    AptSource,
    Package,
)
from ansible_collections.sparerig.llm.plugins.modules import nvidia_driver_plan

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

KERNEL = "6.8.0-149-generic"
OLDER = "6.8.0-138-generic"
DRIVER = "580.178.04"
IMAGE = "vllm/vllm-openai:v0.33.0"
META = "linux-modules-nvidia-580-server-open-generic-hwe-22.04"
USERLAND = ["nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"]


def card(device: str, slot: int = 1) -> t.Any:
    listed = {"1b80": "GP104 [GeForce GTX 1080]", "0fc6": "GK107 [GeForce GTX 650]"}
    return describe_card(f"0000:0{slot}:00.0", f"10de:{device}", listed)


def modules(kernel: str) -> str:
    return f"linux-modules-nvidia-580-server-open-{kernel}"


def packages(*names: str, held: bool = False) -> dict[str, Package]:
    want = "hold" if held else "install"
    return {name: Package(name, "1", want=want) for name in names}


BARE = Seen(
    system="ubuntu 22.04",
    cards=[card("2503")],
    loaded=LoadedDriver("", nouveau=False, library=""),
    kernel=KERNEL,
    packages=packages(f"linux-image-{KERNEL}"),
    interrupted=False,
    secure_boot=False,
)
RUNNING = dataclasses.replace(
    BARE,
    loaded=LoadedDriver(DRIVER, nouveau=False, library=DRIVER),
    packages=packages(*USERLAND, META, modules(KERNEL), f"linux-image-{KERNEL}", held=True),
    module_on_disk=True,
    ours=True,
)


@pytest.fixture
def ask(run_module: RunModule, monkeypatch: pytest.MonkeyPatch) -> RunModule:
    """Ask the module about a host: ``ask(seen, **options)``."""

    def run(seen: Seen, **options: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(nvidia_driver_plan, "look", lambda *_unused: seen)
        monkeypatch.setattr(apt, "apt_lock_holder", lambda: "")
        return run_module(nvidia_driver_plan, **options)

    return run


def check(answer: dict[str, t.Any], name: str) -> dict[str, str]:
    found: dict[str, str] = next(check for check in answer["checks"] if check["name"] == name)
    return found


def test_a_pc_with_a_running_driver_is_settled(ask: RunModule) -> None:
    answer = ask(RUNNING, image=IMAGE, running=True)
    assert not answer.get("failed")
    assert answer["failures"] == []
    assert {check["status"] for check in answer["checks"]} == {"pass"}
    assert answer["plan"] == {
        "settled": True, "interrupted": False, "install": [], "purge": [], "hold": [],
        "unhold": [], "reboot": [], "load": False,
    }  # fmt: skip
    assert answer["cards"][0]["name"] == "NVIDIA GeForce RTX 3060"
    assert answer["cards"][0]["compute_capability"] == "8.6"


def test_a_bare_pc_may_have_the_driver(ask: RunModule) -> None:
    answer = ask(BARE, image=IMAGE)
    assert not answer.get("failed")
    assert answer["plan"]["install"] == [*USERLAND, modules(KERNEL)]
    assert not answer["plan"]["settled"]


def but(seen: Seen, **changes: t.Any) -> Seen:
    return dataclasses.replace(seen, **changes)


def loaded(nvidia: str, library: str, *, nouveau: bool = False) -> LoadedDriver:
    return LoadedDriver(nvidia, nouveau=nouveau, library=library)


FOREIGN = Foreign("NVIDIA's .run installer", "/usr/bin/nvidia-uninstall", "'sudo nvidia-uninstall'")
SOURCES = [
    AptSource("/etc/apt/sources.list.d/old.list", "https://nvidia.github.io/x", "/k/old"),
    AptSource("/etc/apt/sources.list.d/sparerig-x.sources", "https://nvidia.github.io/x", "/k/new"),
]
OTHER_BRANCH = packages("nvidia-headless-no-dkms-535-server", held=True)

FAILURES: list[tuple[str, Seen, dict[str, t.Any], list[str]]] = [
    ("gpu-missing", but(BARE, cards=[]), {}, ["No NVIDIA card on the PCI bus"]),
    (
        "driver-too-old-for-image",
        BARE,
        {"branch": "570", "image": IMAGE},
        [
            "needs CUDA 13.0 and the driver (570) offers 12.8",
            "compatibility packages do not work on NVIDIA GeForce RTX 3060",
            "Set nvidia_driver_branch: '580'",
        ],
    ),
    (
        "driver-too-old-for-image",
        but(BARE, loaded=loaded("550.163.01", "550.163.01")),
        {"state": "unmanaged", "image": "vllm/vllm-openai:v0.32.0-cu129"},
        ["(550.163.01) offers 12.4", "Set nvidia_driver_branch: '575'"],
    ),
    (
        "card-too-old",
        but(BARE, cards=[card("1b80")]),
        {"image": IMAGE},
        ["no code for cards of this compute capability"],
    ),
    (
        "card-too-old",
        but(BARE, cards=[card("1b80")]),
        {"branch": "595", "image": "vllm/vllm-openai:v0.19.1"},
        ["Pascal cards end with branch 580, and branch 595 is wanted"],
    ),
    ("card-too-old", but(BARE, cards=[card("0fc6")]), {}, ["Kepler cards end with branch 470"]),
    (
        "mixed-cards",
        but(BARE, cards=[card("1d81"), card("2b85", 2)]),
        {"image": "vllm/vllm-openai:v0.19.1"},
        ["the older card needs the proprietary one"],
    ),
    (
        "foreign-driver",
        but(BARE, foreign=[FOREIGN]),
        {},
        ["A driver from NVIDIA's .run installer is installed", "sudo nvidia-uninstall"],
    ),
    ("docker-from-snap", but(BARE, snap_docker=True), {}, ["sudo snap remove docker"]),
    (
        "conflicting-signed-by",
        but(BARE, sources=SOURCES),
        {},
        ["sudo rm /etc/apt/sources.list.d/old.list"],
    ),
    (
        "held-package",
        but(BARE, packages={**BARE.packages, **OTHER_BRANCH}),
        {},
        ["sudo apt-mark unhold nvidia-headless-no-dkms-535-server"],
    ),
    (
        "module-key-rejected",
        but(BARE, secure_boot=True, key_enrolled=False),
        {"dkms": True},
        ["sudo mokutil --import", "Enroll MOK"],
    ),
    ("system-unsupported", but(BARE, system="debian 12"), {}, ["nvidia_driver_state: unmanaged"]),
    (
        "kernel-without-module",
        but(RUNNING, packages={**RUNNING.packages, **packages("linux-image-6.8.0-150-generic")}),
        {"running": True},
        ["Kernel 6.8.0-150-generic boots next and its package"],
    ),
    ("driver-not-loaded", but(RUNNING, loaded=loaded("", DRIVER)), {"running": True},
     ["sudo modprobe nvidia"]),
    (
        "nouveau-loaded",
        but(RUNNING, loaded=loaded("", DRIVER, nouveau=True)),
        {"running": True},
        ["sudo systemctl reboot"],
    ),
    (
        "driver-library-mismatch",
        but(RUNNING, loaded=loaded("580.95.05", DRIVER)),
        {"running": True},
        [f"Kernel module 580.95.05 is loaded and the libraries are {DRIVER}", "Containers that"],
    ),
    (
        "driver-library-mismatch",
        but(BARE, system="debian 12", loaded=loaded("580.95.05", DRIVER)),
        {"state": "unmanaged", "running": True},
        ["sudo systemctl reboot"],
    ),
    (
        "gpu-fell-off-the-bus",
        but(RUNNING, xid_79="0000:01:00.0: GPU has fallen off the bus."),
        {},
        ["reseat the card"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("failure", "seen", "options", "words"), FAILURES)
def test_a_known_failure_is_named_and_explained(
    ask: RunModule, failure: str, seen: Seen, options: dict[str, t.Any], words: list[str]
) -> None:
    answer = ask(seen, **options)
    assert answer["failed"]
    assert failure in answer["failures"]
    assert f"({failure}): " in answer["msg"]
    assert (f"docs/failures/{failure}.md" in answer["msg"]) is known.FAILURES[failure].page
    for word in words:
        assert word in answer["msg"]
    named = [check for check in answer["checks"] if check["failure"] == failure]
    assert named[0]["status"] == "fail"
    assert named[0]["cause"]
    assert named[0]["remedy"]


MENDED_BY_INSTALLING: list[tuple[str, Seen, str]] = [
    ("nouveau-loaded", but(RUNNING, loaded=loaded("", DRIVER, nouveau=True)), "nouveau drives"),
    (
        "driver-library-mismatch",
        but(RUNNING, loaded=loaded("580.95.05", DRIVER)),
        "driver 580.95.05 is loaded while the libraries are 580.178.04",
    ),
]


@pytest.mark.parametrize(("failure", "seen", "reason"), MENDED_BY_INSTALLING)
def test_before_an_installation_it_is_a_reason_to_reboot(
    ask: RunModule, failure: str, seen: Seen, reason: str
) -> None:
    answer = ask(seen)
    assert not answer.get("failed")
    assert answer["failures"] == [failure]
    assert answer["plan"]["reboot"][0].startswith(reason)


def test_a_kernel_without_its_module_gets_it_before_it_boots(ask: RunModule) -> None:
    newer = "6.8.0-150-generic"
    answer = ask(but(RUNNING, packages={**RUNNING.packages, **packages(f"linux-image-{newer}")}))
    assert answer["plan"]["install"] == [modules(newer)]
    assert answer["kernel"] == {"running": KERNEL, "boots": newer}


def test_a_sleep_is_told_and_does_not_fail(ask: RunModule) -> None:
    answer = ask(but(RUNNING, slept=2), running=True)
    assert not answer.get("failed")
    assert answer["failures"] == ["gpu-lost-after-suspend"]
    assert check(answer, "sleep")["status"] == "unknown"
    assert check(answer, "sleep")["seen"] == "slept 2 times"


@pytest.mark.parametrize("image", ["vllm/vllm-openai:latest", "vllm/vllm-openai@sha256:0123"])
def test_an_image_that_tells_no_version_is_unknown_and_does_not_fail(
    ask: RunModule, image: str
) -> None:
    answer = ask(RUNNING, image=image)
    assert not answer.get("failed")
    assert check(answer, "driver-for-image")["status"] == "unknown"


def test_the_image_of_the_cpu_profile_is_skipped(ask: RunModule) -> None:
    answer = ask(RUNNING, image="vllm/vllm-openai-cpu:v0.32.0")
    assert check(answer, "driver-for-image")["status"] == "skipped"


def test_turing_is_told_to_use_float16(ask: RunModule) -> None:
    answer = ask(but(BARE, cards=[card("1f08")]), image=IMAGE)
    assert "--dtype half" in check(answer, "card-age")["seen"]


def test_an_interrupted_installation_is_not_settled(ask: RunModule) -> None:
    plan = ask(but(RUNNING, interrupted=True))["plan"]
    assert plan["interrupted"]
    assert not plan["settled"]


def test_another_branch_is_removed_with_the_holds_that_are_ours(ask: RunModule) -> None:
    answer = ask(but(RUNNING, packages={**RUNNING.packages, **OTHER_BRANCH}))
    assert not answer.get("failed")
    assert answer["plan"]["purge"] == ["nvidia-headless-no-dkms-535-server"]
    assert answer["plan"]["unhold"] == ["nvidia-headless-no-dkms-535-server"]


def test_removal(ask: RunModule) -> None:
    kernel = "linux-image-generic-hwe-22.04"
    seen = but(RUNNING, packages={**RUNNING.packages, **packages(kernel, held=True)}, cards=[])
    answer = ask(seen, state="absent")
    assert not answer.get("failed")
    assert answer["plan"]["purge"] == sorted([*USERLAND, META, modules(KERNEL)])
    assert answer["plan"]["unhold"] == [kernel]
    assert answer["plan"]["reboot"] == ["the removed driver is still loaded"]


def test_too_little_memory_stops_it(
    ask: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8052344 kB\n")
    monkeypatch.setenv("SPARERIG_TEST_SYSROOT", str(tmp_path))
    answer = ask(RUNNING, min_ram_gib=16)
    assert answer["failed"]
    assert "16 GiB of main memory are needed and the PC has 7.7 GiB" in answer["msg"]


def test_room_is_looked_at_only_when_something_is_to_be_installed(ask: RunModule) -> None:
    assert not ask(RUNNING, min_free_gib=1e9).get("failed")
    assert "GiB free" in ask(BARE, min_free_gib=1e9)["msg"]


def test_apt_is_waited_for_and_its_holder_named(
    run_module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_driver_plan, "look", lambda *_unused: BARE)
    monkeypatch.setattr(time, "sleep", lambda _unused: None)
    monkeypatch.setattr(nvidia_driver_plan, "Archive", lambda _unused: Shop())
    holders = iter(["unattended-upgr (process 7)", "unattended-upgr (process 7)", ""])
    monkeypatch.setattr(apt, "apt_lock_holder", lambda: next(holders))
    answer = run_module(nvidia_driver_plan, archive=True)
    assert check(answer, "apt-lock")["status"] == "pass"
    assert "unattended-upgr (process 7) had it" in check(answer, "apt-lock")["seen"]

    monkeypatch.setattr(apt, "apt_lock_holder", lambda: "dpkg (process 8)")
    answer = run_module(nvidia_driver_plan, archive=True, lock_timeout=0)
    assert answer["failures"] == ["apt-locked"]
    assert "Wait until dpkg (process 8) has ended" in answer["msg"]


class Shop:
    """An archive: what it lists, and what of that it can't send."""

    def __init__(
        self, *unsent: str, branch: str = "580", kernels: Sequence[str] = (KERNEL,)
    ) -> None:
        self._unsent = unsent
        self._depends = f"nvidia-kernel-common-{branch}-server (>= 1)"
        self._kernels = kernels

    def offer(self, names: Sequence[str]) -> Offer:
        """Say what there is of these packages."""
        known = {
            USERLAND[0]: Package(USERLAND[0], "580.178.04-0ubuntu0.22.04.1", self._depends),
            META: Package(META, "6.8.0", f"{modules(self._kernels[-1])} (= 1)"),
        }
        listed = [META, *(modules(kernel) for kernel in self._kernels), *known]
        found = {name: known[name] for name in names if name in known}
        return Offer(found, frozenset(listed) | {"nvidia-headless-no-dkms-595-server"})

    def downloads(self, names: Sequence[str]) -> list[archive.Download]:
        """List the files that installing these packages would fetch."""
        needed = {*names, *([modules(self._kernels[-1])] if META in names else [])}
        return [
            archive.Download(f"http://archive/{name}.deb", 1_000_000) for name in sorted(needed)
        ]

    def unsent(self, downloads: Iterable[archive.Download]) -> list[str]:
        """List the files that the archive lists and does not have."""
        return [d.url for d in downloads if any(name in d.url for name in self._unsent)]


@pytest.fixture
def shop(ask: RunModule, monkeypatch: pytest.MonkeyPatch) -> RunModule:
    """Ask about a host and what an archive has for it: ``shop(archive, seen, **options)``."""

    def run(view: Shop, seen: Seen, **options: t.Any) -> dict[str, t.Any]:
        monkeypatch.setattr(nvidia_driver_plan, "Archive", lambda _unused: view)
        return ask(seen, archive=True, **options)

    return run


def test_kernel_and_module_come_together(shop: RunModule) -> None:
    answer = shop(Shop(), BARE)
    assert answer["plan"]["install"] == [*USERLAND, META]
    assert check(answer, "archive")["seen"] == f"4 files, 4 MB; kernel {KERNEL} boots then"


def test_what_the_archive_cannot_send_is_gone_round(shop: RunModule) -> None:
    """The kernel's newest module can't be had: the PC stays on the kernel whose module can."""
    seen = but(BARE, kernel=OLDER, packages=packages(f"linux-image-{OLDER}"))
    answer = shop(Shop(modules(KERNEL), kernels=(OLDER, KERNEL)), seen)
    assert not answer.get("failed")
    assert answer["plan"]["install"] == [*USERLAND, modules(OLDER)]
    assert answer["kernel"]["boots"] == OLDER
    assert f"{modules(KERNEL)}.deb can't be had" in check(answer, "archive")["seen"]


def test_what_apt_cannot_resolve_is_gone_round(
    shop: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror lists the newest kernel's module, and not yet the kernel that it needs."""
    asked = Shop.downloads

    def half_updated(view: Shop, names: Sequence[str]) -> list[archive.Download]:
        if META in names:
            raise archive.AptError("E: Unmet dependencies")
        return asked(view, names)

    monkeypatch.setattr(Shop, "downloads", half_updated)
    seen = but(BARE, kernel=OLDER, packages=packages(f"linux-image-{OLDER}"))
    answer = shop(Shop(kernels=(OLDER, KERNEL)), seen)
    assert answer["plan"]["install"] == [*USERLAND, modules(OLDER)]
    assert answer["kernel"]["boots"] == OLDER


def test_nothing_changes_when_the_kernel_that_boots_next_could_not_have_its_module(
    shop: RunModule,
) -> None:
    ga = "5.15.0-204-generic"
    seen = but(BARE, kernel=ga, packages=packages(f"linux-image-{ga}"))
    answer = shop(Shop(modules(ga), kernels=(ga,)), seen)
    assert answer["failures"] == ["archive-incomplete"]
    assert f"{modules(ga)}.deb" in answer["msg"]
    assert "nvidia_driver_kernel_flavour: generic-hwe-22.04" in answer["msg"]


def test_a_kernel_that_the_archive_has_no_module_for(shop: RunModule) -> None:
    mainline = "6.18.0-1-mainline"
    seen = but(BARE, kernel=mainline, packages=packages(f"linux-image-{mainline}"))
    answer = shop(Shop(), seen)
    assert answer["failures"] == ["kernel-without-module"]
    assert f"Kernel {mainline} would boot next" in answer["msg"]


def test_a_branch_that_the_archive_lacks(shop: RunModule) -> None:
    answer = shop(Shop(), BARE, branch="999")
    assert answer["failures"] == ["branch-unknown"]
    assert "no package nvidia-headless-no-dkms-999-server-open" in answer["msg"]
    assert "Set nvidia_driver_branch to one of these: 580, 595" in answer["msg"]


def test_a_branch_that_is_only_a_name(shop: RunModule) -> None:
    answer = shop(Shop(branch="595"), BARE)
    assert answer["failures"] == ["branch-transitional"]
    assert "Set nvidia_driver_branch: '595'" in answer["msg"]


def test_apts_own_complaint_is_passed_on(shop: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_unused: t.Any) -> t.NoReturn:
        raise archive.AptError("'apt-get install' ended with 100: E: Unmet dependencies")

    monkeypatch.setattr(Shop, "downloads", broken)
    answer = shop(Shop(), BARE)
    assert answer["failed"]
    assert "Unmet dependencies" in answer["msg"]


def test_an_upgrade_brings_driver_and_kernel_at_once(shop: RunModule) -> None:
    image = "linux-image-generic-hwe-22.04"
    seen = but(RUNNING, packages={**RUNNING.packages, **packages(image, held=True)})
    answer = shop(Shop(), seen, upgrade=True)
    assert answer["plan"]["install"] == [*USERLAND, META, image]
    assert not answer["plan"]["settled"]
