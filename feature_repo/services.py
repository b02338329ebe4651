"""What models read: a FeatureService by name is the only list of features there is."""

from feast import FeatureService, FeatureView

from feature_repo.activity import customer_activity, customer_settled, pair_activity, terminal_activity
from feature_repo.on_demand import request_shape, spending, terminal_risk
from feature_repo.risk import customer_fraud, terminal_fraud, terminal_ordinary_fraud, terminal_settled
from feature_repo.sources import request
from feature_repo.windows.transform import Transform


def _read(view: FeatureView, transform: Transform) -> FeatureView:
    """The part of a view that a transform reads."""
    return view[[field.name for field in view.features if field.name in transform.inputs]]


request_features = request_shape.view("request_features", [], request)
spending_features = spending.view(
    "spending_features", [_read(customer_activity, spending), _read(customer_settled, spending)], request
)
terminal_risk_features = terminal_risk.view(
    "terminal_risk_features",
    [_read(terminal_ordinary_fraud, terminal_risk), _read(terminal_settled, terminal_risk)],
    request,
)

fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[
        customer_activity,
        customer_settled,
        customer_fraud,
        terminal_activity,
        terminal_settled[
            [f"terminal_settled_transactions_count_{w}" for w in ("3d", "7d", "14d", "21d", "28d")]
        ],
        terminal_ordinary_fraud,
        pair_activity,
        request_features,
        spending_features,
        terminal_risk_features,
    ],
    description="Features of the first fraud model.",
)

published_v1 = FeatureService(
    name="published_v1",
    features=[
        customer_activity[
            [
                f"customer_{name}_{w}"
                for name in ("transactions_count", "amount_usd_cents_sum")
                for w in ("1d", "7d", "30d")
            ]
        ],
        terminal_settled[[f"terminal_settled_transactions_count_{w}" for w in ("1d", "7d", "30d")]],
        terminal_fraud,
    ],
    description="The windows behind the fifteen features that the Fraud Detection Handbook publishes its results on.",
)
