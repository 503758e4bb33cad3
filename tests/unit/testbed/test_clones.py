# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two checkouts on one machine: each has hosts of its own, and takes away no more than that."""

from __future__ import annotations

import argparse
import typing as t
from pathlib import Path

import pytest
from testbed import __main__ as command
from testbed import engine, hosts
from testbed.settings import CHECKOUT, CLONE, CLONE_LABEL, LABEL, NETWORK, OWN

OTHER = "another"
SHARED = {"sparerig-registry", "registry-data", "sparerig/host:1"}


class Thing:
    """A container, a network, a volume or an image of the engine."""

    def __init__(self, engine_: Engine, name: str, **labels: str) -> None:
        self.name = name
        self.tags = [name]
        self.labels = labels
        self.containers: list[Thing] = []
        self._engine = engine_

    def has(self, wanted: str) -> bool:
        """Tell whether it has a label, or a label of that value."""
        name, equals, value = wanted.partition("=")
        return name in self.labels and (not equals or self.labels[name] == value)

    def reload(self) -> None:
        """Know its containers."""

    def disconnect(self, container: Thing, *, force: bool) -> None:
        """Take a container out of a network."""
        assert force
        self.containers.remove(container)

    def remove(self, **_options: bool) -> None:
        """Go; a network with a container in it cannot."""
        assert not self.containers
        self._engine.things.remove(self)


class Things:
    """One kind of things."""

    def __init__(self, engine_: Engine) -> None:
        self._engine = engine_
        self.found: list[Thing] = []

    def add(self, name: str, **labels: str) -> Thing:
        """Make one."""
        self.found.append(Thing(self._engine, name, **labels))
        self._engine.things.append(self.found[-1])
        return self.found[-1]

    def list(self, *, filters: dict[str, str], **_options: bool) -> list[Thing]:
        """List those that are still there and have the label."""
        there = [thing for thing in self.found if thing in self._engine.things]
        return [thing for thing in there if thing.has(filters["label"])]

    def remove(self, name: str, *, force: bool) -> None:
        """Remove an image."""
        assert force
        next(thing for thing in self.found if thing.name == name).remove()


class Engine:
    """An engine with the hosts of some checkouts and what they share."""

    def __init__(self, *clones: str) -> None:
        self.things: list[Thing] = []
        self.containers, self.networks = Things(self), Things(self)
        self.volumes, self.images = Things(self), Things(self)
        registry = self.containers.add("sparerig-registry", **{LABEL: "registry"})
        self.volumes.add("registry-data", **{LABEL: "volume"})
        self.images.add("sparerig/host:1", **{LABEL: "image"})
        for clone in clones:
            self.containers.add(f"host-{clone}", **{LABEL: "host", CLONE_LABEL: clone})
            self.volumes.add(f"disk-{clone}", **{LABEL: "volume", CLONE_LABEL: clone})
            network = self.networks.add(f"lan-{clone}", **{LABEL: "network", CLONE_LABEL: clone})
            network.containers.append(registry)

    @property
    def names(self) -> set[str]:
        """What is there."""
        return {thing.name for thing in self.things}


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> t.Callable[..., set[str]]:
    """Run ``down`` on an engine; return what is left, and "cache" and "own" for the two folders."""

    def run(on: Engine, *, everything: bool = False) -> set[str]:
        folders = {"cache": tmp_path / "cache", "own": tmp_path / "own"}
        for folder in folders.values():
            folder.mkdir()
        monkeypatch.setattr(engine, "connect", lambda: on)
        monkeypatch.setattr(engine, "INSTALLED_MARK", tmp_path / "none")
        monkeypatch.setattr(command, "PULLED", tmp_path / "none")
        monkeypatch.setattr(command, "CACHE", folders["cache"])
        monkeypatch.setattr(command, "OWN", folders["own"])
        command.down(argparse.Namespace(all=everything))
        return on.names | {name for name, folder in folders.items() if folder.exists()}

    return run


def test_another_checkouts_hosts_stay_with_what_they_need(down: t.Callable[..., set[str]]) -> None:
    others = {f"{kind}-{OTHER}" for kind in ("host", "disk", "lan")}
    assert down(Engine(CLONE, OTHER)) == {*SHARED, *others, "cache"}


def test_the_last_one_removes_every_trace(down: t.Callable[..., set[str]]) -> None:
    assert down(Engine(CLONE)) == set()


def test_all_means_all(down: t.Callable[..., set[str]]) -> None:
    assert down(Engine(CLONE, OTHER), everything=True) == set()


def test_names_and_places_are_the_checkouts_own() -> None:
    assert hosts.container_name("demo") == f"sparerig-host-{CLONE}-demo"
    assert CLONE in NETWORK
    assert hosts.SSH_CONFIG.parent == OWN
    assert CHECKOUT in OWN.parents
    assert Path(__file__).parents[3] == CHECKOUT
