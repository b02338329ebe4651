"""The service's log: lines of JSON that name transaction and trace, and show no secret, whoever writes them."""

import io
import json
import logging
import threading
import warnings

import pytest

from bento import redaction
from bento.logs import JsonLines, configure, transaction_id_in
from bento.problem import Problem
from bento.redaction import HIDDEN, RedactingFilter, Redactor, redact, secrets_of
from bento.tracing import Trace

PASSWORD = 'hunter"2\\of ours'  # noqa: S105 - a made one
KEY = "fraud_0123abcd_" + "k" * 43


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("FRAUD_REDIS", f"redis.example:6380,ssl=true,username=fraud,password={PASSWORD}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ops:tracking-pass@mlflow.example/x")
    redaction._of_this_process.cache_clear()
    yield
    redaction._of_this_process.cache_clear()


@pytest.fixture
def log():
    """A logger with a handler as the service sets them up, and what it has written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    handler.addFilter(RedactingFilter())
    logger = logging.Logger("bento.test")
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in written.getvalue().splitlines()]


def test_secrets_are_known_from_addresses_and_from_the_names_of_variables():
    found = secrets_of(
        {
            "FRAUD_REDIS": "a:1,password=one-secret,ssl_password=two-secret,db=1",
            "MLFLOW_TRACKING_URI": "http://me:three-secret@host",
            "MLFLOW_TRACKING_TOKEN": "four-secret",
            "AWS_SECRET_ACCESS_KEY": "five-secret",
            "FRAUD_API_KEY": KEY,
            "FRAUD_API_KEYS": "/etc/keys.json",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=six%20secret,x=seven-secret",
            "NO_TOKEN": "true",
            "MAX_OUTPUT_TOKENS": "32000000",
        }
    )
    names = ("one", "two", "three", "four", "five", "seven")
    assert found == {f"{each}-secret" for each in names} | {"six secret", KEY}


@pytest.mark.parametrize(
    "text",
    [
        PASSWORD,
        json.dumps({"error": PASSWORD}),
        repr(ValueError(PASSWORD)),
        "https://ops:tracking-pass@mlflow.example/x refused",
        "redis://someone:else-pass@host:1",
        "host:1,password=else-pass,ssl=true",
        "{'authorization': 'Bearer else-pass-of-a-key'}",
        f"key {KEY}.",
        "customer 4111 1111 1111 1111",
    ],
)
def test_text_shows_no_secret_in_whatever_form_it_is_quoted(text):
    shown = redact(text)
    for secret in ("hunter", "tracking-pass", "else-pass", KEY, "1111 1111"):
        assert secret not in shown
    assert HIDDEN in shown or "[card number]" in shown


def test_other_text_stays_as_it_is():
    text = "service http://127.0.0.1:3000: no password; bearer of news; fraud_v1; https://host/a@b?c:d"
    assert redact(text) == text
    assert Redactor([])("x") == "x"


def test_a_problem_shows_no_secret():
    assert PASSWORD not in Problem("unavailable", f"cannot log in with {PASSWORD}").body().decode()
    assert KEY not in Problem("unknown-field", "x", KEY).body().decode()


def test_a_line_has_what_is_said_beside_it_and_the_trace(log):
    logger, lines = log
    logger.warning("first %s", 1, extra={"transaction_id": "t1"})
    with Trace("a" * 32, "b" * 16):
        logger.warning("second")
    first, second = lines()
    assert (first["message"], first["level"], first["transaction_id"]) == ("first 1", "WARNING", "t1")
    assert "trace_id" not in first
    assert (second["trace_id"], second["span_id"]) == ("a" * 32, "b" * 16)


def test_no_part_of_a_record_shows_a_secret(log):
    logger, lines = log
    try:
        raise ConnectionError(f"as {PASSWORD}") from RuntimeError(f"Bearer {KEY}")
    except ConnectionError:
        logger.exception("with %s", PASSWORD, extra={"transaction_id": "4111111111111111", "error": KEY})
    (line,) = lines()
    text = json.dumps(line)
    for secret in ("hunter", KEY, "11111111"):
        assert secret not in text
    assert "ConnectionError" in line["traceback"]


def test_arguments_that_do_not_fit_do_not_stop_the_service(log, monkeypatch):
    logger, lines = log
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("%d", "x")
    assert lines() == []


@pytest.fixture
def configured():
    """The loggers of this process as the service sets them up, and as they were after it."""
    names = ("bento", "feature_repo", "training")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names}
    handlers = [(each, each.formatter, each.filters[:]) for each in logging.root.handlers]
    hook = threading.excepthook
    configure()
    yield
    threading.excepthook = hook
    logging.captureWarnings(False)
    for name, (old, level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = old, True
        logger.setLevel(level)
    for handler, formatter, filters in handlers:
        handler.setFormatter(formatter)
        handler.filters[:] = filters


def test_other_libraries_write_as_the_service_does(configured):
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("uvicorn.test")
    logger.addHandler(handler)
    try:
        configure()
        assert warnings.showwarning.__module__ == "logging"
        logger.error("cannot log in with %s", PASSWORD)
    finally:
        logger.removeHandler(handler)
    assert json.loads(written.getvalue())["message"] == f"cannot log in with {HIDDEN}"


def test_a_thread_s_failure_is_a_line_too(configured, capsys):
    def fail():
        raise ValueError(f"with {PASSWORD}")

    stream = io.StringIO()
    logging.getLogger("bento").handlers[0].setStream(stream)
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    line = json.loads(stream.getvalue())
    assert line["message"] == "thread worker has failed"
    assert "hunter" not in json.dumps(line)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"transaction_id": "t1"}', "t1"),
        ({"transaction_id": "t1"}, "t1"),
        (b'{"transaction_id": 1}', None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (json.dumps({"transaction_id": "x" * 1000}).encode(), "x" * 128),
    ],
)
def test_the_id_of_a_request_that_failed_is_found_if_it_can_be(body, found):
    assert transaction_id_in(body) == found
