"""What must not be read in a log or an answer, taken out of text: this deployment's secrets, keys, card numbers."""

import functools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from bento.api_keys import KEY_PATTERN
from bento.card_numbers import masked

__all__ = ["HIDDEN", "RedactingFilter", "Redactor", "redact", "redacted", "secrets_of"]

HIDDEN = "[redacted]"
"""What stands in the place of a secret."""

# Names under which deployments hand secrets to a process.
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_KEY|ACCESS_KEY)$")
_HEADERS_NAME = re.compile(r"^OTEL_EXPORTER_OTLP_.*HEADERS$")
_PARAMETER = re.compile(r"(?:^|,)(?:ssl_)?password=([^,]+)")
_USERINFO = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
# A shorter value is not told from ordinary text: taking each "1" out of a log would leave none.
_SHORTEST = 6

_SHAPES = re.compile(
    rf"""(?x)
    (?P<key> {KEY_PATTERN} )
    | (?<=://) [^/\s:@"']* : [^/\s@"']+ (?=@)
    | (?i: (?<=bearer\ ) [^\s"',]{{8,}} )
    | (?i: (?<=password=) [^\s"',;&)]+ )
    """
)


def secrets_of(environment: Mapping[str, str]) -> frozenset[str]:
    """The secrets that a process was handed: passwords in addresses, and variables named as secrets are."""
    return frozenset(value for value in _secrets(environment) if len(value) >= _SHORTEST)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _SECRET_NAME.search(name):
            yield value
        if _HEADERS_NAME.search(name):
            yield from (unquote(pair.partition("=")[2].strip()) for pair in value.split(","))
        yield from _USERINFO.findall(value)
    yield from _PARAMETER.findall(environment.get("FRAUD_REDIS", ""))


class Redactor:
    """Takes secrets out of text: those given, in each form in which text may quote them, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # The longest first: one secret may be part of another.
        known = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self._known = re.compile(known) if known else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return masked(_SHAPES.sub(HIDDEN, text))


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), unquote(secret))


@functools.cache
def _of_this_process() -> Redactor:
    return Redactor(secrets_of(os.environ))


def redact(text: str) -> str:
    """The text without this process's secrets, API keys and card numbers; the environment is read once."""
    return _of_this_process()(text)


def redacted(value: Any) -> Any:
    """A JSON value with ``redact`` done to each text in it, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(name)): redacted(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    return value


class RedactingFilter(logging.Filter):
    """Takes secrets out of every record that a handler is given, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = redact(record.getMessage()), ()
        except (TypeError, ValueError):
            return True  # arguments that do not fit: logging reports it when it formats
        if record.exc_info and not record.exc_text:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True
