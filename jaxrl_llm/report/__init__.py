"""Pages that show what a run did, made from its files alone."""
