# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does in the page, in words: the one place that knows how Open WebUI is built."""

from __future__ import annotations

import re
import typing as t

from playwright.sync_api import expect

if t.TYPE_CHECKING:
    from pathlib import Path

    from browser.conftest import Person
    from playwright.sync_api import FilePayload, Locator
    from playwright.sync_api import Page as Tab

SLOW = 300_000  # milliseconds; the first load brings 10 MB of scripts to a machine that is busy

expect.set_options(timeout=120_000)

# Notes how long the newest answer was each time the page changed it.
WATCH = """() => {
  window.lengths = [];
  const look = () => {
    const answers = document.querySelectorAll('#response-content-container');
    if (answers.length) window.lengths.push(answers[answers.length - 1].innerText.length);
  };
  const all = {childList: true, subtree: true, characterData: true};
  new MutationObserver(look).observe(document.body, all);
}"""


class Page:
    """Open WebUI in one browser tab."""

    def __init__(self, tab: Tab, pictures: Path) -> None:
        self.tab = tab
        self._pictures = pictures
        self._name = ""
        tab.set_default_timeout(120_000)

    # Coming and going.

    def sign_in(self, person: Person) -> None:
        """Fill in the form and send it, whatever comes of it."""
        self._name = person.name
        self.tab.goto("/auth")
        self.tab.get_by_label("Email").fill(person.email, timeout=SLOW)
        self.tab.get_by_label("Password").first.fill(person.password)
        self.tab.get_by_role("button", name="Sign in").click()

    def enter(self, person: Person) -> None:
        """Sign in and wait until one can write."""
        self.sign_in(person)
        self.settle(self.prompt)

    def settle(self, wanted: Locator) -> None:
        """Wait for what shows that the page has been loaded."""
        wanted.wait_for(timeout=SLOW)

    def sign_out(self) -> None:
        """Leave through the menu."""
        self.open_user_menu()
        self.tab.get_by_role("menuitem", name="Sign Out").click()
        self.tab.wait_for_url("**/auth*")

    def open_user_menu(self) -> None:
        """Open the menu behind one's own picture; an open sidebar shows it with the name."""
        folded = self.tab.get_by_role("button", name="User menu")
        unfolded = self.tab.locator("#sidebar button", has_text=self._name)
        (unfolded if self._sidebar_is_open() else folded).first.click()

    # Chatting.

    @property
    def prompt(self) -> Locator:
        """Where one writes."""
        return self.tab.locator("#chat-input")

    @property
    def answers(self) -> Locator:
        """All answers of this chat."""
        return self.tab.locator("#response-content-container")

    def say(self, text: str) -> None:
        """Write and send, without waiting for the answer."""
        self.prompt.click()
        self.tab.keyboard.insert_text(text)
        self.tab.get_by_role("button", name="Send message").click()

    def ask(self, text: str) -> Locator:
        """Write, send, and wait for the whole answer."""
        before = self.answers.count()
        self.say(text)
        expect(self.answers).to_have_count(before + 1, timeout=SLOW)
        # The tools under an answer appear when it is complete.
        expect(self.tab.get_by_role("button", name="Good Response")).to_have_count(
            before + 1, timeout=SLOW
        )
        return self.answers.nth(before)

    def watch_growth(self) -> None:
        """Begin to note how long the newest answer is."""
        self.tab.evaluate(WATCH)

    def growth(self) -> list[int]:
        """Return the lengths that the newest answer had, one after the other."""
        lengths: list[int] = self.tab.evaluate("window.lengths")
        return [new for old, new in zip([0, *lengths], lengths, strict=False) if new > old]

    def attach(self, name: str, content: bytes) -> None:
        """Add a text file to the next message and wait until it is taken."""
        file: FilePayload = {"name": name, "mimeType": "text/plain", "buffer": content}
        with self.tab.expect_response(lambda answer: "/api/v1/files/" in answer.url and answer.ok):
            self.tab.locator("input[type=file]").first.set_input_files(files=[file])
        expect(self.tab.get_by_text(name).first).to_be_visible()

    def clipboard(self) -> str:
        """Read what was copied."""
        text: str = self.tab.evaluate("navigator.clipboard.readText()")
        return text

    # The list of chats.

    def open_sidebar(self) -> None:
        """Show the list of chats."""
        if not self._sidebar_is_open():
            self.tab.get_by_role("button", name="Open Sidebar").first.click()
        expect(self.tab.get_by_role("button", name="Close Sidebar")).to_be_visible()

    def _sidebar_is_open(self) -> bool:
        return self.tab.get_by_role("button", name="Close Sidebar").is_visible()

    def start_chat(self) -> None:
        """Begin another chat."""
        self.tab.goto("/")
        self.prompt.wait_for()
        expect(self.answers).to_have_count(0)

    @property
    def chats(self) -> Locator:
        """The chats in the open sidebar, newest first."""
        return self.tab.locator("#sidebar a[href^='/c/']")

    def chat(self, title: str) -> Locator:
        """Return the chat of this title in the open sidebar."""
        return self.chats.filter(has_text=title)

    def rename_chat(self, old: str, new: str) -> None:
        """Give a chat in the open sidebar another title."""
        self.chat(old).hover()
        self.tab.locator("#sidebar").get_by_role("button", name="Chat Menu").first.click()
        self.tab.get_by_role("menu").get_by_text("Rename").click()
        field = self.tab.locator("[id^='chat-title-input-']")
        field.fill(new)
        field.press("Enter")
        expect(self.chat(new)).to_be_visible()

    # The settings.

    def open_data_controls(self) -> Locator:
        """Open the settings where chats are taken out and in."""
        self.open_user_menu()
        self.tab.get_by_role("menuitem", name="Settings").click()
        dialog = self.tab.get_by_role("dialog").first
        dialog.get_by_role("tab", name="Data Controls").click()
        return dialog

    def export_chats(self, path: Path) -> None:
        """Save all chats to a file."""
        dialog = self.open_data_controls()
        with self.tab.expect_download() as download:
            dialog.locator("button", has_text=re.compile(r"^\s*Export\s*$")).click()
        download.value.save_as(path)

    def import_chats(self, path: Path) -> None:
        """Take chats in from a file."""
        dialog = self.open_data_controls()
        with self.tab.expect_file_chooser() as chooser:
            dialog.locator("button", has_text=re.compile(r"^\s*Import\s*$")).click()
        with self.tab.expect_response(re.compile(r"/api/v1/chats/import")):
            chooser.value.set_files(path)

    # Evidence.

    def picture(self, name: str) -> None:
        """Keep what is on the screen, for the docs when asked to."""
        self.tab.screenshot(path=self._pictures / f"{name}.png")
