"""finlab: the helper package behind the notebooks that turn an open language model into a Chinese finance model.

Import the modules (`from finlab import corpus`); there are no other public names here.
"""

import logging
import os
import warnings

# An executed notebook is read by people: the chatter of imports is kept out of it, errors are not. See also `runs.start`.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
if not {"LOCAL_RANK", "CUDA_VISIBLE_DEVICES"} & set(os.environ):  # one process drives one GPU; TRL refuses more without a launcher
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["FINLAB_ONE_GPU"] = "0", "1"  # `finlab.launch` takes the limit away again
for _name in ("torch.utils._pytree", "torchao", "bitsandbytes", "kernels"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch|bitsandbytes)\b.*")
