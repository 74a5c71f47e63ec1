"""Who may connect: loopback alone, or whoever has the token, over TLS. No JAX."""

import hmac
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from qgf_jax.errors import UserError

_LEAST = 16
"""Letters of a token."""


class Access(NamedTuple):
    """Whom a server lets in, and how."""

    host: str
    token: str = ""
    """Empty: whoever reaches it."""
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(
        cls,
        host: str,
        token_file: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> "Access":
        """Access at an address. Raises `UserError` if others than this machine need no token or TLS."""
        if (cert is None) != (key is None):
            raise UserError("--cert and --key belong together: give both")
        if not _is_loopback(host) and (token_file is None or cert is None):
            raise UserError(
                f"--host={host} lets other machines in: give --token-file, --cert "
                "and --key, or leave it out"
            )
        token = "" if token_file is None else _token(token_file)
        return cls(host, token, _context(cert, key) if cert and key else None)

    @property
    def scheme(self) -> str:
        """Of its address."""
        return "wss" if self.tls else "ws"

    def admits(self, authorization: str | None) -> bool:
        """Whether a header "Bearer TOKEN", or "Api-Key TOKEN" as openpi's client sends it, is good."""
        if not self.token:
            return True
        kind, _, given = (authorization or "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        same = hmac.compare_digest(sent, self.token.encode())
        return kind.lower() in ("bearer", "api-key") and same


LOOPBACK = Access("127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError.unreadable(path, error) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} holds no token: write one line of letters and digits") from None
    if len(token) < _LEAST or not token.isprintable() or " " in token:
        raise UserError(
            f"{path} holds no token: write one line of at least {_LEAST} letters and digits"
        )
    return token


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password it would be asked for on the terminal.
        context.load_cert_chain(cert, key, password="")
    except FileNotFoundError as error:
        missing = next((path for path in (cert, key) if not path.exists()), cert)
        raise UserError.unreadable(missing, error) from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UserError(
            f"--cert={cert} and --key={key} are no certificate and its key in PEM, without a password "
            f"({' '.join(str(error).split())[:80]})"
        ) from None
    return context
