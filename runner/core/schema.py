"""The JSON Schema of the manifest, draft 2020-12, from the same declarations that read it."""

import json
from typing import Any

from runner.core.catalog import Catalog
from runner.core.grammar import ROOT


def schema(catalog: Catalog) -> dict[str, Any]:
    """The schema, with the catalog's models, sizes, aspects and thinking levels."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bulkrender manifest",
        "description": f"Models, sizes and aspects as of {catalog.as_of}.",
        **ROOT.schema(catalog),
    }


def render(catalog: Catalog) -> str:
    """The schema as the text of a file."""
    return json.dumps(schema(catalog), indent=2, ensure_ascii=False) + "\n"
