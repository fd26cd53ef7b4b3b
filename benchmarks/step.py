"""What a whole GRPO step costs: rollout, rewards and update with AdamW, in one process, and the memory it peaks at.

Command: python benchmarks/step.py w1       (or w2, w3; on an otherwise idle machine)

Beside the matrix rate of the same process, by the FLOP needed, see workloads.py. Beside peers: compare.py.
"""

from ours import main

if __name__ == "__main__":
    main(["rollout", "update", "step"], __doc__ or "")
