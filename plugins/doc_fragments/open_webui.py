# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options that every module for Open WebUI has."""

from __future__ import annotations


class ModuleDocFragment:
    """How to reach Open WebUI, and as whom."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - Where Open WebUI listens, as seen from the host that the task runs on.
      - Set once for all modules with C(module_defaults) and the group C(sparerig.llm.open_webui).
    type: str
    default: http://127.0.0.1:8080
  email:
    description:
      - The e-mail address of an administrator.
      - Left out, it is the C(WEBUI_ADMIN_EMAIL) of O(credentials_file).
    type: str
  password:
    description:
      - The password of O(email).
      - Exactly one of O(password) and O(credentials_file) is needed.
    type: str
  credentials_file:
    description:
      - A file on the host with the line C(WEBUI_ADMIN_PASSWORD=...) and, when O(email) is left out,
        C(WEBUI_ADMIN_EMAIL=...). The role P(sparerig.llm.open_webui#role) makes one,
        C(/etc/sparerig/sparerig-open-webui.secrets.env), with the password alone.
      - The password then never leaves the host. The session is kept beside it, in a file of the
        same name that ends in C(.session) and only its owner can read, and used by later tasks.
    type: path
  timeout:
    description:
      - How many seconds to wait for Open WebUI to start, and for each of its answers.
      - Open WebUI allows 15 sign-ins per address in three minutes. With O(password) each task
        signs in once, and waits for its turn as long as this allows.
    type: int
    default: 120
  validate_certs:
    description: Whether the certificate behind an C(https) address has to be valid.
    type: bool
    default: true
notes:
  - The modules talk to the API of Open WebUI. They are tested with the releases 0.12.x, warn of a
    newer one and refuse one older than 0.11.
  - A task that the connection broke off in the middle of is not repeated by itself. Running the
    play again is always safe.
"""
