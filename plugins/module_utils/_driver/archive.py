# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choose the packages of a driver by what the distribution's archive has, and can send just now."""

from __future__ import annotations

import re
import typing as t
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import (
    OF_INTEREST,
    NoModuleError,
    Offer,
    Plan,
    candidates,
    follow_flavour,
    installed,
    kernel_metas,
    transitional,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.preflight import FIRST_SERIES
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import parse_stanzas

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import (
        Candidate,
        Wish,
    )
    from ansible_collections.sparerig.llm.plugins.module_utils._driver.preflight import (
        Request,
        Seen,
        Verdict,
    )
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_APT_TIMEOUT: t.Final = 120.0


class AptError(Exception):
    """Apt can't answer; the text is its own complaint."""


@dataclass(frozen=True)
class Download:
    """A file that apt would fetch."""

    url: str
    size: int


class Archive:
    """The distribution's archive, as the host's apt sees it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _apt(self, *argv: str) -> str:
        answer = self._host.run(argv, timeout=_APT_TIMEOUT)
        if answer is None:
            raise AptError(f"there is no program {argv[0]}")
        if not answer.ok:
            raise AptError(f"`{' '.join(argv)}` ended with {answer.rc}: {answer.stderr.strip()}")
        return answer.stdout

    def offer(self, names: Sequence[str]) -> Offer:
        """Ask what there is of these packages, and the names of all NVIDIA kernel modules."""
        known = frozenset(self._apt("apt-cache", "pkgnames", "linux-modules-nvidia-").split())
        headless = self._apt("apt-cache", "pkgnames", "nvidia-headless-no-dkms-").split()
        existing = [name for name in names if name in known or name in headless]
        shown = self._apt("apt-cache", "show", "--no-all-versions", *existing) if existing else ""
        return Offer(packages=parse_stanzas(shown, OF_INTEREST), names=known | frozenset(headless))

    def downloads(self, names: Sequence[str]) -> list[Download]:
        """List the files that installing these packages would fetch; none of them is fetched.

        A name with a minus sign at its end is to be removed.
        """
        text = self._apt(
            "apt-get",
            "install",
            "--print-uris",
            "--yes",
            "--no-install-recommends",
            "--allow-change-held-packages",
            "-o",
            "Debug::NoLocking=1",
            *names,
        )
        return [
            Download(url, int(size))
            for url, size in re.findall(r"^'([^']+)' \S+ (\d+) ", text, re.MULTILINE)
        ]

    def unsent(self, downloads: Iterable[Download], timeout: float = 20.0) -> list[str]:
        """List the files that the archive says it does not have, by asking for their heads.

        Any other trouble is left to apt, which knows more ways to a file than we do. By urllib and
        not by _host/http.py, which knows no proxies and follows no redirects, as mirrors have them.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(self._proxies()))

        def is_missing(url: str) -> bool:
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http(s) only, below
            try:
                opener.open(request, timeout=timeout).close()
            except urllib.error.HTTPError as error:
                return error.code in {403, 404, 410}
            except OSError:
                return False
            return False

        urls = [d.url for d in downloads if d.url.startswith(("http://", "https://"))]
        with ThreadPoolExecutor(max_workers=8) as pool:
            return [url for url, gone in zip(urls, pool.map(is_missing, urls), strict=True) if gone]

    def _proxies(self) -> dict[str, str]:
        """Read which proxy apt goes through."""
        text = self._apt("apt-config", "dump")
        found = re.findall(r'^Acquire::(https?)::Proxy "(.+)";', text, re.MULTILINE)
        return {scheme: proxy for scheme, proxy in found if proxy != "DIRECT"}


class ArchiveView(t.Protocol):
    """What is asked of an archive."""

    def offer(self, names: Sequence[str]) -> Offer:
        """Say what there is of these packages."""

    def downloads(self, names: Sequence[str]) -> list[Download]:
        """List the files that installing these packages would fetch."""

    def unsent(self, downloads: Iterable[Download]) -> list[str]:
        """List the files that the archive lists and does not have."""


def consult(verdict: Verdict, seen: Seen, request: Request, archive: ArchiveView) -> Verdict:
    """Settle on packages that the archive can send all of, or say why there are none."""
    flavour = request.flavour or follow_flavour(
        seen.packages, seen.kernel, seen.ubuntu, FIRST_SERIES[seen.ubuntu]
    )
    wish = replace(verdict.wish, flavour=flavour)
    try:
        offer = archive.offer([*wish.userland, wish.modules_for(flavour)])
        finding = _judge_branch(wish, offer)
        if finding.status == "fail":
            return _with(verdict, wish, finding)
        ways = candidates(wish, seen.packages, offer, seen.kernel)
        finding, plan = _first_delivered(verdict, seen, request, archive, ways)
    except NoModuleError as error:
        finding, plan = _no_module(error, seen), verdict.plan
    except AptError as error:
        finding, plan = _apt_complains(error), verdict.plan
    return _with(verdict, wish, finding, plan)


