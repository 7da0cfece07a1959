#!/usr/bin/env bash
# Each service, in an environment that holds nothing but its own dependencies: whatever it imports
# without having declared it is missing there. `tests/isolation.sh [UV]`, from anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${1:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

try() { # try SERVICE
  "$uv" venv -q --python "${PYTHON:-python3}" "$work/$1"
  "$uv" pip install -q --python "$work/$1/bin/python" -c requirements.lock -b requirements.lock ./shared "./services/$1"
  "$work/$1/bin/python" -c "import sematext_agent.$1.__main__"
}

declare -A running
for project in services/*/pyproject.toml; do
  name=$(basename "$(dirname "$project")")
  try "$name" &
  running[$!]=$name
done
failed=0
for job in "${!running[@]}"; do
  wait "$job" || { echo "isolation: ${running[$job]} needs more than it declares" >&2; failed=1; }
done
exit $failed
