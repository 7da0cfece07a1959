#!/usr/bin/env bash
# Looks up every dependency of the two locks among known vulnerabilities, and writes what they are as CycloneDX:
# `tests/audit.sh [UV [SBOM]]`, from anywhere. Fails for a vulnerability; where the advisory service cannot be reached it
# says so and does not. AUDIT_URL names another service than OSV's.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(realpath "$(command -v "${1:-uv}")")
lock=$PWD/requirements.lock
sbom=$(realpath "${2:-.venv/sbom.json}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# uv reads its own kind of lock alone, which is made of exactly these versions.
cd "$work"
"$uv" init -q --bare --name sematext-agent
"$uv" add -q --no-sync -r "$lock" -r "${lock%.lock}-dev.lock"
"$uv" export -q --frozen --no-emit-project --format cyclonedx1.5 -o "$sbom" >/dev/null
status=0
"$uv" audit -q --frozen ${AUDIT_URL:+--service-url "$AUDIT_URL"} >audit.log 2>&1 || status=$?
if grep -q 'error sending request' audit.log; then
  echo "audit: the advisory service cannot be reached, so nothing was looked up: $(tail -1 audit.log | sed 's/^ *//')" >&2
elif [ "$status" != 0 ]; then
  cat audit.log >&2
  exit "$status"
fi
