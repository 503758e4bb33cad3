# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apt and dpkg know: packages, interrupted installations, repositories, locks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host import apt
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import parse_stanzas
from stand_ins import FakeHost


def test_parse_stanzas() -> None:
    text = (
        "Package: nvidia-utils-580-server\nStatus: hold ok installed\nArchitecture: amd64\n"
        "Version: 580.178.04-0ubuntu0.22.04.1\nDepends: a, b\n\n"
        "Package: libnvidia-compute-580\nStatus: deinstall ok config-files\nArchitecture: i386\n"
        "Version: 1\n\nPackage: bash\nStatus: install ok installed\nVersion: 5\n\n"
        "Package: nvidia-utils-580-server\nVersion: 570\n"
    )
    found = parse_stanzas(text, re.compile("nvidia"))
    assert list(found) == ["nvidia-utils-580-server", "libnvidia-compute-580:i386"]
    assert found["nvidia-utils-580-server"].version == "580.178.04-0ubuntu0.22.04.1"
    assert found["nvidia-utils-580-server"].held
    assert found["nvidia-utils-580-server"].depends == "a, b"
    assert found["libnvidia-compute-580:i386"].state == "config-files"


@pytest.mark.parametrize(
    ("states", "updates", "interrupted"),
    [
        (["installed", "config-files"], [], False),
        (["installed", "half-configured"], [], True),
        (["unpacked"], [], True),
        (["half-installed"], [], True),
        (["triggers-pending"], [], True),
        (["installed"], ["0001"], True),
        (["installed"], ["tmp.i"], False),
    ],
)
def test_dpkg_interrupted(states: list[str], updates: list[str], *, interrupted: bool) -> None:
    host = FakeHost(files={f"/var/lib/dpkg/updates/{name}": "" for name in updates})
    status = "".join(f"Package: p\nStatus: install ok {state}\n\n" for state in states)
    host.files["/var/lib/dpkg/status"] = status
    assert apt.dpkg_interrupted(host) is interrupted


TOOLKIT = "https://nvidia.github.io/libnvidia-container/stable/deb"
ONE = f"deb [signed-by=/k/one.gpg] {TOOLKIT}/$(ARCH) /\n# deb http://x y\n"
TWO = f"Types: deb\nURIs: {TOOLKIT}/amd64/\nSuites: /\nSigned-By:\n -----BEGIN\n .\n -----END\n"


@pytest.mark.parametrize(
    ("files", "conflict"),
    [
        ({"a.list": ONE}, False),
        ({"a.list": ONE, "b.list": ONE}, False),
        ({"a.list": ONE, "b.sources": TWO}, True),
        ({"a.list": ONE, "b.sources": f"Enabled: no\n{TWO}"}, False),
        ({"a.list": ONE, "b.list": f"deb {TOOLKIT}/amd64 /\n"}, True),
        ({"a.list": ONE, "b.list": "deb [signed-by=/k/b] https://example.org/deb /\n"}, False),
        ({"a.list": ONE, "b.list.save": f"deb {TOOLKIT}/amd64 /\n"}, False),
    ],
)
def test_conflicting_sources(files: dict[str, str], *, conflict: bool) -> None:
    host = FakeHost(files={f"/etc/apt/sources.list.d/{name}": text for name, text in files.items()})
    assert bool(apt.conflicting_sources(apt.read_apt_sources(host))) is conflict


def test_the_holder_of_apts_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock-frontend"
    monkeypatch.setattr(apt, "_DPKG_LOCKS", (str(tmp_path / "absent"), str(lock)))
    lock.touch()
    assert apt.apt_lock_holder() == ""
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+');"
        " fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        assert apt.apt_lock_holder() == f"{name} (process {holder.pid})"
        holder.communicate()
    assert apt.apt_lock_holder() == ""


def test_apt_sources_are_read_of_whoever_they_are() -> None:
    files: dict[str, str | bytes] = {
        "/etc/apt/sources.list": "deb http://archive.example/ubuntu jammy main\n",
        "/etc/apt/sources.list.d/a.sources": TWO,
    }
    found = apt.read_apt_sources(FakeHost(files=files))
    assert [source.uri for source in found] == [
        "http://archive.example/ubuntu",
        f"{TOOLKIT}/amd64",
    ]
