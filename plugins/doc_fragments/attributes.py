# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that several modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """What every module says of check mode, diff mode and idempotence."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what would change, without changing it.
  diff_mode:
    description: Returns details of what has changed (or would change), when diff mode is on.
  idempotent:
    description: A second run with the same options, on an untouched host, changes nothing.
"""

    # Use together with the standard fragment in modules that only read.
    READ_ONLY = r"""
attributes:
  check_mode:
    support: full
    details: This module only reads, so it does the same in check mode.
  diff_mode:
    support: N/A
    details: This module only reads.
  idempotent:
    support: full
    details: This module never changes the host.
"""
