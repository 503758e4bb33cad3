# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build container is lent from the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.machine import ca_bundle, pip_settings

LISTING = """\
:env:.find-links='/wheels'
global.extra-index-url='file:///mirror/simple https://packages.example/simple'
global.find-links='/old'
global.constraint='/etc/constraints.txt'
list.format='columns'
"""


@pytest.mark.parametrize(
    ("listing", "environment", "variables", "mounts"),
    [
        pytest.param("", {}, {}, [], id="nothing set"),
        pytest.param(
            LISTING,
            {"https_proxy": "http://proxy.example:3128", "HOME": "/root"},
            {
                "PIP_EXTRA_INDEX_URL": "file:///mirror/simple https://packages.example/simple",
                "PIP_FIND_LINKS": "/wheels",
                "https_proxy": "http://proxy.example:3128",
            },
            [Path("/mirror"), Path("/wheels")],
            id="environment wins, constraints stay out, an index brings the files beside it",
        ),
        pytest.param(
            "global.index-url='https://index.example/simple'\n",
            {},
            {"PIP_INDEX_URL": "https://index.example/simple"},
            [],
            id="an index elsewhere needs no folder",
        ),
    ],
)
def test_pip_settings(
    listing: str, environment: dict[str, str], variables: dict[str, str], mounts: list[Path]
) -> None:
    assert pip_settings(listing, environment) == (variables, mounts)


def test_ca_bundle_of_pip_comes_first(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.crt", tmp_path / "other.crt"
    mine.touch()
    other.touch()
    assert ca_bundle(f"global.cert='{mine}'\n", {"SSL_CERT_FILE": str(other)}) == mine
    assert ca_bundle("", {"SSL_CERT_FILE": str(other)}) == other
    assert ca_bundle(f"global.cert='{tmp_path}/gone'\n", {}) is None
