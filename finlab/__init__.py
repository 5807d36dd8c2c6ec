"""The package behind the notebooks that turn an open model into a Chinese finance model.

Import modules by their room, as in `from finlab.data import cards, corpus`. A room imports only
from rooms further down this list:

    commands      the finlab command
    show          plots and tables
    evaluate      likelihood, exams, judges, statistics
    train         fit, what it checks first, what it logs, how it resumes
    models        load, grow, adapt, merge, quantise
    data          cards, cleaning, corpus, mixture, dialogues
    run           recipes, steps, the runner, the report
    closed_world  the fictional market of the smoke run
    files, paths  what all of them stand on
"""

import logging
import os
import warnings

# An executed notebook is read by people, so the chatter of imports is kept out of it. Errors stay.
# `run.environment.quiet` does the rest once the libraries are loaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

# tokenicer, which gptqmodel brings along, moves the hub's cache to /tmp where these are not set.
# That holds for every process that is started later, which would fetch the models there again.
_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("HF_HOME", os.path.join(_CACHE, "huggingface"))
os.environ.setdefault("HF_HUB_CACHE", os.path.join(os.environ["HF_HOME"], "hub"))

# One process drives one GPU, and TRL refuses more without a launcher. `finlab.train.launch` takes
# the limit away again for the processes it starts.
if "LOCAL_RANK" not in os.environ and "CUDA_VISIBLE_DEVICES" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    os.environ["FINLAB_ONE_GPU"] = "1"

for _name in ("torch.utils._pytree", "torchao", "bitsandbytes", "kernels"):
    logging.getLogger(_name).setLevel(logging.ERROR)
_NOISY = r"(transformers|trl|peft|torch|bitsandbytes)\b.*"
warnings.filterwarnings("ignore", category=FutureWarning, module=_NOISY)
