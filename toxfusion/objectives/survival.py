"""Losses of survival: discrete hazards in log space, and Cox with Efron's handling of ties."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows, global_mean


class DiscreteSurvival(nn.Module):
    """Negative log-likelihood of discrete hazards h_j = sigmoid(l_j).

    Event in bin y: -[log h_y + sum_{j<y} log(1 - h_j)]; censored in y: -sum_{j<=y} log(1 - h_j). The loss is
    (1 - alpha) times the mean over all plus alpha times the sum over events divided by the number of all
    (Zadeh and Schmid, IEEE TPAMI 2021). In log space: sigmoid and cumprod would give exactly 0 at a logit of
    20.

    Args:
        alpha: extra weight of the uncensored, 0 to 1.
    """

    def __init__(self, *, alpha: float = 0.15) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, logits: Tensor, time_bin: Tensor, event: Tensor) -> Tensor:
        """logits [B, n_bins]; time_bin [B], 0-based or NaN.

        Event [B], 1 = it happened, 0 = censored, NaN = unknown.
        """
        logits = logits.float()
        known = time_bin.isfinite() & event.isfinite()
        y = torch.where(known, time_bin, 0).long()
        happened = known & (event == 1)
        log_survive = F.logsigmoid(-logits)
        bins = torch.arange(logits.shape[1], device=logits.device)
        before = torch.where(bins < y[:, None], log_survive, 0.0).sum(1)
        at = torch.where(
            happened,
            F.logsigmoid(logits).gather(1, y[:, None])[:, 0],
            log_survive.gather(1, y[:, None])[:, 0],
        )
        terms = torch.where(known, -(before + at), 0.0)
        weighted = torch.where(happened, terms, (1 - self.alpha) * terms)
        return global_mean(weighted.sum(), known.sum())


class CoxEfron(nn.Module):
    """Negative partial log-likelihood with Efron's ties, divided by the number of events.

    0 where there is none. With strata (cohorts), a risk set holds samples of one stratum alone, and the log-likelihoods
    of the strata add up: each has a baseline hazard of its own.

    For the d events at a time t with risk set R: sum_{i in D} r_i - sum_{l=0}^{d-1} log(sum_{R} e^r - l/d
    sum_{D} e^r) (Efron, JASA 1977). Risks of all ranks are gathered, since a risk set spans the batch.
    """

    def forward(self, risk: Tensor, time: Tensor, event: Tensor, stratum: Tensor | None = None) -> Tensor:
        """risk [B], log hazard; time [B], NaN = unknown; event [B], 1 = it happened; stratum [B], codes or None."""
        risk, time, event = (gather_rows(t) for t in (risk.float(), time, event))
        known = time.isfinite() & event.isfinite()
        n_events = (known & (event == 1)).sum().clamp(min=1)
        if stratum is None:
            return -self._log_likelihood(risk, time, event) / n_events
        stratum = gather_rows(stratum)
        terms = [risk.sum() * 0.0]
        for code in stratum[known].unique():
            of = known & (stratum == code)
            terms.append(self._log_likelihood(risk[of], time[of], event[of]))
        return -torch.stack(terms).sum() / n_events

    @staticmethod
    def _log_likelihood(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
        known = time.isfinite() & event.isfinite()
        happened = known & (event == 1)
        at_risk = known & (time >= time[:, None])
        tied = happened & (time == time[:, None])
        earlier = torch.ones_like(tied).tril(-1)
        rank = (tied & earlier).sum(1)
        share = rank / tied.sum(1).clamp(min=1)
        # log(sum_R e^r - share sum_D e^r) = log sum_j w_j e^(r_j), w_j = 1 at risk, 1 - share among the tied
        # events.
        weight = at_risk.to(risk.dtype) - share[:, None] * tied
        log_weight = torch.where(weight > 0, weight, 1.0).log().masked_fill(weight <= 0, float("-inf"))
        weighted = torch.where(happened[:, None], log_weight, 0.0) + risk
        return torch.where(happened, risk - weighted.logsumexp(1), 0.0).sum()
