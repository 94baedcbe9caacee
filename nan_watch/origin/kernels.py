"""With which kernels a replay runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def kernels(*, unfused: bool) -> Iterator[None]:
    """One thread runs forward and backward; no compiled code; no fused kernels if so asked."""
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if unfused:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.callback(torch.backends.mha.set_fastpath_enabled, _mha_fastpath())
            torch.backends.mha.set_fastpath_enabled(False)
        yield


def _mha_fastpath() -> bool:
    return bool(torch.backends.mha.get_fastpath_enabled())
