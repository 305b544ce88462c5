"""The page at /: choose a picture, type words, read the answers. It needs no network."""

import base64
import hashlib
from pathlib import Path

from cmaclip_jax.report.style import STYLE

HERE = Path(__file__).parent
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
PAGE = (HERE / "page.html").read_text(encoding="utf-8")
PAGE = PAGE.replace("STYLE", STYLE).replace("SCRIPT", SCRIPT)
DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# The browser runs this one script and sends its requests to this server alone.
POLICY = (
    f"default-src 'none'; script-src 'sha256-{DIGEST}'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
PAGE_HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
