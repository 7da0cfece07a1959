#!/usr/bin/env bash
# Builds what a real cluster needs for tests/kubernetes_collector/test_real_cluster.py, from Go
# modules with the ordinary Go client, into a directory outside the repository:
#
#   tests/kubernetes_assets.sh DIRECTORY [VERSION]
#   KUBEBUILDER_ASSETS=DIRECTORY .venv/bin/pytest tests/kubernetes_collector/test_real_cluster.py
#
# It takes the Go that the version's go.mod asks for, about ten minutes and 3 GB once, and an etcd on
# the PATH (Debian: apt-get install etcd-server).
set -euo pipefail
assets=$(realpath -m "$1")
version=${2:-1.37.2}
recorder=$(realpath "$(dirname "$0")/kubernetes_collector/recorder/main.go")

mkdir -p "$assets/build/recorder"
cp "$recorder" "$assets/build/recorder/"
ln -sf "$(command -v etcd)" "$assets/etcd"
cd "$assets/build"

# Kubernetes replaces its staging modules by folders that its own module does not have; the same
# modules are published beside it, v0.X for v1.X.
{
    printf 'module build\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n\n' "$version"
    go mod download -json "k8s.io/kubernetes@v$version" |
        sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p' | xargs \
        sed -n "s#^\t*\(k8s.io/[a-z0-9-]*\) => ./staging/.*#replace \1 => \1 v0.${version#1.}#p"
} > go.mod

release="-X k8s.io/component-base/version.gitVersion=v$version"
for command in kube-apiserver kubectl; do
    GOFLAGS="${GOFLAGS:-} -mod=mod" go build -trimpath -ldflags "-s -w $release" \
        -o "$assets/$command" "k8s.io/kubernetes/cmd/$command"
done
GOFLAGS="${GOFLAGS:-} -mod=mod" go build -trimpath -o "$assets/event-recorder" ./recorder
