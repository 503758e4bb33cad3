# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""signed_apt_repository through main(), with a genuine key, in a folder that stands for /etc/apt."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host.openpgp import fingerprints
from ansible_collections.sparerig.llm.plugins.modules import signed_apt_repository
from stand_ins import FakeHost

KEY = Path(__file__).parents[4] / "tests/testbed/keys/ubuntu-archive-2018.asc"
FINGERPRINT = "F6EC B376 2474 EDA9 D21B  7022 8719 20D1 991B C93C"
URI = "https://repository.example/ubuntu/x86_64"
OPTIONS: dict[str, t.Any] = {
    "name": "sparerig-thing",
    "uri": URI,
    "key_url": f"file://{KEY}",
    "key_fingerprint": FINGERPRINT,
    "pins": [
        {"packages": ["thing", "thing-*"], "pin": "version 1.2.*", "priority": 990},
        {"packages": ["*"], "priority": 100},
    ],
}
PINS = """\
Package: thing thing-*
Pin: version 1.2.*
Pin-Priority: 990

Package: *
Pin: origin "repository.example"
Pin-Priority: 100
"""

Run = t.Callable[..., dict[str, t.Any]]


class Apt:
    """The folder that stands for /etc/apt, and the program apt-get."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lists = root / "lists"
        self.host = FakeHost()
        self.updates: list[list[str]] = []
        self.complaint = ""
        for folder in ("sources.list.d", "preferences.d", "lists"):
            (root / folder).mkdir()

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        """Read a repository's list, or complain."""
        self.updates.append(command)
        if self.complaint:
            return 100, "", self.complaint
        (self.lists / "repository.example_ubuntu_x86_64_Packages").touch()
        return 0, "", ""

    def files(self) -> list[str]:
        """List what is there."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found)


OURS = [
    "keyrings/sparerig-thing.gpg",
    "preferences.d/sparerig-thing",
    "sources.list.d/sparerig-thing.sources",
]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    root = tmp_path / "apt"
    root.mkdir()
    made = Apt(root)
    monkeypatch.setattr(signed_apt_repository, "APT", made.root)
    monkeypatch.setattr(signed_apt_repository, "LISTS", made.lists)
    monkeypatch.setattr(signed_apt_repository, "LocalHost", lambda: made.host)
    monkeypatch.setattr(AnsibleModule, "run_command", made.run_command)
    return made


@pytest.fixture
def run(run_module: Run, apt: Apt) -> Run:
    """Run the module with OPTIONS and what is given."""
    assert apt

    def call(*, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        return run_module(signed_apt_repository, check=check, **(OPTIONS | options))

    return call


def test_a_repository_is_added_once(run: Run, apt: Apt) -> None:
    foretold = run(check=True)
    assert foretold["changed"]
    assert (apt.files(), apt.updates) == ([], [])

    first = run()
    assert first["changed_paths"] == [str(apt.root / name) for name in OURS]
    keyring = apt.root / OURS[0]
    assert fingerprints(keyring.read_bytes()) == [FINGERPRINT.replace(" ", "")]
    assert (apt.root / OURS[1]).read_text() == PINS
    assert (apt.root / OURS[2]).read_text() == (
        f"Types: deb\nURIs: {URI}\nSuites: /\nSigned-By: {keyring}\n"
    )
    assert {(apt.root / name).stat().st_mode & 0o777 for name in OURS} == {0o644}
    (update,) = apt.updates
    assert f"Dir::Etc::sourcelist={apt.root / OURS[2]}" in update, "no other list is read"

    second = run()
    assert not second["changed"]
    assert len(apt.updates) == 1


def test_a_list_that_is_gone_is_read_again(run: Run, apt: Apt) -> None:
    run()
    for file in apt.lists.iterdir():
        file.unlink()
    assert not run()["changed"]
    assert len(apt.updates) == 2


def test_a_keyring_with_another_key_is_replaced(run: Run, apt: Apt) -> None:
    run()
    (apt.root / OURS[0]).write_bytes(b"no key")
    assert run()["changed_paths"] == [str(apt.root / OURS[0])]
    assert not run()["changed"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_fingerprint": "0" * 40}, f"has the fingerprint {FINGERPRINT.replace(' ', '')}"),
        ({"key_url": f"file://{__file__}"}, "is no OpenPGP key"),
        ({"key_url": "file:///no/such/key"}, "could not be fetched"),
    ],
)
def test_a_key_that_is_not_the_expected_one_changes_nothing(
    run: Run, apt: Apt, options: dict[str, str], says: str
) -> None:
    answer = run(**options)
    assert answer["failed"]
    assert says in answer["msg"]
    assert (apt.files(), apt.updates) == ([], [])


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (
            "cuda.list",
            f"deb [signed-by=/usr/share/keyrings/cuda.gpg] {URI}/ /\n",
            "already names the repository",
        ),
        (
            "cuda.sources",
            f"Types: deb\nURIs: {URI}\nSuites: /\nSigned-By: /x.gpg\n",
            "already names the repository",
        ),
        (
            "other.list",
            "deb https://repository.example/debian bookworm main\n",
            "from the same host, repository.example",
        ),
    ],
)
def test_another_file_that_gets_in_the_way_is_named_before_the_first_change(
    run: Run, apt: Apt, file: str, text: str, says: str
) -> None:
    apt.host.files[f"/etc/apt/sources.list.d/{file}"] = text
    answer = run()
    assert says in answer["msg"]
    assert file in answer["msg"]
    assert (apt.files(), apt.updates) == ([], [])


def test_pins_that_name_no_host_may_share_one(run: Run, apt: Apt) -> None:
    apt.host.files["/etc/apt/sources.list"] = "deb https://repository.example/debian bookworm main"
    assert run(pins=[{"packages": ["*"], "pin": "version 1.*", "priority": 1}])["changed"]


def test_a_repository_that_apt_cannot_read_is_taken_out_again(run: Run, apt: Apt) -> None:
    apt.complaint = "E: The repository does not have a Release file."
    answer = run()
    assert "so it was taken out again: E: The repository" in answer["msg"]
    assert OURS[2] not in apt.files()


def test_a_repository_is_removed_once(run: Run, apt: Apt) -> None:
    run()
    lists = {str(file.relative_to(apt.root)) for file in apt.lists.iterdir()}
    assert run(state="absent", check=True)["changed"]
    assert set(OURS) < set(apt.files())
    assert run(state="absent")["changed"]
    assert set(apt.files()) == lists
    assert not run(state="absent")["changed"]
