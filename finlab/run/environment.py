"""The environment of a step: seeds, versions, device, memory, and quiet libraries."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import importlib.util
import json
import logging
import os
import random
import resource
import subprocess
import sys
from typing import Any

from finlab import paths

# The packages that decide results; a manifest records their versions.
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "gptqmodel",
    "lm_eval",
    "daft",
    "numpy",
    "papermill",
)
NOISY_LOGGERS = (
    "torchao",
    "bitsandbytes",
    "lm_eval",
    "lm-eval",
    "httpx2",
    "matplotlib.font_manager",
    "accelerate",
    "optimum",
)


def quiet() -> None:
    """Turn off progress bars and advice of libraries, and clear the output of imports."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _quiet_tqdm()
    if "datasets" in sys.modules:
        import datasets

        datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity_error()
    in_notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
    if "finlab.models.adapters" in sys.modules and importlib.util.find_spec("gptqmodel"):
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)
        # PEFT imports GPTQModel when it attaches an adapter, and GPTQModel prints a banner. It is
        # imported here so that the banner is cleared below.
        if in_notebook:
            import gptqmodel  # noqa: F401
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if in_notebook:
        from IPython.display import clear_output

        clear_output()


def _quiet_tqdm() -> None:
    """Turn off the progress bars of tqdm, also if a library passes `disable=False`.

    tqdm reads the variable TQDM_DISABLE when it is imported, but `disable=False` overrides it.
    """
    if os.environ.get("TQDM_DISABLE") != "1" or "tqdm" not in sys.modules:
        return
    from tqdm.std import tqdm

    loud = tqdm.__init__
    if hasattr(loud, "__wrapped__"):
        return

    @functools.wraps(loud)
    def begin(bar: tqdm, *arguments: object, **options: object) -> None:
        loud(bar, *arguments, **options | {"disable": True})

    tqdm.__init__ = begin


def seed_all(seed: int) -> None:
    """Seed the random numbers of Python, and of NumPy and PyTorch if they are imported.

    Args:
        seed: The seed for all of them.
    """
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def has_gpu() -> bool:
    """Tell whether this process computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def device() -> str:
    """Return the device that this process computes on, as text."""
    torch = sys.modules.get("torch")
    if has_gpu():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores"


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes: GPU memory, or host memory without a GPU."""
    if has_gpu():
        torch = sys.modules["torch"]
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Return {package: version} of the packages in PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(paths.ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def git_commit() -> str:
    """Return the commit of the repository, or `unknown` outside git.

    `+changes` is added if the work tree differs from the commit. Changes in the outputs of a
    notebook do not count.
    """
    commit = _git("rev-parse", "--short", "HEAD")
    if commit.returncode:
        return "unknown"
    changed = [line[3:].strip('"') for line in _git("status", "--porcelain").stdout.splitlines()]
    differs = any(not _only_outputs_differ(path) for path in changed)
    return commit.stdout.strip() + ("+changes" if differs else "")


def _only_outputs_differ(path: str) -> bool:
    """Tell whether a changed file is a notebook with the same cells as in the commit.

    Args:
        path: Path of the file, relative to the root of the repository.
    """
    if not path.endswith(".ipynb") or not (paths.ROOT / path).is_file():
        return False
    committed = _git("show", f"HEAD:{path}")
    if committed.returncode:
        return False
    try:
        now = json.loads((paths.ROOT / path).read_text(encoding="utf-8"))
        return _cells(json.loads(committed.stdout)) == _cells(now)
    except ValueError:
        return False


def _cells(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (cell type, text) of each cell of a notebook, without outputs.

    Args:
        notebook: The JSON content of the notebook.
    """
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def free_memory() -> None:
    """Free the memory of deleted objects, also GPU memory that PyTorch keeps in its cache."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
