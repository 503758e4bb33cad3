# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything a playbook needs to run on a machine that has nothing.

``python -m testbed up`` makes, in this order of need:

* a Docker engine, where none answers (``engine``);
* genuine hosts: Ubuntu 22.04 with systemd as PID 1, in containers (``roots``, ``hosts``);
* the real vLLM (CPU) and Open WebUI images (``images``), in a real registry (``registry``);
* a tiny model that says nonsense and exercises the real code (``model``).

How an inventory reaches a host
    Every host is written by its name into one SSH configuration file of the checkout,
    ``.cache/testbed/ssh_config``: address, user, key, host key. An
    inventory lists the bare names and sets ``ansible_ssh_common_args: -F <that file>``; a person
    types ``ssh -F <that file> demo``. Image references are in ``images.json`` beside it.
    Each checkout has hosts of its own, in a network of its own, whatever they are called; the
    engine, the images, the registry and the models are shared by all.
    The models lie on every host under ``/srv/models``. Port 8080 of a host is published on the
    machine's loopback address: the host ``demo`` at http://127.0.0.1:8080.

How it survives being killed
    Whatever is made gets its name last: images are tagged by a hash of what they are made from
    when they are complete, folders are renamed into place. A run begins by removing what an
    earlier one left half-made. Runs may overlap: each thing is made by one at a time (lock files).
"""
