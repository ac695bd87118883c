"""`egress-router explain`: which line of an allow/deny list or entry of an egress policy decides, and why."""

from egress_router.explain.explainer import Explainer
from egress_router.explain.explanation import Explanation, Outcome, as_json, as_text

__all__ = ["Explainer", "Explanation", "Outcome", "as_json", "as_text"]
