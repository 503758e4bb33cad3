# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One controller for each ansible-core."""

from __future__ import annotations

import typing as t

import pytest

from cores.controllers import CORES, controller, interpreter

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session", params=CORES)
def programs(request: pytest.FixtureRequest) -> Path:
    """Where the programs of an ansible-core are."""
    python = interpreter(CORES[request.param])
    if python is None:
        pytest.skip(f"ansible-core {request.param} wants one of Python {CORES[request.param]}")
    return controller(request.param, python)
