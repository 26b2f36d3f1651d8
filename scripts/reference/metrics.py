"""Makes the table of the metric families from a registry that the server's own metrics fill."""

from prometheus_client import CollectorRegistry, Metric

from traitwatch import vectors
from traitwatch.vectors import DEFAULT_LAYER
from traitwatch_server.metrics import Metrics
from traitwatch_server.settings import Settings
from traitwatch_server.traits import load_served_traits

from .markdown import table

_VECTORS = vectors.SHIPPED / "SmolLM2-135M-Instruct"
# The code has every value of these labels. The values of the other labels come from the operator.
_CLOSED = ("reason", "sign", "direction", "sink")


def families() -> str:
    """Return a table of the families."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.show(load_served_traits(Settings(directories=(_VECTORS,), layer=DEFAULT_LAYER)))
    header = ("metric", "type", "labels beside `model_name`", "meaning")
    return table(
        header,
        [(f"`{_name(family)}`", family.type, _labels(family), family.documentation) for family in registry.collect()],
    )


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> str:
    """Return the labels in their order, with the values of the labels in `_CLOSED`."""
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label not in ("model_name", "le") and value not in values.setdefault(label, []):
                values[label].append(value)
    return ", ".join(
        f"`{label}` ({', '.join(f'`{value}`' for value in known)})" if label in _CLOSED else f"`{label}`"
        for label, known in values.items()
    )
