"""The version of the installed vLLM. This module imports vLLM only when `installed_version` is called."""


def installed_version() -> str:
    """Return the version of the installed vLLM; imports vLLM.

    The build for CPUs leaves no metadata under the name `vllm`, so this function reads the module `vllm` itself.

    Raises:
        ImportError: vLLM is not installed, or does not import.
    """
    from vllm import __version__

    return str(__version__)
