"""``fraud rollout``: the verbs, as the command line has them. The work is in ``pipelines.rollout``."""

from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["rollout"]

console = Console()
rollout = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Try a challenger beside the champion, let it decide for some, promote it, go back.

The usual way, each step when the one before it looks well in `fraud rollout status`:

`fraud train --challenger`, then `fraud rollout shadow` (scored and journalled, not acted upon),
`fraud rollout canary 5` (it decides for 5% of the customers, always the same), `canary 20`, `fraud rollout promote`.

Running services follow within seconds, without a restart. Guard rails end a rollout by themselves: the challenger's error
rate, the p99 of the transactions it takes part in, drift of its scores, declines. Then the champion decides alone.
Every change is a line in FRAUD_HOME/rollout/ledger.jsonl: who, when, from what, to what, on what evidence.""",
)

Version = Annotated[
    str | None,
    typer.Argument(help="A model version; default: the one that is tried, else the alias 'challenger'."),
]
Share = Annotated[float, typer.Argument(help="Per cent of the customers, above 0 and below 100.")]
Who = Annotated[str | None, typer.Option(help="Who signs the change; default: user@machine.")]
Why = Annotated[str, typer.Option(help="Why, in your words; it stands in the ledger.")]
ErrorRate = Annotated[
    float | None,
    typer.Option(help="Guard rail: share of transactions on which the challenger may fail [0.01]."),
]
P99 = Annotated[float | None, typer.Option(help="Guard rail: p99, in ms, where it takes part [50].")]
Psi = Annotated[float | None, typer.Option(help="Guard rail: PSI of its scores [0.25].")]
Declines = Annotated[
    float | None, typer.Option(help="Guard rail: its declines for each of the champion's [2].")
]
Least = Annotated[int | None, typer.Option(help="Guard rails judge from so many transactions on [200].")]


@rollout.command()
def status(
    lines: Annotated[int, typer.Option(min=0, help="So many of the ledger's last lines.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say who decides, what the journal says of both models, who refuses the challenger, and what changed last."""
    import json

    from pipelines.rollout import Desk

    found = Desk().status(lines)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        _print(found.summary())


@rollout.command()
def shadow(
    version: Version = None,
    max_error_rate: ErrorRate = None,
    max_p99_ms: P99 = None,
    max_score_psi: Psi = None,
    max_decline_ratio: Declines = None,
    min_scored: Least = None,
    who: Who = None,
) -> None:
    """Score every transaction by the challenger too; the journal holds both, the champion decides."""
    guards = _guards(max_error_rate, max_p99_ms, max_score_psi, max_decline_ratio, min_scored)
    _print(_desk(who).shadow(version, guards).summary())


@rollout.command()
def canary(
    percent: Share,
    version: Version = None,
    max_error_rate: ErrorRate = None,
    max_p99_ms: P99 = None,
    max_score_psi: Psi = None,
    max_decline_ratio: Declines = None,
    min_scored: Least = None,
    who: Who = None,
) -> None:
    """Let the challenger decide for a few customers: always the same ones, and a larger share keeps them."""
    guards = _guards(max_error_rate, max_p99_ms, max_score_psi, max_decline_ratio, min_scored)
    _print(_desk(who).canary(percent, version, guards).summary())


@rollout.command()
def ab(
    percent: Share,
    version: Version = None,
    max_error_rate: ErrorRate = None,
    max_p99_ms: P99 = None,
    max_score_psi: Psi = None,
    max_decline_ratio: Declines = None,
    min_scored: Least = None,
    who: Who = None,
) -> None:
    """Share the customers between champion and challenger for as long as a comparison takes; the journal holds the arm."""
    guards = _guards(max_error_rate, max_p99_ms, max_score_psi, max_decline_ratio, min_scored)
    _print(_desk(who).ab(percent, version, guards).summary())


@rollout.command()
def explore(
    share: Annotated[float, typer.Argument(help="Share of would-be declines, 0 to 0.1; 0 ends it.")],
    up_to: Annotated[
        float | None, typer.Option(help="But none above so many US dollars: that is what each may cost.")
    ] = None,
    who: Who = None,
) -> None:
    """Approve a small random share of would-be declines, so that labels are not selected by the model.

    They are flagged in the journal with the draw and its probability (weigh such a label by 1 / probability). What rules decide
    is never let through.
    """
    _print(_desk(who).explore(share, None if up_to is None else round(up_to * 100)).summary())


@rollout.command()
def promote(
    version: Annotated[
        str | None, typer.Argument(help="A model version; default: the one that is tried.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Though too few transactions were scored by both.")
    ] = False,
    why: Why = "",
    who: Who = None,
) -> None:
    """Make the challenger the champion; what both did on the same transactions goes into the ledger as evidence."""
    _print(_desk(who).promote(version, force=force, why=why).summary())


@rollout.command()
def rollback(
    version: Annotated[
        str | None, typer.Argument(help="Make this version the champion, whatever was.")
    ] = None,
    why: Why = "",
    who: Who = None,
) -> None:
    """Have the champion decide alone; right after a promotion, go back to the champion before it."""
    _print(_desk(who).rollback(version, why).summary())


def _desk(who: str | None) -> Any:
    from pipelines.rollout import Desk

    return Desk(who)


def _guards(
    max_error_rate: float | None,
    max_p99_ms: float | None,
    max_score_psi: float | None,
    max_decline_ratio: float | None,
    min_scored: int | None,
) -> dict[str, float | None]:
    return {
        "max_error_rate": max_error_rate,
        "max_p99_ms": max_p99_ms,
        "max_score_psi": max_score_psi,
        "max_decline_ratio": max_decline_ratio,
        "min_scored": min_scored,
    }


def _print(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
