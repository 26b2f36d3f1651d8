"""The version of the installed vLLM. This module imports nothing of vLLM before it is asked."""


def installed_version() -> str:
    """Return the version of the installed vLLM; imports vLLM.

    The build for CPUs leaves no metadata under the name `vllm`, so the module is asked.

    Raises:
        ImportError: vLLM is not installed, or does not import.
    """
    from vllm import __version__

    return str(__version__)
