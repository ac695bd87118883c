"""`python -m egress_router` is the same program as `egress-router`."""

from egress_router.cli import main

if __name__ == "__main__":
    main()
