"""What sampling of a whole step costs: prefill, decoding, and the sampling layout of the weights.

Command: python benchmarks/rollout.py w1       (or w2, w3; on an otherwise idle machine)

Beside the matrix rate of the same process, by the FLOP needed, see workloads.py.
"""

from ours import main

if __name__ == "__main__":
    main(["rollout"], __doc__ or "")
