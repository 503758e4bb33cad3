# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which vLLM an image holds, and whether it is one that was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import versions

ROOT = Path(__file__).parents[5]
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/vllm/vllm-openai:v0.33.0", "0.33.0"),
        ("vllm/vllm-openai:0.33.0", "0.33.0"),
        ("vllm/vllm-openai:v0.33.1.post2", "0.33.1"),
        ("vllm/vllm-openai:v0.32.0-cu129", "0.32.0"),
        ("vllm/vllm-openai:v0.29.0-cu129-ubuntu2404", "0.29.0"),
        ("vllm/vllm-openai-cpu:v0.32.0-x86_64", "0.32.0"),
        (f"registry:5000/vllm-openai-cpu:v0.32.0@{DIGEST}", "0.32.0"),
        ("registry.lan:5000/vllm-openai:v0.33.0", "0.33.0"),
        (f"vllm/vllm-openai@{DIGEST}", None),
        (f"registry.lan:5000/vllm-openai@{DIGEST}", None),
        (DIGEST, None),
        ("vllm/vllm-openai:latest", None),
        ("vllm/vllm-openai:nightly", None),
        ("vllm/vllm-openai:nightly-4ba787ec9a0c0d3e", None),
        ("vllm/vllm-openai:v0.34.0rc1", None),
        ("vllm/vllm-openai", None),
        ("registry.lan:5000/vllm-openai", None),
        ("", None),
    ],
)
def test_the_version_of_an_image(image: str, version: str | None) -> None:
    assert versions.vllm_version(image) == version


@pytest.mark.parametrize(
    "image",
    [
        "docker.io/vllm/vllm-openai:v0.33.0",
        f"registry.lan:5000/vllm-openai:v0.33.2@{DIGEST}",
        f"registry:5000/vllm-openai-cpu:v0.32.0@{DIGEST}",
    ],
)
def test_a_measured_version_needs_no_warning(image: str) -> None:
    assert versions.version_warning(image) == ""


@pytest.mark.parametrize(
    ("image", "said", "measured"),
    [
        ("vllm/vllm-openai:v0.34.0", "is vLLM 0.34.0:", "0.33 (cuda)"),
        # What was measured on a processor says nothing about a card, and the reverse.
        ("vllm/vllm-openai:v0.32.0-cu129", "is vLLM 0.32.0:", "0.33 (cuda)"),
        ("vllm/vllm-openai-cpu:v0.33.0", "is vLLM 0.33.0:", "0.32 (cpu)"),
        # 0.3 and 0.330 are not 0.33.
        ("vllm/vllm-openai:v0.3.3", "is vLLM 0.3.3:", "0.33 (cuda)"),
        ("vllm/vllm-openai:v0.330.0", "is vLLM 0.330.0:", "0.33 (cuda)"),
        ("vllm/vllm-openai:latest", "does not say which vLLM it holds:", "0.33 (cuda)"),
        (f"vllm/vllm-openai@{DIGEST}", "does not say which vLLM it holds:", "0.33 (cuda)"),
    ],
)
def test_another_version_is_warned_of(image: str, said: str, measured: str) -> None:
    warning = versions.version_warning(image)
    assert warning.startswith(f"{image} {said} ")
    assert f"were measured with {measured} " in warning
    assert warning.endswith(".")
    assert "\n" not in warning


def test_the_pinned_images_were_measured() -> None:
    devices = yaml.safe_load((ROOT / "roles" / "vllm" / "vars" / "main.yml").read_text())
    for device, settings in devices["__vllm_devices"].items():
        assert versions.device_of(settings["image"]) == device
        assert versions.version_warning(settings["image"]) == ""
