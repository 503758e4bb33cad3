# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of failures: identifier, title, cause and remedy of each, in this one place.

Standard library only, and no import from Ansible: `container_service` copies this file to the
host, where the supervisor of a service imports it.

Texts have placeholders in braces. Whoever reports a failure gives the words that it knows; WORDS
has the usual word for each of them, which the documentation shows. Every command of a remedy
stands here, as a user types it on the host, and molecule/default/tests/test_remedies.py runs it.
"""

from __future__ import annotations

import re
import string
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Remedy:
    """What fixes a failure: commands for a shell on the host, a sentence, or both."""

    commands: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Failure:
    """A known failure.

    ``details`` say what was measured, the most exact first. One is said only when all its words
    are known. ``page``: docs/failures/ID.md explains it further.
    """

    id: str
    title: str
    cause: str
    remedy: Remedy
    details: tuple[str, ...] = ()
    page: bool = False


@dataclass(frozen=True)
class Explanation:
    """A failure as it happened: no placeholder is left in its texts."""

    id: str
    title: str
    cause: str
    remedy: str

    def message(self, circumstances: str = "") -> str:
        """Say it as every message of the collection does: TITLE (ID): CAUSE Remedy: REMEDY."""
        said = " ".join(part for part in (self.cause, circumstances) if part)
        return f"{self.title} ({self.id}): {said} Remedy: {self.remedy}"


class UnknownFailureError(KeyError):
    """An identifier is not in the registry."""


# What a placeholder stands for where nobody says it more exactly: our own deployment.
WORDS: t.Final[Mapping[str, str]] = {
    "unit": "sparerig-vllm",
    "web_unit": "sparerig-open-webui",
    # vLLM publishes no port: it is asked from inside its container.
    "curl": "sudo docker exec sparerig-vllm curl",
    "url": "http://127.0.0.1:8000",
    # With the key, which stays out of argv and of the shell's history.
    "models": (
        'sudo docker exec sparerig-vllm sh -c \'echo "Authorization: Bearer $VLLM_API_KEY"'
        " | curl -sS -H @- http://127.0.0.1:8000/v1/models'"
    ),
    "host": "localhost",  # of the endpoint
    # What is not right, on the host
    "path": "/",
    "file": "/etc/apt/sources.list.d/FILE",
    "packages": "PACKAGES",
    "port": "8080",
    "image": "IMAGE",
    "network": "sparerig",
    "log": "/srv/models/ORGANISATION--NAME/download.log",
    # A hub, and what was asked of it
    "endpoint": "https://huggingface.co",
    "repository": "ORGANISATION/NAME",
    "subject": "the model",
    "reader": "a request without a token",
    "status": "an error",
    # What would fit
    "context": "the length that it was made for",
    "shorter": "a lower number",
    "fewer": "8",
    "settings": "model_tool_call_parser: auto and model_reasoning_parser: auto",
}

# --- what several remedies say ------------------------------------------------------------------

_STATUS = "systemctl status {unit}"
_LOG = "sudo journalctl -u {unit} -n 100"
_RESTART = "sudo systemctl restart {unit}"
_WEB_STATUS = "systemctl status {web_unit}"
_WEB_LOG = "sudo journalctl -u {web_unit} -n 100"
_DRIVER_LOG = "sudo dmesg | grep -E 'NVRM|Xid'"
_NVIDIA_SMI = "nvidia-smi"
_TRY_CARD = "sudo docker run --rm --device nvidia.com/gpu=all --entrypoint nvidia-smi {image} -L"
_REBOOT = "sudo systemctl reboot"
_PLAY = "Run the play again."
_LESS = (
    "Or let less be planned, and run the play again: a lower model_context, model_chats or"
    " model_max_num_seqs, or a smaller model."
)
_RESERVE = (
    "End other programs that it lists; or set model_reserve_mib: {} and run the play again: the"
    " plan is then made with a smaller KV cache."
)
_NOT_BY_BATCHES = (
    "Smaller batches alone do not help: the plan gives what they save to the KV cache."
)

# --- the registry -------------------------------------------------------------------------------

SECTIONS: t.Final[Mapping[str, tuple[Failure, ...]]] = {
    "The graphics card": (
        Failure(
            "gpu-missing",
            "No NVIDIA card on the PCI bus",
            "The card is not seated, has no power, is switched off in the firmware setup, or"
            " belongs to a virtual machine.",
            Remedy(
                ("lspci -nn -d 10de:",),
                "If it lists no card, switch the PC off and check the slot, the power cables and"
                " the firmware setup. A PC without a card belongs in an inventory with"
                " sparerig_device: cpu.",
            ),
            page=True,
        ),
        Failure(
            "gpu-unexpected",
            "There is a GPU where none was expected",
            "The option gpu says absent, and the driver offers a GPU.",
            Remedy(("nvidia-smi -L",), "Set gpu to required if it lists the card to use."),
        ),
        Failure(
            "gpu-not-found",
            "A listed GPU is not there",
            "The number or UUID is not one of this host's, or that card has dropped out.",
            Remedy(("nvidia-smi -L",), "Name the card by the number or UUID that it has there."),
        ),
        Failure(
            "gpu-lost",
            "The driver is loaded and cannot use the GPU",
            "The card stopped answering, or this driver branch cannot initialise it.",
            Remedy(
                (_DRIVER_LOG, _NVIDIA_SMI),
                "Switch the PC off and on; if that does not help, set nvidia_driver_branch to a"
                " branch that knows the card.",
            ),
        ),
        Failure(
            "gpu-fell-off-the-bus",
            "The card fell off the PCI bus (Xid 79)",
            "The card stopped answering: too little power, a loose slot or riser, or heat.",
            Remedy(
                (_DRIVER_LOG,),
                "Switch the PC off, reseat the card and its power cables, and then give it less"
                " power with `sudo nvidia-smi -pl WATTS`.",
            ),
            page=True,
        ),
        Failure(
            "gpu-xid",
            "The driver reported a hardware error (Xid)",
            "The GPU itself failed since boot: power supply, riser, heat, overclocking or a dying"
            " card.",
            Remedy(
                ("sudo dmesg | grep Xid", "nvidia-smi -q -d POWER,TEMPERATURE"),
                "Take overclocking back, cool the card, and check its power cables; reboot.",
            ),
        ),
        Failure(
            "gpu-lost-after-suspend",
            "The PC slept, and CUDA did not wake up",
            "After a suspend the CUDA kernel module often can't reach the card any more.",
            Remedy(
                ("sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm", _RESTART),
                "To keep the PC awake:"
                " `sudo systemctl mask sleep.target suspend.target hibernate.target`.",
            ),
            page=True,
        ),
        Failure(
            "gpu-lost-after-daemon-reload",
            "A running container lost the GPU",
            "`systemctl daemon-reload` takes devices away that were handed to a container behind"
            " Docker's back, as the old NVIDIA runtime hook does. A CDI device is not taken away.",
            Remedy(
                (),
                "Start the container with `--device nvidia.com/gpu=all` in place of `--gpus all`,"
                " as our units do, or make it anew with `docker restart NAME`.",
            ),
            page=True,
        ),
        Failure(
            "container-without-gpu",
            "The container does not use the GPU",
            "The container was started without the GPU, or lost it.",
            Remedy(
                (_NVIDIA_SMI, "nvidia-ctk cdi list", _RESTART),
                "If nvidia-smi works and the list has nvidia.com/gpu=all, run the play again so"
                " that the container gets its GPU.",
            ),
        ),
        Failure(
            "gpu-memory-low",
            "Less GPU memory free than required",
            "Other programs (a desktop, a game, an old engine) or the engine itself hold it.",
            Remedy((_NVIDIA_SMI,), "End the programs that it lists and that need not run."),
        ),
        Failure(
            "gpu-memory-high",
            "More GPU memory in use than allowed",
            "The engine was planned larger than the limit, or other programs hold memory as well.",
            Remedy((_NVIDIA_SMI,), f"End other programs that it lists. {_LESS}"),
        ),
        Failure(
            "gpu-process-memory",
            "One process holds more GPU memory than allowed",
            "The engine was planned larger than the limit, or this process is not expected here.",
            Remedy((_NVIDIA_SMI,), f"End the process if it is not the engine. {_LESS}"),
        ),
        Failure(
            "gpu-other-processes",
            "Programs outside the container hold too much GPU memory",
            "A desktop, a game, a browser or another engine shares the card.",
            Remedy(
                (_NVIDIA_SMI,),
                "End the programs that it lists; `sudo systemctl isolate multi-user.target` ends"
                " the desktop.",
            ),
        ),
        Failure(
            "card-too-old",
            "The card is too old",
            "vLLM has no code for cards of this compute capability, or the driver branch no longer"
            " knows the card.",
            Remedy((), "Use a GeForce GTX 16 or RTX card, or newer; no setting fixes this."),
            page=True,
        ),
        Failure(
            "mixed-cards",
            "No kernel module drives both cards",
            "The older card needs the proprietary kernel module, the newer one the open one.",
            Remedy((), "Take one of the two cards out."),
            page=True,
        ),
    ),
    "The driver": (
        Failure(
            "driver-missing",
            "A card without an NVIDIA driver",
            "The card is on the PCI bus, but nvidia-smi is not installed.",
            Remedy(
                ("lspci -nnk -d 10de:",),
                "Run the play with nvidia_driver_state: present, which installs the driver.",
            ),
        ),
        Failure(
            "driver-not-loaded",
            "The driver is installed and not working",
            "Its kernel module is not loaded: not built or not signed for the running kernel, or"
            " refused by Secure Boot.",
            Remedy(
                (
                    "sudo modprobe nvidia",
                    "sudo dmesg | grep -iE 'nvidia|nvrm|key was rejected'",
                ),
                "If the module is not found, run the role nvidia_driver again.",
            ),
        ),
        Failure(
            "driver-library-mismatch",
            "Kernel module and libraries of the driver have different versions",
            "The driver's packages were upgraded while the old kernel module stayed loaded."
            " Containers that run already go on working, which hides it; the next one that starts"
            " fails.",
            Remedy((_REBOOT,)),
            page=True,
        ),
        Failure(
            "driver-hung",
            "The driver does not answer",
            "The GPU or its driver is stuck, often after a hardware error or a suspend.",
            Remedy((_DRIVER_LOG, _REBOOT)),
        ),
        Failure(
            "driver-answer-not-understood",
            "nvidia-smi answers something unknown",
            "This driver's nvidia-smi speaks differently from those this collection knows.",
            Remedy((_NVIDIA_SMI,), "Report what it prints: the collection has to learn it."),
        ),
        Failure(
            "driver-too-old-for-image",
            "The driver is too old for the vLLM image",
            "A container brings its own CUDA libraries, but the driver of the host has to offer"
            " that CUDA version. The compatibility packages that bridge the gap are for"
            " data-centre cards.",
            Remedy(
                (),
                "Set nvidia_driver_branch to a branch that offers it, or choose an older"
                " vllm_image.",
            ),
            page=True,
        ),
        Failure(
            "module-key-rejected",
            "The kernel refuses the driver's signature",
            "Secure Boot is on, and the kernel module is unsigned or its key is not enrolled.",
            Remedy(
                ("sudo mokutil --import /var/lib/shim-signed/mok/MOK.der",),
                "Choose a password, reboot, and at the blue screen choose Enroll MOK, Continue,"
                " Yes, the password, Reboot. Or use the modules that Canonical signed:"
                " nvidia_driver_dkms: false.",
            ),
            page=True,
        ),
        Failure(
            "kernel-without-module",
            "The kernel that boots next has no NVIDIA module",
            "A newer kernel was installed without the NVIDIA module that belongs to it.",
            Remedy(
                (),
                "Run the role nvidia_driver again; it installs the module, or says why it can't.",
            ),
            page=True,
        ),
        Failure(
            "nouveau-loaded",
            "nouveau drives the card",
            "The free driver nouveau took the card at boot; NVIDIA's driver can't have it as well.",
            Remedy((_REBOOT,), "If it comes back: `sudo update-initramfs -u -k all`, and reboot."),
            page=True,
        ),
        Failure(
            "foreign-driver",
            "An NVIDIA driver from elsewhere is installed",
            "Two drivers of different origin overwrite each other's files.",
            Remedy((), "Remove it first."),
            page=True,
        ),
        Failure(
            "branch-unknown",
            "The archive has no such driver branch",
            "The distribution's archive carries other branches.",
            Remedy(
                ("apt-cache search --names-only '^nvidia-headless-no-dkms-[0-9]+-server'",),
                "Set nvidia_driver_branch to one that it lists.",
            ),
            page=True,
        ),
        Failure(
            "branch-transitional",
            "The driver branch is only a name for another one",
            "The distribution ended this branch; its packages install a newer one.",
            Remedy((), "Set nvidia_driver_branch to the branch that you would get."),
            page=True,
        ),
        Failure(
            "held-package",
            "A held package is in the way",
            "Somebody put a hold on a driver package that has to change.",
            Remedy(("sudo apt-mark unhold {packages}",), _PLAY),
            page=True,
        ),
        Failure(
            "system-unsupported",
            "No driver for this system from its own archive",
            "The role takes Canonical's signed modules, which only Ubuntu has.",
            Remedy(
                (),
                "Install the driver yourself and set nvidia_driver_state: unmanaged; everything is"
                " still checked.",
            ),
            page=True,
        ),
    ),
    "The host": (
        Failure(
            "host-untested",
            "The roles were not made for this system",
            "Another distribution, release or processor than those that are tested.",
            Remedy((), "Install Ubuntu 22.04 on this PC, or take it out of the inventory."),
        ),
        Failure(
            "ram-too-small",
            "The PC has too little main memory",
            "The model passes through main memory while it is loaded.",
            Remedy(("free -h",), "Add memory, or choose a smaller model."),
        ),
        Failure(
            "disk-full",
            "The disk has not enough room",
            "Models and images take tens of GiB, and something else may write to this disk too.",
            Remedy(
                ("df -h {path}", "sudo du -xh --max-depth=2 {path} | sort -h | tail"),
                "Remove what is not needed (`sudo docker image prune` removes unused images, the"
                " option prune old revisions of a model), or use a larger disk.",
            ),
        ),
        Failure(
            "disk-error",
            "The disk does not take the files",
            "It is read-only or failing, or this user may not write there.",
            Remedy(
                ("findmnt -T {path}", "sudo dmesg | tail"),
                "Put the models on a disk in good order, and run the play with become.",
            ),
        ),
        Failure(
            "port-in-use",
            "Another program has the port",
            "Only one program can listen on a port of an address.",
            Remedy(("sudo ss -ltnp 'sport = :{port}'",), "Stop that program, or choose a port."),
        ),
        Failure(
            "address-unavailable",
            "The address cannot be listened on",
            "This host has no such address, or the user may not use the port.",
            Remedy(("ip -brief address",), "Use an address that it lists, or 127.0.0.1."),
        ),
        Failure(
            "option-invalid",
            "A value in the inventory cannot work",
            "It was mistyped, or pasted with a line break at its end.",
            Remedy(
                (),
                "Correct the value in the inventory. A secret stands on one line (in YAML not after"
                " | or >); a published port is written address:host_port:container_port.",
            ),
        ),
        Failure(
            "apt-locked",
            "Another program holds apt's lock",
            "Another installation runs, often the nightly unattended upgrade.",
            Remedy(
                ("ps -C apt,apt-get,dpkg,unattended-upgr -o pid,etime,args",),
                f"Wait for it to end. {_PLAY}",
            ),
            page=True,
        ),
        Failure(
            "conflicting-signed-by",
            "Two apt files name NVIDIA's repository with different keys",
            "apt refuses to read any list while two files give one repository different keys.",
            Remedy(("sudo rm {file}",), _PLAY),
            page=True,
        ),
        Failure(
            "repository-unreadable",
            "apt cannot read the repository",
            "The repository, the way to it or its signature is not right.",
            Remedy(("sudo apt-get update",), f"Correct what it names. {_PLAY}"),
        ),
        Failure(
            "archive-incomplete",
            "The archive lists packages that it does not have",
            "For some hours after a kernel release mirrors list files that they can't send yet.",
            Remedy(
                ("sudo apt-get update",),
                "If it names a source that fails, correct or remove that source; else wait some"
                " hours, or use another mirror, and run again.",
            ),
            page=True,
        ),
    ),
    "Docker": (
        Failure(
            "docker-missing",
            "Docker is not installed",
            "The role docker_engine did not run on this host.",
            Remedy((), "Run the role docker_engine first; it installs the package docker.io."),
        ),
        Failure(
            "docker-not-running",
            "Docker does not answer",
            "Its service was stopped or failed.",
            Remedy(("systemctl status docker", "sudo journalctl -u docker -n 50")),
        ),
        Failure(
            "docker-from-snap",
            "Docker comes from a snap",
            "Docker from snap is shut off from the driver's files and from most directories.",
            Remedy(("sudo snap remove docker",), f"Its containers and images go with it. {_PLAY}"),
            page=True,
        ),
        Failure(
            "docker-without-cdi",
            "Docker does not read CDI specifications",
            "CDI is off in this Docker: before 28.2 it has to be switched on.",
            Remedy(
                ("sudo docker info | grep -A2 -i cdi",),
                'Add "features": {{"cdi": true}} to /etc/docker/daemon.json, and restart Docker;'
                " the role docker_engine does so.",
            ),
        ),
        Failure(
            "container-toolkit-missing",
            "Docker knows no NVIDIA device",
            "The NVIDIA container toolkit is not installed, or it has written no CDI"
            " specification.",
            Remedy(
                ("nvidia-ctk cdi list",),
                "Run the role nvidia_container_toolkit again; the list then names"
                " nvidia.com/gpu=all.",
            ),
            page=True,
        ),
        Failure(
            "cdi-not-refreshed",
            "The CDI specification cannot be written",
            "nvidia-container-toolkit is not installed or older than 1.18.",
            Remedy(
                ("sudo journalctl -u nvidia-cdi-refresh.service -n 50",),
                "Run the role nvidia_container_toolkit again, which installs the pinned version.",
            ),
        ),
        Failure(
            "gpu-container-failed",
            "A container that was given the card does not find it",
            "The container ended in another way than those that are known.",
            Remedy(
                (_TRY_CARD,),
                "It lists the card when all is well.",
            ),
        ),
        Failure(
            "command-failed",
            "A command on the host failed",
            "Docker or systemd refused it; its own words say why.",
            Remedy(("systemctl status docker", _STATUS), _PLAY),
        ),
        Failure(
            "image-not-pulled",
            "The image cannot be pulled",
            "Its name or tag is mistyped, the internet cannot be reached, or the disk is full.",
            Remedy(("df -h /var/lib", "sudo docker pull {image}")),
        ),
        Failure(
            "volume-missing",
            "A directory that the container is to see does not exist",
            "The path is mistyped, or its disk is not mounted.",
            Remedy((), "Make the directory, mount its disk, or correct the option volumes."),
        ),
        Failure(
            "network-not-made",
            "The Docker network cannot be made",
            "Docker refused it, often because its address pools are used up.",
            Remedy(
                ("sudo docker network ls", "sudo docker network prune"),
                "The second removes the networks that no container uses.",
            ),
        ),
        Failure(
            "network-differs",
            "The Docker network exists with other properties",
            "Something else made a network of this name.",
            Remedy(
                ("sudo docker network inspect {network}", "sudo docker network rm {network}"),
                f"Stop what uses it before it is removed. {_PLAY}",
            ),
        ),
        Failure(
            "container-unknown",
            "Docker does not tell of the container",
            "Docker is not installed, does not run, or may not be asked by this user.",
            Remedy(("sudo docker ps --all", "systemctl status docker")),
        ),
        Failure(
            "container-not-running",
            "The container does not run",
            "Its service was stopped, is still starting, or failed.",
            Remedy((_STATUS, _LOG, _RESTART)),
        ),
        Failure(
            "container-network",
            "The container's network cannot be entered",
            "Only root can enter it (become is off), or the container ended in between.",
            Remedy((_STATUS,), "If the service is active, run with become."),
        ),
    ),
    "The model's files": (
        Failure(
            "model-directory-missing",
            "The model's directory is not there",
            "The path is mistyped, names a file, a link leads nowhere, or a disk is not mounted.",
            Remedy(("ls -l {path}",), "Name the directory that holds the model."),
        ),
        Failure(
            "model-config-missing",
            "The directory is not a model in the layout of Hugging Face",
            "config.json is not there or is not of a model: the copy is incomplete, or this is"
            " something else.",
            Remedy(("ls -l {path}",), "Copy the whole model there."),
        ),
        Failure(
            "model-weights-missing",
            "Weights of the model are missing",
            "Only the small files were copied, or the copy broke off.",
            Remedy(("ls -l {path}",), "Copy the *.safetensors files of the model there."),
        ),
        Failure(
            "model-format-foreign",
            "The weights are made for another program",
            "GGUF, ONNX, TensorFlow and original checkpoints are not loaded by vLLM.",
            Remedy((), "Choose a release of the model in safetensors (plain, GPTQ, AWQ or FP8)."),
        ),
        Failure(
            "model-file-damaged",
            "A file of the model is damaged",
            "The copy broke off, the disk was full, or it was cloned without git-lfs.",
            Remedy(("ls -l {path}",), "Fetch the file again."),
        ),
        Failure(
            "model-unreadable",
            "The container may not read the model",
            "The files were copied with private permissions, or the disk fails.",
            Remedy(("ls -ld {path}", "sudo chmod -R a+rX {path}")),
        ),
        Failure(
            "model-links-out",
            "The model's files are links that lead out of its directory",
            "A snapshot in the Hugging Face cache is only links into the folder blobs, which the"
            " container does not see.",
            Remedy(
                ("sudo cp -rL {path} /srv/models/",), "Then give the copy as the model's directory."
            ),
        ),
        Failure(
            "tokenizer-missing",
            "The model has no tokenizer",
            "The quantised release left it out, or the copy broke off.",
            Remedy((), "Copy the tokenizer of the original model into the directory."),
        ),
        Failure(
            "chat-template-missing",
            "The model has no chat template",
            "Its tokenizer brings none, as in a base model that only continues a text: the chat API"
            " and the chat page cannot work with it.",
            Remedy(
                (),
                "Serve the model's instruct or chat release, or give a template with"
                " chat-template in vllm_arguments.",
            ),
        ),
        Failure(
            "chat-template-token-missing",
            "The chat template writes tokens that the tokenizer lacks",
            "Template and tokenizer are of two families: a conversion mixed them up, or a template"
            " was copied from another model. The model would be spoken to in words that it was"
            " never trained on.",
            Remedy(
                (),
                "Take tokenizer and template of the original model, or another release of it; or"
                " give another template with chat-template in vllm_arguments.",
            ),
        ),
        Failure(
            "act-order-refused",
            "This GPTQ file was made with act-order",
            "vLLM 0.30 and later refuses GPTQ files with desc_act true and a group size.",
            Remedy(
                (),
                "Choose a copy of the model made with desc_act false; the catalogue holds only"
                " such.",
            ),
        ),
        Failure(
            "quantization-unsupported",
            "vLLM cannot run this quantisation",
            "The files of the model and the quantisation do not go together.",
            Remedy(
                (),
                "Remove quantization from vllm_arguments if it is there: vLLM reads the method"
                " from the model. Else choose another copy of the model, or the vllm_image that"
                " served it before.",
            ),
            details=("{what}",),
        ),
    ),
    "The hub": (
        Failure(
            "hub-license-not-accepted",
            "The model may not be downloaded without permission",
            "The hub gives {subject} only to people who accepted the model's license, so not to"
            " {reader}.",
            Remedy(
                (),
                "Accept the license at {endpoint}/{repository}, signed in; make a token with read"
                " permission at {endpoint}/settings/tokens; give it as model_token"
                " (the module's option token). Or choose a model that is not gated.",
            ),
        ),
        Failure(
            "hub-revision-not-found",
            "The hub has no such revision",
            "The hub has no {subject}: the branch or tag is misspelt, or the commit was removed.",
            Remedy((), "Choose one of those at {endpoint}/{repository}/commits/main."),
        ),
        Failure(
            "hub-file-not-found",
            "The hub does not have a file that it lists",
            "The hub lists {subject}, but does not have it (HTTP {status}): a mirror may be out of"
            " step.",
            Remedy((), "Look at {endpoint}/{repository}/tree/main, or try another endpoint."),
        ),
        Failure(
            "hub-repository-not-found",
            "The hub has no such repository",
            "The hub has no {subject}, or does not show it: the name is misspelt, or it is private"
            " and not for {reader}.",
            Remedy((), "Open {endpoint}/{repository} in a browser, and correct the name."),
        ),
        Failure(
            "hub-token-refused",
            "The hub refuses the token",
            "The hub refused the request for {subject} (HTTP {status}): the token was revoked or"
            " mistyped, or lacks the read permission.",
            Remedy((), "Make a new one at {endpoint}/settings/tokens."),
        ),
        Failure(
            "hub-rate-limited",
            "The hub takes no more requests for now",
            "The hub said again and again that there were too many requests ({subject}).",
            Remedy(
                (),
                "Wait some minutes, or give a token: with one the limit is higher. What was fetched"
                " stays, and the next run goes on from there.",
            ),
        ),
        Failure(
            "hub-server-error",
            "The hub fails",
            "The hub answered HTTP {status} for {subject}.",
            Remedy(
                (),
                "Look at https://status.huggingface.co, and run this again later. What was fetched"
                " stays, and the next run goes on from there.",
            ),
        ),
        Failure(
            "hub-offline",
            "The host is told not to ask the hub",
            "HF_HUB_OFFLINE is set on this host, but {subject} has to come from the hub.",
            Remedy((), "Unset it for this run, or take the model from another host."),
        ),
        Failure(
            "hub-unreachable",
            "The hub cannot be reached",
            "The network, DNS, the clock or a proxy of the host is in the way.",
            Remedy(
                ("curl -I {endpoint}",),
                "What was fetched stays, and the next run goes on from there.",
            ),
            details=("{subject} could not be fetched from {endpoint}: {reason}.",),
        ),
        Failure(
            "hub-not-a-hub",
            "The endpoint is not a Hugging Face hub",
            "{endpoint} answers for {subject}, but not as a hub does: it is another server, or a"
            " login page of the network stands in between.",
            Remedy(("curl -i {endpoint}/api/models/{repository}",), "It answers with JSON."),
        ),
        Failure(
            "checksum-mismatch",
            "A file arrived damaged",
            "{subject} arrived twice with the right size and a wrong checksum, and was thrown away:"
            " something between {endpoint} and the disk of the host changes data.",
            Remedy((), "Try another network, then test the memory and the disk."),
        ),
        Failure(
            "repository-invalid",
            "This is not the name of a repository",
            "The value is mistyped.",
            Remedy((), "Write ORGANISATION/NAME, as in the address of the model's page."),
        ),
        Failure(
            "revision-invalid",
            "This is not a revision",
            "The value is empty or has blanks around it.",
            Remedy((), "Write a branch, a tag or a full commit."),
        ),
        Failure(
            "root-invalid",
            "The root is not an absolute path",
            "The value is mistyped.",
            Remedy((), "Write the path from / on."),
        ),
        Failure(
            "listing-invalid",
            "The listing of files cannot be used",
            "It is of another repository, names no file, or has a file without a hash or with a"
            " path: the endpoint does not speak as the Hugging Face hub does, or the repository is"
            " empty.",
            Remedy((), "Give the listing that an earlier run returned, or leave it out."),
        ),
        Failure(
            "token-invalid",
            "The token has signs that no token has",
            "It was pasted with something around it, or a file was read with its last line break."
            " (The token is not shown.)",
            Remedy((), "In a template, the filter trim removes that."),
        ),
        Failure(
            "workers-invalid",
            "The number of downloads at once is not allowed",
            "The option workers is too low or too high.",
            Remedy((), "Leave the option out: the default is 4."),
        ),
        Failure(
            "client-missing",
            "The program that downloads models is not installed",
            "The snapshot is not complete on this host, and downloading it needs huggingface_hub.",
            Remedy(
                (),
                "Run the role model first: it installs huggingface_hub 2 in /opt/sparerig/hf."
                " Or let the option python name a Python that has it.",
            ),
        ),
        Failure(
            "license-not-allowed",
            "The model's license is not among the allowed ones",
            "The inventory allows only certain licenses.",
            Remedy((), "Choose another model, or read the license and add it to model_licenses."),
        ),
        Failure(
            "download-running",
            "Another run downloads this model",
            "Another run is at work in this folder, perhaps one whose connection was lost.",
            Remedy(("tail -n 3 {log}",), "Run this again after it."),
        ),
        Failure(
            "download-stopped",
            "The download was stopped",
            "Another file of the snapshot failed.",
            Remedy((), "Fix what that file's message says, and run again."),
        ),
    ),
    "The start of a service": (
        Failure(
            "container-not-made",
            "The container cannot be made",
            "Docker refuses what the unit asks for: a device, a volume or a network is not there.",
            Remedy(("cat /etc/sparerig/{unit}.json", _LOG), _PLAY),
            details=("Docker says: {said}.",),
        ),
        Failure(
            "service-not-ready",
            "The service did not answer in time after its start",
            "It is still loading (a slow disk, a first compilation), or it is stuck.",
            Remedy(
                (_LOG,),
                "If it was still loading, set vllm_start_deadline higher, and run the play again.",
            ),
            details=("It was not ready within {seconds} s: {problem}.",),
        ),
        Failure(
            "service-ended",
            "The service ended by itself",
            "What it wrote before its end says why.",
            Remedy((_LOG,), "Read it from the first line that names an error."),
            details=("{ending}; {said}.",),
        ),
        Failure(
            "service-not-started",
            "The service did not start",
            "systemd could not start it; the service itself said nothing.",
            Remedy((_STATUS, _LOG)),
            details=("systemd says: {said}.",),
        ),
        Failure(
            "shared-memory-too-small",
            "The container's shared memory is too small",
            "The processes of vLLM exchange data in /dev/shm.",
            Remedy((), "Set vllm_shm_size: 4g"),
            details=("vLLM needs {need} in /dev/shm, there are {have}.",),
        ),
        Failure(
            "memory-held-by-others",
            "Something else holds GPU memory",
            "A desktop session, a game or an older engine holds the rest.",
            Remedy((_NVIDIA_SMI,), f"End the process that it lists and that need not run. {_LESS}"),
            details=(
                "{free} GiB of {total} GiB were free, vLLM was told to take {wanted} of the card.",
            ),
        ),
        Failure(
            "memory-changed-while-measuring",
            "GPU memory changed hands while vLLM measured it",
            "Another process gave back GPU memory during the start, so vLLM's own measurement"
            " failed.",
            Remedy((_RESTART, _NVIDIA_SMI), "If it recurs, end the other process that is listed."),
        ),
        Failure(
            "context-exceeds-model",
            "The context is longer than the model's",
            "A model cannot follow a chat that is longer than those it was trained on.",
            Remedy(
                (),
                "Set model_context: {context}, or choose a model with a longer context:"
                " docs/what-fits.md lists them.",
            ),
            details=("The context is {wanted} tokens, the model was made for {context}.",),
        ),
        Failure(
            "context-exceeds-kv-cache",
            "One full-length chat does not fit into the KV cache",
            "The KV cache holds the tokens of all running chats.",
            Remedy(
                (),
                "Set model_context: {shorter}, or choose a smaller model or one in INT4, and"
                " run the play again.",
            ),
            details=(
                "A chat of {wanted} tokens needs {need} GiB of KV cache, there are {have} GiB.",
                "A chat may have {wanted} tokens, the KV cache holds {estimate}.",
            ),
        ),
        Failure(
            "no-room-for-kv-cache",
            "No memory is left for the KV cache",
            "Weights and working memory use all that vLLM may take.",
            Remedy(
                (_NVIDIA_SMI,),
                "End other programs that it lists; or choose a smaller model or one in INT4, or"
                " lower model_max_num_seqs, and run the play again.",
            ),
        ),
        Failure(
            "graphs-exceed-memory",
            "Memory ran out while warming up or making CUDA graphs",
            "CUDA graphs and the rehearsal of full batches take memory on top of weights and KV"
            " cache, more for more chats at once.",
            Remedy(
                (),
                "Set model_max_num_seqs: {fewer}; if that is not enough, model_enforce_eager: true"
                " (slower, but without graphs).",
            ),
            details=("vLLM rehearsed {seqs} chats at once, and the card has no room for so many.",),
        ),
        Failure(
            "memory-ran-out-serving",
            "Memory ran out while serving",
            "The card had no room left for a request. Another program took memory after the start,"
            " or the working memory was planned too small.",
            Remedy((_NVIDIA_SMI,), _RESERVE.format(512)),
        ),
        Failure(
            "no-room-to-compile",
            "Memory ran out while vLLM compiled the model",
            "To try its kernels, the compiler makes itself another embedding beside the weights;"
            " the KV cache gets that place only afterwards.",
            Remedy(
                (_NVIDIA_SMI,),
                "End other programs that it lists; or set model_enforce_eager: true (slower"
                " answers, nothing is compiled); or choose a smaller model.",
            ),
            details=("The compiler asked for {wanted}.",),
        ),
        Failure(
            "kv-cache-exceeds-memory",
            "Memory ran out while making the KV cache",
            "The KV cache is one piece, and the card has no such piece free any more: another"
            " program took memory since the plan was made, or vllm_env overrides"
            " PYTORCH_CUDA_ALLOC_CONF, without which the compiler's scratch stays in the way.",
            Remedy((_NVIDIA_SMI,), _RESERVE.format(768)),
            details=("vLLM asked for {wanted} at once.",),
        ),
        Failure(
            "activations-exceed-memory",
            "Memory ran out in the trial run",
            "The weights fit, the working memory for a full batch does not.",
            Remedy((_NVIDIA_SMI,), f"{_RESERVE.format(768)} {_NOT_BY_BATCHES}"),
        ),
        Failure(
            "weights-exceed-memory",
            "The weights do not fit into the card's memory",
            "The model is larger than the free memory of the card.",
            Remedy(
                (_NVIDIA_SMI,),
                "End other programs that it lists, or choose a smaller model or one in INT4:"
                " docs/what-fits.md lists what fits.",
            ),
        ),
        Failure(
            "bfloat16-unsupported",
            "The card cannot calculate in bfloat16",
            "Cards of a compute capability below 8.0 (before the RTX 30 series) cannot.",
            Remedy((), "Set dtype: half in vllm_arguments"),
            details=("The card is {card}.",),
        ),
        Failure(
            "card-too-old-for-quantization",
            "The card is too old for this quantisation",
            "The code for this quantisation needs a newer generation of cards.",
            Remedy((), "Choose a model in GPTQ or AWQ INT4: docs/what-fits.md lists what runs."),
            details=("It needs compute capability {least}, the card has {has} (both times ten).",),
        ),
        Failure(
            "fp8-kv-cache-unsupported",
            "The card cannot hold its KV cache in FP8",
            "An FP8 KV cache needs compute capability 8.9.",
            Remedy((), "Set model_kv_cache_dtype: auto"),
        ),
        Failure(
            "architecture-unknown",
            "vLLM does not know this kind of model",
            "The model is newer than this vLLM, or is no language model.",
            Remedy((), "Choose another model, or a newer vllm_image that knows it."),
            details=("The config.json names {names}.",),
        ),
        Failure(
            "parser-not-for-tokenizer",
            "vLLM does not start with this parser and tokenizer",
            "The parser looks for tokens that the model's tokenizer does not have: the model was"
            " made to write calls or thoughts in another way than this parser reads.",
            Remedy(
                (),
                "Set {settings}, and run the play again: then the parser follows from the model.",
            ),
            details=("vLLM says: {complaint}.",),
        ),
        Failure(
            "parser-unknown",
            "This vLLM knows no parser of that name",
            "A typing error, or the parser is of another version of vLLM.",
            Remedy(
                (),
                "Set {settings}, and run the play again: then the parser follows from the model.",
            ),
            details=("vLLM says: {complaint}.",),
        ),
        Failure(
            "gptq-kernel-slow",
            "GPTQ runs on its slow kernel",
            "--quantization gptq was given, which keeps vLLM up to 0.21 from its faster Marlin"
            " kernel.",
            Remedy((), "Remove quantization from vllm_arguments."),
        ),
    ),
    "The way to the API": (
        Failure(
            "deadline-spent",
            "The deadline was used up before all checks were made",
            "The driver or Docker answers slowly, or the option deadline is very short.",
            Remedy((), "Run it again with a longer deadline."),
        ),
        Failure(
            "api-refused",
            "Nothing listens at the endpoint",
            "The engine is still loading the model, has failed, or listens elsewhere.",
            Remedy((_STATUS, _LOG)),
        ),
        Failure(
            "api-unreachable",
            "There is no way to the endpoint",
            "The address is wrong, or a network or firewall is in between.",
            Remedy(("ip route", "{curl} -sS -i {url}/health")),
        ),
        Failure(
            "api-name-unknown",
            "The endpoint's host name does not resolve",
            "A typing error in the endpoint, or no DNS on this host.",
            Remedy(("getent hosts {host}",), "Correct the name, or write an address."),
        ),
        Failure(
            "api-tls",
            "No trusted TLS connection to the endpoint",
            "The certificate is expired, of another name or from an unknown authority, or the"
            " endpoint speaks plain HTTP.",
            Remedy(("{curl} -sS -v {url}/health",), "vLLM itself speaks plain HTTP: use http://."),
        ),
        Failure(
            "api-connect-timeout",
            "No connection within the deadline",
            "A firewall drops the packets, or the host is down.",
            Remedy(("{curl} -sS -i -m 10 {url}/health",)),
        ),
        Failure(
            "api-no-answer",
            "Connected, but no answer within the deadline",
            "The API server is stuck or overloaded.",
            Remedy((_LOG, _RESTART)),
        ),
        Failure(
            "api-stalled",
            "The answer did not end within the deadline",
            "The server is overloaded or stuck in the middle of its answer.",
            Remedy((_LOG, _RESTART)),
        ),
        Failure(
            "api-reset",
            "The server broke the connection off",
            "The engine crashed or is restarting, or a proxy in between gave up.",
            Remedy((_STATUS, _LOG)),
        ),
        Failure(
            "api-truncated",
            "The answer ended too early",
            "The engine crashed in the middle of it, or a proxy cut it off.",
            Remedy((_LOG,)),
        ),
        Failure(
            "api-too-large",
            "The answer is larger than any right one",
            "Something else than vLLM answers at the endpoint.",
            Remedy(("{curl} -sS -i {url}/v1/models | head",)),
        ),
        Failure(
            "api-not-http",
            "What listens at the endpoint does not speak HTTP",
            "Another service has the port, or it expects https.",
            Remedy(("sudo ss -ltnp",)),
        ),
        Failure(
            "api-content-type",
            "The endpoint answers in another format",
            "A web page, a proxy or another service answers there.",
            Remedy(("{curl} -sS -i {url}/v1/models | head",)),
        ),
        Failure(
            "api-invalid-json",
            "The endpoint answers with invalid JSON",
            "A proxy damages the answer, or another service answers there.",
            Remedy(("{models}",)),
        ),
        Failure(
            "api-unexpected-answer",
            "The endpoint's JSON is not of the known form",
            "Another service answers there, or a version this collection does not know.",
            Remedy(("{models}",)),
        ),
        Failure(
            "api-status",
            "The endpoint answers with an error",
            "The service does not know the path or failed inside.",
            Remedy((_LOG,)),
        ),
        Failure(
            "engine-dead",
            "The engine has died behind its API",
            "The API server lives and its engine process does not: out of memory or a driver"
            " error.",
            Remedy((_LOG, _RESTART)),
        ),
        Failure(
            "api-key-missing",
            "The endpoint wants a key and none was given",
            "Neither api_key nor api_key_file is set.",
            Remedy(
                ("sudo ls -l /etc/sparerig/{unit}.secrets.env",),
                "Set api_key_file to this file; the key is in it.",
            ),
        ),
        Failure(
            "api-key-rejected",
            "The endpoint rejects the key",
            "The engine was started with another key, or has not been restarted since it changed.",
            Remedy((_RESTART,)),
        ),
        Failure(
            "api-open",
            "The endpoint answers without its key",
            "The engine was started without a key: anybody who can reach it can use it.",
            Remedy(
                ("sudo grep -c ^VLLM_API_KEY= /etc/sparerig/{unit}.secrets.env", _RESTART),
                "If the first says 0, run the play again: it makes a key.",
            ),
        ),
    ),
    "The engine and its model": (
        Failure(
            "model-none",
            "No model is served",
            "The endpoint is up and its list of models is empty.",
            Remedy((_LOG,)),
        ),
        Failure(
            "model-missing",
            "The expected model is not served",
            "The engine serves another model or another name for it (--served-model-name).",
            Remedy(("grep -A1 served-model-name /etc/sparerig/{unit}.json",), _PLAY),
        ),
        Failure(
            "context-length",
            "The context length is not the expected one",
            "--max-model-len or the model's own limit differs from what was planned.",
            Remedy(("grep -A1 max-model-len /etc/sparerig/{unit}.json",), _PLAY),
        ),
        Failure(
            "completion-failed",
            "The model does not complete",
            "The server refuses or fails the request; its own words say why.",
            Remedy((_LOG,)),
        ),
        Failure(
            "completion-broken-off",
            "An error in the middle of the completion",
            "The engine failed while it generated: out of memory or a driver error.",
            Remedy((_LOG, _RESTART)),
        ),
        Failure(
            "completion-empty",
            "The completion holds no token",
            "The model ends at once: a wrong chat template or damaged weights.",
            Remedy((_LOG,)),
        ),
        Failure(
            "engine-hung",
            "The service takes requests and does not answer them",
            "It is stuck, although its process runs and /health may answer 200.",
            Remedy((_LOG, _RESTART), "The supervisor restarts it by itself when it notices."),
            details=("It hangs: {problem}; it is being restarted.",),
        ),
        Failure(
            "slow-first-token",
            "The first token comes too late",
            "Other requests are ahead, the GPU is throttled, or the engine still warms up.",
            Remedy(("nvidia-smi -q -d PERFORMANCE,CLOCK,POWER",)),
        ),
        Failure(
            "slow-tokens",
            "Tokens come too slowly",
            "Other requests or programs share the GPU, it is throttled, or a slow kernel is in use"
            " (forced --quantization gptq).",
            Remedy(
                (
                    "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER",
                    "sudo journalctl -u {unit} | grep -i kernel",
                )
            ),
        ),
    ),
    "The plan of the card's memory": (
        Failure(
            "plan-weights-differ",
            "The weights are not those that were planned",
            "Another model or format than planned is served, or it was loaded unquantised.",
            Remedy((), "Run the play again with model_update: true, which plans anew."),
        ),
        Failure(
            "plan-kv-cache-differs",
            "The KV cache is not the plan's",
            "--kv-cache-memory-bytes or --kv-cache-dtype (on a processor VLLM_CPU_KVCACHE_SPACE) is"
            " not the plan's, or the plan is of another model.",
            Remedy(
                (
                    "grep -A1 kv-cache /etc/sparerig/{unit}.json",
                    "cat /etc/sparerig/{unit}.env",
                    "cat /etc/sparerig/model-plan.json",
                ),
                "Run the play again so that the plan's flags reach vLLM.",
            ),
        ),
        Failure(
            "plan-context-differs",
            "The context is not the plan's",
            "--max-model-len is not the plan's.",
            Remedy(
                ("grep -A1 max-model-len /etc/sparerig/{unit}.json",),
                "Set model_context to the context that is wanted, and run the play again.",
            ),
        ),
        Failure(
            "plan-graphs-exceed",
            "CUDA graphs take more than planned",
            "--max-num-seqs is higher than planned, or this vLLM records more.",
            Remedy(
                (),
                "Set model_max_num_seqs lower, or model_enforce_eager: true, and run the play"
                " again.",
            ),
        ),
        Failure(
            "plan-total-exceeds",
            "The engine holds more of the card than planned",
            "If no term of the plan is off by itself, it is the driver's context, the libraries or"
            " the activations.",
            Remedy(
                (),
                "Set model_reserve_mib: 512, run the play again, and report it: the plan's"
                " constants are too small for this card.",
            ),
        ),
    ),
    "The chat page": (
        Failure(
            "web-unreachable",
            "The chat page does not answer",
            "Its service is stopped or still starting, or listens on another address.",
            Remedy((_WEB_STATUS, _WEB_LOG, "grep publish /etc/sparerig/{web_unit}.json")),
        ),
        Failure(
            "web-no-page",
            "What answers is not the chat page",
            "Another service has the port, or Open WebUI failed to start fully.",
            Remedy(("sudo ss -ltnp", _WEB_LOG)),
        ),
        Failure(
            "web-open",
            "The chat page lets everybody in",
            "Open WebUI runs with WEBUI_AUTH=False, or nobody has an account yet.",
            Remedy(
                (
                    "sudo docker exec {web_unit} printenv WEBUI_AUTH || echo not set",
                    "grep WEBUI_ /etc/sparerig/{web_unit}.env",
                ),
                "Remove WEBUI_AUTH from open_webui_env, and run the play again.",
            ),
        ),
        Failure(
            "web-sign-in",
            "Nobody can sign in to the chat page",
            "Wrong address or password: the account was made with another, or changed on the page.",
            Remedy(
                (),
                "Change the password on the page (Admin Panel, Users), or correct the inventory.",
            ),
        ),
        Failure(
            "web-no-model",
            "The chat page does not show the model",
            "Open WebUI cannot reach the engine, or asks it with another key.",
            Remedy((_STATUS, _WEB_LOG, "grep OPENAI_API_BASE /etc/sparerig/{web_unit}.env")),
        ),
        Failure(
            "document-refused",
            "The chat page takes no documents",
            "Its disk is full, uploads are forbidden, or the account is not accepted.",
            Remedy(("df -h /var/lib/sparerig", _WEB_LOG)),
        ),
        Failure(
            "document-not-indexed",
            "The chat page cannot index documents",
            "Its embedding model is not there, or the embedding engine that it is pointed at does"
            " not answer. Uploads still look fine, and chats go on without the documents.",
            Remedy(("grep RAG_ /etc/sparerig/{web_unit}.env", _WEB_LOG)),
        ),
        Failure(
            "document-question-fails",
            "A question about a document gets no answer",
            "The engine does not answer, or the embedding engine does not turn questions into"
            " vectors.",
            Remedy((_WEB_LOG, _LOG)),
        ),
        Failure(
            "document-not-in-prompt",
            "Documents do not reach the model",
            "The document is indexed, but nothing of it is found again: retrieval is off, its"
            " threshold is too high, or the vectors come from another embedding model.",
            Remedy(("grep RAG_ /etc/sparerig/{web_unit}.env",)),
        ),
    ),
}

FAILURES: t.Final[Mapping[str, Failure]] = {
    failure.id: failure for section in SECTIONS.values() for failure in section
}


# --- saying it ----------------------------------------------------------------------------------


def describe(
    failure: str, words: Mapping[str, str] | None = None, *, cause: str = "", advice: str = ""
) -> Explanation:
    """Say what happened and what fixes it, with the words that are known here.

    ``cause`` and ``advice`` replace those of the registry where they are known more exactly, and
    are taken as they are. Commands are always the registry's. Raises UnknownFailureError.
    """
    if failure not in FAILURES:
        raise UnknownFailureError(failure)
    known = FAILURES[failure]
    said = {name: word for name, word in (words or {}).items() if word}
    detail = next((text for text in known.details if placeholders(text) <= said.keys()), "")
    general = cause or _filled(known.cause, said)
    return Explanation(
        known.id,
        known.title,
        f"{_filled(detail, said)} {general}" if detail else general,
        _remedy(known, said, advice),
    )


def commands(failure: Failure, words: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the commands of a remedy, as they are typed."""
    return tuple(_filled(command, words or {}) for command in failure.remedy.commands)


def page(failure: str) -> str:
    """Name the page of the documentation that says more."""
    return f"docs/failures/{failure}.md"


def placeholders(text: str) -> set[str]:
    """Return the names in braces."""
    return {name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name}


def named(message: str) -> str:
    """Return the identifier in a message, as Explanation.message writes it; empty without one."""
    found = re.search(r" \(([a-z0-9-]+)\): ", message)
    return found[1] if found and found[1] in FAILURES else ""


def _remedy(known: Failure, words: Mapping[str, str], advice: str) -> str:
    shown = "; ".join(f"`{command}`" for command in commands(known, words))
    parts: Iterable[str] = (
        f"{shown}." if shown else "",
        advice or _filled(known.remedy.advice, words),
        f"See {page(known.id)}." if known.page else "",
    )
    return " ".join(part for part in parts if part)


def _filled(text: str, words: Mapping[str, str]) -> str:
    return text.format_map({**WORDS, **words})
