"""Writes directions.json: directions of two groups of rows by scikit-learn, for `src/stages/direction/sample.rs`.

    pip install scikit-learn==1.9.1 numpy==2.4.6
    python tests/golden/make_directions.py

Of each case: the rows of A and of B, as float32 has them; `lda`, the unit vector of `LinearDiscriminantAnalysis`, the same by the solvers `lsqr` and
`eigen`; `logistic`, by λ, that of `LogisticRegression`.

The program's Σ is the covariance of all rows about their common mean, shrunk as `sklearn.covariance.ledoit_wolf` shrinks it, (1 − s) S + s tr(S)/d. That of
`LinearDiscriminantAnalysis` is the mean covariance within the groups, W, shrunk by what it is told. S − W is a multiple of δδᵀ, δ the difference of means,
which changes Σ⁻¹δ in its length alone; the two point the same way where t/(1 − t) tr(W) = s/(1 − s) tr(S), which gives t. Its groups weigh as much as they
have rows, as here.

λ counts rows divided by the root mean square of their lengths about the mean; C of `LogisticRegression` is 1/λ.
"""
import json
import pathlib

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

# Rows of A, of B, width: more rows than dimensions, fewer, and groups of different size.
CASES = [(12, 12, 5), (6, 9, 24), (20, 7, 10)]
PENALTIES = [0.01, 1.0, 100.0]


def unit(vector):
    return vector / np.linalg.norm(vector)


def discriminant(rows, is_a):
    """Σ⁻¹δ with the program's Σ, by both solvers that shrink."""
    covariance = np.cov(rows.T, bias=True)
    _, s = ledoit_wolf(rows)
    within = sum(np.cov(rows[of].T, bias=True) * of.mean() for of in (is_a, ~is_a))
    ratio = s / (1 - s) * np.trace(covariance) / np.trace(within)
    found = []
    for solver in ("lsqr", "eigen"):
        fitted = LinearDiscriminantAnalysis(solver=solver, shrinkage=ratio / (1 + ratio)).fit(rows, is_a)
        found.append(unit(fitted.coef_[0]))
    np.testing.assert_allclose(*found, atol=1e-9)
    # The shrinkage matters, so that another would be seen.
    plain = unit(np.linalg.pinv(covariance) @ (rows[is_a].mean(0) - rows[~is_a].mean(0)))
    assert abs(plain @ found[0]) < 0.999, (s, plain @ found[0])
    return found[0]


def regression(rows, is_a, penalty):
    centred = rows - rows.mean(0)
    scaled = centred / np.sqrt((centred ** 2).sum(1).mean())
    fitted = LogisticRegression(C=1 / penalty, tol=1e-14, max_iter=100_000, solver="newton-cholesky").fit(scaled, is_a)
    return unit(fitted.coef_[0])


def main():
    generator, cases = np.random.default_rng(5), []
    for n_a, n_b, width in CASES:
        is_a = np.arange(n_a + n_b) < n_a
        mixing = generator.normal(size=(width, width)) / 2
        rows = generator.normal(size=(n_a + n_b, width)) @ mixing + np.outer(is_a, generator.normal(size=width)) + 3
        rows = np.round(rows, 3).astype(np.float32)
        exact = rows.astype(np.float64)
        told = lambda rows: [[round(float(x), 3) for x in row] for row in rows]
        cases.append({
            "a": told(rows[is_a]), "b": told(rows[~is_a]),
            "lda": np.round(discriminant(exact, is_a), 9).tolist(),
            "logistic": [[penalty, np.round(regression(exact, is_a, penalty), 9).tolist()] for penalty in PENALTIES],
        })
    lines = ",\n".join(json.dumps(case) for case in cases)
    pathlib.Path(__file__).with_name("directions.json").write_text(f"[\n{lines}\n]\n")


main()
