"""`egress-router check`: rules and manifests as tables, or every error; warns of lines that can never act."""

from egress_router.check.manifests import manifests
from egress_router.check.report import Finding, as_json, as_text
from egress_router.check.rules import checked
from egress_router.check.run import placed, run

__all__ = ["Finding", "as_json", "as_text", "checked", "manifests", "placed", "run"]
