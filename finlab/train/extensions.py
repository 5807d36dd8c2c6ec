"""What a trainer of TRL lacks, as parts that `fit` adds to any trainer.

    fit(SFTTrainer, ..., extensions=[PackedRows(), SourceLoss(), TokenMeter()])
    fit(DPOTrainer, ..., extensions=[ReferenceCache(folder)])
    fit(KTOTrainer, ...)                                   # a trainer needs none of them

A new method of training is a trainer class, or an extension, and never a branch in `fit`.
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

    An extension is pickled when training runs in several processes, so what it builds for a trainer
    is made in `attach`, not in `__init__`.
    """

    def examine(self, train_dataset: Dataset) -> None:
        """Look at the rows as they were given, before any extension changes them."""

    def training(self, arguments: dict[str, Any]) -> contextlib.AbstractContextManager:
        """Return a context for building the trainer and for training."""
        return contextlib.nullcontext()

    def prepare(self, arguments: dict[str, Any]) -> None:
        """Change the arguments that the trainer is built from."""

    def extend_class(self, trainer_class: type[Trainer]) -> type[Trainer]:
        """Return the trainer class to build in place of this one."""
        return trainer_class

    def attach(self, trainer: Trainer) -> None:
        """Change the trainer once it is built."""

    def log_fields(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return what a line of the log has besides what the trainer logs."""
        return {}

    def speed(self, from_step: int, to_step: int, seconds: float) -> dict[str, Any]:
        """Return what so many steps in so many seconds amount to.

        Args:
            from_step: The first step of the time measured.
            to_step: The last one.
            seconds: Training alone, without evaluation.
        """
        return {}

    def step_ended(self) -> None:
        """Forget what was summed up for one step."""

    def describe_step(self) -> str:
        """Return what is known of a step whose loss is not finite, for the error."""
        return ""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for an exact resume. All processes call it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""

    def summary(self) -> dict[str, Any]:
        """Return what the summary at the end of the log has besides the speed."""
        return {}


Extensions = Sequence[Extension]


class EmbeddingLearningRate(Extension):
    """Give the embedding and the head a learning rate of their own.

    The scheduler scales both rates alike.

    Args:
        rate: The learning rate; 0 leaves the trainer's.
    """

    def __init__(self, rate: float):
        self.rate = rate

    def attach(self, trainer: Trainer) -> None:
        """Split the optimizer's groups when it is made."""
        if not self.rate:
            return
        create_optimizer = trainer.create_optimizer

        def with_rate(*arguments: Any) -> torch.optim.Optimizer:
            optimizer = create_optimizer(*arguments)
            self._split_groups(trainer.model, optimizer)
            return optimizer

        trainer.create_optimizer = with_rate

    def _split_groups(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Give the embedding and the head, or their new rows, groups with a rate of their own.

        Args:
            model: The model that is trained.
            optimizer: Its groups are split in place, before its first step.
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
        # A group that lost all its weights would only confuse the log of learning rates.
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


class KeepNear(Extension):
    """Add the divergence from the model as it began to the loss, against forgetting.

    The model without its adapter is the reference, so it needs LoRA and no second copy. On every
    token of the batch KL(reference || policy) is added, times `beta`, at the cost of two more
    passes.

    Args:
        beta: Weight of the divergence.
    """

    def __init__(self, beta: float):
        self.beta = beta

    def attach(self, trainer: Trainer) -> None:
        """Stand in front of the trainer's loss.

        Raises:
            ValueError: The model has no adapter that could be switched off.
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
                # The trainer does not divide such a loss by the number of micro-batches.
                added = added / trainer.current_gradient_accumulation_steps
            return (loss[0] + added, loss[1]) if return_outputs else loss + added

        trainer.compute_loss = with_divergence

    def _divergence(self, trainer: Trainer, model: torch.nn.Module, inputs: dict) -> torch.Tensor:
        """Return the mean of KL(reference || policy) over the tokens of a batch.

        Args:
            trainer: The trainer.
            model: As the trainer calls it.
            inputs: The batch.
        """
        read = {name: value for name, value in inputs.items() if name not in ("labels", "sources")}
        policy = torch.log_softmax(model(**read).logits.float(), dim=-1)
        with torch.no_grad(), trainer.accelerator.unwrap_model(model).disable_adapter():
            reference = torch.log_softmax(model(**read).logits.float(), dim=-1)
        return (reference.exp() * (reference - policy)).sum(dim=-1).mean()
