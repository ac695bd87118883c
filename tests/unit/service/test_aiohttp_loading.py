from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.measured import measured

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority"
# The second one is what aiohttp holds where it is imported without care.
COUNTED = """
import os, ssl
before = dict(os.environ)
from egress_router.service.aiohttp_loading import aiohttp
assert dict(os.environ) == before
for context in (aiohttp.connector._SSL_CONTEXT_VERIFIED, ssl.create_default_context()):
    print(context.cert_store_stats()["x509_ca"])
"""


@pytest.mark.parametrize("is_named", [True, False])
def test_no_authorities_are_read_and_the_environment_stays(tmp_path: Path, is_named: bool) -> None:
    authority, key = str(tmp_path / "ca.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", *AUTHORITY.split(), "-out", authority, "-keyout", key], check=True, capture_output=True
    )
    named = {"SSL_CERT_FILE": authority} if is_named else {}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **measured(), **named},
        check=True,
        capture_output=True,
        text=True,
    )
    loaded, trusted = done.stdout.split()
    assert loaded == "0"
    if is_named:
        assert trusted == "1"
