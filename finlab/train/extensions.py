"""Extensions: features that TRL's trainers lack, and that `fit` can add to any trainer.

    fit(SFTTrainer, ..., extensions=[PackedRows(), SourceLoss(), TokenMeter()])
    fit(DPOTrainer, ..., extensions=[ReferenceCache(folder)])
    fit(KTOTrainer, ...)                                   # extensions are optional

A new method of training is a new trainer class or a new extension. `fit` never gets a branch for
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer


class Extension:
    """One addition to a trainer. Its hooks do nothing by default.

    An extension is pickled when training runs in several processes. So it must create objects that
    belong to a trainer in `attach`, not in `__init__`.
    """

    def examine(self, train_dataset: Dataset) -> None:
        """Inspect the original training rows, before any extension changes them."""

    def training(self, arguments: dict[str, Any]) -> contextlib.AbstractContextManager:
        """Return a context manager that is active while the trainer is built and trains."""
        return contextlib.nullcontext()

    def prepare(self, arguments: dict[str, Any]) -> None:
        """Change the arguments of the trainer in place, before it is built."""

    def extend_class(self, trainer_class: type[Trainer]) -> type[Trainer]:
        """Return the trainer class to use instead of `trainer_class`."""
        return trainer_class

    def attach(self, trainer: Trainer) -> None:
        """Change the trainer after it is built."""

    def log_fields(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return fields to add to a log line, besides the fields that the trainer logs."""
        return {}

    def speed(self, from_step: int, to_step: int, seconds: float) -> dict[str, Any]:
        """Return measures of speed for a range of steps.

        Args:
            from_step: Number of steps done before the measured time.
            to_step: Number of steps done at its end.
            seconds: Seconds of training between them, without evaluation.
        """
        return {}

    def step_ended(self) -> None:
        """Reset the sums of one step."""

    def describe_step(self) -> str:
        """Return details about a step whose loss is not finite, for the error message."""
        return ""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must save for an exact resume. All processes call this."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""

    def summary(self) -> dict[str, Any]:
        """Return fields to add to the summary at the end of the log, besides the speed."""
        return {}


Extensions = Sequence[Extension]


class EmbeddingLearningRate(Extension):
    """Give the embedding and the head their own learning rate.

    The scheduler multiplies both learning rates by the same factor.

    Args:
        rate: The learning rate of embedding and head; 0 keeps the trainer's.
    """

    def __init__(self, rate: float):
        self.rate = rate

    def attach(self, trainer: Trainer) -> None:
        """Split the optimizer's parameter groups when the optimizer is created."""
        if not self.rate:
            return
        create_optimizer = trainer.create_optimizer

        def with_rate(*arguments: Any) -> torch.optim.Optimizer:
            optimizer = create_optimizer(*arguments)
            self._split_groups(trainer.model, optimizer)
            return optimizer

        trainer.create_optimizer = with_rate

    def _split_groups(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the trained weights of embedding and head into groups with their own learning rate.

        Args:
            model: The model that is trained.
            optimizer: The optimizer before its first step. Its groups are split in place.
        """
        tables = set()
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            tables.update(id(parameter) for parameter in module.parameters())
        for group in list(optimizer.param_groups):
            chosen = [weight for weight in group["params"] if id(weight) in tables]
            if not chosen:
                continue
            group["params"] = [weight for weight in group["params"] if id(weight) not in tables]
            optimizer.add_param_group({**group, "params": chosen, "lr": self.rate})
        # An empty group would make the logged learning rates confusing, so it is removed.
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


class KeepNear(Extension):
    """Add the divergence from the initial model to the loss, to reduce forgetting.

    The reference is the model without its adapter. So this needs LoRA, but no second copy of the
    model. `beta` times the mean of KL(reference || policy) over the tokens of the batch is added to
    the loss. This costs two more forward passes.

    Args:
        beta: Weight of the divergence.
    """

    def __init__(self, beta: float):
        self.beta = beta

    def attach(self, trainer: Trainer) -> None:
        """Wrap the trainer's loss function.

        Raises:
            ValueError: The model has no adapter.
        """
        if not hasattr(trainer.model, "disable_adapter"):
            raise ValueError("a KL term needs LoRA: without an adapter there is no reference")
        compute_loss = trainer.compute_loss

        def with_divergence(
            model: torch.nn.Module, inputs: dict, return_outputs: bool = False, **more: Any
        ) -> Any:
            loss = compute_loss(model, inputs, return_outputs, **more)
            if not model.training:
                return loss
            added = self.beta * self._divergence(trainer, model, inputs)
            if more.get("num_items_in_batch") is not None:
                # In this case the trainer does not divide the loss by the number of micro-batches.
                added = added / trainer.current_gradient_accumulation_steps
            return (loss[0] + added, loss[1]) if return_outputs else loss + added

        trainer.compute_loss = with_divergence

    def _divergence(self, trainer: Trainer, model: torch.nn.Module, inputs: dict) -> torch.Tensor:
        """Return the mean of KL(reference || policy) over the tokens of a batch.

        Args:
            trainer: The trainer.
            model: The model as the trainer calls it, perhaps wrapped.
            inputs: The batch.
        """
        read = {name: value for name, value in inputs.items() if name not in ("labels", "sources")}
        policy = torch.log_softmax(model(**read).logits.float(), dim=-1)
        with torch.no_grad(), trainer.accelerator.unwrap_model(model).disable_adapter():
            reference = torch.log_softmax(model(**read).logits.float(), dim=-1)
        return (reference.exp() * (reference - policy)).sum(dim=-1).mean()
