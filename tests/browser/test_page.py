# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do in the chat page, done in a real browser.

Each test also sees that the page asked no other host and made no error in the console.
"""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.filter.open_webui import open_webui_banners
from browser.conftest import Person
from browser.upstream import CODE, COUNT, DEFAULT, POEM, REFUSAL
from playwright.sync_api import expect

if t.TYPE_CHECKING:
    from pathlib import Path

    from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import OpenWebUI
    from browser.page import Page

OpenPage = t.Callable[..., "Page"]
MakePerson = t.Callable[..., "Person"]

pytestmark = pytest.mark.usefixtures("stand_in")
both_sizes = pytest.mark.parametrize("size", ["desktop", "phone"])


@both_sizes
def test_an_answer_appears_word_by_word(
    open_page: OpenPage, make_person: MakePerson, size: str
) -> None:
    page = open_page(size)
    page.enter(make_person())
    page.picture(f"first-page-{size}")
    page.watch_growth()
    answer = page.ask("count some sheep, please")
    expect(answer).to_have_text(COUNT)
    assert len(page.growth()) >= 5, "the whole answer came in one piece"
    page.picture(f"chat-{size}")


@both_sizes
def test_markdown_and_code_are_shown_and_copied(
    open_page: OpenPage, make_person: MakePerson, size: str
) -> None:
    page = open_page(size)
    page.enter(make_person())
    answer = page.ask("markdown, please")
    expect(answer.locator("h1")).to_have_text("A heading")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("li")).to_have_text(["first", "second"])
    expect(answer.locator("td")).to_have_text(["RTX 3060", "12 GiB"])
    keyword = answer.locator("[data-language=python] span", has_text="def").first
    plain = answer.locator("[data-language=python]")
    assert _colour(keyword) != _colour(plain), "the code is not highlighted"
    answer.get_by_role("button", name="Copy", exact=True).first.click()
    assert page.clipboard().rstrip("\n") == CODE
    page.picture(f"code-{size}")


def _colour(element: t.Any) -> str:
    return str(element.evaluate("element => getComputedStyle(element).color"))


@both_sizes
def test_a_notice_that_has_to_stay_comes_back(
    open_page: OpenPage, make_person: MakePerson, api: OpenWebUI, size: str
) -> None:
    """What a model's license wants shown, for instance."""
    before = api.get("/api/v1/configs/banners")
    notices: list[dict[str, t.Any]] = [
        {"content": "Built with Meta Llama 3", "dismissible": False},
        {"content": "Answers may be wrong."},
    ]
    api.post("/api/v1/configs/banners", {"banners": json.loads(open_webui_banners(notices))})
    try:
        page = open_page(size)
        page.enter(make_person())
        for notice in notices:
            expect(page.tab.get_by_text(notice["content"])).to_be_visible()
        close = page.tab.get_by_role("button", name="Close Banner")
        for left in (1, 0):
            close.first.click()
            expect(close).to_have_count(left)
        page.tab.reload()
        page.settle(page.prompt)
        expect(page.tab.get_by_text("Built with Meta Llama 3")).to_be_visible()
        expect(page.tab.get_by_text("Answers may be wrong.")).to_have_count(0)
    finally:
        api.post("/api/v1/configs/banners", {"banners": before})


def test_two_named_chats(open_page: OpenPage, make_person: MakePerson) -> None:
    page = open_page()
    page.enter(make_person())
    page.ask("a poem, please")
    page.open_sidebar()
    page.rename_chat("a poem", "Roses")
    page.start_chat()
    page.ask("hello there")
    page.open_sidebar()
    page.rename_chat("hello there", "Greetings")
    expect(page.chats).to_have_count(2)
    page.picture("two-chats")
    page.chat("Roses").click()
    expect(page.answers).to_have_text([POEM])
    page.chat("Greetings").click()
    expect(page.answers).to_have_text([DEFAULT])


def test_chats_go_out_to_a_file_and_come_back(
    open_page: OpenPage, make_person: MakePerson, tmp_path: Path
) -> None:
    first, second = make_person("Ada"), make_person("Bob")
    page = open_page()
    page.enter(first)
    page.ask("a poem, please")
    page.export_chats(tmp_path / "chats.json")
    assert POEM in json.dumps(json.loads((tmp_path / "chats.json").read_text(encoding="utf-8")))

    other = open_page()
    other.enter(second)
    other.import_chats(tmp_path / "chats.json")
    other.start_chat()
    other.open_sidebar()
    other.chat("a poem").click()
    expect(other.answers).to_have_text([POEM])


@both_sizes
def test_a_text_file_is_read(open_page: OpenPage, make_person: MakePerson, size: str) -> None:
    page = open_page(size)
    page.enter(make_person())
    page.attach(
        "letter.txt", b"Dear Ada, the secret word is oboe. The secret word is oboe. Yours, Bob\n"
    )
    answer = page.ask("What is the secret word in this letter?")
    expect(answer).to_contain_text("The document says: oboe.")
    page.picture(f"document-{size}")


def test_nobody_sees_the_chats_of_another(
    open_page: OpenPage, make_person: MakePerson, expected_errors: list[str]
) -> None:
    first, second = make_person("Ada"), make_person("Bob")
    page = open_page()
    page.enter(first)
    page.ask("a poem, please")
    page.tab.wait_for_url("**/c/*")
    address = page.tab.url

    expected_errors.append("status of 401")  # what the page is told when Bob tries
    other = open_page()
    other.enter(second)
    other.tab.goto(address)
    other.tab.wait_for_url(lambda url: url != address)
    expect(other.tab.get_by_text(POEM)).to_have_count(0)
    other.open_sidebar()
    expect(other.chats).to_have_count(0)


@both_sizes
def test_a_pending_person_waits_outside(
    open_page: OpenPage,
    make_person: MakePerson,
    api: OpenWebUI,
    size: str,
) -> None:
    person = make_person("Eve", role="pending")
    page = open_page(size)
    page.sign_in(person)
    page.settle(page.tab.get_by_text("Account Activation Pending"))
    expect(page.prompt).to_have_count(0)
    page.picture(f"pending-{size}")

    user = next(
        user for user in api.get("/api/v1/users/all")["users"] if user["email"] == person.email
    )
    api.post(f"/api/v1/users/{user['id']}/update", {"role": "user"})
    page.tab.reload()
    page.settle(page.prompt)


def test_an_engine_that_fails_is_told_and_comes_back(
    open_page: OpenPage, make_person: MakePerson
) -> None:
    page = open_page()
    page.enter(make_person())
    page.say("please refuse")
    expect(page.tab.get_by_text(REFUSAL).first).to_be_visible()
    page.picture("engine-fails")
    page.start_chat()
    page.say("please break down")
    expect(page.tab.get_by_role("button", name="Good Response")).to_have_count(1)
    page.start_chat()
    expect(page.ask("a poem, please")).to_have_text(POEM)


@both_sizes
def test_after_signing_out_the_page_is_shut(
    open_page: OpenPage, make_person: MakePerson, size: str
) -> None:
    page = open_page(size)
    page.enter(make_person())
    if size == "phone":
        page.open_sidebar()
    page.sign_out()
    page.tab.goto("/")
    page.tab.wait_for_url("**/auth*")
    expect(page.prompt).to_have_count(0)


def test_a_wrong_password_is_told(
    open_page: OpenPage, make_person: MakePerson, expected_errors: list[str]
) -> None:
    expected_errors.append("status of 400")
    page = open_page()
    page.sign_in(Person("Ada", make_person().email, "not this one"))
    expect(page.tab.get_by_text("email or password provided is incorrect")).to_be_visible()
