# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modprobe says, and what it means."""

from __future__ import annotations

import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.modules import nvidia_kernel_module

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

LOADED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.178.04  Mon Jul 20 2026\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a host: ``host(signer=..., complaint=...)``; a modprobe without complaint loads."""

    def make(signer: str = "Canonical Ltd. Kernel Module Signing", complaint: str = "") -> None:
        version = tmp_path / "proc" / "driver" / "nvidia" / "version"
        version.parent.mkdir(parents=True)

        def run(_unused: AnsibleModule, argv: list[str]) -> tuple[int, str, str]:
            if argv[0] == "modinfo":
                return 0, f"{signer}\n", ""
            assert argv == ["modprobe", "nvidia"]
            if complaint:
                return 1, "", f"modprobe: ERROR: could not insert 'nvidia': {complaint}\n"
            version.write_text(LOADED)
            return 0, "", ""

        monkeypatch.setattr(AnsibleModule, "run_command", run)
        monkeypatch.setenv("SPARERIG_TEST_SYSROOT", str(tmp_path))

    return make


def test_the_module_is_loaded_once(run_module: RunModule, host: Callable[..., None]) -> None:
    host()
    assert run_module(nvidia_kernel_module, check=True)["version"] == ""
    first = run_module(nvidia_kernel_module)
    assert (first["changed"], first["version"]) == (True, "580.178.04")
    assert first["signer"] == "Canonical Ltd. Kernel Module Signing"
    assert run_module(nvidia_kernel_module)["changed"] is False


@pytest.mark.parametrize(
    ("said", "failure", "words"),
    [
        (("x", "No such device"), "gpu-missing", "the module found no card that it can drive"),
        (
            ("", "Key was rejected by service"),
            "module-key-rejected",
            "the NVIDIA module is not signed",
        ),
        (("my PC", "Key was rejected by service"), "module-key-rejected", "signed by my PC"),
        (
            ("", "Module nvidia not found in directory /lib/modules/6"),
            "kernel-without-module",
            "Run",
        ),
        (("x", "Exec format error"), "driver-not-loaded", "Exec format error"),
    ],
)
def test_a_refusal_is_explained(
    run_module: RunModule,
    host: Callable[..., None],
    said: tuple[str, str],
    failure: str,
    words: str,
) -> None:
    host(*said)
    answer = run_module(nvidia_kernel_module)
    assert answer["failed"]
    assert answer["failure"] == failure
    assert words in answer["msg"]
    assert f"({failure}): " in answer["msg"]
