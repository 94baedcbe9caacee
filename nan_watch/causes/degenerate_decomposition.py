"""NAN027: a decomposition of a matrix at which it is not smooth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Evidence, Finding
from probes.patch import argument

SYMMETRIC = ("aten._linalg_eigh", "aten.linalg_eigh")
SPECTRA = (*SYMMETRIC, "aten._linalg_svd", "aten.linalg_svd")
INVERSES = (
    *("aten._linalg_slogdet", "aten._linalg_det", "aten.linalg_inv_ex", "aten._linalg_solve_ex"),
    *("aten.linalg_cholesky_ex", "aten.linalg_qr", "aten.linalg_lu", "aten.linalg_lu_factor_ex"),
    *("aten.linalg_solve_triangular", "aten.triangular_solve"),
)


@dataclass(frozen=True, slots=True)
class DegenerateDecomposition:
    """Eigenvectors of equal eigenvalues, or the inverse or log-determinant of a singular matrix.

    The derivative of eigenvectors divides by the gaps between eigenvalues, that of singular
    vectors by those between the squares of singular values, that of a determinant's log by the
    smallest one. A covariance of features that are alike, or an identity, has gaps of 0.

    Sick:    `torch.linalg.eigh(cov)[1]` of a covariance with two equal eigenvalues
    Healthy: the same of `cov + torch.diag(torch.linspace(0, 1e-3, n))`, or a loss of values alone
    """

    gap: float = 1e-6

    code: ClassVar[str] = "NAN027"
    rule: ClassVar[str] = "degenerate-decomposition"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The decomposition, and the gap or the value that is too small."""
        matrix = None if case.call is None else case.call.values(0)
        if matrix is None or case.op not in SPECTRA + INVERSES or not matrix.isfinite().all():
            return
        values = _spectrum(matrix, case.op in SYMMETRIC)
        gap = _relative_gap(values) if case.op in SPECTRA else _relative_least(values)
        if not gap < self.gap:
            return
        if case.op in SPECTRA:
            what, measured = "decomposes a matrix with equal values", "smallest gap, relative"
        else:
            what, measured = "is given a singular matrix", "smallest singular value, relative"
        yield told(
            self,
            case,
            what,
            "Add a small diagonal of unequal numbers first, `torch.linspace(0, 1e-3, n)`, compute "
            "in float64, or let the loss depend on what does not need the vectors.",
            Evidence(measured, gap, self.gap),
        )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with an uneven diagonal added to the matrix."""
        if case.call is not None and case.trial is not None:
            words = "with a small diagonal of unequal numbers added"
            yield case.trial.edit(words, case.call, argument(0, _uneven))


def _spectrum(matrix: Tensor, symmetric: bool) -> Tensor:
    """(..., value) its eigenvalues, or its singular values, sorted, in float64."""
    exact = matrix.double().cpu()
    values: Tensor = torch.linalg.eigvalsh(exact) if symmetric else torch.linalg.svdvals(exact)
    return values


def _relative_gap(values: Tensor) -> float:
    """The smallest difference of two values over the largest value."""
    return float((values.diff(dim=-1).abs().amin(-1) / _largest(values)).min())


def _relative_least(values: Tensor) -> float:
    return float((values.abs().amin(-1) / _largest(values)).min())


def _largest(values: Tensor) -> Tensor:
    return values.abs().amax(-1).clamp(min=torch.finfo(values.dtype).tiny)


def _uneven(matrix: Tensor) -> Tensor:
    size = min(matrix.shape[-2:])
    steps = torch.linspace(1e-2, 2e-2, size, dtype=matrix.dtype, device=matrix.device)
    uneven = torch.zeros_like(matrix)
    uneven.diagonal(dim1=-2, dim2=-1).copy_(steps * matrix.abs().amax().clamp(min=1.0))
    return matrix + uneven
