# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line of the test bed: python -m testbed VERB."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor

from docker.errors import DockerException, NotFound

from testbed import engine, hosts, images, locks, model, registry
from testbed.progress import TestbedError, say, step
from testbed.roots import PULLED
from testbed.settings import (
    CACHE,
    CLONE,
    CLONE_LABEL,
    DEFAULT_RELEASE,
    DEMO_HOST,
    LABEL,
    OPEN_WEBUI,
    OWN,
    PROCESS_LABEL,
    REGISTRY_ADDRESS,
    RELEASES,
    VLLM,
    Service,
)

if t.TYPE_CHECKING:
    from docker import DockerClient

IMAGES_FILE = OWN / "images.json"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    options = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        options.action(options)
    except TestbedError as error:
        say(f"FAILED: {error}")
        return 1
    except DockerException as error:
        say(f"FAILED: the Docker engine says: {error}")
        return 1
    return 0


def stop(number: int, _frame: object) -> t.NoReturn:
    """Stop at once on Ctrl-C: end the builds under way and wait for no thread."""
    say("Stopped. What was finished is kept: the same command goes on from here.")
    client = engine.connect()
    if client is not None:
        ours: dict[str, t.Any] = {"label": [f"{LABEL}=build", f"{PROCESS_LABEL}={os.getpid()}"]}
        for container in client.containers.list(filters=ours):
            container.remove(force=True, v=True)
    os._exit(128 + number)


def parser() -> argparse.ArgumentParser:
    """Describe the verbs."""
    top = argparse.ArgumentParser(
        prog="python -m testbed", description="Test hosts, images and a model for this collection."
    )
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str,
        does: str,
        action: t.Callable[[argparse.Namespace], None],
        group: t.Any = verbs,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = group.add_parser(name, help=does, description=does)
        added.set_defaults(action=action)
        return added

    added = verb("up", "Make everything: engine, registry, images, model, demo host", up)
    added.add_argument("--page-port", type=int, help="port of the demo's page (default: 8080)")
    added = verb("down", "Remove this checkout's hosts, and what no other checkout uses", down)
    added.add_argument("--all", action="store_true", help="remove every checkout's, too")
    verb("engine", "See to a Docker engine that answers", lambda _unused: say_engine())
    verb("images", "Put the vLLM and Open WebUI images into the registry", make_images)
    verb(
        "model",
        "Make the tiny model and print its folder",
        lambda _unused: answer(str(model.make())),
    )
    verb("lock", "Renew the lock files of the images", lambda _unused: locks.renew(engine.ensure()))
    host = verbs.add_parser("host", help="Make, restart, list or remove test hosts")
    group = host.add_subparsers(metavar="VERB", required=True)
    added = verb("up", "Make a host, or see to it that it runs", host_up, group)
    added.add_argument("name")
    added.add_argument("--image", choices=sorted(RELEASES), default=DEFAULT_RELEASE)
    added.add_argument("--page-port", type=int, help="publish the host's port 8080 here")
    for name, does, action in (
        ("restart", "Restart a host as a PC restarts", host_restart),
        ("down", "Remove a host and all that is on it", host_down),
    ):
        verb(name, does, action, group).add_argument("name")
    verb("list", "List the hosts that run, as JSON", host_list, group)
    return top


def answer(result: t.Any) -> None:
    """Print a result to standard output, apart from the progress."""
    print(result if isinstance(result, str) else json.dumps(result, indent=2))  # noqa: T201


def say_engine() -> None:
    """See to an engine and say which it is."""
    version = engine.ensure().version()
    say(f"Docker engine {version['Version']} answers")


def up(options: argparse.Namespace) -> None:
    """Make everything, the slow parts side by side."""
    client = engine.ensure()
    with ThreadPoolExecutor(max_workers=2) as pool:
        # The host and the services share nothing but the engine.
        demo = pool.submit(hosts.up, client, DEMO_HOST, DEFAULT_RELEASE, options.page_port)
        fill_registry(client)
        container = demo.result()
    host = hosts.describe(container)
    say(f"The test bed is up. The host: ssh -F {host['ssh_config']} {DEMO_HOST}")
    say(f"Its page, once a playbook has run: {host['page']}")


