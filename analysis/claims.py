"""The claims of the paper (Novello et al., arXiv 2509.21167) that the analysis tests."""

__all__ = ["CLAIMS", "VERDICTS"]

VERDICTS = ("holds", "holds in part", "fails")

CLAIMS = {
    "C1": "The mean squared error is the kl member of the family.",
    "C2": "The optimum is the same for every f, the path is not.",
    "C3": "Gradient norms all along training: squared_hellinger < mse < chi2.",
    "C4": "At equal erasure closed-form squared_hellinger preserves retained concepts no worse than mse.",
    "C5": "chi2 erases faster and disturbs more.",
    "C6": "Variational losses erase aggressively, with a higher KID.",
    "C7": "jensen_shannon and squared_hellinger converge fastest in the min-max game, f''(1) being smallest.",
    "C8": "Superclass and near anchors preserve better than the empty anchor.",
    "C9": "squared_hellinger keeps KID lower when ten styles are erased one after the other.",
}
"""Claim -> what it says."""
