"""The ``fraud`` command line: parses, shows progress, prints the outcome. The work is in one module a verb.

Modules are imported inside the commands, so that ``fraud --help`` answers at once. What a person can put
right (wrong input, a missing file) ends as one message and exit code 2, without a traceback; ``fraud --debug
VERB`` shows that too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from pipelines.keys import keys
from pipelines.rollout_cli import rollout

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["main"]

console = Console()
AS_OF = typer.Option(
    help="What was known then counts: a day (UTC), or an instant with its zone; default: just after the newest event."
)


def _instant(text: str | None) -> "datetime | None":
    from pipelines.instants import parse_instant

    return None if text is None else parse_instant(text)


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, LookupError) as error:
            # A missing key or index is a fault of the code; a plain LookupError names what is not there.
            if ctx.params.get("debug") or isinstance(error, KeyError | IndexError):
                raise
            from bento.redaction import redact

            said = escape(redact(str(error)))
            Console(stderr=True, soft_wrap=True).print(f"[bold red]error[/] {said}")
            raise typer.Exit(2) from None


main = typer.Typer(cls=_Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
mapping = typer.Typer(no_args_is_help=True, help="How a source's columns become the canonical ones.")
main.add_typer(mapping, name="mapping")
main.add_typer(keys, name="keys")
main.add_typer(rollout, name="rollout")


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


@main.command()
def features(
    service: Annotated[str, typer.Argument(help="A FeatureService.")] = "fraud_v1",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the Markdown table of the README.")
    ] = False,
) -> None:
    """List a FeatureService's features: key, function or transform, window, delay, filter."""
    from pipelines import features_table

    if markdown:
        typer.echo(features_table.markdown(service), nl=False)
        return
    shown, legend = features_table.table(service)
    console.print(shown)
    for line in legend:
        console.print(line, soft_wrap=True, markup=False)


@main.command()
def plan(
    sample: Annotated[
        int, typer.Option(min=0, help="Show old and new values for so many of the newest transactions.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with exit code 1 if anything would change.")
    ] = False,
) -> None:
    """Say what `feast apply` would change, before it does; nothing is written.

    It compares the definitions with what is registered, by meaning: a feature is listed if it would give other values.
    It tells which FeatureServices and registered models read it, and what becomes of each model; how many keys and bytes of
    online state have to be loaded again; and old and new values side by side. Then `feast -c feature_repo apply`, and
    `fraud backfill` where state has to be loaded. The service goes on meanwhile.
    """
    import json

    from pipelines.plan import plan as compare
    from pipelines.plan_table import tables
    from pipelines.progress import quiet, shown

    if as_json:
        planned = compare(sample, quiet)
        typer.echo(json.dumps(planned.as_dict(), indent=1))
    else:
        with shown(console) as progress:
            planned = compare(sample, progress)
        for part in tables(planned):
            console.print(part)
    raise typer.Exit(int(exit_code and planned.changes))


@main.command()
def backfill(
    views: Annotated[
        list[str] | None, typer.Argument(help="Windowed views; default: those that lack history.")
    ] = None,
) -> None:
    """Load history into the online state of changed views, while the service goes on.

    Running services first record into the new definitions, then the journal is loaded into the lake, then the lake into the
    state: no event is lost in between. Running it again changes nothing.
    """
    from pipelines.backfill import backfill as load
    from pipelines.progress import shown

    with shown(console) as progress:
        done = load(views or (), progress)
    console.print(done.summary(), soft_wrap=True, markup=False)


@main.command()
def parity(
    feature_service: Annotated[str | None, typer.Option(help="Audit only decisions made with it.")] = None,
) -> None:
    """Recompute every journalled feature and score, and compare to the bit; exit code 1 if any differs."""
    from pipelines.parity import parity as audit
    from pipelines.progress import shown

    with shown(console) as progress:
        done = audit(feature_service=feature_service, progress=progress)
    console.print(done.summary(), soft_wrap=True, markup=False)
    raise typer.Exit(done.exit_code)


@main.command()
def monitor(
    as_of: Annotated[str | None, AS_OF] = None,
    maturity_days: Annotated[
        float | None,
        typer.Option(min=0, help="Silence of so many days means genuine; default: as in training."),
    ] = None,
) -> None:
    """Measure drift, matured performance and health; leave a report and a verdict."""
    from datetime import timedelta

    from pipelines.monitor import monitor as measure
    from pipelines.progress import shown

    with shown(console) as progress:
        done = measure(
            as_of=_instant(as_of),
            maturity=None if maturity_days is None else timedelta(days=maturity_days),
            progress=progress,
        )
    console.print(done.summary(), soft_wrap=True, markup=False)


