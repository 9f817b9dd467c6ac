"""A job as one folder that opens from disk: a page, its data as a script, thumbnails. Reads the ledger only."""

from runner.app.gallery.make import Made, Wanted, made_object, make

__all__ = ["Made", "Wanted", "made_object", "make"]
