# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the official images state (images/upstream.yml), and how the built ones differ.

The one source for what a built image states, for the tables in docs/testbed.md and for the test
that fails when a pin moves.
"""

from __future__ import annotations

import functools
import json
import typing as t
from pathlib import Path

import yaml

FACTS_FILE = Path(__file__).parent / "images" / "upstream.yml"
PYTHON = "/opt/venv/bin"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Facts = dict[str, t.Any]

# Settings of an image that stand in the tables, and what they are called there.
SETTINGS = {
    "Entrypoint": "Entry point",
    "Cmd": "Command",
    "User": "User",
    "WorkingDir": "Working directory",
    "ExposedPorts": "Ports",
    "Volumes": "Volumes",
    "Healthcheck": "Health check",
    "StopSignal": "Stop signal",
}
UNSET = {
    "User": "not set: root",
    "StopSignal": "not set: SIGTERM",
}


@functools.cache
def facts() -> dict[str, Facts]:
    """Read the facts about every image."""
    found: dict[str, Facts] = yaml.safe_load(FACTS_FILE.read_text(encoding="utf-8"))
    return found


def stated(image: Facts) -> Facts:
    """Give what the built image states: all that the official one does, but for ``built``."""
    config: Facts = image["config"]
    left_out = image["built"]["env"]
    env = {name: value for name, value in config["Env"].items() if name not in left_out}
    own_path = env.get("PATH", "").startswith(f"{PYTHON}:")
    return {**config, "Env": env if own_path else {"PATH": f"{PYTHON}:{SYSTEM_PATH}", **env}}


def changes(image: Facts) -> tuple[str, ...]:
    """Write what a built image states as instructions of a Dockerfile."""
    config = stated(image)
    lines = [f"ENV {name}={json.dumps(value)}" for name, value in config["Env"].items()]
    lines += [f"USER {config['User']}"] if config["User"] else []
    lines += [f"WORKDIR {config['WorkingDir']}"]
    lines += [f"EXPOSE {port}" for port in config["ExposedPorts"]]
    lines += [f"VOLUME {json.dumps(config['Volumes'])}"] if config["Volumes"] else []
    lines += [f"HEALTHCHECK CMD {config['Healthcheck']}"] if config["Healthcheck"] else []
    lines += [f"STOPSIGNAL {config['StopSignal']}"] if config["StopSignal"] else []
    lines += [f"ENTRYPOINT {json.dumps(config['Entrypoint'])}"] if config["Entrypoint"] else []
    lines += [f"CMD {json.dumps(config['Cmd'])}"] if config["Cmd"] else []
    return tuple(lines)


def deviations(wanted: Facts, inspected: Facts) -> list[str]:
    """Say where an image is not as wanted.

    ``inspected`` is the ``Config`` of ``docker image inspect``. Variables that are in the image
    alone are left out, since a base image has some; of a health check only its presence counts.
    """
    env = dict(line.split("=", maxsplit=1) for line in inspected.get("Env") or ())
    pairs: list[tuple[str, t.Any, t.Any]] = [
        ("Entrypoint", wanted["Entrypoint"], inspected.get("Entrypoint") or []),
        ("Cmd", wanted["Cmd"], inspected.get("Cmd") or []),
        ("User", wanted["User"], inspected.get("User") or ""),
        ("WorkingDir", wanted["WorkingDir"], inspected.get("WorkingDir") or ""),
        ("ExposedPorts", wanted["ExposedPorts"], sorted(inspected.get("ExposedPorts") or {})),
        ("Volumes", wanted["Volumes"], sorted(inspected.get("Volumes") or {})),
        ("Healthcheck", bool(wanted["Healthcheck"]), bool(inspected.get("Healthcheck"))),
        ("StopSignal", wanted["StopSignal"], inspected.get("StopSignal") or ""),
        *((f"Env {name}", value, env.get(name)) for name, value in wanted["Env"].items()),
    ]
    return [f"{name}: {has!r}, not {want!r}" for name, want, has in pairs if want != has]


# --- docs/testbed.md ------------------------------------------------------------------------------


def tables() -> str:
    """Write the tables of docs/testbed.md."""
    return "\n".join(_section(image) for image in facts().values())


def _section(image: Facts) -> str:
    built = image["built"]
    rows = [("Base", image["base"], "Debian 12" if built else "")]
    rows += [
        (label, _shown(name, image["config"][name]), "the same" if built else "")
        for name, label in SETTINGS.items()
    ]
    rows += [
        ("Python", image["python"], "3.11 of Debian 12, in /opt/venv" if built else ""),
        ("Environment", _env(image["config"]["Env"]), _built_env(image) if built else ""),
        ("Programs", _listed(image["programs"]), _built_programs(built) if built else ""),
        ("Where it writes", image["state"], "the same" if built else ""),
    ]
    lines = [
        f"### {image['title']} {image['version']}",
        "",
        f"`{image['image']}:v{image['version']}`. Read in {image['read'].strip()}.",
        "",
        "| what | users pull | the tests build |" if built else "| what | users pull |",
        "|---|---|---|" if built else "|---|---|",
        *(f"| {' | '.join(map(_cell, row if built else row[:2]))} |" for row in rows),
        "",
        "| difference | users pull | the tests build | can a fault hide in it? |",
        "|---|---|---|---|",
        *(
            f"| {' | '.join(_cell(row[key]) for key in ('what', 'users', 'tests', 'fault'))} |"
            for row in image["differences"]
        ),
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|")


def _shown(name: str, value: t.Any) -> str:
    if not value:
        return UNSET.get(name, "none")
    return f"`{value if isinstance(value, str) else ' '.join(value)}`"


def _listed(words: t.Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _env(env: t.Mapping[str, str]) -> str:
    return "<br>".join(f"`{name}={value}`" for name, value in env.items())


def _built_env(image: Facts) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in image["built"]["env"].items():
        reasons.setdefault(reason, []).append(name)
    return "the same, but for " + "; ".join(
        f"{_listed(names)}: {reason}" for reason, names in reasons.items()
    )


def _built_programs(built: Facts) -> str:
    return f"without {_listed(built['missing'])}" if built["missing"] else "the same"