@main.command()
def retrain(
    force: Annotated[
        bool, typer.Option("--force", help="Train and judge whatever the verdict says.")
    ] = False,
    as_of: Annotated[str | None, AS_OF] = None,
) -> None:
    """Act on the last verdict: train a challenger, and let it replace the champion only if it is better."""
    from pipelines.progress import shown
    from pipelines.retrain import retrain as act

    with shown(console) as progress:
        done = act(force=force, as_of=_instant(as_of), progress=progress)
    console.print(done.summary(), soft_wrap=True, markup=False)


@main.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 3000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
) -> None:
    """Run the scoring service until it is interrupted.

    Without an API key it listens to this machine only: make one with `fraud keys create` before giving another --host.
    """
    from feature_repo.settings import settings
    from pipelines.serve import serve as run

    raise typer.Exit(run(settings().home, host, port, workers))


@main.command()
def replay(
    start: Annotated[str, typer.Option(help="First day (UTC), or instant with its zone.")],
    end: Annotated[str, typer.Option(help="The day or instant before which to stop.")],
    url: Annotated[str | None, typer.Option(help="A running service; without it, one is started.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score so many transactions at most.")] = None,
) -> None:
    """Send a stretch of the lake through the service, in the order in which it became known."""
    from pipelines.progress import shown
    from pipelines.replay import run_replay

    with shown(console) as progress:
        report = run_replay(start, end, url, limit=limit, progress=progress)
    console.print(report.summary())
    raise typer.Exit(report.exit_code)


@main.command()
def train(
    service: Annotated[str, typer.Option(help="The FeatureService to learn from.")] = "fraud_v1",
    train_days: Annotated[int, typer.Option(min=1, help="Days of training before the maturity gap.")] = 28,
    test_days: Annotated[int, typer.Option(min=1, help="Days of test after it.")] = 7,
    maturity_days: Annotated[
        int, typer.Option(min=0, help="Days of silence that make a transaction genuine.")
    ] = 7,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Register as challenger, not champion.")
    ] = False,
    as_of: Annotated[str | None, AS_OF] = None,
) -> None:
    """Fit a model beside its baselines, judge all on later rows, register it in MLflow."""
    from datetime import timedelta

    from pipelines.progress import shown
    from pipelines.train import train_model

    with shown(console) as progress:
        result = train_model(
            service,
            as_of=_instant(as_of),
            maturity=timedelta(days=maturity_days),
            train_days=train_days,
            test_days=test_days,
            champion=not challenger,
            progress=progress,
        )
    role = "challenger" if challenger else "champion"
    console.print(
        f"version {result.version} is {role}: {result.test_rows:,} test rows, {result.test_frauds:,} frauds"
    )
    for name, report in result.reports.items():
        evaluation = report.evaluation
        console.print(
            f"  {name}: average precision {evaluation.average_precision:.4f}, AUC ROC {evaluation.auc_roc:.4f}"
        )
    if result.outdone_by:
        console.print(
            f"[yellow]it ranks no better than {' and '.join(result.outdone_by)}[/]: learn from more frauds (--train-days), "
            "or from better features, before it decides"
        )


@main.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Transactions to run on; without them, simulated ones.")
    ] = None,
    mapping: Annotated[str, typer.Option(help="How their columns are to be read.")] = "handbook",
    transactions: Annotated[int, typer.Option(min=100_000, help="How many to simulate.")] = 450_000,
    replayed: Annotated[int, typer.Option(min=1, help="How many to send through the service.")] = 20_000,
    folder: Annotated[Path, typer.Option(help="Where the demo's own deployment and demo.json go.")] = Path(
        "build"
    ),
) -> None:
    """Run the whole path, from raw transactions to a scored, audited and monitored decision.

    It has a deployment of its own, with its own embedded server and its own MLflow, whatever FRAUD_HOME, FRAUD_REDIS and
    MLFLOW_TRACKING_URI say.
    """
    from pipelines.demo import DemoError, run_demo
    from pipelines.demo_table import tables
    from pipelines.progress import shown

    try:
        with shown(console) as progress:
            document = run_demo(
                folder,
                data,
                mapping,
                transactions=transactions,
                replayed=replayed,
                progress=progress,
                note=console.rule,
            )
    except DemoError as error:
        console.print(f"[bold red]failed[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    for table in tables(document):
        console.print(table)
    console.print(f"written to {folder / 'demo.json'}")


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
