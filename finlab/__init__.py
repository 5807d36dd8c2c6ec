"""The Python package of the notebooks that turn an open model into a Chinese finance model.

Import modules from their subpackage, as in `from finlab.data import cards, corpus`. A subpackage
imports only from subpackages further down this list:

    commands      the finlab command
    show          plots and tables
    evaluate      likelihood, exams, judges, statistics
    train         training: fit, preflight, log, resume
    models        load, grow, adapt, merge, quantise
    data          cards, cleaning, corpus, mixture, dialogues
    run           recipes, steps, the runner, the report
    closed_world  the fictional market of the smoke run
    files, paths  modules that all subpackages use
"""

import logging
import os
import warnings

# People read executed notebooks, so messages that libraries print at import are turned off. Errors
# are still shown. `run.environment.quiet` turns off more after the libraries are loaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

# If these variables are not set, tokenicer (a dependency of gptqmodel) moves the hub's cache to
# /tmp. Processes started later inherit this and would download the models again into /tmp.
_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("HF_HOME", os.path.join(_CACHE, "huggingface"))
os.environ.setdefault("HF_HUB_CACHE", os.path.join(os.environ["HF_HOME"], "hub"))

# A process uses one GPU, because TRL does not allow more without a launcher. `finlab.train.launch`
# removes this limit for the processes that it starts.
if "LOCAL_RANK" not in os.environ and "CUDA_VISIBLE_DEVICES" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    os.environ["FINLAB_ONE_GPU"] = "1"

for _name in ("torch.utils._pytree", "torchao", "bitsandbytes", "kernels"):
    logging.getLogger(_name).setLevel(logging.ERROR)
_NOISY = r"(transformers|trl|peft|torch|bitsandbytes)\b.*"
warnings.filterwarnings("ignore", category=FutureWarning, module=_NOISY)
