"""The page at /: choose a picture, type words, read the answers. It needs no network."""

from pathlib import Path

from cmaclip_jax.report.markup import script_source
from cmaclip_jax.report.style import STYLE

HERE = Path(__file__).parent
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
PAGE = (HERE / "page.html").read_text(encoding="utf-8")
PAGE = PAGE.replace("STYLE", STYLE).replace("SCRIPT", SCRIPT)
# The browser runs this one script and sends its requests to this server alone.
POLICY = (
    f"default-src 'none'; script-src {script_source(SCRIPT)}; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
PAGE_HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
