# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""People, groups, knowledge, models and settings: made, kept, changed, removed, and refused."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import time
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenWebUI,
    can_sign_in,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.info import gather
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.knowledge import (
    wait_until_indexed,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]
    Content = dict[str, list[dict[str, t.Any]]]

PAGE = "sparerig-open-webui"
MODEL = "tiny-llama-gptq"
SECRETS = f"/etc/sparerig/{PAGE}.secrets.env"
PASSWORD = "quite-long-for-eve"  # noqa: S105 - what must not be seen in any output
LISTS = {"users": "email", "groups": "name", "knowledge": "name", "models": "id"}
MODULES = {"users": "user", "groups": "group", "knowledge": "knowledge", "models": "model"}
CONTENT: Content = {
    "users": [
        {"email": "ada@example.com", "name": "Ada", "password_file": "/etc/sparerig/ada.password"},
        {"email": "eve@example.com", "password": PASSWORD, "role": "pending"},
    ],
    "groups": [{"name": "Family", "members": ["ada@example.com"]}],
    "knowledge": [{"name": "Papers", "src": ["/srv/papers"]}],
    "models": [
        {"id": "short", "base_model": MODEL, "system": "Be short.", "knowledge": ["Papers"]}
    ],
}
GONE: Content = {
    name: [{key: entry[key], "state": "absent"} for entry in CONTENT[name]]
    for name, key in LISTS.items()
}


@pytest.fixture(scope="module")
def page(rig: Rig) -> OpenWebUI:
    """Return the page, signed in as its administrator."""
    password = rig.secret(PAGE, "WEBUI_ADMIN_PASSWORD")
    url = f"http://{rig.address}:8080"
    return OpenWebUI(Account(url, "admin@localhost.localdomain", password))


class Task(t.NamedTuple):
    """What a module said, and all that was printed on the way."""

    failed: bool
    answer: dict[str, t.Any]
    output: str


