# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in packages: the real ones' names, versions and dependencies."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StandIn:
    """A package with a real name and no real payload."""

    name: str
    version: str
    depends: str = ""
    files: dict[str, str] = field(default_factory=dict)  # place on the host: file in stand_ins/
    postinst: str = ""

    @property
    def control(self) -> str:
        """Write what dpkg and apt read."""
        depends = f"Depends: {self.depends}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\n"
            "Maintainer: Stand-in <stand-in@example.invalid>\n"
            f"{depends}Description: stand-in for NVIDIA's package of this name\n"
        )


def toolkit(version: str) -> list[StandIn]:
    """List the container toolkit's four packages, which always have one version."""
    bare = version.partition("-")[0]
    return [
        StandIn("libnvidia-container1", version),
        StandIn("libnvidia-container-tools", version, f"libnvidia-container1 (>= {version})"),
        StandIn(
            "nvidia-container-toolkit-base",
            version,
            files={
                "/usr/bin/nvidia-ctk": "nvidia-ctk",
                "/usr/share/stand-in-nvidia/nvidia-smi": "nvidia-smi",
                "/lib/systemd/system/nvidia-cdi-refresh.service": "nvidia-cdi-refresh.service",
                "/lib/systemd/system/nvidia-cdi-refresh.path": "nvidia-cdi-refresh.path",
            },
            postinst="toolkit-postinst",
        ),
        StandIn(
            "nvidia-container-toolkit",
            version,
            f"nvidia-container-toolkit-base (= {version}),"
            f" libnvidia-container-tools (>= {bare}), libnvidia-container-tools (<< 2.0.0)",
        ),
    ]


def cuda(release: str, version: str) -> list[StandIn]:
    """List one release of the CUDA toolkit, with the layers that the real one has."""
    dashed = release.replace(".", "-")
    home = f"/usr/local/cuda-{release}"
    return [
        StandIn(f"cuda-nvcc-{dashed}", version, files={f"{home}/bin/nvcc": f"nvcc-{release}"}),
        StandIn(
            f"cuda-cudart-{dashed}",
            version,
            files={f"{home}/lib64/libcudart.so.{release}": "library"},
        ),
        StandIn(f"cuda-compiler-{dashed}", version, f"cuda-nvcc-{dashed} (>= {release})"),
        StandIn(f"cuda-libraries-{dashed}", version, f"cuda-cudart-{dashed} (>= {release})"),
        StandIn(
            f"cuda-toolkit-{dashed}",
            version,
            f"cuda-compiler-{dashed} (>= {version}), cuda-libraries-{dashed} (>= {version}),"
            f" cuda-toolkit-config-common (>= {version})",
        ),
        StandIn(f"cuda-{dashed}", version, f"cuda-toolkit-{dashed}, cuda-drivers"),
    ]


# What must never be taken from there: Ubuntu's names, with a version that beats Ubuntu's.
_BAIT = "999.0-1ubuntu1"

REPOSITORIES = {
    "toolkit": [*toolkit("1.20.1-1"), *toolkit("1.99.0-1"), StandIn("curl", "99:1")],
    "cuda": [
        *cuda("12.1", "12.1.0-1"),
        *cuda("12.1", "12.1.1-1"),
        StandIn("cuda-toolkit-config-common", "12.9.79-1"),
        StandIn("cuda-drivers", _BAIT, "libnvidia-compute-999"),
        StandIn("libnvidia-compute-580-server", _BAIT),
        StandIn("nvidia-utils-580-server", _BAIT),
        StandIn("curl", "99:1"),
    ],
}
