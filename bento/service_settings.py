"""How this deployment's service limits what it takes, and where it runs: read once from the environment, typed, loud when wrong.

======================  =====================================================================================
``FRAUD_API_KEYS``      the file of API keys (default ``api-keys.json`` in ``FRAUD_HOME``)
``FRAUD_RATE_PER_KEY``  requests a second that a key may send to one worker, in bursts of a second's worth; a
                        key's own rate goes before it (default: no limit)
``FRAUD_MAX_IN_FLIGHT`` requests of one scope that may wait or be worked on in one worker (default 128: some 60 ms of
                        scoring)
``FRAUD_DEADLINE_MS``   milliseconds after which a request that still waits is not begun (default 500)
``FRAUD_NUMERIC_IDS``   id fields, with commas between, whose values may look like card numbers and are none
``FRAUD_PROCESSOR``     number of the processor that a worker's requests keep to, and the embedded store with them, or
                        ``any`` (the default; ``fraud serve`` gives one worker over an embedded store the first)
======================  =====================================================================================
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from feature_repo.settings import settings

__all__ = ["ID_FIELDS", "ServiceSettings", "service_settings"]

ID_FIELDS = ("transaction_id", "customer_id", "terminal_id")
# BentoML answers 504 in a form of its own after a second (``traffic.timeout`` in bento/service.py).
_LONGEST_DEADLINE_MS = 1000
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ServiceSettings:
    """Limits of one worker process, and where it runs; ``rate_per_key`` None is no limit, ``processor`` None any."""

    api_keys: Path
    rate_per_key: float | None = None
    max_in_flight: int = 128
    deadline_s: float = 0.5
    numeric_ids: frozenset[str] = frozenset()
    processor: int | None = None


def service_settings() -> ServiceSettings:
    """Read the environment.

    Raises:
        ValueError: a variable has a value that cannot be used.
    """
    return ServiceSettings(
        api_keys=_read("FRAUD_API_KEYS", Path, settings().home / "api-keys.json"),
        rate_per_key=_read("FRAUD_RATE_PER_KEY", _rate, None),
        max_in_flight=_read("FRAUD_MAX_IN_FLIGHT", _in_flight, ServiceSettings.max_in_flight),
        deadline_s=_read("FRAUD_DEADLINE_MS", _deadline, ServiceSettings.deadline_s),
        numeric_ids=_read("FRAUD_NUMERIC_IDS", _id_fields, ServiceSettings.numeric_ids),
        processor=_read("FRAUD_PROCESSOR", _processor, None),
    )


def _read(name: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        return parse(given)
    except ValueError as error:
        raise ValueError(f"{name}: {given!r}: {error}") from None


def _rate(given: str) -> float:
    rate = float(given)
    if not 0 < rate < float("inf"):
        raise ValueError("a rate is a number of requests a second above 0; leave it out for no limit")
    return rate


def _in_flight(given: str) -> int:
    number = int(given)
    if number < 1:
        raise ValueError("at least one request must be let in; give 1 or more")
    return number


def _deadline(given: str) -> float:
    milliseconds = float(given)
    if not 0 < milliseconds <= _LONGEST_DEADLINE_MS:
        raise ValueError(
            f"a deadline lies between 0 and {_LONGEST_DEADLINE_MS} ms, when the server gives up itself"
        )
    return milliseconds / 1000


def _id_fields(given: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in given.split(",") if name.strip())
    strange = sorted(names.difference(ID_FIELDS))
    if strange:
        raise ValueError(f"{strange[0]!r} is no id field; there are {', '.join(ID_FIELDS)}")
    return names


def _processor(given: str) -> int | None:
    if given == "any":
        return None
    if not given.isdecimal():
        raise ValueError("a processor is named by its number, 0 for the first; or say any")
    return int(given)
