"""Lightning, under the name by which it is installed."""

from __future__ import annotations

import sys

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    import pytorch_lightning as pl
else:
    import lightning.pytorch as pl  # type: ignore[no-redef]

FRAMEWORK = pl.__name__.partition(".")[0]
OWN = ("lightning", "pytorch_lightning")  # packages whose callbacks are the framework's


def overrides(module: object, *names: str) -> bool:
    """Whether the module has one of these methods of its own."""
    return any(
        getattr(type(module), name, None) is not getattr(pl.LightningModule, name, None)
        for name in names
    )


__all__ = ["FRAMEWORK", "OWN", "overrides", "pl"]
