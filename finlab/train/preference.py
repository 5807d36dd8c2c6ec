"""Log-probabilities of DPO's reference, computed once and kept between jobs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet

from finlab.models import folders
from finlab.train.extensions import Extension

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer

ID_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]
LOGP_COLUMNS = ["ref_chosen_logps", "ref_rejected_logps"]


class ReferenceCache(Extension):
    """Keep the reference's log-probabilities in a folder, one Parquet file for each key.

    So jobs with different losses and betas can share them. The key depends on everything that
    changes the log-probabilities: the token ids of the pairs, max_length, truncation, ld_alpha, the
    reference's weights (SHA-256), dtype and attention. TRL's own key does not include dtype and
    attention, and TRL does not keep the values of rows that are only in memory.

    The attribute `references` of the trainer is then {train, eval: file}. A file has one row for
    each pair.

    Args:
        folder: Folder of the files. It is used only with `args.precompute_ref_log_probs`.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()

    def prepare(self, arguments: dict[str, Any]) -> None:
        """Note whether log-probabilities are computed before training."""
        self.active = arguments["args"].precompute_ref_log_probs

    def extend_class(self, trainer_class: type[Trainer]) -> type[Trainer]:
        """Return the trainer class with its computation of log-probabilities replaced."""
        if not self.active:
            return trainer_class
        return _cached_class(trainer_class, self.folder)


def _cached_class(trainer_class: type[Trainer], folder: Path) -> type[Trainer]:
    """Return a trainer class that keeps the reference's log-probabilities on disk.

    Args:
        trainer_class: DPOTrainer, or a class with its `compute_ref_log_probs`.
        folder: Folder of the files, one for each key.
    """
    from datasets import Dataset, concatenate_datasets, load_from_disk

    class Cached(trainer_class):
        references: dict[str, Path] = {}

        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            path = folder / f"{_reference_key(self, dataset)[:32]}.parquet"
            if not _is_whole(path):
                # The rows are saved to a disk that all processes can read. If they were only in
                # memory, each process would have its own cache in TRL.
                work = folder / f"{path.stem}.work"
                if self.accelerator.is_main_process:
                    dataset.select_columns(ID_COLUMNS).save_to_disk(str(work))
                self.accelerator.wait_for_everyone()
                rows = load_from_disk(str(work))
                computed = super()._precompute_ref_logps(rows, name, batch_size)
                if self.accelerator.is_main_process:
                    _write_columns(computed, path)
                self.accelerator.wait_for_everyone()
                shutil.rmtree(work, ignore_errors=True)
            self.references = self.references | {name: path}
            columns = Dataset(pyarrow.parquet.read_table(path))
            return concatenate_datasets([dataset, columns], axis=1)

    Cached.__name__ = Cached.__qualname__ = trainer_class.__name__
    return Cached


def _is_whole(path: Path) -> bool:
    """Tell whether a kept file exists and can be read; a broken one is computed again."""
    try:
        return path.exists() and pyarrow.parquet.read_table(path).num_rows > 0
    except (OSError, pyarrow.ArrowException):
        return False


def _write_columns(rows: Dataset, path: Path) -> None:
    """Write the log-probabilities of rows as a Parquet file, by rename.

    Args:
        rows: Rows with the columns LOGP_COLUMNS, which TRL has added.
        path: The file.
    """
    table = pyarrow.table({name: rows[name][:] for name in LOGP_COLUMNS})
    draft = path.with_suffix(".draft")
    pyarrow.parquet.write_table(table, draft)
    draft.rename(path)


def _reference_key(trainer: Trainer, dataset: Dataset) -> str:
    """Return a hash of everything that the reference's log-probabilities depend on."""
    base = _reference_model(trainer)
    if not Path(base.name_or_path).is_dir():
        raise ValueError(
            f"the reference '{base.name_or_path}' is not a folder, so its weights have no hash to "
            "keep its log-probabilities by: load the model from a folder, or leave ReferenceCache "
            "out"
        )
    args = trainer.args
    settings = [
        args.max_length,
        args.truncation_mode,
        trainer.ld_alpha,
        str(base.dtype),
        args.bf16,
        base.config._attn_implementation,
    ]
    weights = folders.fingerprint(base.name_or_path)
    key = hashlib.sha256(json.dumps([weights, settings]).encode())
    for row in dataset.select_columns(ID_COLUMNS):
        key.update(json.dumps([row[column] for column in ID_COLUMNS]).encode())
    return key.hexdigest()


def _reference_model(trainer: Trainer) -> PreTrainedModel:
    """Return the reference model; with LoRA it is the base of the trained model."""
    model = trainer.ref_model or trainer.model
    if hasattr(model, "get_base_model"):
        return model.get_base_model()
    return model
