"""How to keep what is hidden out of what is visible, by the module or operator that lets it in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from probes.bus import Kind
from probes.compare import Comparison, Look
from probes.experiment import Experiment
from probes.line import Parting
from probes.modules import every_module
from probes.place import CODE, place

STACKS = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
SOFTMAXES = ("aten._softmax", "aten._safe_softmax", "aten.softmax")
SCORES = ("aten.bmm", "aten.baddbmm", "aten.mm", "aten._unsafe_view")
KEPT = ("aten.view", "aten._unsafe_view", "aten.transpose", "aten.expand", "aten.mul", "aten.div")
PARTS = ("aten.select", "aten.index", "aten.gather", "aten.slice")
MAXIMA = ("aten.max", "aten.amax", "aten.max_pool1d", "aten.adaptive_max_pool1d")
MEANS = ("aten.mean", "aten.avg_pool1d", "aten.adaptive_avg_pool1d")
CONVOLUTIONS = ("aten.convolution", "aten.conv1d", "aten.conv2d")


def remedy(
    experiment: Experiment, found: Comparison, look: Look, parted: Parting | None, mask: str
) -> str | None:
    """One imperative sentence; None where the place does not tell how.

    found: where hidden content comes in. look: as it was compared. parted: the operator there
    whose result is the first to differ. mask: the key of what hides.
    """
    model = experiment.subject.model
    site, modules = place(found, model).site, dict(every_module(model))
    if site == CODE or site not in modules:
        return None
    return (
        _of_module(site, modules, mask)
        or _of_operator(parted, mask)
        or _of_module(_passed_over(experiment, found, look), modules, mask)
    )


def _passed_over(experiment: Experiment, found: Comparison, look: Look) -> str | None:
    """The last module before, where nothing tells which of its output is visible."""
    last = None
    for event in experiment.evaluated.ran.events:
        if found.start is not None and (event.site, event.kind) == (
            found.start.site,
            found.start.kind,
        ):
            break
        last = event if event.kind is Kind.OUTPUT else last
    if last is None or last.value is None or look(last.site, last.value) is not None:
        return None
    return last.module


def _of_module(site: str | None, modules: dict[str, nn.Module], mask: str) -> str | None:
    if site is None:
        return None
    module = modules[site]
    if isinstance(module, nn.RNNBase):
        return _of_recurrence(site, module)
    if isinstance(module, (nn.MultiheadAttention, *STACKS, *LAYERS)):
        return _of_attention(site, modules, mask)
    if isinstance(module, (_NormBase, nn.GroupNorm)):
        return (
            f"Keep padding out of the statistics of `{site}`: normalise what `{mask}` lets see "
            "alone, `h[keep] = norm(h[keep])`, or by features, as LayerNorm does."
        )
    if isinstance(module, _ConvNd):
        return _of_convolution(f"`{site}`", mask)
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        return _of_softmax(mask)
    return None


def _of_recurrence(site: str, module: nn.RNNBase) -> str:
    packed = (
        f"`pack_padded_sequence(x, lengths.cpu(), batch_first={module.batch_first}, "
        "enforce_sorted=False)`"
    )
    if module.bidirectional:
        return (
            f"Pack what `{site}` reads, {packed}, and unpack what it gives with "
            "`pad_packed_sequence`: else its backward direction begins in the padding."
        )
    return (
        f"Pack what `{site}` reads, {packed}, or read its output at each row's own last position: "
        "its last state has gone on through the padding."
    )


def _of_attention(site: str, modules: dict[str, nn.Module], mask: str) -> str:
    """As an argument of the outermost module of torch's that takes one."""
    above = [n for n, m in modules.items() if isinstance(m, STACKS) and _holds(n, site)]
    name = min(above, key=len, default=None)
    layer = name or next(
        (n for n, m in modules.items() if isinstance(m, LAYERS) and _holds(n, site)), site
    )
    taker = modules[layer]
    if isinstance(taker, nn.MultiheadAttention):
        argument = "key_padding_mask"
    elif site.endswith("multihead_attn"):
        argument = "memory_key_padding_mask"
    elif isinstance(taker, (nn.TransformerDecoder, nn.TransformerDecoderLayer)):
        argument = "tgt_key_padding_mask"
    else:
        argument = "src_key_padding_mask"
    return f"Give `{layer}` `{argument}`, which is true where `{mask}` hides a position."


def _holds(name: str, site: str) -> bool:
    return site == name or site.startswith(f"{name}.") or name in ("model", "<model>")


def _of_operator(parted: Parting | None, mask: str) -> str | None:
    if parted is None:
        return None
    op = parted.op
    if op in MEANS:
        return (
            f"Take the mean over what `{mask}` lets see alone: "
            "`(h * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)`, with `keep` 1 there."
        )
    if op == "aten.div":
        return f"Divide by the number of positions that `{mask}` lets see, `keep.sum(1)`."
    if op == "aten.sum":
        if any(each in SOFTMAXES for each in parted.before):
            return _of_softmax(mask)
        return (
            f"Set what `{mask}` hides to 0 before it is summed up: `(h * keep[..., None]).sum(1)`."
        )
    if op in MAXIMA:
        return (
            f"Keep what `{mask}` hides out of the maximum: "
            '`h.masked_fill(~keep[..., None], float("-inf")).amax(1)`.'
        )
    if op in SOFTMAXES or (op in SCORES and _are_bare(parted.after)):
        return _of_softmax(mask)
    if op is not None and op.startswith("aten._scaled_dot_product"):
        return f"Give the attention there a mask, `attn_mask`, of what `{mask}` lets see."
    if op in CONVOLUTIONS:
        return _of_convolution("the convolution", mask)
    if op in PARTS:
        return (
            f"Read it at each row's own last position that `{mask}` lets see, and not at the end; "
            "a recurrent network whose input was packed gives that one as its last state."
        )
    return None


def _are_bare(after: Sequence[str]) -> bool:
    """Whether scores come to a softmax as they are, but for their shape and scale."""
    return next((each in SOFTMAXES for each in after if each not in KEPT), False)


def _of_softmax(mask: str) -> str:
    return (
        f"Fill the scores that `{mask}` hides with -inf before the softmax, "
        '`scores.masked_fill(~keep, float("-inf"))`: multiplied by 0 they still take their share.'
    )


def _of_convolution(what: str, mask: str) -> str:
    return f"Set what `{mask}` hides to 0 before {what}, `x * keep`, as its own padding is 0."
