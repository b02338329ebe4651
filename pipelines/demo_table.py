"""What a demo measured, as tables for a person."""

from typing import Any

from rich.table import Table

__all__ = ["tables"]


def tables(document: dict[str, Any]) -> list[Table]:
    """Data and audit, then models, then time."""
    return [_facts(document), _models(document), _seconds(document)]


def _facts(document: dict[str, Any]) -> Table:
    table = Table(
        title="From raw transactions to an audited decision", title_justify="left", show_header=False
    )
    rows, replay, parity = document["rows"], document["replay"], document["parity"]
    table.add_row(
        "Data",
        f"{rows['transactions']:,} transactions, {rows['chargebacks']:,} chargebacks ({document['data']})",
    )
    week = document["protocol"]["week"]
    if week:
        split = f"{week['train_rows']:,} / {week['train_frauds']:,} and {week['test_rows']:,} / {week['test_frauds']:,}"
        table.add_row("Published split", f"{split} (rows / frauds of training and test)")
    table.add_row("Features", f"{document['features']['count']} in {document['features']['service']}")
    table.add_row("Replay", f"{replay['scored']:,} scored over HTTP, {replay['errors']} errors")
    table.add_row(
        "Latency",
        f"p50 {_number(replay['p50_ms'], 2)} ms, p99 {_number(replay['p99_ms'], 2)} ms, at the client",
    )
    table.add_row(
        "Decisions", ", ".join(f"{count:,} {name}" for name, count in sorted(replay["decisions"].items()))
    )
    table.add_row(
        "Parity",
        f"{parity['values_compared']:,} values of {parity['decisions']:,} decisions: {parity['mismatches']:,} differ; "
        f"{parity['scores_compared']:,} scores: {parity['score_mismatches']:,} differ",
    )
    table.add_row("Monitoring", "\n".join([document["monitor"]["verdict"], *document["monitor"]["reasons"]]))
    table.add_row(
        "Retraining",
        f"{document['retrain']['why']}; the service serves version {document['retrain']['served']}",
    )
    return table


def _models(document: dict[str, Any]) -> Table:
    table = Table(title="Models on rows later than their training", title_justify="left")
    for column in ("model", "test", "average precision", "AUC ROC", "card precision@100"):
        table.add_column(column)
    for name, parts in document["models"].items():
        for test in ("holdout", "week", "prequential"):
            if parts.get(test):
                table.add_row(name.replace("_", " "), test, *_measures(parts[test]))
    for name, parts in (document["published"] or {}).items():
        for test, figures in parts.items():
            shown = figures.get("model", name.replace("_", " "))
            table.add_row(f"published: {shown}", test, *_measures(figures), style="dim")
    return table


def _seconds(document: dict[str, Any]) -> Table:
    table = Table(title="Seconds", title_justify="left", show_header=False)
    for name, value in document["seconds"].items():
        table.add_row(name, f"{value:.1f}")
    return table


def _measures(figures: dict[str, float]) -> list[str]:
    return [_number(figures[name], 3) for name in ("average_precision", "auc_roc", "card_precision_100")]


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
