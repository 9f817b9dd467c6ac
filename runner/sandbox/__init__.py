"""A local server that speaks the Gemini protocol, with real images, quotas, faults and a bill of its own.

It is written from the documents and from recorded answers, never from our client, and shares only the catalog
with the runner: otherwise it would agree with our mistakes.
"""

from runner.sandbox.app import create_app
from runner.sandbox.faults import FaultPlan, fault_plan
from runner.sandbox.options import Options
from runner.sandbox.outage import Outage, parse_outage
from runner.sandbox.server import serve

__all__ = ["FaultPlan", "Options", "Outage", "create_app", "fault_plan", "parse_outage", "serve"]
