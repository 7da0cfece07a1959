#!/usr/bin/env bash
# `make install` and `make uninstall`: the agent on a host without containers, with DESTDIR and PREFIX.
# Nothing is started. What is in /etc/sematext-agent already is left as it is.
#
#   UV=.venv/bin/uv deploy/systemd/install.sh install|uninstall
set -euo pipefail
cd "$(dirname "$0")/../.."
prefix=${PREFIX:-/opt/sematext-agent}
target=${DESTDIR:-}$prefix
units=${DESTDIR:-}/etc/systemd/system
configuration=${DESTDIR:-}/etc/sematext-agent
here=deploy/systemd
python=${PYTHON:-python3}

check_python() { # services may not enter homes, and so could not start one from there
  case $(realpath "$(command -v "$python")") in
    /root/* | /home/*)
      echo "PYTHON=$python: it is in a home, which services may not enter; set PYTHON=/usr/bin/python3" >&2
      return 1 ;;
  esac
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "PYTHON=$python: too old; name one of 3.11 or newer" >&2; return 1; }
}

install_agent() {
  check_python
  # Relocatable, because below DESTDIR it does not stand where it will run.
  "$UV" venv -q --relocatable --clear --no-python-downloads --python "$(command -v "$python")" "$target"
  "$UV" pip install -q --compile-bytecode --python "$target/bin/python" -c requirements.lock -b requirements.lock \
    ./shared services/*/
  install -d -m 0755 "$units"
  (cd "$here" && find . -name '*.service' -o -name '*.target' -o -name '*.conf' -path '*.d/*') |
    while read -r file; do
      install -D -m 0644 "$here/$file" "$units/$file"
      sed -i "s#/opt/sematext-agent#$prefix#g" "$units/$file"
    done
  install -d -m 0755 "$configuration"
  [ -e "$configuration/nats.conf" ] || install -m 0644 "$here/nats.conf" "$configuration/nats.conf"
  if [ ! -e "$configuration/agent.env" ]; then
    install -m 0600 /dev/null "$configuration/agent.env"
    # A letter first: the broker reads it like a word of its configuration.
    password=p$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')
    sed "s/@PASSWORD@/$password/" "$here/agent.env" > "$configuration/agent.env"
  fi
  cat <<END
installed in $target. To start it, now and at every boot:
  \$EDITOR $configuration/agent.env     # INFRA_TOKEN
  systemctl daemon-reload && systemctl enable --now sematext-agent.target
END
}

uninstall_agent() {
  if [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now sematext-agent.target || true
  fi
  rm -rf "$target" "$units"/sematext-agent.target "$units"/sematext-agent-nats.service \
    "$units"/sematext-agent@*
  echo "left: $configuration, and the events in /var/lib/sematext-agent"
}

"$1"_agent
