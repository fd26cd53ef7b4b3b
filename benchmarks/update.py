"""What an update costs: all from the rewards to the new weights, with AdamW.

Command: python benchmarks/update.py w1       (or w2, w3; on an otherwise idle machine)

Beside the matrix rate of the same process, by the FLOP needed, see workloads.py. Every measurement makes its rollout.
"""

from ours import main

if __name__ == "__main__":
    main(["update"], __doc__ or "")
