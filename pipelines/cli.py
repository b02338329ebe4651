"""The ``fraud`` command line: parses, shows progress, prints the outcome. The work is in one module a verb.

Modules are imported inside the commands, so that ``fraud --help`` answers at once. What a person can put
right (wrong input, a missing file) ends as one message and exit code 2, without a traceback; ``fraud --debug
VERB`` shows that too.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

__all__ = ["main"]

console = Console()


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            Console(stderr=True, soft_wrap=True).print(f"[bold red]error[/] {escape(str(error))}")
            raise typer.Exit(2) from None


main = typer.Typer(cls=_Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
mapping = typer.Typer(no_args_is_help=True, help="How a source's columns become the canonical ones.")
main.add_typer(mapping, name="mapping")


@main.callback()
def _options(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Fraud detection around a feature store: events in, features, model, service, audit."""


@main.command()
def ingest(
    path: Annotated[Path | None, typer.Argument(help="Transactions: Parquet, CSV, a folder, a glob.")] = None,
    mapping: Annotated[
        str, typer.Option(help="A built-in mapping's name, or a file of one's own.")
    ] = "canonical",
    chargebacks: Annotated[Path | None, typer.Option(help="Chargebacks: the same kinds of path.")] = None,
) -> None:
    """Load events into the lake; what is there already is left alone."""
    from feature_repo.settings import settings
    from pipelines.ingest import ingest as load
    from pipelines.progress import shown

    with shown(console) as progress:
        report = load(path, mapping, settings().lake, chargebacks, progress)
    console.print(report.summary(), soft_wrap=True)


@main.command()
def simulate(
    transactions: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    days: Annotated[int, typer.Option(min=1, help="Over how many days.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 7,
    start: Annotated[str, typer.Option(help="First day, UTC.")] = "2025-01-01",
    out: Annotated[
        Path | None, typer.Option(help="A folder for two Parquet files; without it, the lake is loaded.")
    ] = None,
) -> None:
    """Make card transactions with several kinds of fraud, and the chargebacks that follow."""
    from feature_repo.settings import settings
    from pipelines.progress import shown
    from pipelines.simulate import run

    with shown(console) as progress:
        outcome = run(transactions, days, seed, start, settings().lake, out, progress)
    console.print(outcome, soft_wrap=True)


@mapping.command("show")
def mapping_show(name: Annotated[str, typer.Argument(help="A built-in mapping.")]) -> None:
    """Print a built-in mapping, to copy and change."""
    from pipelines.mapping import mapping_text

    typer.echo(mapping_text(name), nl=False)


@mapping.command("list")
def mapping_list() -> None:
    """Name the built-in mappings."""
    from pipelines.mapping import built_in

    for name, file in built_in().items():
        console.print(f"{name}  [dim]{escape(str(file))}[/]", soft_wrap=True)


@mapping.command("help")
def mapping_help() -> None:
    """Explain the format of a mapping."""
    import pipelines.mapping

    typer.echo(pipelines.mapping.__doc__)


if __name__ == "__main__":
    main()
