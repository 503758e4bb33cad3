# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints as gpg itself computes them, without gpg."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.openpgp import (
    NotAKeyError,
    dearmoured,
    fingerprints,
)

UBUNTU = "F6ECB3762474EDA9D21B7022871920D1991BC93C"
BODY = b"\x04" + bytes(range(200)) * 2


def armoured(content: bytes) -> bytes:
    text = base64.b64encode(content)
    return (
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\n"
        + text
        + b"\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )


HEADERS = {
    "old format, two octets": b"\x99" + len(BODY).to_bytes(2, "big"),
    "old format, four octets": b"\x9a" + len(BODY).to_bytes(4, "big"),
    "new format, two octets": b"\xc6"
    + bytes([((len(BODY) - 192) >> 8) + 192, (len(BODY) - 192) & 0xFF]),
    "new format, five octets": b"\xc6\xff" + len(BODY).to_bytes(4, "big"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_every_way_to_write_a_length(header: bytes) -> None:
    expected = hashlib.sha1(b"\x99" + len(BODY).to_bytes(2, "big") + BODY).hexdigest().upper()  # noqa: S324
    user_id = b"\xb4\x03abc"
    assert fingerprints(header + BODY + user_id) == [expected]
    assert fingerprints(armoured(header + BODY + user_id)) == [expected]


def test_the_key_of_ubuntus_archive() -> None:
    key = Path(__file__).parents[5] / "tests" / "testbed" / "keys" / "ubuntu-archive-2018.asc"
    assert fingerprints(key.read_bytes()) == [UBUNTU]
    assert fingerprints(dearmoured(key.read_bytes())) == [UBUNTU]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no OpenPGP public key"),
        (b"<html>not found</html>", "not in OpenPGP's format"),
        (b"\xb4\x03abc", "no OpenPGP public key"),
        (b"\x99", "ends in the middle"),
        (b"\x9b\x04abc", "has no length"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "no OpenPGP public key"),
        (armoured(b"")[:50] + b"\n\nAAA\n-----END PGP PUBLIC KEY BLOCK-----", "armour is damaged"),
    ],
)
def test_what_is_no_key_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(NotAKeyError, match=complaint):
        fingerprints(content)
