"""The README is true: its commands run in its order, its snippets hold, its lists are complete."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import typer

import pipelines.mapping
from feature_repo.settings import PROJECT_ROOT
from pipelines.cli import main
from pipelines.features_table import feature_rows, markdown, table
from tests.ports import free_port

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run|serve) -->\n```(bash|python)\n(.*?)```\n", re.DOTALL)
PACKAGES = ("feature_repo", "pipelines", "training", "bento", "monitoring")
PORT = "3000"
START_S = 60


@pytest.fixture
def environment(home):
    """A person's shell: this Python's commands first, an empty deployment, the kernel as it is shipped."""
    bin_folder = str(Path(sys.executable).parent)
    own = {"PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]), "FRAUD_HOME": str(home)}
    return {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | own


def _run(command, environment):
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _wait_until_ready(process, port):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the service was not ready after {START_S} s (exit code {process.poll()})")


def _end(process):
    """End the service's whole group, in order if it will."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_what_the_readme_says_to_run_runs_in_its_order(environment, home):
    blocks = BLOCK.findall(README)
    assert [kind for kind, _, _ in blocks].count("serve") == 1
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, which the README calls the service with")
    port, said, python, service = str(free_port()), "", "", None
    try:
        for kind, language, text in blocks:
            text = text.replace(f":{PORT}", f":{port}").replace(f"--port {PORT}", f"--port {port}")
            if kind == "serve":
                log = (home / "readme-service.log").open("w")
                service = subprocess.Popen(
                    text.split(),
                    cwd=PROJECT_ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                # What Python snippets say is tried while the service starts.
                said += _run([sys.executable, "-c", python], environment)
                _wait_until_ready(service, port)
            elif language == "python":
                python += text
            else:
                said += _run(["bash", "-euo", "pipefail", "-c", text], environment)
    finally:
        if service is not None:
            log.close()
            _end(service)
    assert re.search(r'"transaction_id":"readme-1","decision":"(approve|review|decline)","score":\d', said)
    assert '"degraded":null' in said
    assert re.search(r"301 decisions, 66 features, [\d,]+ values: 0 differ", said)
    assert "301 scores: 0 differ" in said


def test_the_feature_table_is_the_generated_one():
    begin, end = "<!-- features -->\n", "<!-- end of features -->"
    assert README.partition(begin)[2].partition(end)[0] == markdown("fraud_v1")


def test_every_verb_of_the_command_line_is_in_the_readme():
    group = typer.main.get_command(main)
    for name, command in group.commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if hasattr(command, "commands") else [name]
        for verb in names:
            assert re.search(rf"fraud {verb}\b", README), f"fraud {verb} is not in the README"


def test_every_fraud_command_in_the_readme_is_a_verb():
    verbs = typer.main.get_command(main).commands
    for code in re.findall(r"`([^`\n]+)`", README) + [text for _, _, text in BLOCK.findall(README)]:
        for verb in re.findall(r"^fraud ([a-z]+)", code, re.MULTILINE):
            assert verb in verbs


def test_every_environment_variable_that_is_read_is_in_the_readme():
    read = re.compile(r"environ(?:\.get\(|\[)\s*\"([A-Z_]+)\"")
    files = [path for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py")]
    names = {name for path in files for name in read.findall(path.read_text(encoding="utf-8"))}
    assert {"FRAUD_HOME", "FRAUD_REDIS", "MLFLOW_TRACKING_URI"} <= names
    for name in names - {"GLIBC_TUNABLES", "PYTHONPATH"}:  # the C library's own, and Python's
        assert f"`{name}`" in README, f"{name} is not in the README"


def test_the_help_on_mappings_is_itself_a_mapping(tmp_path):
    lines = pipelines.mapping.__doc__.splitlines()
    text = "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    ") or not line)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    mapping = pipelines.mapping.load_mapping(tmp_path / "mine.toml")
    assert [field.name for field in mapping.chargebacks] == list(pipelines.mapping.CHARGEBACK_COLUMNS)
    assert mapping.label.genuine == ("0",)


def test_every_make_command_in_the_readme_is_a_target():
    targets = re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`make ([a-z]+)", README))
    assert {"demo", "test"} <= named <= set(targets)


def test_every_path_in_the_readme_exists():
    folders = "|".join(PACKAGES)
    for path in re.findall(rf"`((?:{folders})/[\w./]*)`", README):
        assert (PROJECT_ROOT / path).exists(), path


def test_features_are_listed_with_what_makes_them():
    rows = {row.feature: row for row in feature_rows("fraud_v1")}
    fraud = rows["customer_fraud_chargebacks_count_14d"]
    assert (fraud.view, fraud.key, fraud.computed) == ("customer_fraud", "customer_id", "count(chargebacks)")
    assert (fraud.window, fraud.delay) == ("14d", "7d")
    assert fraud.filter.startswith('"reason_code" IN (')
    assert rows["pair_transactions_count_30d"].key == "customer_id, terminal_id"
    assert rows["amount_zscore_30d"].computed == "transform spending"
    assert rows["hour_utc"].key == "request"
    shown, legend = table("fraud_v1")
    assert shown.row_count == len(rows)
    assert len(legend) == 2


def test_an_unknown_feature_service_is_refused_with_those_that_are_there():
    with pytest.raises(ValueError, match="'fraud_v9': not defined; there are fraud_v1, published_v1"):
        feature_rows("fraud_v9")
