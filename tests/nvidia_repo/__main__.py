# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m nvidia_repo DIR`` makes two signed apt repositories: DIR/toolkit and DIR/cuda.

DIR/key.asc signs both, DIR/fingerprint is its fingerprint, DIR/all.tar.gz is all of it. Needs dpkg-deb and gpg.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path

from nvidia_repo.packages import REPOSITORIES, StandIn

STAND_INS = Path(__file__).parent / "stand_ins"
SIGNER = "Stand-in for NVIDIA <stand-in@example.invalid>"


def build(package: StandIn, pool: Path) -> Path:
    """Build one package; return the file."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for path, source in package.files.items():
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            text = (STAND_INS / source).read_text()
            place.write_text(text)
            place.chmod(0o755 if text.startswith("#!") else 0o644)
        control = root / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(package.control)
        if package.postinst:
            shutil.copy(STAND_INS / package.postinst, control / "postinst")
            (control / "postinst").chmod(0o755)
        target = pool / f"{package.name}_{package.version}_amd64.deb"
        run("dpkg-deb", "--build", "--root-owner-group", "-Znone", scratch, str(target))
        return target


def index(package: StandIn, file: Path) -> str:
    """Write a package's entry in the repository's list."""
    content = file.read_bytes()
    return (
        package.control
        + f"Filename: ./{file.name}\nSize: {len(content)}\n"
        + f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


def publish(folder: Path, packages: list[StandIn], home: Path) -> None:
    """Build a repository without suites, and sign its list."""
    folder.mkdir(parents=True)
    listed = "\n".join(index(package, build(package, folder)) for package in packages).encode()
    (folder / "Packages").write_bytes(listed)
    (folder / "Packages.gz").write_bytes(gzip.compress(listed, mtime=0))
    lines = [
        "Origin: stand-in",
        "Label: stand-in for NVIDIA's repository",
        f"Date: {formatdate(usegmt=True)}",
        "Architectures: amd64",
        "SHA256:",
    ]
    for name in ("Packages", "Packages.gz"):
        content = (folder / name).read_bytes()
        lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}")
    (folder / "Release").write_text("\n".join([*lines, ""]))
    run(
        "gpg", "--homedir", str(home), "--batch", "--yes", "--clearsign",
        "--output", str(folder / "InRelease"), str(folder / "Release"),
    )  # fmt: skip


def run(*argv: str) -> str:
    """Run a program that has to succeed."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Make a throw-away key and both repositories."""
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    # A short path: gpg's agent listens on a socket in it.
    with tempfile.TemporaryDirectory(prefix="key") as scratch:
        home = Path(scratch)
        home.chmod(0o700)
        gpg = ("gpg", "--homedir", scratch, "--batch")
        run(*gpg, "--passphrase", "", "--quick-generate-key", SIGNER, "rsa2048", "sign", "never")
        (target / "key.asc").write_text(run(*gpg, "--armor", "--export"))
        keys = run(*gpg, "--with-colons", "--list-keys")
        fingerprint = next(line for line in keys.splitlines() if line.startswith("fpr:"))
        (target / "fingerprint").write_text(fingerprint.split(":")[9])
        for name, packages in REPOSITORIES.items():
            publish(target / name, packages, home)
        shutil.make_archive(f"{scratch}/all", "gztar", target)
        shutil.move(f"{scratch}/all.tar.gz", target)
        run("gpgconf", "--homedir", scratch, "--kill", "gpg-agent")


if __name__ == "__main__":
    main()
