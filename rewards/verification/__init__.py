"""Whether each reward computes what its authors' code computes: checkpoints, references, mutants, tables."""
