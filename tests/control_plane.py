"""A real kube-apiserver on a real etcd, as envtest starts them: from $KUBEBUILDER_ASSETS."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from broker import free_port, wait_for_port
from kubernetes_api import kubeconfig

ADMIN = "admin-token"


def missing_assets() -> str:
    """Return why no control plane can be started here; empty where one can."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if not assets:
        return "KUBEBUILDER_ASSETS names no directory with kube-apiserver and etcd"
    absent = [name for name in ("kube-apiserver", "etcd") if not Path(assets, name).exists()]
    return f"KUBEBUILDER_ASSETS has no {' and no '.join(absent)}" if absent else ""


_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


class ControlPlane:
    """One etcd and one kube-apiserver, that can be killed and started again."""

    def __init__(self, folder: Path, event_ttl: str = "1h") -> None:
        self.folder = folder
        self.event_ttl = event_ttl
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._assets = Path(os.environ["KUBEBUILDER_ASSETS"])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens = folder / "tokens.csv"
        self._tokens.write_text(f"{ADMIN},admin,1,system:masters\n")
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        key = folder / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    def start(self) -> None:
        self.start_etcd()
        self.start_apiserver()

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._run(
            "etcd",
            "--data-dir",
            self.folder / "etcd",
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            f"default={peer}",
            # A test's disk need not survive a power cut.
            "--unsafe-no-fsync",
        )
        wait_for_port(self._etcd_port)

    def start_apiserver(self) -> None:
        key = self.folder / "service-accounts.key"
        self._run(
            "kube-apiserver",
            "--etcd-servers",
            f"http://127.0.0.1:{self._etcd_port}",
            "--cert-dir",
            self.folder / "certs",
            "--bind-address",
            "127.0.0.1",
            "--secure-port",
            self.port,
            "--service-cluster-ip-range",
            "10.0.0.0/24",
            "--service-account-issuer",
            "https://kubernetes.default.svc",
            "--service-account-key-file",
            key,
            "--service-account-signing-key-file",
            key,
            "--authorization-mode",
            "RBAC",
            "--token-auth-file",
            self._tokens,
            "--allow-privileged",  # as every cluster has it
            "--event-ttl",
            self.event_ttl,
            "--disable-admission-plugins",
            "ServiceAccount",
            "--etcd-compaction-interval",
            "0",
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                # A new server makes its namespaces and its roles last, and in no fixed order.
                self.call("GET", "/api/v1/namespaces/kube-system")
                self.call("GET", "/api/v1/namespaces/default")
                self.call("GET", f"{_BINDINGS}/system:basic-user")
                self.call("GET", f"{_BINDINGS}/system:discovery")
                return
            except OSError:
                if time.monotonic() > deadline or self._processes["kube-apiserver"].poll():
                    raise
                time.sleep(0.1)

    def _run(self, name: str, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._assets / name, *map(str, arguments)], stderr=log, stdout=log
            )

    def kill(self, name: str) -> None:
        """Kill `kube-apiserver` or `etcd`."""
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            if name in self._processes:
                self.kill(name)

    def add_user(self, token: str, user: str) -> None:
        """Add a token; the server reads them at its start only."""
        with self._tokens.open("a") as tokens:
            tokens.write(f"{token},{user},{user}\n")

    def call(self, method: str, path: str, body: Any = None, patch: str = "merge") -> Any:
        """One request as the administrator. Raises OSError."""
        kind = f"application/{patch}-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": kind},
        )
        with urllib.request.urlopen(request, timeout=10, context=self._tls) as answer:
            return json.load(answer)

    def _admin(self) -> Path:
        """Return the administrator's kubeconfig."""
        return kubeconfig(
            self.folder / "admin",
            self.url,
            token=ADMIN,
            certificate_authority=str(self.certificate),
        )

    def has(self, name: str) -> bool:
        """Return whether an optional asset is present."""
        return (self._assets / name).exists()

    def kubectl(self, *arguments: str) -> str:
        """Return the output of kubectl, which must be among the assets."""
        return self._run_tool("kubectl", f"--kubeconfig={self._admin()}", *arguments)

    def record(self, count: int) -> None:
        """Has client-go's two recorders record `count` equal events each."""
        self._run_tool("event-recorder", self._admin(), count)

    def _run_tool(self, name: str, *arguments: object) -> str:
        command = [str(self._assets / name), *map(str, arguments)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def compact(self) -> None:
        """Has etcd forget all history, as the API server asks it to every five minutes."""
        base = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        key = json.dumps({"key": "YQ=="}).encode()
        with urllib.request.urlopen(f"{base}/range", data=key, timeout=10) as answer:
            revision = json.load(answer)["header"]["revision"]
        body = json.dumps({"revision": revision}).encode()
        urllib.request.urlopen(f"{base}/compaction", data=body, timeout=10).close()

    def restore_etcd(self, snapshot: Path) -> None:
        """Replace etcd's files with a copy made earlier."""
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(snapshot, self.folder / "etcd")

    @property
    def certificate(self) -> Path:
        """The server's certificate, which it signed itself."""
        return self.folder / "certs" / "apiserver.crt"
