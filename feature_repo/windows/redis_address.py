"""The address of a Redis as Feast writes it, ``host:port[,name=value]...``, and a client of it that can be trusted.

Names are the parameters of ``redis.Redis``. Of these text is taken as it stands, the others are JSON values::

    redis.example.com:6380,ssl=true,ssl_ca_certs=/etc/fraud/ca.pem,username=fraud,password=...
    redis.example.com:6380,ssl=true,ssl_certfile=/etc/fraud/me.pem,ssl_keyfile=/etc/fraud/me.key

Nothing here shows a value in an error, as it may be a password.
"""

import inspect
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["connect", "parameters"]

_TEXT = frozenset(
    {"client_name", "password", "ssl_ca_path", "ssl_cert_reqs", "ssl_ciphers", "ssl_password", "username"}
)
_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_KNOWN = frozenset(inspect.signature(redis.Redis.__init__).parameters) - {"self", "host", "port"}
# How long the first look at a server may take that is trusted or not.
_LOOK_S = 2.0

_UNTRUSTED = (
    "its certificate is not trusted here: {said}; name the file of its authority in ssl_ca_certs, and the server as its "
    "certificate does"
)
_NO_TLS = "it does not speak TLS at this port; name its TLS port, or leave out ssl=true"
# A server ends the connection with or without saying why.
_ENDED = (
    "it ends the connection as it begins; if it asks for a client certificate, name one of its own authority in ssl_certfile "
    "and ssl_keyfile"
)
_REASONS = {"WRONG_VERSION_NUMBER": _NO_TLS, "RECORD_LAYER_FAILURE": _NO_TLS}


def parameters(address: str) -> dict[str, Any]:
    """The arguments of ``redis.Redis`` that an address names.

    Raises:
        ValueError: it has another form, or asks for TLS by halves. FileNotFoundError: a certificate's file is not there.
    """
    server, *given = address.split(",")
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            "FRAUD_REDIS: it does not begin with host:port; write one such as 127.0.0.1:6379,db=0"
        )
    found: dict[str, Any] = {"host": host.strip("[]"), "port": int(port)}
    for each in given:
        name, equals, value = each.partition("=")
        name = name.strip()
        if not equals or name not in _KNOWN:
            # What is no parameter may be the rest of a password with a comma in it.
            raise ValueError(
                f"FRAUD_REDIS: {server}: parameter {len(found) - 1} is not one of redis.Redis, written name=value; "
                "a comma ends a value"
            )
        found[name] = _value(name, value)
    _check_tls(server, found)
    return found


def connect(address: str) -> redis.Redis:
    """A client of the server at ``address``. With TLS, it is asked once whether it can be trusted.

    Raises:
        ConnectionError: redis-py's; the two do not trust each other, or user or password is wrong. That it does not answer
            is told when it is used.
        ValueError, FileNotFoundError: as :func:`parameters`.
    """
    given = parameters(address)
    if given.get("ssl"):
        _check_trust(given)
    return redis.Redis(**given)


def _value(name: str, value: str) -> Any:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    if (name in _TEXT or name in _FILES) and not quoted:
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _check_tls(server: str, given: Mapping[str, Any]) -> None:
    if type(given.get("ssl", False)) is not bool:
        raise ValueError(f"FRAUD_REDIS: {server}: ssl is neither true nor false; write ssl=true")
    of_tls = sorted(name for name in given if name.startswith("ssl_"))
    if of_tls and not given.get("ssl"):
        # redis-py would take no notice of them, and send the password as it is.
        raise ValueError(
            f"FRAUD_REDIS: {server}: {of_tls[0]} without ssl=true; add ssl=true, or leave it out"
        )
    for name in sorted(_FILES.intersection(given)):
        if not Path(given[name]).is_file():
            raise FileNotFoundError(f"FRAUD_REDIS: {server}: {name} {given[name]}: there is no such file")


def _check_trust(given: Mapping[str, Any]) -> None:
    at_once = {"socket_timeout": _LOOK_S, "socket_connect_timeout": _LOOK_S, "retry": Retry(NoBackoff(), 0)}
    try:
        socket.create_connection((given["host"], given["port"]), _LOOK_S).close()
    except OSError:
        return
    try:
        with redis.Redis(**{**given, **at_once}) as probe:
            probe.ping()
    except redis.AuthenticationError as error:
        where = f"FRAUD_REDIS: {given['host']}:{given['port']}"
        raise redis.AuthenticationError(f"{where}: {error}; check username and password") from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        why = _why(error)
        if why is not None:
            where = f"FRAUD_REDIS: {given['host']}:{given['port']}"
            raise redis.ConnectionError(f"{where}: {why}") from error


def _why(error: BaseException) -> str | None:
    """Why the two could not agree on TLS; None where that is not what went wrong."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _UNTRUSTED.format(said=cause.verify_message)
        if isinstance(cause, ssl.SSLError | ConnectionResetError | BrokenPipeError):
            return next((why for name, why in _REASONS.items() if name in str(cause)), _ENDED)
        if isinstance(cause, TimeoutError | redis.TimeoutError):
            return _NO_TLS
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
