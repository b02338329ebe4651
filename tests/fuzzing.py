"""How requests are made up from the service's description."""

from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

# What is asked for may be refused for what no schema says: times in the future, ids that are taken.
SEMANTIC = [positive_data_acceptance]
FUZZING = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
