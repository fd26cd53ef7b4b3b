"""What a run would need on a machine that is not there: memory, collectives, step time and cost."""
