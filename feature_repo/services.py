"""What models read: a FeatureService by name is the only list of features there is."""

from feast import FeatureService

from feature_repo.activity import customer_activity, pair_activity, terminal_activity
from feature_repo.on_demand import request_shape
from feature_repo.risk import customer_fraud, terminal_delayed, terminal_fraud
from feature_repo.sources import request

request_features = request_shape.view(
    "request_features", [customer_activity[["customer_amount_usd_cents_mean_30d", "customer_amount_usd_cents_std_30d"]]], request
)

fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[
        customer_activity,
        terminal_activity,
        pair_activity,
        terminal_delayed,
        terminal_fraud,
        customer_fraud,
        request_features,
    ],
    description="Features of the first fraud model.",
)
