"""``fraud keys``: who may call the service. A running one takes up a change within seconds."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["KEY_VARIABLE", "keys", "sent_key"]

KEY_VARIABLE = "FRAUD_API_KEY"
"""Where the verbs that call a service find their key."""

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call the service, and for what.")


def sent_key() -> dict[str, str]:
    """The header that sends the key in ``FRAUD_API_KEY``; none without it."""
    import os

    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, such as checkout-2026.")],
    scope: Annotated[
        list[str], typer.Option(help="score, record, read, metrics or admin; give as many as are needed.")
    ],
    expires: Annotated[
        str | None,
        typer.Option(help="A day (UTC), an instant with its zone, or a time from now such as 90d."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second that it may send to a worker.")
    ] = None,
) -> None:
    """Make a key and print it: this once, for it is kept hashed.

    To rotate a key, make a second one under another name, let its callers take it up, then revoke the first.
    """
    from datetime import UTC, datetime

    from bento.api_keys import create_key
    from bento.service_settings import service_settings
    from feature_repo.windows.durations import parse_duration
    from pipelines.instants import parse_instant

    now = datetime.now(UTC)
    until = None
    if expires is not None:
        until = now + parse_duration(expires) if expires[-1:] in "dhms" else parse_instant(expires)
    path = service_settings().api_keys
    typer.echo(create_key(path, name, frozenset(scope), now, until, rate))
    typer.echo(f"Keep it now: {path} has its hash only. Send it as 'Authorization: Bearer <key>'.", err=True)


@keys.command("list")
def listed() -> None:
    """List the keys: name, public part, scopes, expiry, rate; never the key."""
    from bento.api_keys import load_keys
    from bento.service_settings import service_settings

    path = service_settings().api_keys
    found = load_keys(path)
    console = Console()
    if found is None:
        console.print(
            f"no API key is configured ({path}): the service answers its own machine only", soft_wrap=True
        )
        return
    table = Table("name", "id", "scopes", "created", "expires", "rate", box=None)
    for key in sorted(found.values(), key=lambda each: each.name):
        until = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M} UTC"
        rate = "" if key.rate is None else f"{key.rate:g}/s"
        table.add_row(key.name, key.id, " ".join(sorted(key.scopes)), f"{key.created:%Y-%m-%d}", until, rate)
    console.print(table)


@keys.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="The name of the key.")]) -> None:
    """Take a key away: services refuse it within seconds. Without the last one they refuse everybody."""
    from bento.api_keys import revoke_key
    from bento.service_settings import service_settings

    path = service_settings().api_keys
    revoke_key(path, name)
    Console().print(f"{name} is revoked in {path}", soft_wrap=True, markup=False)
