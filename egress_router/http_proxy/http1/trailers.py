"""Which fields may come after a body: those that do no harm if a recipient merges them into the head. Pure.

RFC 9110 6.5.1 forbids trailers that a reader needs before the body: of framing, routing, authentication,
request modifiers, response control and content format. A recipient that merges trailers anyway would take
them for a part of the head, for which all checks are already done. Unknown fields are forwarded: they belong
to the application, and are usually a checksum.
"""

from __future__ import annotations

import re

# Their definitions allow them after a body, although a group below would include them.
_ALLOWED = frozenset(
    {
        b"accept-ranges",  # RFC 9110 14.3
        b"content-digest",  # RFC 9530 2
        b"proxy-status",  # RFC 9209 2
    }
)
_HARMFUL = frozenset(
    {
        # framing and connections
        *(
            b"connection",
            b"keep-alive",
            b"te",
            b"trailer",
            b"transfer-encoding",
            b"upgrade",
            b"http2-settings",
        ),
        # routing, and who sends the request
        *(b"alt-used", b"cdn-loop", b"forwarded", b"from", b"host", b"max-forwards", b"origin", b"referer"),
        *(b"true-client-ip", b"user-agent", b"via", b"x-host"),
        # authentication and state
        *(b"authorization", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2", b"www-authenticate"),
        *(b"authentication-control", b"optional-www-authenticate", b"lock-token", b"x-api-key"),
        # what changes the request
        *(
            b"a-im",
            b"cache-control",
            b"depth",
            b"destination",
            b"dnt",
            b"early-data",
            b"expect",
            b"overwrite",
        ),
        *(
            b"pragma",
            b"prefer",
            b"priority",
            b"range",
            b"save-data",
            b"timeout",
            b"upgrade-insecure-requests",
        ),
        # what controls the response
        *(b"age", b"allow", b"alt-svc", b"cdn-cache-control", b"clear-site-data", b"date", b"delta-base"),
        *(b"expect-ct", b"expires", b"feature-policy", b"im", b"last-modified", b"link", b"location", b"nel"),
        *(b"p3p", b"permissions-policy", b"preference-applied", b"refresh", b"referrer-policy", b"report-to"),
        *(b"reporting-endpoints", b"retry-after", b"server", b"sourcemap", b"strict-transport-security"),
        *(b"surrogate-control", b"tk", b"vary", b"warning", b"x-content-type-options", b"x-frame-options"),
        *(b"x-robots-tag", b"x-sendfile", b"x-xss-protection"),
        # content format; names that begin with content- are in the pattern below
        b"mime-version",
    }
)
_HARMFUL_BEGINNINGS = re.compile(
    rb"(?:accept|access-control|cf|content|cross-origin|if|proxy|public-key-pins|sec"
    rb"|x-(?:accel|auth|client|cluster|csrf|envoy|forwarded|forwarder|http-method|method|original"
    rb"|real|remote|rewrite|ssl|user|xsrf))(?:-|\Z)"
)


def may_follow(name: bytes) -> bool:
    """Say whether a field of this name, in lower case, may come after a body.

    `_` counts as `-`: CGI programs (RFC 3875 4.1.18) cannot tell them apart.
    """
    name = name.replace(b"_", b"-")
    return name in _ALLOWED or (name not in _HARMFUL and _HARMFUL_BEGINNINGS.match(name) is None)
