"""What Prometheus reads, as numbers."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text):
    """The samples of an exposition, by name and labels: ``found["fraud_repeats_total",]``."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(meters, start=""):
    """The samples that ``Meters``, ``Metrics`` or a service's metrics would show now, of names that begin with ``start``."""
    body, media_type = meters.exposition()
    assert media_type.startswith("text/plain")
    return samples("".join(line for line in body.decode().splitlines(True) if line.startswith(start)))
