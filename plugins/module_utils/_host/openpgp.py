# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the fingerprints of OpenPGP public keys, without gpg, which a small host may lack."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterator

_PUBLIC_KEY: t.Final = 6
_OLD_INDETERMINATE: t.Final = 3
_VERSION_4: t.Final = 4
_ARMOUR: t.Final = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?\r?\n\r?\n(.*?)(?:\r?\n=[A-Za-z0-9+/]{4})?\s*"
    rb"-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)


class NotAKeyError(Exception):
    """What was given is no OpenPGP public key."""


def dearmoured(content: bytes) -> bytes:
    """Return a key in its binary form, which every version of apt reads."""
    if not content.lstrip().startswith(b"-----BEGIN"):
        return content
    try:
        return b"".join(base64.b64decode(block) for block in _ARMOUR.findall(content))
    except binascii.Error as error:
        raise NotAKeyError(f"its armour is damaged: {error}") from error


def fingerprints(content: bytes) -> list[str]:
    """List the fingerprints of the primary keys, in capitals and without spaces."""
    found = [
        # RFC 4880, section 12.2
        hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()  # noqa: S324
        for tag, body in _packets(dearmoured(content))
        if tag == _PUBLIC_KEY and body[:1] == bytes([_VERSION_4])
    ]
    if not found:
        raise NotAKeyError("it holds no OpenPGP public key")
    return found


def _packets(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a key into its packets: RFC 4880, section 4.2."""
    position = 0
    try:
        while position < len(content):
            header = content[position]
            if not header & 0x80:
                raise NotAKeyError("it is not in OpenPGP's format")
            first = content[position + 1]
            if header & 0x40:  # new format
                tag = header & 0x3F
                if first < 192:  # noqa: PLR2004
                    size, skip = first, 2
                elif first < 224:  # noqa: PLR2004
                    size, skip = ((first - 192) << 8) + content[position + 2] + 192, 3
                else:
                    size, skip = int.from_bytes(content[position + 2 : position + 6], "big"), 6
            else:
                tag, kind = (header & 0x3C) >> 2, header & 0x03
                if kind == _OLD_INDETERMINATE:
                    raise NotAKeyError("a packet of it has no length")
                octets = 1 << kind
                size = int.from_bytes(content[position + 1 : position + 1 + octets], "big")
                skip = 1 + octets
            yield tag, content[position + skip : position + skip + size]
            position += skip + size
    except IndexError as error:
        raise NotAKeyError("it ends in the middle of a packet") from error
