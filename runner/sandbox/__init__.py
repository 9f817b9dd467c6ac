"""The other side of the wire. Shares the catalog with the runner and nothing else."""
