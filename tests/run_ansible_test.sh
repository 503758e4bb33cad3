#!/usr/bin/env bash
# Runs ansible-test in a copy of the checkout: tests/run_ansible_test.sh sanity|integration [arguments]
# ansible-test wants the path .../ansible_collections/NAMESPACE/NAME and a git repository of its own.
# Where either is missing it tests nothing and passes, with a warning: here that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

# One for each kind of test: they are made side by side.
copy=.cache/ansible-test/$1/ansible_collections/sparerig/llm
log=.cache/ansible-test-$1.log

# All files but the ignored ones, so that work in progress is tested too.
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | sort -zu |
    while IFS= read -rd '' file; do
        # Not what was deleted, and not the link that makes the checkout a collection.
        [[ ! -f $file ]] || printf '%s\0' "$file"
    done |
    tar --create --null --files-from=- | tar --extract --directory="$copy"
git -C "$copy" init --quiet
git -C "$copy" add --all

# All checkouts share these environments of ansible-test, and two must not make them at once.
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
exec 9>"$cache/sparerig.lock"
flock 9

# ansible-test would fetch this script, which puts pip into its environments; Python has one built in.
# (24.2 is what ansible-core 2.19 asks for. Another is fetched as usual.)
bootstrap=$cache/get_pip_24_2.py
[[ -e $bootstrap ]] || printf 'import ensurepip\nensurepip.bootstrap()\n' >"$bootstrap"

# Its own configuration, not the one of the checkout.
unset ANSIBLE_CONFIG PYTHONPATH
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
status=0
(cd "$copy" && ansible-test "$@" --local --requirements --python "$python" --color no) 2>&1 | tee "$log" || status=$?
if grep --quiet 'All targets skipped' "$log" || ! grep --quiet '^Running' "$log"; then
    echo "ansible-test found nothing to test in $copy: see the warnings above." >&2
    exit 1
fi
exit "$status"
