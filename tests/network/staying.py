"""`egress-router setup` as a program whose intervals a test chooses."""

# A format string: `{}` takes the arguments of `Intervals`.
SET_UP = (
    "from egress_router.commands.exit_status import exit_with; from egress_router.commands.services import set_up;"
    " from egress_router.redirect.intervals import Intervals; exit_with(lambda: set_up(Intervals({})))"
)
