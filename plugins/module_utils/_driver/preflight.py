# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reason about a host and the driver it is to have: what stands in the way, and what to do.

Each function looks at one thing and returns one finding; none of them reads the host.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.compatibility import (
    ModulesConflictError,
    UnknownImageError,
    branch_drives,
    branch_for_cuda,
    choose_modules,
    cuda_of_driver,
    image_needs,
    show_version,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import (
    KernelState,
    Plan,
    Wish,
    holds,
    installed,
    kernel_metas,
    kernels,
    leftovers,
    missing,
    reboot_reasons,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    BFLOAT16_CAPABILITY,
    LEAST_CAPABILITY,
    OPEN,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import conflicting_sources

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._driver.state import (
        Foreign,
        LoadedDriver,
    )
    from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import PciCard
    from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import AptSource, Package

# The kernel series that each Ubuntu release came with; later ones are called HWE.
FIRST_SERIES: t.Final[Mapping[str, str]] = {"22.04": "5.15", "24.04": "6.8"}


@dataclass(frozen=True)
class Request:
    """What the host is to have."""

    branch: str
    modules: str  # auto, open or proprietary
    dkms: bool
    desktop: bool
    flavour: str
    image: str
    state: str  # present, unmanaged (somebody else's) or absent
    running: bool  # whether the driver has to run by now
    upgrade: bool

    @property
    def managed(self) -> bool:
        """Whether the driver is ours to install."""
        return self.state == "present"


@dataclass(frozen=True)
class Seen:
    """What the host has."""

    system: str  # ubuntu 22.04
    cards: Sequence[PciCard]
    loaded: LoadedDriver
    kernel: str
    packages: Mapping[str, Package]
    interrupted: bool
    secure_boot: bool | None
    foreign: Sequence[Foreign] = ()
    sources: Sequence[AptSource] = ()
    snap_docker: bool = False
    ours: bool = False  # whether this role put its holds on the driver before
    lock_waited: float = 0.0
    lock_holder: str = ""
    key_enrolled: bool | None = None  # the key that DKMS signs with
    slept: int = 0
    xid_79: str = ""
    module_on_disk: bool = False  # for the running kernel

    @property
    def ubuntu(self) -> str:
        """The Ubuntu release; empty on another system or on one that is not supported."""
        name, _unused, version = self.system.partition(" ")
        return version if name == "ubuntu" and version in FIRST_SERIES else ""


def judge_cards(seen: Seen) -> Check:
    """Look for a card, and name it."""
    expected = "an NVIDIA card on the PCI bus"
    if not seen.cards:
        return Check.failed("card", "gpu-missing", expected=expected, seen="none")
    shown = "; ".join(card.label for card in seen.cards)
    return Check.passed("card", expected=expected, seen=shown)


def judge_card_age(seen: Seen, request: Request) -> Check:
    """Compare the cards with the driver branch, and with what the image has code for."""
    try:
        needs = image_needs(request.image) if request.image else None
    except UnknownImageError:
        needs = None
    capability = needs.capability if needs else LEAST_CAPABILITY
    expected = f"compute capability {show_version(capability)} or more, for vLLM"
    for card in seen.cards:
        has = f"{card.label} has compute capability {show_version(card.capability)}"
        if request.managed and not branch_drives(request.branch, card):
            last = card.generation.last_branch
            failure = describe(
                "card-too-old",
                cause=f"{card.generation.name} cards end with branch {last},"
                f" and branch {request.branch} is wanted.",
                advice=""
                if card.capability < capability
                else f"Set nvidia_driver_branch: '{last}'.",
            )
            known = f"a card that driver branch {request.branch} knows"
            return Check.failed("card-age", failure, expected=known, seen=has)
        if card.capability < capability:
            return Check.failed("card-age", "card-too-old", expected=expected, seen=has)
    note = "".join(
        f"; {card.name} computes bfloat16 models as float16 (--dtype half)"
        for card in seen.cards
        if card.capability < BFLOAT16_CAPABILITY
    )
    shown = ", ".join(map(_capability, seen.cards)) + note
    return Check.passed("card-age", expected=expected, seen=shown)


def _capability(card: PciCard) -> str:
    return f"{card.name} has {show_version(card.capability)}"


def judge_image(seen: Seen, request: Request) -> Check:
    """Compare the CUDA version that the image needs with what the driver offers."""
    name = "driver-for-image"
    if not request.image:
        return Check.skipped(name, "no image was named")
    try:
        needs = image_needs(request.image)
    except UnknownImageError as error:
        return Check.unknown(
            name,
            expected="an image whose CUDA version is known",
            seen=f"{error}",
            cause="Only vLLM's own release tags say which CUDA version they need.",
            remedy="`docker image inspect IMAGE` shows CUDA_VERSION among the image's environment.",
        )
    if needs is None:
        return Check.skipped(name, f"{request.image} runs on the CPU")
    driver = _judged_driver(seen, request)
    offered = cuda_of_driver(driver)
    expected = f"CUDA {show_version(needs.cuda)}, which {request.image} is built for"
    shown = f"driver {driver or 'none'} offers CUDA {show_version(offered) if offered else 'none'}"
    if offered and offered >= needs.cuda:
        return Check.passed(name, expected=expected, seen=shown)
    if not driver:
        cause = "It is not ours to install."
        return Check.unknown(name, expected=expected, seen="no driver", cause=cause)
    branch = branch_for_cuda(needs.cuda)
    geforce = [card.name for card in seen.cards if card.geforce]
    bridge = (
        f" NVIDIA's compatibility packages do not work on {' and '.join(geforce)}."
        if geforce
        else ""
    )
    failure = describe(
        "driver-too-old-for-image",
        cause=f"{request.image} needs CUDA {show_version(needs.cuda)} and the driver"
        f" ({driver}) offers {show_version(offered) if offered else 'less than 12.0'}.{bridge}",
        advice=f"Set nvidia_driver_branch: '{branch}', or choose a vLLM image that is built for"
        f" CUDA {show_version(offered) if offered else '12'} or less.",
    )
    return Check.failed(name, failure, expected=expected, seen=shown)


def _judged_driver(seen: Seen, request: Request) -> str:
    """Say which driver the image will meet: the wanted one, or what is there."""
    if request.managed and not request.running:
        return request.branch
    return seen.loaded.nvidia or seen.loaded.library


def judge_system(seen: Seen) -> Check:
    """Tell whether Canonical's modules exist for this system."""
    expected = "Ubuntu " + " or ".join(FIRST_SERIES)
    if seen.ubuntu:
        return Check.passed("system", expected=expected, seen=seen.system)
    return Check.failed("system", "system-unsupported", expected=expected, seen=seen.system)


def judge_foreign(seen: Seen) -> Check:
    """Refuse to install over a driver of another origin."""
    name, expected = "driver-origin", "a driver from Ubuntu's archive, or none"
    if not seen.foreign:
        return Check.passed(name, expected=expected, seen="no other")
    failure = describe(
        "foreign-driver",
        cause=f"A driver from {' and from '.join(one.origin for one in seen.foreign)} is installed;"
        " two drivers overwrite each other's files.",
        advice="; ".join(one.remedy for one in seen.foreign) + ". Then run again.",
    )
    shown = "; ".join(f"{one.origin}: {one.what}" for one in seen.foreign)
    return Check.failed(name, failure, expected=expected, seen=shown)


def judge_docker(*, snap: bool) -> Check:
    """Refuse Docker from snap."""
    expected = "no Docker from snap"
    if not snap:
        return Check.passed("docker", expected=expected, seen="none")
    return Check.failed("docker", "docker-from-snap", expected=expected, seen="/snap/bin/docker")


def judge_sources(seen: Seen) -> Check:
    """Look for files that make apt refuse all its lists."""
    name, expected = "apt-sources", "one key for each of NVIDIA's repositories"
    pairs = conflicting_sources(seen.sources)
    if not pairs:
        return Check.passed(name, expected=expected, seen="no conflict")
    first, second = pairs[0]
    failure = describe(
        "conflicting-signed-by",
        {"file": _older(first, second)},
        cause=f"{first.file} and {second.file} give {first.uri} different keys, and apt refuses"
        " to read any list because of that.",
    )
    shown = (
        f"{first.uri} in {first.file} ({first.signed_by or 'no key named'})"
        f" and in {second.file} ({second.signed_by or 'no key named'})"
    )
    return Check.failed(name, failure, expected=expected, seen=shown)


def _older(first: AptSource, second: AptSource) -> str:
    """Choose which of two files goes: the one that is not the collection's own."""
    return second.file if "sparerig" in first.file else first.file


def judge_lock(seen: Seen, timeout: float) -> Check:
    """Say who kept apt busy, and for how long."""
    name, expected = "apt-lock", "apt's lock free"
    if seen.lock_holder and seen.lock_waited >= timeout:
        advice = f"Wait until {seen.lock_holder} has ended, then run again."
        shown = f"held by {seen.lock_holder} for {seen.lock_waited:.0f} s"
        failure = describe("apt-locked", advice=advice)
        return Check.failed(name, failure, expected=expected, seen=shown)
    waited = f"free after {seen.lock_waited:.0f} s; {seen.lock_holder} had it"
    return Check.passed(name, expected=expected, seen=waited if seen.lock_holder else "free")


def judge_holds(seen: Seen, wish: Wish) -> Check:
    """Look for somebody else's hold on a package that has to change."""
    name, expected = "held-packages", "no hold on what has to change"
    blocking = [name for name in leftovers(seen.packages, wish) if seen.packages[name].held]
    if seen.ours or not blocking:
        shown = "only ours" if seen.ours else "none"
        return Check.passed(name, expected=expected, seen=shown)
    packages = " ".join(blocking)
    failure = describe(
        "held-package",
        {"packages": packages},
        cause=f"{packages} would have to be removed for branch {wish.branch}, and is on hold.",
    )
    return Check.failed(name, failure, expected=expected, seen=packages)


def judge_secure_boot(seen: Seen, wish: Wish) -> Check:
    """Under Secure Boot only Canonical's modules load, or those whose key the owner enrolled."""
    name = "secure-boot"
    state = {True: "on", False: "off", None: "not known"}[seen.secure_boot]
    if not wish.dkms:
        expected = "on or off: Canonical signed the modules"
        return Check.passed(name, expected=expected, seen=state)
    if not seen.secure_boot:
        return Check.passed(name, expected="off, for modules built on the host", seen=state)
    if seen.key_enrolled:
        enrolled = "on, key enrolled"
        return Check.passed(name, expected="the host's own key enrolled", seen=enrolled)
    return Check.failed(
        name,
        "module-key-rejected",
        expected="the host's own key enrolled, for modules built on the host",
        seen="Secure Boot is on, key /var/lib/shim-signed/mok/MOK.der is not enrolled",
    )


def judge_kernel(seen: Seen, wish: Wish, *, needed: bool) -> Check:
    """Look whether the kernel that boots next has its module."""
    name = "kernel-module"
    boots = ([seen.kernel] if not kernels(seen.packages) else kernels(seen.packages))[-1]
    package = wish.modules_for(boots)
    expected = f"{package}, for the kernel that boots next"
    if wish.dkms:
        shown = f"kernel {boots} boots next"
        return Check.unknown(name, expected="modules built by DKMS", seen=shown)
    if installed(seen.packages, package):
        shown = f"{package} {seen.packages[package].version}"
        return Check.passed(name, expected=expected, seen=shown)
    if not needed:
        return Check.unknown(name, expected=expected, seen="not installed yet")
    cause = f"Kernel {boots} boots next and its package {package} is not installed."
    failure = describe("kernel-without-module", cause=cause)
    return Check.failed(name, failure, expected=expected, seen="not installed")


def judge_loaded(seen: Seen, *, needed: bool) -> list[Check]:
    """Look at what the kernel has loaded: needed after the installation, only told before it."""
    checks = []
    loaded = seen.loaded
    if loaded.nouveau:
        found = Check.failed("nouveau", "nouveau-loaded", expected="not loaded", seen="loaded")
        checks.append(found if needed else found.not_yet())
    else:
        checks.append(Check.passed("nouveau", expected="not loaded", seen="not loaded"))
    name, expected = "driver-versions", "one version"
    if loaded.mismatched:
        failure = describe(
            "driver-library-mismatch",
            cause=f"Kernel module {loaded.nvidia} is loaded and the libraries are"
            f" {loaded.library}: the packages were changed and the PC was not rebooted since."
            " Containers that run already go on working; the next one that starts fails.",
        )
        shown = f"kernel module {loaded.nvidia}, libraries {loaded.library}"
        found = Check.failed(name, failure, expected=expected, seen=shown)
        checks.append(found if needed else found.not_yet())
    elif needed and not loaded.nvidia:
        shown = f"not loaded in kernel {seen.kernel}"
        expected = "the NVIDIA kernel module loaded"
        checks.append(Check.failed(name, "driver-not-loaded", expected=expected, seen=shown))
    else:
        shown = (
            f"kernel module {loaded.nvidia or 'not loaded'},"
            f" libraries {loaded.library or 'not installed'}"
        )
        checks.append(Check.passed(name, expected=expected, seen=shown))
    return checks


def judge_past(seen: Seen) -> list[Check]:
    """Look for what happened since the boot: a sleep, a card that went away."""
    checks = []
    name, expected = "card-health", "no Xid 79 in the kernel log since the boot"
    if seen.xid_79:
        checks.append(
            Check.failed(name, "gpu-fell-off-the-bus", expected=expected, seen=seen.xid_79)
        )
    else:
        checks.append(Check.passed(name, expected=expected, seen="none"))
    name, expected = "sleep", "awake since the boot"
    if seen.slept and seen.loaded.nvidia:
        times = f"slept {seen.slept} time{'s' if seen.slept > 1 else ''}"
        slept = Check.failed(name, "gpu-lost-after-suspend", expected=expected, seen=times)
        # It happens often, not always.
        checks.append(slept.not_yet())
    else:
        checks.append(Check.passed(name, expected=expected, seen="awake"))
    return checks


@dataclass(frozen=True)
class Verdict:
    """All findings, and the plan that follows."""

    findings: Sequence[Check]
    wish: Wish
    plan: Plan
    settled: bool
    reboot: Sequence[str] = ()
    load: bool = False
    hold: Sequence[str] = ()
    unhold: Sequence[str] = ()

    @property
    def failures(self) -> list[Check]:
        """The findings that stop a deployment."""
        return [finding for finding in self.findings if finding.status == "fail"]


def judge(seen: Seen, request: Request, lock_timeout: float) -> Verdict:
    """Look at everything that can be known without asking the archive."""
    if request.state == "absent":
        return _plan_removal(seen, request)
    findings = [judge_cards(seen)]
    modules = request.modules
    if modules == "auto":
        try:
            modules = choose_modules(seen.cards, request.branch)
        except ModulesConflictError as error:
            modules = OPEN
            findings.append(_judge_mix(seen, str(error)))
    wish = Wish(request.branch, modules, request.dkms, request.desktop, request.flavour)
    if seen.cards:
        findings += [judge_card_age(seen, request), judge_image(seen, request)]
    findings.append(judge_docker(snap=seen.snap_docker))
    if request.managed:
        findings += [
            judge_system(seen),
            judge_foreign(seen),
            judge_sources(seen),
            judge_lock(seen, lock_timeout),
            judge_holds(seen, wish),
            judge_secure_boot(seen, wish),
            judge_kernel(seen, wish, needed=request.running),
        ]
    findings += judge_loaded(seen, needed=request.running)
    findings += judge_past(seen)
    if not request.managed:
        return Verdict(findings, wish, Plan(boots=_boots(seen)), settled=True)
    return _plan_installation(seen, request, wish, findings)


def _judge_mix(seen: Seen, complaint: str) -> Check:
    cards = "; ".join(card.label for card in seen.cards)
    failure = describe("mixed-cards", cause=f"{complaint[0].upper()}{complaint[1:]}.")
    expected = "cards that one kernel module drives"
    return Check.failed("cards-together", failure, expected=expected, seen=cards)


def _boots(seen: Seen) -> str:
    """Name the kernel that boots next."""
    present = kernels(seen.packages)
    return present[-1] if present else seen.kernel


def _plan_installation(
    seen: Seen, request: Request, wish: Wish, findings: Sequence[Check]
) -> Verdict:
    lacks = missing(wish, seen.packages, seen.kernel)
    purge = leftovers(seen.packages, wish)
    state = KernelState(
        running=seen.kernel,
        boots=_boots(seen),
        running_has_module=seen.module_on_disk,
        loaded=seen.loaded.nvidia,
        nouveau=seen.loaded.nouveau,
    )
    reboot = [] if lacks else reboot_reasons(state, seen.loaded.library)
    hold = [] if lacks else [n for n in holds(wish, seen.packages) if not seen.packages[n].held]
    return Verdict(
        findings,
        wish,
        Plan(install=lacks, purge=purge, boots=state.boots),
        settled=not (lacks or purge or hold or seen.interrupted or request.upgrade),
        reboot=reboot,
        load=not (lacks or reboot or seen.loaded.nvidia),
        hold=hold,
        unhold=[name for name in purge if seen.packages[name].held],
    )


def _plan_removal(seen: Seen, request: Request) -> Verdict:
    """Plan to give the PC back: everything of the driver goes, kernels change freely again."""
    purge = leftovers(seen.packages, None)
    unhold = [name for name in kernel_metas(seen.packages) if seen.packages[name].held]
    return Verdict(
        findings=(),
        wish=Wish(request.branch, OPEN),
        plan=Plan(purge=purge, boots=_boots(seen)),
        settled=not (purge or unhold or seen.interrupted),
        reboot=["the removed driver is still loaded"] if seen.loaded.nvidia else [],
        unhold=unhold,
    )
