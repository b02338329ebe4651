"""The table of chargeback reason codes."""

from pathlib import Path

import pytest

from feature_repo import reason_codes
from feature_repo.reason_codes import FRAUD_REASON_CODES, REASON_CODES, describe, is_fraud


def test_stolen_cards_are_fraud_and_disputes_about_goods_are_not() -> None:
    assert is_fraud("10.4")
    assert is_fraud("4837")
    assert not is_fraud("13.1")
    assert not is_fraud("4853")


def test_fraud_codes_are_sorted_and_are_those_flagged() -> None:
    assert list(FRAUD_REASON_CODES) == sorted(code for code in REASON_CODES if is_fraud(code))


def test_every_network_has_fraud_and_other_codes() -> None:
    kinds = {(reason.network, reason.suspected_fraud) for reason in REASON_CODES.values()}
    assert kinds == {(n, f) for n in ("visa", "mastercard", "amex", "discover") for f in (True, False)}


def test_describe_gives_network_and_title() -> None:
    assert describe("10.4") == "visa: Other fraud: card-absent environment"


def test_unknown_code_is_refused_not_guessed() -> None:
    with pytest.raises(ValueError, match=r"reason code '99.9': not among the .*add a row"):
        is_fraud("99.9")


@pytest.mark.parametrize(
    ("rows", "why"), [("visa,1,1,a\nvisa,1,0,b\n", "stands twice"), ("visa,1,yes,a\n", "'yes'; write 1 or 0")]
)
def test_a_broken_table_is_refused(tmp_path: Path, rows: str, why: str) -> None:
    file = tmp_path / "codes.csv"
    file.write_text("network,code,suspected_fraud,description\n" + rows)
    with pytest.raises(ValueError, match=why):
        reason_codes._load(file)
