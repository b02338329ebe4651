"""Which chargeback reason codes mean suspected fraud: ``reason_codes.csv``, its sources named there.

Only these make a transaction fraudulent; a dispute about goods, an amount or a processing error does not.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FRAUD_REASON_CODES", "REASON_CODES", "ReasonCode", "describe", "is_fraud"]

_FILE = Path(__file__).with_name("reason_codes.csv")


@dataclass(frozen=True)
class ReasonCode:
    """One dispute reason of one card network, in the network's own code and words."""

    network: str
    code: str
    suspected_fraud: bool
    description: str


def _load(file: Path) -> dict[str, ReasonCode]:
    """Codes by code, in the order of the file.

    Raises:
        ValueError: a code stands twice, or ``suspected_fraud`` is neither 1 nor 0.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    codes: dict[str, ReasonCode] = {}
    for row in rows:
        code, flag = row["code"], row["suspected_fraud"]
        if code in codes:
            raise ValueError(f"{file.name}: code {code!r}: it stands twice; keep one row")
        if flag not in ("0", "1"):
            raise ValueError(f"{file.name}: code {code!r}: suspected_fraud is {flag!r}; write 1 or 0")
        codes[code] = ReasonCode(row["network"], code, flag == "1", row["description"])
    return codes


REASON_CODES = _load(_FILE)
FRAUD_REASON_CODES = tuple(sorted(code for code, reason in REASON_CODES.items() if reason.suspected_fraud))


def is_fraud(code: str) -> bool:
    """Whether a chargeback with this code says that the transaction is suspected fraud.

    Raises:
        ValueError: the code is not in the table; neither answer would be safe.
    """
    return _reason(code).suspected_fraud


def describe(code: str) -> str:
    """The network and its title of the code, such as ``visa: Other fraud: card-absent environment``.

    Raises:
        ValueError: the code is not in the table.
    """
    reason = _reason(code)
    return f"{reason.network}: {reason.description}"


def _reason(code: str) -> ReasonCode:
    try:
        return REASON_CODES[code]
    except KeyError:
        raise ValueError(
            f"reason code {code!r}: not among the {len(REASON_CODES)} codes of {_FILE.name}; "
            "add a row that says whether it means suspected fraud"
        ) from None