def call(module: str, options: dict[str, t.Any], *flags: str) -> Task:
    """Run one module on the host, with everything that Ansible can print."""
    account = {"email": "admin@localhost.localdomain"}
    if "password" not in options:
        account["credentials_file"] = SECRETS
    inventory = f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/inventory"
    command = ["ansible", "webui_hosts", "-i", inventory, "-b", "-vvv", *flags]
    command += ["-m", f"sparerig.llm.open_webui_{module}", "-a", json.dumps({**account, **options})]
    done = subprocess.run(
        command,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.search(
        r"(SUCCESS|CHANGED|FAILED!) => (\{.*?^\})", done.stdout, re.MULTILINE | re.DOTALL
    )
    assert said, done.stdout + done.stderr
    return Task(said[1] == "FAILED!", json.loads(said[2]), done.stdout + done.stderr)


def test_content_follows_the_options(rig: Rig, page: OpenWebUI) -> None:
    rig.root("rm -rf /srv/papers")
    rig.root("mkdir /srv/papers")
    rig.root("sh -c 'echo The boiler is 12 years old. > /srv/papers/boiler.txt'")
    rig.root("sh -c 'echo The stove is blue. > /srv/papers/\u7089\u5b50.txt'")
    secrets = [PASSWORD, rig.secret(PAGE, "WEBUI_ADMIN_PASSWORD")]

    def see(wanted: Content, changed: set[str]) -> None:
        """Apply each list: check mode foretells it, it comes about, and then it stays so."""
        for name, entries in wanted.items():
            module = MODULES[name]
            before = gather(page, [name], None)
            for flags in (["--check", "--diff"], ["--diff"], ["--check"]):
                done = call(module, {name: entries}, *flags)
                expected = name in changed and flags != ["--check"]
                assert done.answer.get("changed") is expected, (flags, done.answer)
                assert not [secret for secret in secrets if secret in done.output]
                if flags == ["--check", "--diff"]:
                    foretold = done.answer.get("diff")
                    assert gather(page, [name], None) == before, "check mode changed something"
                if flags == ["--diff"]:
                    assert done.answer.get("diff") == foretold

    see(CONTENT, set(CONTENT))
    facts = gather(page, list(LISTS), None)
    assert {"email": "ada@example.com", "name": "Ada", "role": "user"} in facts["users"]
    assert facts["groups"] == [
        {"name": "Family", "description": "", "members": ["ada@example.com"]}
    ]
    assert sorted(file["name"] for file in facts["knowledge"][0]["files"]) == [
        "boiler.txt",
        "\u7089\u5b50.txt",
    ]
    assert {file["status"] for file in facts["knowledge"][0]["files"]} == {"completed"}
    assert "short" in [model["id"] for model in facts["models"]]
    password = rig.root("cat /etc/sparerig/ada.password").strip()
    secrets.append(password)
    assert can_sign_in(Account(page.base, "ada@example.com", password))

    other = copy.deepcopy(CONTENT)
    other["users"][1]["role"] = "user"
    other["groups"][0]["members"].append("eve@example.com")
    rig.root("sh -c 'echo The roof is new. > /srv/papers/roof.txt'")
    rig.root("rm /srv/papers/boiler.txt /srv/papers/\u7089\u5b50.txt")
    other["models"][0]["system"] = "Be very short."
    see(other, set(CONTENT))
    facts = gather(page, list(LISTS), None)
    assert facts["groups"][0]["members"] == ["ada@example.com", "eve@example.com"]
    assert facts["knowledge"][0]["files"] == [{"name": "roof.txt", "status": "completed"}]

    see(GONE, set(GONE))
    facts = gather(page, list(LISTS), None)
    assert [user["role"] for user in facts["users"]] == ["admin"]
    assert not facts["groups"]
    assert not facts["knowledge"]


REFUSED: list[tuple[str, str, dict[str, t.Any], list[str]]] = [
    (
        "a wrong password",
        "user",
        {"password": "not-this-one", "users": []},
        ["admin@localhost.localdomain or its password is wrong"],
    ),
    (
        "no such page",
        "user",
        {"url": "http://127.0.0.1:9", "timeout": 2, "users": []},
        ["Nobody listens at http://127.0.0.1:9", "systemctl status sparerig-open-webui"],
    ),
    (
        "an address twice",
        "user",
        {"users": [{"email": "a@example.com", "password": "x" * 9}] * 2},
        ["listed more than once: a@example.com"],
    ),
    (
        "files that are no documents",
        "knowledge",
        {"knowledge": [{"name": "Junk", "src": ["/srv/junk"]}]},
        [
            "/srv/junk/empty.txt is empty",
            "/srv/junk/huge.txt has 2048 MiB, more than max_file_size (50 MiB)",
            "/srv/junk/noise.txt is neither text nor a document format",
            "Nothing was changed",
        ],
    ),
    (
        "a damaged document",
        "knowledge",
        {"knowledge": [{"name": "Damaged", "src": ["/srv/damaged.pdf"]}]},
        ["damaged.pdf"],
    ),
]


@pytest.fixture(scope="module")
def junk(rig: Rig) -> Iterator[None]:
    """Put files on the host that nobody can index."""
    rig.root("mkdir -p /srv/junk")
    rig.root("truncate --size 2G /srv/junk/huge.txt")
    rig.root("truncate --size 0 /srv/junk/empty.txt")
    rig.root("dd if=/dev/zero of=/srv/junk/noise.txt bs=100 count=1 status=none")
    rig.root("sh -c 'echo %PDF-1.7 broken off > /srv/damaged.pdf'")
    yield
    rig.root("rm -r /srv/junk /srv/damaged.pdf")
    call("knowledge", {"knowledge": [{"name": "Damaged", "state": "absent"}]})


@pytest.mark.usefixtures("junk")
@pytest.mark.parametrize(
    ("module", "options", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_cannot_be_is_named(module: str, options: dict[str, t.Any], said: list[str]) -> None:
    done = call(module, options)
    assert done.failed
    assert [words for words in said if words not in done.answer["msg"]] == [], done.answer["msg"]


def test_a_full_disk_is_named_and_the_next_run_goes_on(rig: Rig, page: OpenWebUI) -> None:
    """The page's own view of its uploads becomes a disk without room; nobody else's."""
    pid = rig.root("docker inspect --format '{{.State.Pid}}' " + PAGE).strip()
    inside = f"nsenter --target {pid} --mount"
    rig.root("sh -c 'seq 100000 > /srv/numbers.txt'")
    wanted = {"knowledge": [{"name": "Numbers", "src": ["/srv/numbers.txt"]}]}
    rig.root(f"{inside} mount -t tmpfs -o size=64k tmpfs /data/uploads")
    try:
        full = call("knowledge", wanted)
    finally:
        rig.root(f"{inside} umount /data/uploads")
    assert full.failed
    assert "No space left on device" in full.answer["msg"]
    rig.root("sh -c 'seq 100 > /srv/numbers.txt'")
    assert call("knowledge", wanted).answer["changed"]
    known = {base["name"]: base["files"] for base in gather(page, ["knowledge"], None)["knowledge"]}
    assert known["Numbers"] == [{"name": "numbers.txt", "status": "completed"}]
    call("knowledge", {"knowledge": [{"name": "Numbers", "state": "absent"}]})
    rig.root("rm /srv/numbers.txt")


def test_documents_work_without_internet(page: OpenWebUI) -> None:
    facts = gather(page, ["documents"], MODEL)
    assert facts["documents_ok"], facts["checks"]


def test_a_short_document_can_be_read_whole(page: OpenWebUI) -> None:
    rooms = [f"Room {number} is painted in the colour {'blue ' * 120}." for number in range(12)]
    file = page.upload("rooms.txt", "\n\n".join(rooms).encode())["id"]
    assert wait_until_indexed(page, file, 60) == ""

    def rooms_in_prompt(**how: str) -> int:
        question = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Which colour has room 7?"}],
            "files": [{"type": "file", "id": file, **how}],
            "max_tokens": 1,
        }
        sources = page.post("/api/chat/completions", question)["sources"]
        text = " ".join(passage for source in sources for passage in source["document"])
        return sum(f"Room {number} is" in text for number in range(12))

    assert 0 < rooms_in_prompt() < 12
    assert rooms_in_prompt(context="full") == 12
    page.delete(f"/api/v1/files/{file}")


# What somebody runs who has the engine and the page on different PCs, and now wants only the page.
PAGE_ALONE = "playbooks/page.yml"
NOTICE = "Built with Meta Llama 3"
PLAN = "/etc/sparerig/model-plan.json"


def role_options(content: Content) -> str:
    """Write lists as the options of the role."""
    return json.dumps({f"open_webui_{name}": entries for name, entries in content.items()})


@pytest.fixture
def licensed(rig: Rig) -> Iterator[None]:
    """Let the engine's plan be of a model whose license wants a notice."""
    change = f"import json; f = open({PLAN!r}, 'r+'); p = json.load(f); f.seek(0);"
    change += f" p['license_notice'] = {NOTICE!r}; json.dump(p, f); f.truncate()"
    rig.root(f"cp --preserve {PLAN} /srv/plan.json")
    rig.root(f'python3 -c "{change}"')
    yield
    rig.root(f"mv /srv/plan.json {PLAN}")


@pytest.mark.usefixtures("licensed", "restored")
def test_the_page_alone_gets_its_people_and_what_the_license_wants(
    rig: Rig, play: Play, page: OpenWebUI
) -> None:
    rig.root("rm -rf /srv/papers")
    rig.root("mkdir /srv/papers")
    rig.root("sh -c 'echo The boiler is 12 years old. > /srv/papers/boiler.txt'")
    told = play("-e", role_options(CONTENT), playbook=PAGE_ALONE)
    assert told.returncode == 0, told.stdout[-4000:]
    banners = page.get("/api/v1/configs/banners")
    assert [(banner["content"], banner["dismissible"]) for banner in banners] == [(NOTICE, False)]
    facts = gather(page, list(LISTS), None)
    assert {"email": "eve@example.com", "name": "eve", "role": "pending"} in facts["users"]
    assert facts["groups"][0]["members"] == ["ada@example.com"]
    known = {base["name"]: base["files"] for base in facts["knowledge"]}
    assert known["Papers"] == [{"name": "boiler.txt", "status": "completed"}]
    assert "short" in [model["id"] for model in facts["models"]]
    again = play("-e", role_options(CONTENT), playbook=PAGE_ALONE)
    assert re.search(r"changed=0 .*failed=0", again.stdout), again.stdout[-4000:]
    assert PASSWORD not in told.stdout + again.stdout

    assert play("-e", role_options(GONE), playbook=PAGE_ALONE).returncode == 0
    facts = gather(page, list(LISTS), None)
    assert [user["role"] for user in facts["users"]] == ["admin"]
    assert not facts["groups"]
    assert "Papers" not in [base["name"] for base in facts["knowledge"]]
    rig.root("rm -r /srv/papers /etc/sparerig/ada.password")


@pytest.fixture
def restored(play: Play) -> Iterator[None]:
    """Bring the host back to what the inventory says, after the test."""
    yield
    assert play(playbook="playbooks/serve.yml").returncode == 0


@pytest.mark.usefixtures("restored")
def test_options_take_effect_and_a_wrong_one_for_documents_is_caught(
    rig: Rig, play: Play, page: OpenWebUI
) -> None:
    nobody = {
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_OPENAI_API_BASE_URL": "http://127.0.0.1:9/v1",
    }
    options = {
        "open_webui_name": "Home",
        "open_webui_language": "de-DE",
        "open_webui_signup": True,
        "open_webui_session_length": "12h",
        "open_webui_banners": [{"content": "Answers may be wrong."}],
        "open_webui_demo_account": True,
        "open_webui_env": nobody,
    }
    done = play("-e", json.dumps(options))
    assert done.returncode != 0
    assert "The chat page cannot index documents (document-not-indexed)" in done.stdout
    assert "127.0.0.1:9" in done.stdout

    config = page.get("/api/config")
    assert config["name"] == "Home (Open WebUI)"
    assert config["default_locale"] == "de-DE"
    banners = [banner["content"] for banner in page.get("/api/v1/configs/banners")]
    assert "Answers may be wrong." in banners

    stranger = {"name": "S", "email": "s@example.org", "password": "a long enough one"}
    assert page.post("/api/v1/auths/signup", stranger)["role"] == "pending"

    password = rig.root(f"cat /etc/sparerig/{PAGE}.demo-password").strip()
    assert password not in done.stdout
    demo = {"email": "demo@localhost.localdomain", "password": password}
    session = page.post("/api/v1/auths/signin", demo)
    assert session["role"] == "user"
    assert 11 < (session["expires_at"] - time.time()) / 3600 <= 12

    gone = [{"email": person["email"], "state": "absent"} for person in (demo, stranger)]
    assert call("user", {"users": gone}).answer["changed"]
