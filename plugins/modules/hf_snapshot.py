#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Download a model from a Hugging Face hub: pinned, verified, resumable."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hf_snapshot
short_description: Download a model from a Hugging Face hub, pinned, verified and resumable
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Brings one commit of a model repository to the host. A reader finds all of it, verified, or nothing.
  - The small files come first. A missing token, a license that was not accepted, a weight format that vLLM refuses, a missing
    chat template, one that writes tokens that the tokenizer lacks, a parser with which vLLM would not start and a disk that is too
    small are found before the first gigabyte.
  - Every file is verified by the size and the hash that the hub gives for it. A run that was killed goes on where it stopped.
  - A branch or tag is resolved to a commit once, and the host remembers it; later runs stay with that commit unless O(update) is set.
  - A second run on a complete snapshot needs no network and looks at names and sizes only, unless O(verify=every_byte).
  - Of the repository it takes the files at the top level that vLLM can load, not the same weights in other formats.
  - While it runs, C(ROOT/ORGANISATION--NAME/download.log) on the host gets a line of progress every five seconds. Follow it with
    C(tail -f).
requirements:
  - huggingface_hub 2, in the Python named by O(python), or in the Python that Ansible uses. It is needed for a download only.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
    details:
      - Asks the hub, looks at the small files in a temporary directory and returns how many bytes would be downloaded.
      - On a host that does not have C(huggingface_hub) yet, it says only that there is something to download.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  repository:
    description: The repository, as C(ORGANISATION/NAME).
    type: str
    required: true
  revision:
    description: A branch, a tag or, best, a full commit. With a commit the path is known beforehand and never changes.
    type: str
    default: main
  update:
    description: Ask the hub again what a branch or tag stands for, and download that if it has moved.
    type: bool
    default: false
  root:
    description: The directory for all models. The snapshot comes to C(ROOT/ORGANISATION--NAME/COMMIT).
    type: path
    default: /srv/models
  token:
    description: A token of the hub with read permission, for gated and private models. It is never stored.
    type: str
  endpoint:
    description: The hub, or a mirror of it. Without it, what the environment variable E(HF_ENDPOINT) says.
    type: str
    default: https://huggingface.co
  listing:
    description:
      - The RV(listing) that this module returned on another host. Files are verified against it, and O(endpoint) is only asked for
        their content. So O(endpoint) can be a plain server on a host that has the model, and need not be trusted.
    type: dict
  verify:
    description: How to look at a snapshot that is complete, by V(sizes) in no time or by V(every_byte) in the time it takes to read.
    type: str
    choices: [sizes, every_byte]
    default: sizes
  chat_template:
    description: Whether the model must bring a chat template.
    type: str
    choices: [required, optional]
    default: required
  vllm_image:
    description:
      - The image that is to serve the model, such as C(docker.io/vllm/vllm-openai:v0.33.0). Its tag tells the version of vLLM, and the
        version which parsers there are and what each asks of the tokenizer.
      - Without it, or with a version that was not looked at, the parsers are those of the newest version that was.
    type: str
    default: ""
  tool_call_parser:
    description:
      - The parser of tool calls that vLLM is to be started with. V(auto) is the one that the model's own chat template tells; an empty
        text is none. A name is refused where vLLM does not know it, or would not start with it and this tokenizer.
    type: str
    default: auto
  reasoning_parser:
    description: The parser of reasoning that vLLM is to be started with, as O(tool_call_parser).
    type: str
    default: auto
  licenses:
    description: The licenses that may be used, as the hub names them, such as V(apache-2.0) or V(llama3). Empty allows all.
    type: list
    elements: str
    default: []
  workers:
    description: How many files are downloaded side by side, 1 to 16.
    type: int
    default: 4
  prune:
    description:
      - Remove what is on the host of other commits of this repository.
      - Never removed is what a container has mounted or a process has open. It goes at the next run after that ended.
    type: bool
    default: false
  python:
    description: A Python on the host that has C(huggingface_hub). The role P(sparerig.llm.model#role) makes it.
    type: path
    default: /opt/sparerig/hf/bin/python
seealso:
  - module: sparerig.llm.model_check
"""

EXAMPLES = r"""
- name: Have the model on the disk
  sparerig.llm.hf_snapshot:
    repository: OxxoCodes/Meta-Llama-3-8B-Instruct-GPTQ
    revision: main
  register: snapshot

- name: Show where it is
  ansible.builtin.debug:
    msg: "{{ snapshot.path }} is {{ snapshot.repository }} at {{ snapshot.commit }}"

- name: Follow the branch, and remove what nothing uses any more
  sparerig.llm.hf_snapshot:
    repository: meta-llama/Meta-Llama-3-8B-Instruct
    token: "{{ vault_hf_token }}"
    update: true
    prune: true
"""

RETURN = r"""
path:
  description: The directory of the snapshot. Another commit has another path.
  returned: success
  type: str
  sample: /srv/models/example--model/0123456789abcdef0123456789abcdef01234567
repository:
  description: The repository.
  returned: always
  type: str
revision:
  description: The revision that was asked for.
  returned: always
  type: str
commit:
  description: The commit that the revision stands for on this host.
  returned: success
  type: str
license:
  description: The license that the model's page names; empty if it names none.
  returned: success
  type: str
  sample: llama3
gated:
  description: Whether the hub gives the model only to people who accepted its license.
  returned: success
  type: bool
bytes_to_download:
  description: Bytes that this run downloaded or, in check mode, would download.
  returned: success
  type: int
pruned:
  description: Directories of other commits that were removed.
  returned: success
  type: list
  elements: str
kept_in_use:
  description: Directories of other commits that were kept, because a container or a process uses them.
  returned: success
  type: list
  elements: str
listing:
  description: Every file of the snapshot with its size and hash, for the option O(listing) on another host.
  returned: success
  type: dict
failure:
  description:
    - Identifier of the failure, one of the sections on the hub and the model's files in C(docs/failures.md), or V(disk-full) or
      V(disk-error).
    - A model that vLLM cannot serve is named by what is wrong with it, for example V(act-order-refused) or
      V(chat-template-missing); a parser that it cannot use by V(parser-unknown) or V(parser-not-for-tokenizer).
  returned: failure
  type: str
tool_call_parser:
  description: The parser of tool calls for this model; empty if there is none that suits it.
  returned: when its tokenizer could be read and the parsers can be used
  type: str
  sample: hermes
reasoning_parser:
  description: The parser of reasoning for this model; empty if there is none that suits it.
  returned: when its tokenizer could be read and the parsers can be used
  type: str
  sample: qwen3
checks:
  description: What was seen of the model, as M(sparerig.llm.model_check) returns it. All its other values are returned too.
  returned: when the snapshot is complete
  type: list
  elements: dict
"""

import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import env_fallback
from ansible.module_utils.common.respawn import has_respawned, respawn_module
from ansible_collections.sparerig.llm.plugins.module_utils._model.hub import (
    DEFAULT_ENDPOINT,
    HAS_HUGGINGFACE_HUB,
    Hub,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.inspection import (
    Engine,
    inspect,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.snapshot import (
    Outcome,
    Wanted,
    bring,
    disk_failure,
    here,
    prune,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import (
    Listing,
    SnapshotError,
    Store,
)

MOST_WORKERS = 16


def wanted_by(params: dict[str, t.Any]) -> Wanted:
    """Turn the options into what is asked for; refuse what can't be meant."""
    token = params["token"] or ""
    if not token.isprintable() or " " in token or not token.isascii():
        raise SnapshotError(
            "token-invalid",
            "The token has a blank, a line break or another sign that no token has: it was pasted "
            "with something around it, or a file was read with its last line break. (The token is "
            "not shown.)",
        )
    if not 1 <= params["workers"] <= MOST_WORKERS:
        raise SnapshotError(
            "workers-invalid", f"workers is {params['workers']}: 1 to {MOST_WORKERS} are allowed."
        )
    wanted = Wanted(
        root=Path(params["root"]),
        repository=params["repository"],
        revision=params["revision"],
        listing=Listing.from_json(params["listing"]) if params["listing"] else None,
        update=params["update"],
        verify_every_byte=params["verify"] == "every_byte",
        need_chat_template=params["chat_template"] == "required",
        engine=Engine(params["vllm_image"], params["tool_call_parser"], params["reasoning_parser"]),
        licenses=tuple(params["licenses"]),
        workers=params["workers"],
    )
    wanted.check()
    return wanted


def have_client(module: AnsibleModule, wanted: Wanted) -> None:
    """See that huggingface_hub is here, or run this module again in a Python that has it."""
    python = module.params["python"]
    if HAS_HUGGINGFACE_HUB:
        return
    if not has_respawned() and os.access(python, os.X_OK):
        respawn_module(python)  # does not return
    if module.check_mode:
        # As on a host that is only being looked at: the client comes with the first download.
        module.exit_json(
            changed=True,
            msg=f"{wanted.repository} would be downloaded. How many bytes that takes is not known "
            f"before {python} offers huggingface_hub.",
            repository=wanted.repository,
            revision=wanted.revision,
        )
    raise SnapshotError(
        "client-missing",
        "The snapshot is not complete on this host, and to download it huggingface_hub is needed, "
        f"which {python} does not offer.",
    )


def snapshot(module: AnsibleModule, wanted: Wanted) -> Outcome:
    """Find the snapshot on the disk, or bring it there."""
    outcome = here(wanted)
    if outcome is None:
        have_client(module, wanted)
        hub = Hub(module.params["endpoint"], module.params["token"])
        outcome = bring(wanted, hub, check=module.check_mode)
    if module.params["prune"]:
        prune(wanted, outcome, check=module.check_mode)
    return outcome


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "revision": {"type": "str", "default": "main"},
            "update": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/srv/models"},
            "token": {"type": "str", "no_log": True},
            "endpoint": {
                "type": "str",
                "default": DEFAULT_ENDPOINT,
                "fallback": (env_fallback, ["HF_ENDPOINT"]),
            },
            "listing": {"type": "dict"},
            "verify": {"type": "str", "choices": ["sizes", "every_byte"], "default": "sizes"},
            "chat_template": {
                "type": "str",
                "choices": ["required", "optional"],
                "default": "required",
            },
            "vllm_image": {"type": "str", "default": ""},
            "tool_call_parser": {"type": "str", "default": "auto"},
            "reasoning_parser": {"type": "str", "default": "auto"},
            "licenses": {"type": "list", "elements": "str", "default": []},
            "workers": {"type": "int", "default": 4},
            "prune": {"type": "bool", "default": False},
            "python": {"type": "path", "default": "/opt/sparerig/hf/bin/python"},
        },
        supports_check_mode=True,
    )
    asked = {name: module.params[name] for name in ("repository", "revision")}
    try:
        wanted = wanted_by(module.params)
        before = Store(wanted.root, wanted.repository).snapshots()
        outcome = snapshot(module, wanted)
    except (SnapshotError, OSError) as error:
        if isinstance(error, OSError):
            error = disk_failure(error, Path(module.params["root"]))
        module.fail_json(msg=str(error), failure=error.failure, **asked)
    pruned = {Path(path).name for path in outcome.pruned}
    after = sorted({*before, outcome.listing.commit} - pruned)
    result = {
        **asked,
        "path": str(outcome.path),
        "commit": outcome.listing.commit,
        "license": outcome.listing.license,
        "gated": outcome.listing.gated,
        "bytes_to_download": outcome.to_download,
        "pruned": outcome.pruned,
        "kept_in_use": outcome.kept_in_use,
        "listing": outcome.listing.as_json(),
        "diff": {"before": {"snapshots": before}, "after": {"snapshots": after}},
    }
    if outcome.path.is_dir():
        model = inspect(
            outcome.path, need_chat_template=wanted.need_chat_template, engine=wanted.engine
        )
        result |= model.result()
        if model.reasons:
            text = f"{outcome.path} is as the hub has it, but vLLM cannot serve it. {model.reasons}"
            module.fail_json(msg=text, failure=model.failure, **result)
    module.exit_json(changed=outcome.changed, **result)


if __name__ == "__main__":
    main()
