"""A Redis elsewhere: TLS both ways, users and passwords, and what is said when the two do not trust each other."""

from dataclasses import astuple, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bento.online import online_client, open_serving_store
from feature_repo.settings import Settings, settings
from feature_repo.store import apply_definitions
from feature_repo.windows import redis_address
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.redis_address import connect, parameters
from tests.ports import free_port
from tests.redis_servers import Authority, server, tls_binary

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
PASSWORD = "a-password-of-ours"  # noqa: S105
NEEDS_TLS = pytest.mark.skipif(
    tls_binary() is None,
    reason="no Redis or Valkey with TLS on this machine (apt-get install redis-server); the embedded one has none",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder):
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder):
    return Authority(folder, "theirs")


@pytest.fixture(scope="module")
def secured(folder, ours):
    """A server that speaks TLS, asks for a certificate, and knows one user: its port."""
    certificate, key = ours.issue("server")
    options = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(ours.ca)}
    with server(folder, tls_binary(), **options, requirepass="for-nobody") as port:
        mine = ours.issue("admin")
        admin_address = (
            f"127.0.0.1:{port},ssl=true,ssl_ca_certs={ours.ca},ssl_certfile={mine[0]},ssl_keyfile={mine[1]}"
        )
        with connect(f"{admin_address},password=for-nobody") as admin:
            admin.acl_setuser(
                "fraud", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"]
            )
        yield port


@pytest.fixture
def address(secured, ours):
    """Writes an address of the server with some of its parameters changed; None leaves one out."""
    certificate, key = ours.issue("me")
    whole = {
        "ssl": "true",
        "ssl_ca_certs": ours.ca,
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "username": "fraud",
        "password": PASSWORD,
    }

    def write(host="127.0.0.1", **changes):
        given = {**whole, **changes}
        return ",".join([f"{host}:{secured}", *(f"{n}={v}" for n, v in given.items() if v is not None)])

    return write


@NEEDS_TLS
def test_state_is_kept_and_read_over_tls_as_a_user_with_a_certificate(address, tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUD_REDIS", address())
    store = open_serving_store()
    apply_definitions(store)
    assert online_client(store).connection_pool.connection_class is redis.SSLConnection
    event = {
        "transaction_id": "t1",
        "event_timestamp": AT,
        "customer_id": "c1",
        "terminal_id": "m1",
        "amount": Decimal("12.50"),
        "currency": "USD",
        "amount_usd_cents": 1250,
        "status": "approved",
        "created_timestamp": AT,
    }
    EventRecorder.compile(store).record("transactions", [event])
    row = {"customer_id": "c1", "event_timestamp": AT.replace(hour=11)}
    feature = "customer_activity:customer_amount_usd_cents_sum_1d"
    assert store.get_online_features([feature], [row]).to_dict()["customer_amount_usd_cents_sum_1d"] == [1250]


@NEEDS_TLS
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"ssl_ca_certs": None},
            "its certificate is not trusted here: self-signed certificate in certificate chain",
        ),
        (
            {"ssl_ca_certs": "theirs"},
            "its certificate is not trusted here: .* name the file of its authority",
        ),
        ({"host": "localhost"}, "its certificate is not trusted here: Hostname mismatch"),
        (
            {"ssl_certfile": None, "ssl_keyfile": None},
            "it ends the connection as it begins; if it asks for a client",
        ),
        ({"ssl_certfile": "theirs", "ssl_keyfile": "theirs"}, "it ends the connection as it begins"),
    ],
)
def test_who_is_not_trusted_is_refused_with_the_way_out(address, theirs, changes, why):
    other = theirs.issue("other")
    files = {"ssl_ca_certs": theirs.ca, "ssl_certfile": other[0], "ssl_keyfile": other[1]}
    given = {name: files[name] if value == "theirs" else value for name, value in changes.items()}
    with pytest.raises(redis.ConnectionError, match=why) as raised:
        connect(address(**given))
    assert str(raised.value).startswith("FRAUD_REDIS: ")
    assert PASSWORD not in str(raised.value)


@NEEDS_TLS
def test_a_wrong_password_is_refused_and_not_shown(address):
    with pytest.raises(redis.AuthenticationError, match="invalid username-password pair") as raised:
        connect(address(password="wrong-" + PASSWORD))
    assert str(raised.value).startswith("FRAUD_REDIS: 127.0.0.1:")
    assert PASSWORD not in str(raised.value)


def test_a_server_without_tls_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(redis_address, "_LOOK_S", 0.3)
    with (
        server(tmp_path) as port,
        pytest.raises(redis.ConnectionError, match="it does not speak TLS at this port; name its TLS port"),
    ):
        connect(f"127.0.0.1:{port},ssl=true")


def test_a_server_that_is_gone_is_told_when_it_is_used():
    with connect(f"127.0.0.1:{free_port()},ssl=true") as client:
        client.set_retry(Retry(NoBackoff(), 0))
        with pytest.raises(redis.ConnectionError, match="Connection refused"):
            client.ping()


def test_a_password_is_text_whatever_it_looks_like():
    for written, password in (
        ("12345", "12345"),
        ("1e5", "1e5"),
        ("true", "true"),
        ('"a b"', "a b"),
        ("a=b", "a=b"),
    ):
        assert parameters(f"h:1,password={written},db=2") == {
            "host": "h",
            "port": 1,
            "password": password,
            "db": 2,
        }
    assert parameters("[::1]:6379")["host"] == "::1"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "it does not begin with host:port"),
        ("host", "it does not begin with host:port"),
        ("host:port", "it does not begin with host:port"),
        (f"h:1,password=a,{PASSWORD}", "h:1: parameter 2 is not one of redis.Redis"),
        (f"h:1,{PASSWORD}=x", "h:1: parameter 1 is not one of redis.Redis"),
        ("h:1,ssl=yes", "h:1: ssl is neither true nor false"),
        (f"h:1,password={PASSWORD},ssl_ca_certs=/x", "h:1: ssl_ca_certs without ssl=true"),
    ],
)
def test_an_address_of_another_form_is_refused_and_not_quoted(address, why):
    with pytest.raises(ValueError, match=f"FRAUD_REDIS: {why}") as raised:
        parameters(address)
    assert PASSWORD not in str(raised.value)


def test_a_certificate_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"h:1: ssl_ca_certs /nowhere/ca\.pem: there is no such file"):
        parameters("h:1,ssl=true,ssl_ca_certs=/nowhere/ca.pem")


def test_the_settings_show_no_address(monkeypatch):
    monkeypatch.setenv("FRAUD_REDIS", f"h:1,password={PASSWORD}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@h")
    here = settings()
    assert PASSWORD in here.redis
    assert PASSWORD not in repr(here)
    assert isinstance(replace(here, redis=None), Settings)
    assert len(astuple(here)) == 3
