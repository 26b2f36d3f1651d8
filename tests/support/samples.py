"""Reads samples of Traitwatch's own metrics in tests."""

from prometheus_client import CollectorRegistry


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the value of `traitwatch_<name>` for the labels beside the model's and, where it has one, the engine's.

    Raises:
        KeyError: there is no such sample.
    """
    for of_engine in ({}, {"engine": "0"}):
        value = registry.get_sample_value(f"traitwatch_{name}", {"model_name": "model", **of_engine, **labels})
        if value is not None:
            return value
    raise KeyError(name, labels)
