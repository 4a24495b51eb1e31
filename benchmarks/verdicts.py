"""How often a verdict's interval errs: its size by simulation, where there is no difference.

    python benchmarks/verdicts.py [--experiments 100000]

An experiment has n paired differences whose true mean is 0, and errs where the whole 95 % Student t interval lies below
it: "the ticket stops earlier". Stated is 0.025. The differences are normal, as the interval assumes; those of two
equally skewed early stops; or skewed themselves, where a few tickets find their minimum late and dense networks do not.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Values = NDArray[np.float64]
SIGMA = 0.5  # of the logarithm of an early stop
KINDS = ("normal", "both skewed", "skewed")


def differences(kind: str, experiments: int, n: int, draws: np.random.Generator) -> Values:
    """`experiments` x `n` differences with mean 0."""
    stops = draws.lognormal(0, SIGMA, (2, experiments, n))
    match kind:
        case "normal":
            return draws.normal(size=(experiments, n))
        case "both skewed":
            return stops[0] - stops[1]
    return stops[0] - np.exp(SIGMA**2 / 2)


def below(values: Values) -> NDArray[np.bool_]:
    """Of each experiment, whether the whole interval of its mean lies below 0."""
    n = values.shape[1]
    half = stdtrit(n - 1, 0.975) * values.std(axis=1, ddof=1) / np.sqrt(n)
    return values.mean(axis=1) + half < 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100_000)
    experiments, draws = parser.parse_args().experiments, np.random.default_rng(0)
    print(f"{experiments:,} experiments each; stated 0.025\n")
    print(f"{'differences':11}  n = 3  n = 5  n = 10  after each of 5, 6, ... 20")
    for kind in KINDS:
        sizes = [float(below(differences(kind, experiments, n, draws)).mean()) for n in (3, 5, 10)]
        values = differences(kind, experiments, 20, draws)
        ever = np.logical_or.reduce([below(values[:, :n]) for n in range(5, 21)]).mean()
        print(f"{kind:11}  {sizes[0]:.3f}  {sizes[1]:.3f}  {sizes[2]:.3f}   {float(ever):.3f}")


if __name__ == "__main__":
    main()
