"""What scoring costs: log-probabilities and entropies of all rows of a rollout, without gradient.

Command: python benchmarks/score.py w1       (or w2, w3; on an otherwise idle machine)

Beside the matrix rate of the same process, by the FLOP needed, see workloads.py. Every measurement makes its rollout.
"""

from ours import main

if __name__ == "__main__":
    main(["score"], __doc__ or "")
