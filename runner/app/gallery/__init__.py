"""A job as one folder that opens from disk: a page, its data as a script, thumbnails. Reads the ledger only."""

from runner.app.gallery.make import Made, Maker, Wanted, made_object
from runner.app.gallery.watching import watch

__all__ = ["Made", "Maker", "Wanted", "made_object", "watch"]