def down(options: argparse.Namespace) -> None:
    """Remove this checkout's hosts; then all that checkouts share, unless another one has hosts."""
    client = engine.connect()
    shared = True
    if client is not None:
        with step("Removing test hosts, with their network and volumes"):
            remove(client, LABEL if options.all else f"{CLONE_LABEL}={CLONE}")
        others = client.containers.list(all=True, filters={"label": f"{LABEL}=host"})
        shared = not others
        if others:
            say(f"Other checkouts have {len(others)} hosts: the registry and the images stay.")
        else:
            with step("Removing the registry and the images"):
                remove(client, LABEL)
                remove_images(client)
    shutil.rmtree(OWN, ignore_errors=True)
    if not shared:
        say(f"Removed {OWN}.")
        return
    if engine.INSTALLED_MARK.exists():
        say("The Docker engine stays: this test bed installed it (apt-get purge docker.io).")
    shutil.rmtree(CACHE)
    say(f"Removed {OWN} and {CACHE}. Nothing of the test bed is left.")


def remove(client: DockerClient, label: str) -> None:
    """Remove containers, networks and volumes; what somebody else removes meanwhile is removed, too."""
    wanted: dict[str, t.Any] = {"label": label}
    for container in client.containers.list(all=True, filters=wanted):
        with contextlib.suppress(NotFound):
            container.remove(force=True, v=True)
    for network in client.networks.list(filters=wanted):
        with contextlib.suppress(NotFound):
            # The registry is in every checkout's network.
            network.reload()
            for container in network.containers:
                network.disconnect(container, force=True)
            network.remove()
    for volume in client.volumes.list(filters=wanted):
        with contextlib.suppress(NotFound):
            volume.remove(force=True)


def remove_images(client: DockerClient) -> None:
    """Remove the images that were built, and those that were pulled."""
    built = client.images.list(filters={"label": LABEL})
    tags = [tag for image in built for tag in image.tags]
    pulled = PULLED.read_text().split() if PULLED.exists() else []
    for reference in [*tags, *pulled]:
        with contextlib.suppress(NotFound):
            client.images.remove(reference, force=reference in tags)


def fill_registry(client: DockerClient) -> None:
    """Put both services' images into the registry and write their references down."""
    target = registry.up(client)

    def reference(service: Service) -> str:
        return target.reference(service, images.service(client, service))

    with ThreadPoolExecutor(max_workers=2) as pool:
        vllm, open_webui = pool.map(reference, (VLLM, OPEN_WEBUI))
    content = {"registry": REGISTRY_ADDRESS, "vllm": vllm, "open_webui": open_webui}
    OWN.mkdir(parents=True, exist_ok=True)
    half_made = IMAGES_FILE.with_name("images.json.new")
    half_made.write_text(json.dumps(content, indent=2) + "\n")
    half_made.rename(IMAGES_FILE)


def make_images(_given: argparse.Namespace) -> None:
    """Put both images into the registry and print their references."""
    fill_registry(engine.ensure())
    answer(json.loads(IMAGES_FILE.read_text()))


def host_up(options: argparse.Namespace) -> None:
    """Make a host or see to it that it runs."""
    container = hosts.up(engine.ensure(), options.name, options.image, options.page_port)
    container.reload()
    answer(hosts.describe(container))


def host_restart(options: argparse.Namespace) -> None:
    """Restart a host."""
    answer(hosts.describe(hosts.restart(engine.ensure(), options.name)))


def host_down(options: argparse.Namespace) -> None:
    """Remove a host."""
    hosts.down(engine.ensure(), options.name)
    say(f"The host {options.name} is gone.")


def host_list(_given: argparse.Namespace) -> None:
    """List the hosts that run."""
    answer([hosts.describe(container) for container in hosts.running(engine.ensure())])


if __name__ == "__main__":
    sys.exit(main())
