"""Reads samples of Traitwatch's own metrics."""

from prometheus_client import CollectorRegistry


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the value of `traitwatch_<name>` for these labels. The labels of the model and the engine are added.

    Raises:
        KeyError: the sample does not exist.
    """
    for of_engine in ({}, {"engine": "0"}):
        value = registry.get_sample_value(f"traitwatch_{name}", {"model_name": "model", **of_engine, **labels})
        if value is not None:
            return value
    raise KeyError(name, labels)
