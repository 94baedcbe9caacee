"""The subject of a Lightning module and its data, alone or with a Trainer beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.adapters.fitting import Course, Fit
from nan_watch.adapters.hooks import AROUND_STEP, Hooks, clips_by_hand
from nan_watch.adapters.installed import OWN, pl
from nan_watch.adapters.module_step import Loss, Step
from nan_watch.adapters.paces import Paces, hold_still, settings_of, waits
from nan_watch.adapters.passes import passes
from nan_watch.adapters.together import together
from probes.errors import RequestError
from probes.subject import Batch, Subject, length_of

BEGIN = ("on_fit_start", "on_train_start", "on_train_epoch_start")


def subject_of(found: object) -> Subject | None:
    """The subject of a LightningModule and its data, alone or with a Trainer beside them.

    found: a tuple of the module, a DataModule or a data loader, and maybe a Trainer; or a module
    that has a `train_dataloader` of its own. Manual optimization, and hooks around the optimizer's
    step, are the module's own step. A step is one batch: accumulation over several is not repeated.
    """
    parts = found if isinstance(found, tuple) else (found,)
    module = next((each for each in parts if isinstance(each, pl.LightningModule)), None)
    if module is None:
        return None
    trainer = next((each for each in parts if isinstance(each, pl.Trainer)), None)
    others = [each for each in parts if each is not module and each is not trainer]
    module.train()
    fit = Fit(trainer)
    batches = _begun(fit, module, others)
    automatic = module.automatic_optimization
    optimizers = Optimizers(fit)
    told = optimizers(module)._whynan_made[1]  # type: ignore[attr-defined]
    hooks = Hooks(fit, module)
    hooks.callbacks = list(fit.callbacks)
    hooks.keep_books(*BEGIN)
    clip = None if trainer is None or clips_by_hand(fit, module) else trainer.gradient_clip_val
    return Subject(
        module,
        batches,
        Loss(fit),
        optimizers,
        train_step=Step(fit) if not automatic or hooks.has(*AROUND_STEP) else None,
        schedule=Paces(fit) if automatic and any(not waits(each) for each in told) else None,
        clip_norm=clip,
        eval_batches=_held_out(module, others),
    )


def _begun(fit: Fit, module: Any, others: Sequence[Any]) -> Iterable[Batch]:
    """The batches, of a fit that has been set up."""
    fit.data = next((each for each in others if isinstance(each, pl.LightningDataModule)), None)
    if fit.trainer is not None:
        own = [each for each in fit.trainer.callbacks if not _is_frameworks(each)]
        fit.callbacks = own
        module = fit.trainer.precision_plugin.convert_module(module)
    with fit.attached(module):
        for owner in (fit.data, module):
            if owner is not None:
                owner.prepare_data()
                owner.setup("fit")
        module.configure_model()
        make = _loader(module, others)
        batches = passes(make)
        fit.loader = make()
    fit.batches = _count(length_of(fit.loader), fit.trainer)
    return batches


def _is_frameworks(callback: Any) -> bool:
    place = type(callback).__module__
    return place.partition(".")[0] in (*OWN, "nan_watch")


def _count(batches: int | None, trainer: Any) -> int | None:
    """How many batches of so many an epoch has, where a Trainer may limit them."""
    most = getattr(trainer, "limit_train_batches", None)
    if batches is None or most is None:
        return batches
    return max(1, min(batches, int(batches * most) if isinstance(most, float) else int(most)))


def _loader(module: Any, others: Sequence[Any]) -> Callable[[], Iterable[Batch]]:
    for each in others:
        if isinstance(each, pl.LightningDataModule):
            return each.train_dataloader
        if isinstance(each, Iterable):
            return lambda: each
    if "train_dataloader" not in vars(type(module)):
        raise RequestError(
            f"`{type(module).__name__}` has no data: return the module together with its "
            "DataModule or data loader, as `return module, datamodule`."
        )
    return module.train_dataloader  # type: ignore[no-any-return]


def _held_out(module: Any, others: Sequence[Any]) -> Iterable[Batch] | None:
    for each in (*others, module):
        if "val_dataloader" in vars(type(each)):
            return passes(each.val_dataloader)
    return None


class Optimizers:
    """Makes the module's optimizers, as one, for a copy of it; its course begins anew."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def __deepcopy__(self, memo: Any) -> Optimizers:
        return self

    def __call__(self, model: nn.Module) -> Optimizer:
        """The one optimizer, or all of them as one."""
        module: Any = model
        module._whynan_course = Course()
        with self.fit.attached(module):
            optimizers, told = settings_of(module.configure_optimizers())
        if not optimizers:
            raise RequestError(
                "`configure_optimizers` returned no optimizer, but one was expected: return a "
                "torch.optim.Optimizer."
            )
        for each in told:
            if waits(each):
                hold_still(each)
        self.fit.optimizers = optimizers
        self.fit.schedules = [each["scheduler"] for each in told]
        hooks = Hooks(self.fit, module)
        hooks.around(optimizers)
        made = together(optimizers)
        made._whynan_made = module, told  # type: ignore[attr-defined]  # for its schedule
        made._whynan_hooks = hooks  # type: ignore[attr-defined]
        made._whynan_end_epoch = hooks.end_epoch  # type: ignore[attr-defined]
        return made
