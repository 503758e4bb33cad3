# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give a module its arguments in the same process, with every ansible-core that is tested."""

from __future__ import annotations

import json
import typing as t
from contextlib import contextmanager

from ansible.module_utils import basic

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17

    @contextmanager
    def patch_module_args(args: dict[str, t.Any] | None = None) -> t.Generator[None, None, None]:
        """Let the next AnsibleModule read these arguments."""
        before = basic._ANSIBLE_ARGS  # noqa: SLF001
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()  # noqa: SLF001
        try:
            yield
        finally:
            basic._ANSIBLE_ARGS = before  # noqa: SLF001


__all__ = ["patch_module_args"]
