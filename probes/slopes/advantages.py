"""Log-probabilities that are weighed by what is left of a target beside its prediction."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.nested import tensors_in
from probes.patch import LOGS, SIGMOID, SOFTMAX
from probes.raised import source_here
from probes.slopes.uncut import replaced
from probes.softmaxes.formed import LOG_SOFTMAX, LOGSIGMOID

SAME = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "clone", "contiguous", "expand"}
SAME |= {"float", "double", "to", "type_as", "getitem", "gather", "take_along_dim", "index_select"}
SAME |= {"stack", "cat", "concat", "clamp", "clamp_min", "clamp_max", "expand_as", "flip"}
LESS = {"sub", "rsub", "subtract", "isub"}
SUMS = LESS | {"add", "radd", "iadd", "neg", "negative", "sum", "mean", "cumsum"}
TIMES = {"mul", "rmul", "multiply", "imul", "dot", "matmul", "rmatmul"}
SHARES = {"div", "truediv", "divide", "true_divide", "itruediv", "rtruediv"}
BENDS = {"exp", "softmax", "sigmoid", "tanh", "relu", "softplus", "abs", "pow", "square", "sqrt"}
BENDS |= {"min", "max", "minimum", "maximum", "where", "std", "var", "normalize", "logsumexp"}
ONWARDS = SAME | SUMS | TIMES | SHARES | BENDS
"""Through these an advantage is still made of what it was made of; through a layer it is not."""
SQUARES = {"square", "abs", "pow", "mul"}
ERRORS = (F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.l1_loss)
ENTROPIES = (
    *(F.cross_entropy, F.nll_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
)
CHANCES = (*SOFTMAX, *SIGMOID)

Kind = Literal["chance", "log"]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A prediction that is asked for a target by their difference. error: what is made of it."""

    value: Tensor
    target: Tensor
    error: Tensor
    source: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A factor times log-probabilities, or what is made of them; a gradient goes to both."""

    factor: Tensor
    log: Tensor
    out: Tensor
    source: str | None


class Weighed(TorchFunctionMode):
    """While it is entered, products with log-probabilities and regressions are noted.

    What a distribution gives as `log_prob` counts where the value that it is of is held, and not
    drawn with a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.asked: list[Asked] = []
        self._kinds = WeakTensorKeyDictionary()
        self._from = WeakTensorKeyDictionary()
        self._less = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        if isinstance(out, Tensor) and out.requires_grad and out.is_floating_point():
            self._look(func, args, given, out)
        return out

    def _look(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        name = getattr(func, "__name__", "").strip("_")
        tensors = [each for each in tensors_in((args, kwargs)) if each.requires_grad]
        self._regress(func, name, args, kwargs, out)
        if name in TIMES and len(args) == 2 and self._is_product(tensors):
            self._multiply(tensors, out)
        else:
            self._follow(func, name, tensors, out)
        if name in ONWARDS and tensors:
            self._from[out] = tuple(each for each in tensors if each is not out)

    def _follow(self, func: Any, name: str, tensors: Sequence[Tensor], out: Tensor) -> None:
        """The result is of probabilities, or of their logarithms."""
        kinds = {self._kinds.get(each) for each in tensors} - {None}
        if func in (*LOG_SOFTMAX, *LOGSIGMOID, *ENTROPIES):
            self._kinds[out] = "log"
        elif func in CHANCES:
            self._kinds[out] = "chance"
        elif ("chance" in kinds and func in LOGS) or ("log" in kinds and name in ONWARDS):
            self._kinds[out] = "log"
        elif "chance" in kinds and name in SAME | {"add", "radd"}:
            self._kinds[out] = "chance"

    def _is_product(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one of two is made of log-probabilities, and the other is not."""
        return len(tensors) == 2 and [self._kinds.get(x) for x in tensors].count("log") == 1

    def _multiply(self, tensors: Sequence[Tensor], out: Tensor) -> None:
        log, factor = sorted(tensors, key=lambda each: self._kinds.get(each) != "log")
        if out.numel() == max(log.numel(), factor.numel()) or (log.ndim, factor.ndim) == (1, 1):
            self.products.append(Product(factor, log, out, source_here()))

    def _regress(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        """A loss of two, or the square of their difference."""
        if func in ERRORS:
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            one, two = bound["input"], bound["target"]
        elif name in LESS and len(args) == 2:
            pair = _pair(*args)
            if pair is not None:
                self._less[out] = pair
            return
        elif name in SQUARES and args:
            one, two = args[0], 0.0
            if name == "mul" and (len(args) < 2 or args[1] is not one):
                return
        else:
            return
        pair = self._less.get(self._same(one)) if _is_nothing(two) else _pair(one, two)
        if pair is not None:
            value, target = pair
            self.asked.append(Asked(value, target, out, source_here()))

    def _same(self, tensor: Tensor) -> Tensor:
        """The difference that a tensor only shows in another shape or with the other sign."""
        while tensor not in self._less and len(self._from.get(tensor, ())) == 1:
            before = self._from[tensor][0]
            if before.numel() != tensor.numel():
                break
            tensor = before
        return tensor

    def behind(self, factor: Tensor) -> Iterator[Tensor]:
        """The factor, and what it was made of up to the layers that gave that, nearest first."""
        seen, todo = set[int](), [factor]
        for each in todo:
            if id(each) not in seen:
                seen.add(id(each))
                yield each
                todo += self._from.get(each, ())

    @contextmanager
    def distributions(self) -> Iterator[None]:
        """Inside, what `log_prob` of any distribution gives is known as what it is."""
        with ExitStack() as given:
            for kind in _kinds_of(Distribution):
                if "log_prob" in vars(kind):
                    own = vars(kind)["log_prob"]
                    given.enter_context(replaced(kind, "log_prob", self._known(own)))
            yield

    def _known(self, log_prob: Any) -> Any:
        def known(distribution: Any, value: Any) -> Any:
            out = log_prob(distribution, value)
            held = not isinstance(value, Tensor) or not value.requires_grad
            if isinstance(out, Tensor) and out.requires_grad and held:
                self._kinds[out] = "log"
            return out

        return known


def _pair(one: Any, two: Any) -> tuple[Tensor, Tensor] | None:
    """Of two of one size the one with a gradient, then the one without."""
    tensors = [torch.as_tensor(x) for x in (one, two) if isinstance(x, (Tensor, float))]
    tensors.sort(key=lambda tensor: not tensor.requires_grad)
    if [tensor.requires_grad for tensor in tensors] != [True, False]:
        return None
    value, target = tensors
    return (value, target.detach().clone()) if value.numel() == target.numel() else None


def _is_nothing(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, float) and value == 0.0


def _kinds_of(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = kind.__subclasses__()
    for each in below:
        yield from _kinds_of(each)
