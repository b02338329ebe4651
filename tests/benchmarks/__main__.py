"""``python -m tests.benchmarks``: each benchmark in a process of its own, their figures in one file.

A benchmark that breaks, or is not done in its time, is reported and costs the others nothing. The exit code is 1 if one
broke; a goal that is missed is a result, and no error.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feature_repo.windows import embedded
from tests.benchmarks import figures
from tests.benchmarks.bench import HANDBOOK, ROOT, Bench, sentence
from tests.benchmarks.catalogue import CATALOGUE, chosen
from tests.benchmarks.measure import UnavailableError

BUILD = ROOT / "build"
# What a deployment's environment names, and bounds checks, which the tests switch on, are not for measuring.
_NOT_INHERITED = ("FRAUD_REDIS", "FRAUD_PROCESSOR", "MLFLOW_TRACKING_URI", "NUMBA_BOUNDSCHECK")
_BROKEN = 1
_STOP_S = 30.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Names of benchmarks, separated by commas; default: all.")] = "",
    data: Annotated[Path, typer.Option(help="The Handbook's transactions, as Parquet.")] = HANDBOOK,
    small: Annotated[bool, typer.Option(help="Little data, to try the benchmarks; no goals.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep the events made for the run.")] = False,
    build: Annotated[Path, typer.Option(help="Where the figures go, and the events meanwhile.")] = BUILD,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run benchmarks and write their figures to bench.json (bench-small.json with --small)."""
    work = build.resolve() / "bench"
    # Ended like this, whatever was started ends too: servers are in process groups of their own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if child:
        raise SystemExit(_run_here(_bench(child, work, small, data)))
    try:
        names = chosen(only)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    results = build / ("bench-small.json" if small else "bench.json")
    console = Console(highlight=False)
    broken = False
    try:
        for name in names:
            console.rule(f"{name}: {CATALOGUE[name].about}")
            bench = _bench(name, work, small, data)
            found = _run_apart(bench)
            broken |= any("error" in each["conditions"] for each in found)
            figures.save(results, figures.merged(figures.load(results), {name: found}))
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
    console.rule(str(results))
    for each in figures.load(results):
        console.print(sentence(each), soft_wrap=True)
    raise SystemExit(_BROKEN if broken else 0)


def _bench(name: str, work: Path, small: bool, handbook: Path) -> Bench:
    home = work / name
    return Bench(name, home, work / "data", home / "figures.jsonl", small, handbook.resolve())


def _run_apart(bench: Bench) -> list[figures.Figure]:
    """Run the benchmark in a process of its own and return its figures; what it leaves behind is removed."""
    shutil.rmtree(bench.home, ignore_errors=True)
    bench.home.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    environment["FRAUD_HOME"] = str(bench.home)
    command = [sys.executable, "-m", "tests.benchmarks", "--child", bench.name, "--data", str(bench.handbook)]
    command += ["--build", str(bench.home.parents[1]), *(["--small"] if bench.small else [])]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    limit = CATALOGUE[bench.name].limit_s
    try:
        code = process.wait(limit)
        if code not in (0, _BROKEN):
            bench.fail(f"its process ended with exit code {code}")
    except subprocess.TimeoutExpired:
        bench.fail(f"not done after {limit:.0f} s, and ended")
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        embedded.stop(bench.home)
    found = [json.loads(line) for line in bench.entries.read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(bench.home)
    return found


def _run_here(bench: Bench) -> int:
    bench.entries.touch()
    try:
        importlib.import_module(f"tests.benchmarks.{CATALOGUE[bench.name].module}").run(bench)
    except UnavailableError as reason:
        bench.skip("", str(reason))
    except Exception as error:
        traceback.print_exc()
        bench.fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return _BROKEN
    return 0


if __name__ == "__main__":
    app()
