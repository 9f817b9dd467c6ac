"""bulkrender: a YAML manifest becomes images on disk, each bought once, under a cap."""
