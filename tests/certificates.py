"""Authorities and certificates for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A certificate authority in files of `folder`."""

    def __init__(self, folder: Path, name: str, *extensions: str) -> None:
        self._folder = folder
        self._key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        _openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            self._key,
            "-out",
            self.certificate,
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
            *(part for extension in extensions for part in ("-addext", extension)),
        )

    def issue(
        self, name: str, alternative: str = "IP:127.0.0.1", days: int = 2
    ) -> tuple[Path, Path]:
        """Return a certificate for `name` and its key; with negative `days` an expired one."""
        key, request = self._folder / f"{name}.key", self._folder / f"{name}.csr"
        certificate, extensions = self._folder / f"{name}.crt", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            key,
            "-out",
            request,
            "-subj",
            f"/CN={name}",
        )
        _openssl(
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            self.certificate,
            "-CAkey",
            self._key,
            "-CAcreateserial",
            "-out",
            certificate,
            "-days",
            str(days),
            "-extfile",
            extensions,
        )
        return certificate, key

    def server(self, name: str, alternative: str = "IP:127.0.0.1") -> ssl.SSLContext:
        """Return the context of a server with a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, alternative))
        return context


def _openssl(*arguments: object) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