def _with(verdict: Verdict, wish: Wish, finding: Check, plan: Plan | None = None) -> Verdict:
    return replace(
        verdict, findings=[*verdict.findings, finding], wish=wish, plan=plan or verdict.plan
    )


def _judge_branch(wish: Wish, offer: Offer) -> Check:
    """Tell whether the archive has the wanted branch, and not only its name."""
    name, expected = "branch", f"driver branch {wish.branch} in the archive"
    package = offer.packages.get(wish.userland[0])
    if package is None:
        found = {
            match[1]
            for other in offer.names
            if (match := re.fullmatch(r"nvidia-headless-no-dkms-(\d+)-server(-open)?", other))
        }
        branches = ", ".join(sorted(found)) or "none: `sudo apt-get update` first"
        failure = describe(
            "branch-unknown",
            cause=f"The archive has no package {wish.userland[0]}.",
            advice=f"Set nvidia_driver_branch to one of these: {branches}.",
        )
        return Check.failed(name, failure, expected=expected, seen=f"branches {branches}")
    real = transitional(package, wish.branch)
    if real:
        shown = f"{package.name} {package.version} installs branch {real}"
        failure = describe(
            "branch-transitional",
            cause=f"The archive ended branch {wish.branch}: {shown}.",
            advice=f"Set nvidia_driver_branch: '{real}'.",
        )
        return Check.failed(name, failure, expected=expected, seen=shown)
    return Check.passed(name, expected=expected, seen=f"{package.name} {package.version}")


def _first_delivered(
    verdict: Verdict,
    seen: Seen,
    request: Request,
    archive: ArchiveView,
    ways: Sequence[Candidate],
) -> tuple[Check, Plan]:
    """Take the first way whose files the archive has, every one."""
    expected = "every file that the packages are made of"
    unsent: list[str] = []
    refused: AptError | None = None
    for way in ways:
        names = list(way.install)
        if request.upgrade:
            names += kernel_metas(seen.packages)
        # What is held is removed only where apt is told so by name.
        try:
            downloads = archive.downloads([*names, *(f"{name}-" for name in verdict.unhold)])
        except AptError as error:
            # A mirror that is half updated lists packages, and not yet what they need.
            refused = refused or error
            continue
        gone = archive.unsent(downloads)
        if gone:
            unsent = unsent or gone
            continue
        size = sum(download.size for download in downloads) / 1e6
        shown = f"{len(downloads)} files, {size:.0f} MB; kernel {way.boots} boots then"
        if unsent:
            shown += f" (not the archive's newest: {_short(unsent)} can't be had)"
        missing = [n for n in names if request.upgrade or not installed(seen.packages, n)]
        plan = replace(
            verdict.plan,
            install=missing,
            boots=way.boots,
        )
        return Check.passed("archive", expected=expected, seen=shown), plan
    if refused and not unsent:
        raise refused
    failure = describe(
        "archive-incomplete",
        cause=f"The archive lists packages that it can't send: {_short(unsent)}."
        " Without them the kernel that boots next would have no NVIDIA module.",
        advice="Wait some hours and run again, or use another mirror"
        f"{_other_kernel(verdict, seen)}.",
    )
    shown = f"missing: {_short(unsent)}"
    return Check.failed("archive", failure, expected=expected, seen=shown), verdict.plan


def _other_kernel(verdict: Verdict, seen: Seen) -> str:
    """Offer Ubuntu's newer kernel series where the host follows the first one."""
    hwe = f"generic-hwe-{seen.ubuntu}"
    if verdict.wish.flavour == hwe:
        return ""
    return f", or move to the newer kernel series with nvidia_driver_kernel_flavour: {hwe}"


def _short(urls: Sequence[str]) -> str:
    names = [url.rpartition("/")[2] for url in urls]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""  # noqa: PLR2004
    return ", ".join(names[:2]) + more


def _no_module(error: NoModuleError, seen: Seen) -> Check:
    failure = describe(
        "kernel-without-module",
        cause=f"Kernel {error.kernel} would boot next, and the archive has no {error.package}.",
        advice=f"Install one of Ubuntu's own kernels (`sudo apt-get install"
        f" linux-image-generic-hwe-{seen.ubuntu}`), remove {error.kernel}, and run again;"
        " or have the module built on the host with nvidia_driver_dkms: true.",
    )
    expected = f"{error.package} in the archive"
    return Check.failed("archive", failure, expected=expected, seen="not there")


def _apt_complains(error: AptError) -> Check:
    failure = describe("archive-incomplete", cause=f"{error}.")
    return Check.failed("archive", failure, expected="an answer from apt", seen=str(error))
