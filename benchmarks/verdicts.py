"""How often a verdict's interval errs: its size by simulation, where there is no difference.

    python benchmarks/verdicts.py [--experiments 100000]

An experiment has n paired differences whose true mean is 0, and errs where the whole 95 % Student t interval lies below
it: "the ticket stops earlier". Stated is 0.025. The differences are normal, as the interval assumes; those of two
equally skewed early stops; or skewed themselves, where a few tickets find their minimum late and dense networks do not.
The last two columns are of replicates that are added one by one until the interval shows something: by the usual
interval, and by that of `--until decided`, whose looks hold 0.025 together. Below it stands how often that one decides,
and after how many replicates, where the true mean is one standard deviation below 0.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from tombola.study.sequential import Looks

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


LOOKS = Looks(5, 20)


def below(values: Values, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Of each experiment, whether the whole interval of its mean, at level 1 - alpha, lies below 0."""
    n = values.shape[1]
    half = stdtrit(n - 1, 1 - alpha / 2) * values.std(axis=1, ddof=1) / np.sqrt(n)
    return values.mean(axis=1) + half < 0


def looked(values: Values, alpha: float) -> NDArray[np.bool_]:
    """`below` after each of the looks: experiments x looks."""
    return np.stack([below(values[:, :n], alpha) for n in range(LOOKS.first, LOOKS.last + 1)], axis=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100_000)
    experiments, draws = parser.parse_args().experiments, np.random.default_rng(0)
    print(f"{experiments:,} experiments each; stated 0.025\n")
    print(f"{'differences':11}  n = 3  n = 5  n = 10  after each of 5, 6, ... 20  until decided")
    for kind in KINDS:
        sizes = [float(below(differences(kind, experiments, n, draws)).mean()) for n in (3, 5, 10)]
        values = differences(kind, experiments, 20, draws)
        usual, until = (float(looked(values, alpha).any(1).mean()) for alpha in (0.05, LOOKS.nominal(0.05)))
        print(
            f"{kind:11}  {sizes[0]:.3f}  {sizes[1]:.3f}  {sizes[2]:.3f}   {usual:.3f}                      {until:.3f}"
        )
    shown = looked(differences("normal", experiments, LOOKS.last, draws) - 1, LOOKS.nominal(0.05))
    after = np.median(LOOKS.first + shown[shown.any(1)].argmax(1))
    print(f"\nOne deviation below 0: decided in {shown.any(1).mean():.1%}, after {after:.0f} replicates in the median")


if __name__ == "__main__":
    main()
