"""What stands in the files of a deployment, for the tests that check it and those that run it."""

import json
import re

import yaml

from feature_repo.settings import PROJECT_ROOT

DEPLOY = PROJECT_ROOT / "bento" / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "fraud.json").read_text())
LOCK = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)", (PROJECT_ROOT / "requirements.lock").read_text(), re.MULTILINE)
)


def queries():
    """Every expression of the dashboard."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
