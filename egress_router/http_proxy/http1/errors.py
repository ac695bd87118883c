"""What a peer did wrong, with the status that the client gets."""

from __future__ import annotations

import enum

from egress_router.errors import EgressRouterError


class Fault(enum.Enum):
    """Kinds of wrong messages, as metrics count them."""

    MALFORMED = "malformed"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_MANY_FIELDS = "too_many_fields"
    UNSUPPORTED = "unsupported"
    LOOP = "loop"
    TARGET_TOO_LONG = "target_too_long"
    TLS = "tls"
    UNSOLICITED_SWITCH = "unsolicited_switch"
    HTTP2 = "http2_prior_knowledge"
    NO_HOST = "no_host"
    HOST_IS_ADDRESS = "host_is_address"


class MessageError(EgressRouterError):
    """A message is malformed or asks for something that this proxy does not do.

    `status` is the answer to a client whose request is wrong; a wrong answer of an origin always becomes 502.
    The sentence never repeats what the peer sent: it is written into bodies and logs unchanged.
    """

    def __init__(self, status: int, sentence: str, fault: Fault = Fault.MALFORMED) -> None:
        super().__init__(sentence)
        self.status = status
        self.fault = fault
        self.sentence = sentence
