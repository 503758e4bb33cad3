# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry on the test hosts' network, and a quick way to fill it.

``docker push`` compresses on one core. Here the engine hands over an image as it is (what
``docker save`` does), a compressor uses every core, and the blobs go to the registry over HTTP.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import subprocess
import tarfile
import time
import typing as t
from pathlib import Path

from docker.errors import NotFound

from testbed import images
from testbed.machine import answers, free_port, need, only_one
from testbed.progress import TestbedError, say, step
from testbed.settings import (
    CACHE,
    CLONE,
    CLONE_LABEL,
    LABEL,
    NETWORK,
    REGISTRY,
    REGISTRY_ADDRESS,
    SERVICES,
    Service,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

CHUNK = 1 << 20
START_SECONDS = 30
# Debian 12's Docker unpacks gzip only.
COMPRESS = ("pigz", "-1", "--no-name")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # how compressed files begin
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

Blob = dict[str, t.Any]  # an OCI descriptor: mediaType, digest, size


def up(client: DockerClient) -> Registry:
    """Start the registry unless it runs."""
    with only_one("registry-container"):
        container = find(client)
        if container is None or container.status != "running":
            image = images.registry(client)
            data = volume(client, f"{REGISTRY}-data")
            say("Starting the registry")
            if container is not None:
                container.remove(force=True)
            client.containers.run(
                image,
                name=REGISTRY,
                detach=True,
                volumes={data: {"bind": "/var/lib/docker-registry", "mode": "rw"}},
                ports={"5000/tcp": ("127.0.0.1", free_port())},
                labels={LABEL: "registry"},
            )
    network(client)
    container = client.containers.get(REGISTRY)
    port = int(container.attrs["HostConfig"]["PortBindings"]["5000/tcp"][0]["HostPort"])
    deadline = time.monotonic() + START_SECONDS
    while not answers("127.0.0.1", port, 1):
        if time.monotonic() > deadline:
            raise TestbedError(
                f"The registry does not answer on port {port}. See: docker logs {REGISTRY}"
            )
        time.sleep(0.2)
    return Registry(client, port)


def find(client: DockerClient) -> Container | None:
    """Find the registry's container."""
    try:
        return client.containers.get(REGISTRY)
    except NotFound:
        return None


def volume(client: DockerClient, name: str, labels: dict[str, str] | None = None) -> str:
    """Make a volume that `down` can find; give its name."""
    client.volumes.create(name, labels={LABEL: "volume", **(labels or {})})
    return name


def network(client: DockerClient) -> None:
    """Make the network of this checkout's hosts, and have the registry in it if it is there."""
    with only_one("network"):
        try:
            found = client.networks.get(NETWORK)
        except NotFound:
            labels = {LABEL: "network", CLONE_LABEL: CLONE}
            found = client.networks.create(NETWORK, driver="bridge", labels=labels)
        container = find(client)
        if container and NETWORK not in container.attrs["NetworkSettings"]["Networks"]:
            found.connect(container, aliases=["registry"])


class Registry:
    """The registry, as seen from this machine."""

    def __init__(self, client: DockerClient, port: int) -> None:
        """Remember where it listens."""
        self.client = client
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | t.BinaryIO = b"", **headers: str
    ) -> http.client.HTTPResponse:
        """Send one request; headers are given as Content_Type."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        size = len(body) if isinstance(body, bytes) else Path(body.name).stat().st_size
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Length": str(size), **sent})
        answer = connection.getresponse()
        if method != "HEAD" and answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise TestbedError(
                f"The registry refused {method} {path}: {answer.status} {answer.read(500)!r}. "
                f"If its volume is damaged: python -m testbed down, then up."
            )
        return answer

    def reference(self, service: Service, image: str) -> str:
        """Give the pinned reference of a service's image; push it first where it is missing."""
        identity = str(self.client.images.get(image).id)
        note = CACHE / "pushed" / f"{service.name}-{identity.rpartition(':')[2][:12]}"
        if note.is_file():
            digest = note.read_text().strip()
            path = f"/v2/{service.name}/manifests/{digest}"
            if self.ask("HEAD", path, Accept=MANIFEST_TYPE).status == http.HTTPStatus.OK:
                return f"{REGISTRY_ADDRESS}/{service.name}:{service.tag}@{digest}"
        with (
            only_one(f"push-{service.name}") as scratch,
            step(f"Pushing {service.name} {service.tag} to the registry"),
        ):
            digest = self.push(service, image, scratch)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest + "\n")
        return f"{REGISTRY_ADDRESS}/{service.name}:{service.tag}@{digest}"

    def push(self, service: Service, image: str, scratch: Path) -> str:
        """Push an image and give the digest of its manifest."""
        need("pigz", "pigz", "compress image layers on every core")
        layers: dict[str, Blob] = {}
        small: dict[str, bytes] = {}
        links: dict[str, str] = {}
        with tarfile.open(fileobj=Stream(self.client.api.get_image(image)), mode="r|") as saved:
            for member in saved:
                if member.issym() or member.islnk():
                    # An older engine links a layer that occurs twice: -> ../<id>/layer.tar
                    links[member.name] = member.linkname.removeprefix("../")
                content = saved.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                if member.size < CHUNK:
                    small[member.name] = content.read()
                else:
                    layers[member.name] = self.put_layer(service, content, scratch)
        contents = json.loads(small["manifest.json"])[0]
        config = small[contents["Config"]]
        blobs = []
        for name in contents["Layers"]:
            place = links.get(name, name)
            if place not in layers:
                layers[place] = self.put_layer(service, io.BytesIO(small[place]), scratch)
            blobs.append(layers[place])
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self.put_config(service, config),
                "layers": blobs,
            }
        ).encode()
        path = f"/v2/{service.name}/manifests/{service.tag}"
        self.ask("PUT", path, manifest, Content_Type=MANIFEST_TYPE)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def put_config(self, service: Service, config: bytes) -> Blob:
        """Store the image's configuration."""
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        if place := self.place_for(service, digest):
            self.ask("PUT", place, config, Content_Type="application/octet-stream")
        return {"mediaType": CONFIG_TYPE, "digest": digest, "size": len(config)}

    def put_layer(self, service: Service, content: t.IO[bytes], scratch: Path) -> Blob:
        """Compress a layer and store it."""
        compressed = scratch / "layer"
        # An engine that keeps images as it got them hands over layers that are compressed already.
        start = content.read(len(ZSTD))
        command = ("cat",) if start == ZSTD or start.startswith(GZIP) else COMPRESS
        with compressed.open("wb") as output:
            compressor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
            assert compressor.stdin
            compressor.stdin.write(start)
            while chunk := content.read(CHUNK):
                compressor.stdin.write(chunk)
            compressor.stdin.close()
            if compressor.wait():
                raise TestbedError(f"{' '.join(command)} failed. Is the disk with {CACHE} full?")
        with compressed.open("rb") as packed:
            hashed = hashlib.sha256()
            while chunk := packed.read(CHUNK):
                hashed.update(chunk)
            packed.seek(0)
            digest = f"sha256:{hashed.hexdigest()}"
            if place := self.place_for(service, digest):
                self.ask("PUT", place, packed, Content_Type="application/octet-stream")
        size = compressed.stat().st_size
        compressed.unlink()
        kind = "zstd" if start == ZSTD else "gzip"
        return {"mediaType": f"{LAYER_TYPE}+{kind}", "digest": digest, "size": size}

    def place_for(self, service: Service, digest: str) -> str | None:
        """Ask where to put a blob; none where the registry has it, for this or another service."""
        if self.ask("HEAD", f"/v2/{service.name}/blobs/{digest}").status == http.HTTPStatus.OK:
            return None
        for other in SERVICES:
            path = f"/v2/{service.name}/blobs/uploads/?mount={digest}&from={other.name}"
            answer = self.ask("POST", path)
            if answer.status == http.HTTPStatus.CREATED:
                return None
        location = str(answer.headers["Location"]).partition(f":{self.port}")[2]
        return f"{location}{'&' if '?' in location else '?'}digest={digest}"


class Stream(io.RawIOBase):
    """A readable file made of the chunks in which the engine sends an image."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """Start before the first chunk."""
        self.chunks = chunks
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: t.Any) -> int:
        """Fill the buffer from the current chunk, or from the next one."""
        if not self.rest:
            self.rest = memoryview(next(self.chunks, b""))
        count = min(len(buffer), len(self.rest))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count
